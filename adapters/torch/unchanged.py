"""Whether a permuted model still computes what it did (:mod:`rejuvenet.graph.verdict`)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils._pytree import tree_map

from ...graph.verdict import DOUBLE, SINGLE, Limits, Verdict, judge, limits_of
from .edit import Edit
from .passes import forward, leaves
from .trace import TracedModel

MORE_SHAKES = 5  # of inputs and weights, before a change of the outputs is called an error


class Unchanged:
    """What a model returns for its example inputs, and for these with one rounding's change.

    Attributes
    ----------
    before : object
        What the model returns.
    """

    def __init__(self, traced: TracedModel):
        self.traced = traced
        types = {t.dtype for t in (*traced.tensors.values(), *leaves(traced.example_inputs))}
        self.limits = limits_of(str(dtype).removeprefix("torch.") for dtype in types)
        self.before = forward(traced, traced.example_inputs, {})
        self.kept = _arrays(self.before)
        self.generator = torch.Generator().manual_seed(0)
        self.response = self._response(self.limits)

    def verdict(self, after: Any, edit: Edit) -> Verdict | None:
        """The verdict on what the model returns in the middle of an edit; None if it is not finite.

        Raises
        ------
        ValueError
            The outputs changed by more than the network's own noise.
        """
        arrays = _arrays(after)
        found = judge(self.kept, arrays, self._responses(edit), self.limits)
        if found is not None and not found.within and self.limits is DOUBLE:
            with edit.undone():  # a model in double precision that computes in single inside
                found = judge(self.kept, arrays, self._more(SINGLE), SINGLE)
        if found is not None and not found.within:
            raise ValueError(
                f"{found}; nothing was changed: the model does something that was not understood"
            )
        return found

    def _responses(self, edit: Edit) -> Iterator[list[np.ndarray]]:
        yield self.response
        with edit.undone():
            yield from self._more(self.limits)

    def _more(self, limits: Limits) -> Iterator[list[np.ndarray]]:
        for _ in range(MORE_SHAKES):
            tensors = list(self.traced.tensors.values())
            kept = [tensor.data for tensor in tensors]
            try:
                for tensor in tensors:
                    tensor.data = self._shaken(tensor.data, limits)
                response = self._response(limits)
            finally:
                for tensor, values in zip(tensors, kept, strict=True):
                    tensor.data = values
            yield response

    def _response(self, limits: Limits) -> list[np.ndarray]:
        """Outputs for shaken inputs."""
        inputs = tree_map(lambda x: self._shaken(x, limits), self.traced.example_inputs)
        return _arrays(forward(self.traced, inputs, {}))

    def _shaken(self, x: Any, limits: Limits) -> Any:
        """A tensor with a relative change; the random state of the program stays."""
        if not isinstance(x, torch.Tensor) or not x.is_floating_point():
            return x
        noise = torch.randn(x.shape, generator=self.generator, dtype=torch.float64)
        return (x.detach().cpu().double() * (1 + limits.shake * noise)).to(x)


def _arrays(output: Any) -> list[np.ndarray]:
    """The floating-point tensors of an output, in float64."""
    return [x.detach().cpu().double().numpy() for x in leaves(output)]
