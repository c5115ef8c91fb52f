"""Samples that are searched feature by feature in float64: sparse rows, and rows with NaN."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
from numpy.typing import NDArray

from .batch import add
from .compiled import compiled
from .distances import power_of_two
from .kernels.prepared import NO_GRIDS
from .rounding import WORDS, error_of, total
from .samples import Samples


@compiled
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

    @property
    def values_per_row(self) -> float:
        """Values that are looked at in a row."""
        return self.n_features

    def begin(self, codebook, threads, some=None) -> None:
        self.threads = threads

    @abstractmethod
    def kernel(
        self, weights, first, last, by_feature, scale, grids, nearest, sums, counts, error
    ) -> None:
        """Rows ``first .. last``: nearest nodes, and what they add to sums, counts and error."""

    def _run(self, codebook: NDArray, nearest: NDArray, grids: tuple) -> list:
        """Sums, counts and error; without grids the error alone."""
        K, D = codebook.shape
        weights = np.empty(0) if self.weights is None else self.weights
        reach = max(float(self.range.largest.max()), float(np.abs(codebook).max()))
        scale = np.ldexp(1.0, power_of_two(4 * reach))
        by_feature = np.ascontiguousarray(codebook.T, dtype=np.float64) * scale

        n, m = (len(bigs) + 1 for bigs in grids) if grids else (0, 0)
        wide = D if self.counts_per_feature else 1

        def memory():
            return np.zeros((K, n, D)), np.zeros((K, m, wide)), np.zeros(WORDS, np.int64)

        def work(first: int, last: int, mine) -> None:
            self.kernel(
                weights, first, last, by_feature, scale, grids or NO_GRIDS, nearest, *mine
            )

        sums, counts, error = add(
            self.threads.share(self.n_rows, 8 * K * self.values_per_row, memory, work)
        )
        if not grids:
            return [error_of(error, scale)]
        counts = total(counts)
        counts = counts if self.counts_per_feature else counts[:, 0]
        return [total(sums), counts, error_of(error, scale)]

    def epoch(self, codebook: NDArray) -> list:
        return self._run(codebook, np.empty((0, 2), np.int32), self.grids)

    def nearest(self, codebook: NDArray, n: int):
        nearest = np.empty((self.n_rows, 2), np.int32)
        [error] = self._run(codebook, nearest, ())
        return nearest[:, :n], error
