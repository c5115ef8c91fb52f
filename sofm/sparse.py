r"""Winners and sums for sparse rows (CSR), without densifying and without centring.

With ``W^T`` stored feature by feature, the scores of all nodes for one row are

.. math::  s_k = |w_k|^2/2 - \sum_{d: x_d \ne 0} x_d W^T[d, k] ,

as many additions of a contiguous row as the sample has entries.  Everything is float64: the search
is the brute-force float64 search itself.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray
from sklearn.utils.extmath import row_norms

from .by_feature import ByFeature, two_smallest
from .distances import LOST, PIECE_BYTES, power_of_two
from .samples import no_direction
from .scan import Range


@njit(nogil=True, cache=True)
def accumulate_csr(
    data, indices, indptr, weights, first, last, by_feature, halves,
    big, big_weight, big_error, nearest, sums, counts,
):  # fmt: skip
    """The two nearest nodes of CSR rows, and what they add to sums and counts.

    Parameters
    ----------
    data, indices, indptr : arrays of a CSR matrix of shape (N, D)
    weights : float64 array of shape (N,) or (0,)
    by_feature : float64 array of shape (D, K)
        The codebook, transposed.
    halves : float64 array of shape (K,)
        ``|w|^2 / 2``.
    nearest : int32 array of shape (N, 2) or (0, 2)
    sums, counts : float64 arrays of shapes (K, D) and (K,), or empty

    Returns
    -------
    error : float
    """
    scores = np.empty(halves.shape[0])
    error = 0.0
    for i in range(first, last):
        scores[:] = halves
        square = 0.0
        for e in range(indptr[i], indptr[i + 1]):
            x = np.float64(data[e])
            square += x * x
            row = by_feature[indices[e]]
            for k in range(scores.shape[0]):
                scores[k] -= x * row[k]
        best, second = two_smallest(scores)
        if nearest.shape[0] > 0:
            nearest[i, 0] = best
            nearest[i, 1] = second
        distance = np.sqrt(max(0.0, square + 2 * scores[best]))
        weight = weights[i] if weights.shape[0] > 0 else 1.0
        error += (distance * weight + big_error) - big_error
        if counts.shape[0] > 0:
            counts[best] += (weight + big_weight) - big_weight
            for e in range(indptr[i], indptr[i + 1]):
                sums[best, indices[e]] += (data[e] * weight + big) - big
    return error


@njit(nogil=True, cache=True)
def refine_csr(data, indices, indptr, w, both, squares):
    """:func:`.distances.refine` for CSR rows, of which one at a time is spread out."""
    x = np.zeros(w.shape[1])
    for i in range(squares.shape[0]):
        x[indices[indptr[i] : indptr[i + 1]]] = data[indptr[i] : indptr[i + 1]]
        for k in range(squares.shape[1]):
            if squares[i, k] < LOST * both[i, k]:
                total = 0.0
                for d in range(x.shape[0]):
                    difference = x[d] - w[k, d]
                    total += difference * difference
                squares[i, k] = total
        x[indices[indptr[i] : indptr[i + 1]]] = 0.0


def canonical(X):
    """CSR without entries that occur twice, which would be squared one by one."""
    if not X.has_canonical_format:
        X = X.copy()
        X.sum_duplicates()
    return X


def unit_csr(X):
    """:func:`.samples.unit_rows` for a CSR matrix."""
    X = canonical(X)
    n = np.diff(X.indptr)
    largest = abs(X).max(axis=1).toarray().ravel()
    if not largest.all():
        raise no_direction(int(np.argmin(largest != 0)))
    X = X.copy()
    with np.errstate(invalid="ignore"):  # infinity: NaN, which is refused with its row
        X.data /= np.repeat(largest, n)  # whose squares then neither overflow nor vanish
    X.data /= np.repeat(row_norms(X), n)
    return X


class SparseRows(ByFeature):
    """A CSR matrix; implicit entries are zeros.

    Parameters
    ----------
    X : CSR matrix or array of shape (N, D)
    weights : float64 array of shape (N,), or None
    """

    def __init__(self, X, weights: NDArray | None = None) -> None:
        X = canonical(X)
        self.X, self.weights = X, weights
        self.dtype, self.n_features = X.dtype, X.shape[1]
        bad = np.flatnonzero(~np.isfinite(X.data))
        if len(bad):
            row = int(np.searchsorted(X.indptr, bad[0], side="right")) - 1
            raise ValueError(
                f"expected finite values, got NaN or infinity (inf) in row {row} of X: remove it"
            )
        self.range = Range(
            X.min(axis=0).toarray().ravel(), X.max(axis=0).toarray().ravel(), X.shape[0]
        )

    def take(self, rows: NDArray) -> NDArray:
        return self.X[rows].toarray()

    def pieces(self):
        step = max(1, PIECE_BYTES // (self.dtype.itemsize * self.n_features))
        for first in range(0, self.n_rows, step):
            rows = slice(first, first + step)
            yield self.X[rows].toarray(), None if self.weights is None else self.weights[rows]

    def distances(self, codebook: NDArray):
        ends = self.range.low, self.range.high, codebook
        scale = np.ldexp(1.0, power_of_two(max(float(np.abs(e).max()) for e in ends)))
        w = codebook.astype(np.float64) * scale
        squares_w = np.einsum("kd,kd->k", w, w)
        width = max(len(w), self.X.nnz // self.n_rows)
        step = max(1, PIECE_BYTES // (8 * width))
        for first in range(0, self.n_rows, step):
            rows = slice(first, first + step)
            x = self.X[rows].astype(np.float64) * scale
            both = row_norms(x, squared=True)[:, None] + squares_w
            squares = both - 2 * (x @ w.T)
            refine_csr(x.data, x.indices, x.indptr, w, both, squares)
            weights = None if self.weights is None else self.weights[rows]
            yield np.sqrt(squares, out=squares) / scale, weights

    def kernel(self, weights, first, last, by_feature, grids, nearest, sums, counts) -> float:
        big, big_weight, big_error = grids
        halves = (by_feature * by_feature).sum(axis=0) / 2
        return accumulate_csr(
            self.X.data, self.X.indices, self.X.indptr, weights, first, last, by_feature,
            halves, big, big_weight, big_error, nearest, sums, counts,
        )  # fmt: skip
