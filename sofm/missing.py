r"""Winners and sums where some values are missing (NaN).

Distances are taken over the features that are present, ``o`` of ``D``, and scaled up to all of
them: ``d^2 = (D / o) sum_present (x_d - w_d)^2``, as scikit-learn's ``nan_euclidean_distances``
does; the factor does not change which node wins.  Eq. 8 is applied feature by feature: each has
its own count of the samples that have it, ``codebook[k, d] = (H S)[k, d] / (H n)[k, d]``.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from .sparse import two_smallest


@njit(nogil=True, cache=True)
def accumulate_missing(
    X, weights, first, last, by_feature, big, big_weight, big_error,
    nearest, distances, sums, counts,
):  # fmt: skip
    """The two nearest nodes of rows with NaN, and what they add to sums and counts.

    Parameters
    ----------
    X : array of shape (N, D)
    weights : float64 array of shape (N,) or (0,)
    by_feature : float64 array of shape (D, K)
        The codebook, transposed.
    nearest : int32 array of shape (N, 2)
    distances : float64 array of shape (N,)
    sums, counts : float64 arrays of shape (K, D), or empty

    Returns
    -------
    error : float
    """
    n_features, n_nodes = by_feature.shape
    squares = np.empty(n_nodes)
    error = 0.0
    for i in range(first, last):
        squares[:] = 0.0
        present = 0
        for d in range(n_features):
            x = np.float64(X[i, d])
            if x == x:
                present += 1
                row = by_feature[d]
                for k in range(n_nodes):
                    difference = x - row[k]
                    squares[k] += difference * difference
        best, second = two_smallest(squares)
        nearest[i, 0] = best
        nearest[i, 1] = second
        distance = np.sqrt(squares[best] * n_features / present)
        distances[i] = distance
        if counts.shape[0] > 0:
            weight = weights[i] if weights.shape[0] > 0 else 1.0
            error += (distance * weight + big_error) - big_error
            for d in range(n_features):
                x = np.float64(X[i, d])
                if x == x:
                    sums[best, d] += (x * weight + big) - big
                    counts[best, d] += (weight + big_weight) - big_weight
    return error
