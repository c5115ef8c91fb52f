"""Samples that are searched feature by feature in float64: sparse rows, and rows with NaN."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
from numba import njit
from numpy.typing import NDArray

from .batch import add
from .rounding import grid_constant
from .samples import Samples


@njit(nogil=True, cache=True)
def two_smallest(scores):
    """Indices of the smallest and the second smallest value (the lowest on ties; -1: none)."""
    best, second = -1, -1
    s_best, s_second = np.inf, np.inf
    for k in range(scores.shape[0]):
        s = scores[k]
        if s < s_best:
            second, s_second = best, s_best
            best, s_best = k, s
        elif s < s_second:
            second, s_second = k, s
    return best, second


class ByFeature(Samples):
    """Forms whose kernels read the codebook feature by feature and find both nearest at once."""

    counts_per_feature = False

    def begin(self, codebook, threads, some=None) -> None:
        self.threads = threads

    @abstractmethod
    def kernel(self, weights, first, last, by_feature, grids, nearest, sums, counts) -> float:
        """Rows ``first .. last``: nearest nodes, what they add, and the sum of distances."""

    def _run(self, codebook: NDArray, nearest: NDArray, update: bool) -> list:
        K, D = codebook.shape
        weights = np.empty(0) if self.weights is None else self.weights
        by_feature = np.ascontiguousarray(codebook.T, dtype=np.float64)
        largest = float(np.abs([self.range.low, self.range.high]).max())
        reach = (largest + float(np.abs(codebook).max())) * np.sqrt(D)
        grids = tuple(
            grid_constant(size * self.heaviest, self.n_rows) for size in (largest, 1.0, reach)
        )

        def work(first: int, last: int):
            sums = np.zeros((K, D) if update else (0, 0))
            counts = np.zeros(sums.shape if self.counts_per_feature else len(sums))
            error = self.kernel(weights, first, last, by_feature, grids, nearest, sums, counts)
            return sums, counts, error

        return add(self.threads.share(self.n_rows, work))

    def epoch(self, codebook: NDArray) -> list:
        return self._run(codebook, np.empty((0, 2), np.int32), True)

    def nearest(self, codebook: NDArray, n: int):
        nearest = np.empty((self.n_rows, 2), np.int32)
        error = self._run(codebook, nearest, False)[2]
        return nearest[:, :n], error
