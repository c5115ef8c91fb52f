"""Statistics of what normalizations read, measured on a PyTorch model.

What is done with them stands in :mod:`rejuvenet.graph.normalizations`.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import numpy as np
import torch

from ...graph.normalizations import Normalization, Statistics
from .batches import Batches
from .distributed import Processes
from .passes import Callback, by_tensor, exact_type, full_precision, glance
from .trace import TracedModel


class Moments:
    """Mean and variance of every channel of what normalizations read, streamed in float64."""

    def __init__(self, normalizations: Iterable[Normalization]) -> None:
        self.normalizations = list(normalizations)
        self._sums: dict[str, tuple[torch.Tensor, torch.Tensor, float]] = {}

    def taps(self) -> dict[str, Callback]:
        """Callbacks for :func:`observe`."""
        return by_tensor((n.tensor, partial(self._add, n)) for n in self.normalizations)

    def _add(self, normalization: Normalization, activation: torch.Tensor) -> None:
        x = activation.detach().movedim(normalization.axis, 0).flatten(1)
        exact, count = exact_type(x.device), float(x.shape[1])
        with full_precision(x.device):
            x = x.to(exact)
            total, squares = x.sum(1), (x * x).sum(1)
        # A normalization that is used twice has the statistics of both uses.
        known = self._sums.get(normalization.mean)
        if known is not None:
            total, squares, count = known[0] + total, known[1] + squares, known[2] + count
        self._sums[normalization.mean] = (total, squares, count)

    def share(self, processes: Processes) -> None:
        """Sums over all processes."""
        if processes.world == 1:
            return
        names = sorted(self._sums)
        processes.sum(tensor for name in names for tensor in self._sums[name][:2])
        counts = processes.sum_arrays(*(self._sums[name][2] for name in names))
        for name, count in zip(names, counts, strict=True):
            self._sums[name] = (*self._sums[name][:2], float(count))

    def statistics(self) -> Statistics:
        """Means and (biased) variances by the names of the running buffers."""
        result: Statistics = {}
        for normalization in self.normalizations:
            total, squares, count = self._sums[normalization.mean]
            mean = total.cpu().double().numpy() / count
            result[normalization.mean] = mean
            square = squares.cpu().double().numpy() / count
            result[normalization.variance] = np.maximum(square - mean**2, 0.0)
        return result


def measure(
    traced: TracedModel,
    batches: Batches,
    normalizations: Iterable[Normalization],
    processes: Processes,
) -> Statistics:
    """Statistics of the batches of all processes, in one pass."""
    moments = Moments(normalizations)
    with processes.together():
        for inputs, _ in batches.read("normalization statistics"):
            glance(traced, inputs, moments.taps())
    moments.share(processes)
    return moments.statistics()
