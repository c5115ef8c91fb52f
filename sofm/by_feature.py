"""Samples that are searched feature by feature in float64: sparse rows, and rows with NaN."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .batch import add
from .compiled import compiled
from .distances import power_of_two
from .kernels.prepared import NO_GRIDS
from .rounding import WORDS, error_of, total
from .samples import Averaged


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


class ByFeature(Averaged):
    """Forms whose kernels read the codebook feature by feature and find both nearest at once."""

    counts_width = 1

    @property
    def values_per_row(self) -> float:
        """Values that are looked at in a row."""
        return self.n_features

    def begin(self, codebook, threads, some=None) -> None:
        self.threads = threads

    def filled(self, X: NDArray) -> NDArray:
        """Rows with the middle of the feature's range in place of what is missing."""
        return np.where(np.isnan(X), self.range.low / 2 + self.range.high / 2, X).astype(self.dtype)

    @abstractmethod
    def rows(self) -> Iterable[tuple[slice, Any, NDArray | None]]:
        """All rows in tables, each with its place and its weights."""

    @abstractmethod
    def kernel(
        self, X, weights, first, last, by_feature, scale, grids, nearest, sums, counts, error
    ) -> None:
        """Rows ``first .. last``: nearest nodes, and what they add to sums, counts and error."""

    def counts_of(self, counts: NDArray) -> NDArray:
        """Counts of eq. 8, (K,) or (K, D), from those that the kernel makes (K, counts_width)."""
        return counts[:, 0]

    def _run(self, codebook: NDArray, nearest: NDArray, grids: tuple) -> list:
        """Sums, counts and error; without grids the error alone."""
        K, D = codebook.shape
        reach = max(float(self.range.largest.max()), float(np.abs(codebook).max()))
        scale = np.ldexp(1.0, power_of_two(4 * reach))
        by_feature = np.ascontiguousarray(codebook.T, dtype=np.float64) * scale

        n, m = (len(bigs) + 1 for bigs in grids) if grids else (0, 0)
        wide = self.counts_width

        def memory():
            return np.zeros((K, n, D)), np.zeros((K, m, wide)), np.zeros(WORDS, np.int64)

        parts: list = []
        for rows, X, weights in self.rows():
            weights = np.empty(0) if weights is None else weights

            def work(first: int, last: int, mine, X=X, m=weights, nearest=nearest[rows]) -> None:
                self.kernel(
                    X, m, first, last, by_feature, scale, grids or NO_GRIDS, nearest, *mine
                )

            shares = self.threads.share(X.shape[0], 8 * K * self.values_per_row, memory, work)
            parts = [add(parts + shares)]
        [(sums, counts, error)] = parts
        if not grids:
            return [error_of(error, scale)]
        return [total(sums), self.counts_of(total(counts)), error_of(error, scale)]

    def epoch(self, codebook: NDArray) -> list:
        return self._run(codebook, np.empty((0, 2), np.int32), self.grids)

    def nearest(self, codebook: NDArray, n: int):
        nearest = np.empty((self.n_rows, 2), np.int32)
        [error] = self._run(codebook, nearest, ())
        return nearest[:, :n], error
