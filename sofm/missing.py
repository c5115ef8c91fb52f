r"""Winners and sums where some values are missing (NaN).

Distances are taken over the features that are present, ``o`` of ``D``, and scaled up to all of
them: ``d^2 = (D / o) sum_present (x_d - w_d)^2``, as scikit-learn's ``nan_euclidean_distances``
does; the factor does not change which node wins.  Eq. 8 is applied feature by feature: each has
its own count of the samples that have it, ``codebook[k, d] = (H S)[k, d] / (H n)[k, d]``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from .blocks import Blocks
from .by_feature import ByFeature, two_smallest
from .compiled import compiled
from .rounding import add_term, add_to_error
from .samples import masked
from .scan import no_empty_column


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


def imputed(X, codebook: NDArray, nodes: NDArray):
    """A copy of rows (an array, or CSR) with their nodes' values in place of NaN."""
    X = X.copy()
    if sparse.issparse(X):
        lost = np.isnan(X.data)
        rows, features = np.repeat(nodes, np.diff(X.indptr))[lost], X.indices[lost]
        X.data[lost] = codebook[rows, features]
    else:
        rows, features = np.nonzero(np.isnan(X))
        X[rows, features] = codebook[nodes[rows], features]
    return X


class WithMissing(ByFeature, Blocks):
    """Dense blocks with NaN where a value was not observed; an array is one block.

    Parameters
    ----------
    blocks : callable
        As for :class:`.blocks.Blocks`.
    weights : float64 array of shape (N,), or None
    every_column : bool
        Whether a column without any value is refused: a map cannot begin without one.
    """

    def __init__(
        self, blocks: Callable[[], Iterable[NDArray]], weights: NDArray | None = None,
        every_column: bool = True,
    ) -> None:  # fmt: skip
        Blocks.__init__(self, blocks, weights, missing=True)
        self.counts_width = self.n_features
        no_empty_column(self.range, ~np.isfinite(self.range.low), every_column)

    def only(self, rows, weights):
        trains = weights is not None
        return WithMissing(lambda: masked(self._dense(), rows), weights, every_column=trains)

    rows = Blocks.rows

    def take(self, rows: NDArray) -> NDArray:
        return self.filled(super().take(rows))

    def counts_of(self, counts: NDArray) -> NDArray:
        return counts

    def kernel(
        self, X, weights, first, last, by_feature, scale, grids, nearest, sums, counts, error
    ) -> None:
        accumulate_missing(
            X, weights, first, last, by_feature, scale, *grids, nearest, sums, counts, error
        )
