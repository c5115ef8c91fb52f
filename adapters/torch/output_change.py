"""How far the outputs of a model moved.

With ``f`` the outputs before and ``f'`` after, over all samples of the calibration data:

- relative change: root mean square of ``f' - f`` over that of ``f``;
- largest change: the largest ``|f' - f|`` of one element;
- agreement: the share of positions whose largest output is the same as before (of samples, for a
  classifier; of pixels, for a segmentation), where outputs are ``(samples, classes, ...)``.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from .distributed import Processes
from .nested import tensors_within

LIMIT = 2**26  # elements kept for the comparison; later batches are not compared


class Outputs:
    """Outputs of the same batches before and after a change, compared as they come.

    Attributes
    ----------
    largest : float
        Largest absolute change of one element.
    """

    def __init__(self) -> None:
        self._kept: list[list[torch.Tensor]] = []
        self._same = self._decisions = 0.0
        self._elements = 0
        self._place = 0
        self._squares = self._change = self.largest = 0.0

    def before(self, output: Any) -> None:
        """Keep the outputs of the next batch."""
        values = floating(output)
        elements = sum(value.numel() for value in values)
        if self._elements + elements <= LIMIT:
            self._kept.append(values)
            self._elements += elements

    def after(self, output: Any) -> None:
        """Compare with the outputs of the batch that was kept in this place."""
        if self._place < len(self._kept):
            for old, new in zip(self._kept[self._place], floating(output), strict=True):
                difference = new.double() - old.double()
                self._squares += float((old.double() ** 2).sum())
                self._change += float((difference * difference).sum())
                if difference.numel():
                    self.largest = max(self.largest, float(difference.abs().max()))
                if old.ndim > 1 and old.shape[1] > 1:
                    same = old.argmax(1) == new.argmax(1)
                    self._same += int(same.sum())
                    self._decisions += same.numel()
        self._place += 1

    def share(self, processes: Processes) -> None:
        """Figures over all processes."""
        if processes.world > 1:
            own = (self._squares, self._change, self._same, self._decisions)
            self._squares, self._change, self._same, self._decisions = (
                float(total) for total in processes.sum_arrays(*own)
            )
            self.largest = max(processes.gather(self.largest))

    @property
    def agreement(self) -> float | None:
        """Share of decisions that stay; None where the outputs are no decisions."""
        return self._same / self._decisions if self._decisions else None

    @property
    def relative(self) -> float:
        """Root mean square of the change over that of the outputs."""
        if self._squares == 0.0:
            return 0.0 if self._change == 0.0 else math.inf
        return math.sqrt(self._change / self._squares)


def floating(output: Any) -> list[torch.Tensor]:
    """All floating-point tensors of an output, on the host."""
    return [leaf.detach().float().cpu() for leaf in leaves(output)]


def leaves(output: Any) -> list[torch.Tensor]:
    """All floating-point tensors of an output, of any structure."""
    return [tensor for tensor in tensors_within(output) if tensor.is_floating_point()]
