r"""Winners and sums for sparse rows (CSR), without densifying and without centring.

With ``W^T`` stored feature by feature, the scores of all nodes for one row are

.. math::  s_k = |w_k|^2/2 - \sum_{d: x_d \ne 0} x_d W^T[d, k] ,

as many additions of a contiguous row as the sample has entries.  Everything is float64, and a score
is off by at most ``gamma (|w|^2/2 + |x||w|)`` (:mod:`.rounding`, with ``u = 2^-53``).  Where that
leaves more than one node, as with a column of a large offset, differences over all features decide:
the winners are those of a brute-force float64 search.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.extmath import row_norms

from .by_feature import ByFeature, two_smallest
from .compiled import compiled
from .distances import LOST, PIECE_BYTES, power_of_two
from .rounding import add_term, add_to_error
from .samples import no_direction
from .scan import Range, no_empty_column, not_finite, nothing_seen


@compiled
def squared_distance(x, codebook, k):
    total = 0.0
    for d in range(x.shape[0]):
        difference = x[d] - codebook[k, d]
        if difference == difference:
            total += difference * difference
    return total


@compiled
def accumulate_csr(
    data, indices, indptr, weights, first, last, by_feature, w, halves, scale, bigs, big_weights,
    nearest, sums, counts, error,
):  # fmt: skip
    """The two nearest nodes of CSR rows, and what they add to sums and counts.

    Parameters
    ----------
    data, indices, indptr : arrays of a CSR matrix of shape (N, D)
    weights : float64 array of shape (N,) or (0,)
    by_feature, w : float64 arrays of shapes (D, K) and (K, D)
        The codebook, scaled.
    halves : float64 array of shape (K,)
        ``|w|^2 / 2``.
    scale : float
        A power of two that keeps squares within range.
    bigs, big_weights : float64 arrays of shapes (F - 1, D) and (F' - 1, 1)
        See :mod:`.rounding`.
    nearest : int32 array of shape (N, 2) or (0, 2)
    sums, counts : float64 arrays of shapes (K, F, D) and (K, F', 1), or F = 0: not wanted
        Of samples with missing values ``counts`` has 1 + D columns: that of all, and for every
        feature that of the samples in which it is missing.
    error : int64 array of shape WORDS
    """
    n_nodes, n_features = w.shape
    scores, spread = np.empty(n_nodes), np.zeros(w.shape[1])
    longest = 2 * halves.max()
    wanted = min(2 if nearest.shape[0] > 0 else 1, n_nodes)
    for i in range(first, last):
        entries = slice(indptr[i], indptr[i + 1])
        scores[:] = halves
        square, present = 0.0, n_features
        for e in range(indptr[i], indptr[i + 1]):
            x = np.float64(data[e]) * scale
            row = by_feature[indices[e]]
            if x == x:
                square += x * x
                for k in range(scores.shape[0]):
                    scores[k] -= x * row[k]
            else:
                present -= 1
                for k in range(scores.shape[0]):
                    scores[k] -= row[k] * row[k] / 2
        best, second = two_smallest(scores)

        # What rounding leaves open.
        gamma = (n_features + indptr[i + 1] - indptr[i] + 8) * 2.0**-52
        margin = gamma * (longest / 2 + np.sqrt(square) * np.sqrt(longest))
        if present < n_features:
            margin *= 2
        limit = scores[best if wanted == 1 else second] + 2 * margin
        left = 0
        for k in range(n_nodes):
            left += scores[k] <= limit
        open_order = wanted == 2 and scores[second] - scores[best] <= 2 * margin
        nearly = square + 2 * scores[best]
        if left > wanted or open_order or nearly < LOST * (square + 2 * halves[best]):
            for e in range(indptr[i], indptr[i + 1]):
                spread[indices[e]] = data[e] * scale
            for k in range(n_nodes):
                scores[k] = squared_distance(spread, w, k) if scores[k] <= limit else np.inf
            spread[indices[entries]] = 0.0
            best, second = two_smallest(scores)
            nearly = scores[best]

        if nearest.shape[0] > 0:
            nearest[i, 0] = best
            nearest[i, 1] = second
        weight = weights[i] if weights.shape[0] > 0 else 1.0
        add_to_error(np.sqrt(nearly * (n_features / present)) * weight, error)
        if sums.shape[1] > 0:
            add_term(weight, 0, big_weights, counts, best, 0)
            for e in range(indptr[i], indptr[i + 1]):
                if data[e] == data[e]:
                    add_term(data[e] * weight, indices[e], bigs, sums, best, indices[e])
                else:
                    add_term(weight, 0, big_weights, counts, best, 1 + indices[e])


@compiled
def refine_csr(data, indices, indptr, w, both, squares):
    """:func:`.distances.refine` for CSR rows, of which one at a time is spread out."""
    x = np.zeros(w.shape[1])
    for i in range(squares.shape[0]):
        x[indices[indptr[i] : indptr[i + 1]]] = data[indptr[i] : indptr[i + 1]]
        for k in range(squares.shape[1]):
            if squares[i, k] < LOST * both[i, k]:
                squares[i, k] = squared_distance(x, w, k)
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


def dense_slices(X) -> Iterator[NDArray]:
    """CSR rows made dense, at most ``PIECE_BYTES`` at a time."""
    step = max(1, PIECE_BYTES // (X.dtype.itemsize * X.shape[1]))
    return (X[first : first + step].toarray() for first in range(0, X.shape[0], step))


class SparseRows(ByFeature):
    """A CSR matrix; implicit entries are zeros.

    Parameters
    ----------
    X : CSR matrix or array of shape (N, D)
    weights : float64 array of shape (N,), or None
    missing : bool
        Whether an entry that is NaN was not observed.
    every_column : bool
        Whether a column that has nothing but such entries is refused.
    """

    def __init__(
        self, X, weights: NDArray | None = None, missing: bool = False, every_column: bool = True
    ) -> None:
        X = canonical(X)
        self.X, self.weights, self.missing = X, weights, missing
        self.dtype, self.n_features = X.dtype, X.shape[1]
        bad = np.flatnonzero(np.isinf(X.data) if missing else ~np.isfinite(X.data))
        if len(bad):
            row = int(np.searchsorted(X.indptr, bad[0], side="right")) - 1
            raise ValueError(not_finite(X.data[bad[0]], row, X.indices[bad[0]]))
        if missing:
            self.counts_width = 1 + self.n_features
            unseen = np.isnan(X.data)
            rows = np.repeat(np.arange(X.shape[0]), np.diff(X.indptr))
            self.unseen = np.bincount(rows[unseen], minlength=X.shape[0])
            if (self.unseen == self.n_features).any():
                row = int(np.argmax(self.unseen == self.n_features))
                raise ValueError(nothing_seen(row))
            empty = np.bincount(X.indices[unseen], minlength=self.n_features) == X.shape[0]
            X = X.copy()
            X.data[unseen] = 0
        least = np.full(X.shape[1], np.inf, X.dtype)
        some = X.data != 0
        np.minimum.at(least, X.indices[some], np.abs(X.data[some]))
        low, high = (end.toarray().ravel() for end in (X.min(axis=0), X.max(axis=0)))
        self.range = Range(low, high, least, X.shape[0])
        if missing:
            no_empty_column(self.range, empty, every_column)

    @property
    def values_per_row(self) -> float:
        return self.X.nnz / self.n_rows + 1

    def only(self, rows, weights):
        return SparseRows(self.X[rows], weights, self.missing, every_column=weights is not None)

    def take(self, rows: NDArray) -> NDArray:
        return self.filled(self.X[rows].toarray())

    def rows(self):
        yield slice(None), self.X, self.weights

    def counts_of(self, counts: NDArray) -> NDArray:
        return counts[:, :1] - counts[:, 1:] if self.missing else counts[:, 0]

    def pieces(self):
        first = 0
        for X in dense_slices(self.X):
            rows = slice(first, first + len(X))
            yield X, None if self.weights is None else self.weights[rows]
            first = rows.stop

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
            data = x.data
            if self.missing:
                lost = np.isnan(data)
                x.data = np.where(lost, 0, data)
            both = row_norms(x, squared=True)[:, None] + squares_w
            squares = both - 2 * (x @ w.T)
            if self.missing:
                x.data = lost.astype(np.float64)
                squares -= x @ (w * w).T
            refine_csr(data, x.indices, x.indptr, w, both, squares)
            if self.missing:
                squares *= self.n_features / (self.n_features - self.unseen[rows, None])
            weights = None if self.weights is None else self.weights[rows]
            yield np.sqrt(squares, out=squares) / scale, weights

    def kernel(
        self, X, weights, first, last, by_feature, scale, grids, nearest, sums, counts, error
    ) -> None:
        halves = (by_feature * by_feature).sum(axis=0) / 2
        accumulate_csr(
            X.data, X.indices, X.indptr, weights, first, last, by_feature,
            np.ascontiguousarray(by_feature.T), halves, scale, *grids, nearest, sums, counts, error,
        )  # fmt: skip
