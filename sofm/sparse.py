r"""Winners and sums for sparse rows (CSR), without densifying and without centring.

With ``W^T`` stored feature by feature, the scores of all nodes for one row are

.. math::  s_k = |w_k|^2/2 - \sum_{d: x_d \ne 0} x_d W^T[d, k] ,

as many additions of a contiguous row as the sample has entries.  Everything is float64: the search
is the brute-force float64 search itself.
"""

from __future__ import annotations

import numpy as np
from numba import njit


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


@njit(nogil=True, cache=True)
def accumulate_csr(
    data, indices, indptr, weights, first, last, by_feature, halves,
    big, big_weight, big_error, nearest, distances, sums, counts,
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
    nearest : int32 array of shape (N, 2)
    distances : float64 array of shape (N,)
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
        nearest[i, 0] = best
        nearest[i, 1] = second
        distance = np.sqrt(max(0.0, square + 2 * scores[best]))
        distances[i] = distance
        if counts.shape[0] > 0:
            weight = weights[i] if weights.shape[0] > 0 else 1.0
            error += (distance * weight + big_error) - big_error
            counts[best] += (weight + big_weight) - big_weight
            for e in range(indptr[i], indptr[i + 1]):
                sums[best, indices[e]] += (data[e] * weight + big) - big
    return error
