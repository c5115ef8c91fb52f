"""How far the outputs of a model moved."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch.utils._pytree import tree_flatten

LIMIT = 2**26  # elements kept for the comparison; later batches are not compared


class Outputs:
    """Outputs of the same batches before and after a change, compared as they come.

    Attributes
    ----------
    largest : float
        Largest absolute change of one element.
    """

    def __init__(self) -> None:
        self._kept: list[torch.Tensor] = []
        self._elements = 0
        self._place = 0
        self._squares = self._change = self.largest = 0.0

    def before(self, output: Any) -> None:
        """Keep the outputs of the next batch."""
        values = flat(output)
        if self._elements + values.numel() <= LIMIT:
            self._kept.append(values)
            self._elements += values.numel()

    def after(self, output: Any) -> None:
        """Compare with the outputs of the batch that was kept in this place."""
        if self._place < len(self._kept):
            old = self._kept[self._place].double()
            difference = flat(output).double() - old
            self._squares += float((old * old).sum())
            self._change += float((difference * difference).sum())
            if difference.numel():
                self.largest = max(self.largest, float(difference.abs().max()))
        self._place += 1

    @property
    def relative(self) -> float:
        """Root mean square of the change over that of the outputs."""
        if self._squares == 0.0:
            return 0.0 if self._change == 0.0 else math.inf
        return math.sqrt(self._change / self._squares)


def flat(output: Any) -> torch.Tensor:
    """All floating-point tensors of an output (of any container) in one row, on the host."""
    leaves = tree_flatten(dict(output) if isinstance(output, Mapping) else output)[0]
    found = [
        leaf.detach().flatten().float().cpu()
        for leaf in leaves
        if isinstance(leaf, torch.Tensor) and leaf.is_floating_point()
    ]
    return torch.cat(found) if found else torch.zeros(0)
