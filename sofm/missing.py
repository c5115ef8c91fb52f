r"""Winners and sums where some values are missing (NaN).

Distances are taken over the features that are present, ``o`` of ``D``, and scaled up to all of
them: ``d^2 = (D / o) sum_present (x_d - w_d)^2``, as scikit-learn's ``nan_euclidean_distances``
does; the factor does not change which node wins.  Eq. 8 is applied feature by feature: each has
its own count of the samples that have it, ``codebook[k, d] = (H S)[k, d] / (H n)[k, d]``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .by_feature import ByFeature, two_smallest
from .compiled import compiled
from .rounding import add_term, add_to_error
from .scan import Range


@compiled
def accumulate_missing(
    X, weights, first, last, by_feature, scale, bigs, big_weights, nearest, sums, counts, error,
):  # fmt: skip
    """The two nearest nodes of rows with NaN, and what they add to sums and counts.

    Parameters
    ----------
    X : array of shape (N, D)
    weights : float64 array of shape (N,) or (0,)
    by_feature : float64 array of shape (D, K)
        The codebook, transposed and scaled.
    scale : float
        A power of two that keeps squares within range.
    bigs, big_weights : float64 arrays of shapes (F - 1, D) and (F' - 1, 1)
        See :mod:`.rounding`.
    nearest : int32 array of shape (N, 2) or (0, 2)
    sums, counts : float64 arrays of shapes (K, F, D) and (K, F', D), or F = 0: not wanted
    error : int64 array of shape WORDS
    """
    n_features, n_nodes = by_feature.shape
    squares = np.empty(n_nodes)
    for i in range(first, last):
        squares[:] = 0.0
        present = 0
        for d in range(n_features):
            x = np.float64(X[i, d]) * scale
            if x == x:
                present += 1
                row = by_feature[d]
                for k in range(n_nodes):
                    difference = x - row[k]
                    squares[k] += difference * difference
        best, second = two_smallest(squares)
        if nearest.shape[0] > 0:
            nearest[i, 0] = best
            nearest[i, 1] = second
        distance = np.sqrt(squares[best] * n_features / present)
        weight = weights[i] if weights.shape[0] > 0 else 1.0
        add_to_error(distance * weight, error)
        if sums.shape[1] > 0:
            for d in range(n_features):
                x = np.float64(X[i, d])
                if x == x:
                    add_term(x * weight, d, bigs, sums, best, d)
                    add_term(weight, 0, big_weights, counts, best, d)


class WithMissing(ByFeature):
    """A dense array with NaN where a value was not observed.

    Parameters
    ----------
    X : array of shape (N, D)
    weights : float64 array of shape (N,), or None
    every_column : bool
        Whether a column without any value is refused: a map cannot begin without one.
    """

    counts_per_feature = True

    def __init__(
        self, X: NDArray, weights: NDArray | None = None, every_column: bool = True
    ) -> None:
        self.X, self.weights = X, weights
        self.dtype, self.n_features = X.dtype, X.shape[1]
        self.range = Range.of(X, missing=True)
        empty = np.flatnonzero(~np.isfinite(self.range.low))
        if len(empty) and every_column:
            raise ValueError(
                f"expected a value in every column, got only NaN in column {empty[0]} of X: drop it"
            )
        self.range.low[empty] = self.range.high[empty] = 0.0

    def only(self, rows, weights):
        return WithMissing(self.X[rows], weights, every_column=weights is not None)

    def take(self, rows: NDArray) -> NDArray:
        return self.filled(self.X[rows])

    def filled(self, X: NDArray) -> NDArray:
        """Rows with the middle of the feature's range in place of what is missing."""
        return np.where(np.isnan(X), self.range.low / 2 + self.range.high / 2, X).astype(self.dtype)

    def pieces(self):
        yield self.X, self.weights

    def kernel(
        self, weights, first, last, by_feature, scale, grids, nearest, sums, counts, error
    ) -> None:
        accumulate_missing(
            self.X, weights, first, last, by_feature, scale, *grids, nearest, sums, counts, error
        )
