r"""Distances of samples to all nodes, one piece of the samples at a time.

Samples and nodes are centred on the codebook's mean and scaled by a power of two: an offset of the
data costs no digits, and squares neither overflow nor vanish (of numbers up to 1e270 apart).  Then,
in float64,

.. math::  d^2 = |x|^2 + |w|^2 - 2 x.w

with one matrix product.  Where less than ``LOST`` of ``|x|^2 + |w|^2`` is left, the digits are gone
and the differences are squared one by one.

Where values are missing (NaN), only features that sample and node both have are compared:
``d^2 = (D / o) sum_both (x_d - w_d)^2`` with ``o`` of ``D`` of them, as scikit-learn's
``nan_euclidean_distances`` does; NaN where there is none.

For the cosine metric, samples and nodes are of length 1 and these are the distances between unit
vectors, ``sqrt(2 - 2 cos)``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .compiled import compiled
from .scan import Range

LOST = 1e-4  # of the squares: at least 11 of 16 digits are left where the difference is larger
LIFT = 400  # exponent of coordinates: sums of squares stay below 2**1024, small ones above 0
PIECE_BYTES = 16 << 20  # of distances, or of samples in float64, in memory at a time


def power_of_two(reach: float) -> int:
    """Exponent of the power of two that scales numbers up to ``reach`` to at most ``2**LIFT``.

    Examples
    --------
    >>> from rejuvenet.sofm.distances import power_of_two
    >>> power_of_two(6.0), power_of_two(0.0)
    (397, 400)
    """
    return int(np.clip(LIFT - np.frexp(reach)[1], -1000, 1000))


@compiled
def refine(X, codebook, scale, both, squares):
    """Square the differences where a product has left no digits of them; in place.

    Parameters
    ----------
    X : array of shape (n, D)
    codebook : array of shape (K, D)
        Neither centred, which costs the digits of what is near beside what is far.
    scale : float
        A power of two.
    both : float64 array of shape (n, K)
        ``|x|^2 + |w|^2``, over features that both have.
    squares : float64 array of shape (n, K)
        ``|x|^2 + |w|^2 - 2 x.w``.
    """
    for i in range(squares.shape[0]):
        for k in range(squares.shape[1]):
            if squares[i, k] < LOST * both[i, k]:
                total = 0.0
                for d in range(X.shape[1]):
                    difference = (np.float64(X[i, d]) - np.float64(codebook[k, d])) * scale
                    if difference == difference:
                        total += difference * difference
                squares[i, k] = total


class DistancesTo:
    """Distances of dense samples to the nodes of a codebook.

    Parameters
    ----------
    codebook : array of shape (K, D)
        NaN is not compared.
    seen : Range
        Of the samples.

    Examples
    --------
    >>> import numpy as np
    >>> from rejuvenet.sofm.distances import DistancesTo
    >>> from rejuvenet.sofm.scan import Range
    >>> X = np.array([[0.0, 0.0], [3.0, np.nan]])
    >>> to = DistancesTo(np.array([[0.0, 0.0], [3.0, 4.0]]), Range.of(X, missing=True))
    >>> to(X)
    array([[0.        , 5.        ],
           [4.24264069, 0.        ]])
    """

    def __init__(self, codebook: NDArray, seen: Range) -> None:
        self.codebook = w = codebook.astype(np.float64)
        n = np.maximum((~np.isnan(w)).sum(axis=0), 1)
        mean = np.nansum(w / n, axis=0)
        ends = [seen.low, seen.high, np.fmin.reduce(w, axis=0), np.fmax.reduce(w, axis=0)]
        exponent = power_of_two(max(np.nanmax(np.abs(e.astype(np.float64) - mean)) for e in ends))
        # A centre of few digits keeps integers integers, whose equal distances then stay equal.
        self.centre = mean - np.fmod(mean, np.ldexp(0.25, LIFT - exponent))
        self.scale = np.ldexp(1.0, exponent)
        self.w = (w - self.centre) * self.scale
        self.minus_twice_w = -2 * self.w

    def __call__(self, X: NDArray) -> NDArray[np.float64]:
        """Distances of shape (n, K) of samples (n, D)."""
        x, w = X - self.centre, self.w
        x *= self.scale
        x_there, w_there = ~np.isnan(x), ~np.isnan(w)
        complete = x_there.all() and w_there.all()
        if complete:
            both = np.einsum("nd,nd->n", x, x)[:, None] + np.einsum("kd,kd->k", w, w)
            squares = x @ self.minus_twice_w.T
        else:
            m, n = x_there.astype(np.float64), w_there.astype(np.float64)
            x0, w0 = np.where(x_there, x, 0), np.where(w_there, w, 0)
            both = (x0 * x0) @ n.T + m @ (w0 * w0).T
            squares = x0 @ (-2 * w0).T
        squares += both
        refine(X, self.codebook, self.scale, both, squares)
        if not complete:
            with np.errstate(invalid="ignore", divide="ignore"):
                squares *= x.shape[1] / (m @ n.T)
        np.sqrt(squares, out=squares)
        squares /= self.scale
        return squares


def between(codebook: NDArray, a: NDArray, b: NDArray) -> NDArray[np.float64]:
    """Distances between pairs of nodes.

    Parameters
    ----------
    codebook : array of shape (K, D)
    a, b : int arrays of shape (M,)

    Returns
    -------
    distances : float64 array of shape (M,)

    Examples
    --------
    >>> import numpy as np
    >>> from rejuvenet.sofm.distances import between
    >>> between(np.array([[0.0, 0.0], [3.0, 4.0]]), np.array([0]), np.array([1]))
    array([5.])
    """
    distances = np.empty(len(a))
    scale = np.ldexp(1.0, power_of_two(2 * float(np.abs(codebook).max())))
    step = max(1, PIECE_BYTES // (8 * codebook.shape[1]))
    for first in range(0, len(a), step):
        rows = slice(first, first + step)
        ends = (codebook[nodes[rows]].astype(np.float64) * scale for nodes in (a, b))
        distances[rows] = np.linalg.norm(np.subtract(*ends), axis=1)
    return distances / scale


def distance_table(samples, codebook: NDArray) -> NDArray:
    """Distances of all samples to all nodes: an array of shape (N, K) of the samples' type.

    Parameters
    ----------
    samples : Samples
    codebook : array of shape (K, D)
    """
    table = np.empty((samples.n_rows, len(codebook)), samples.dtype)
    first = 0
    for distances, _ in samples.distances(codebook):
        table[first : first + len(distances)] = distances
        first += len(distances)
    return table
