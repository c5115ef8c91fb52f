r"""Neighbourhoods (eq. 7), their decay, and the update of the batch rule (eq. 8).

``h(d, sigma)`` says how much a node at distance ``d`` on the map learns from a sample that another
node wins:

==================  ===========================================  ===================================
``"gaussian"``      ``exp(-d^2 / (2 sigma^2))``                  Kohonen 1982
``"exponential"``   ``exp(-d / sigma)``                          eq. 7 as printed
``"bubble"``        ``1 if d <= sigma else 0``                   Kohonen 2001, section 3.1
``"epanechnikov"``  ``max(0, 1 - (d / sigma)^2)``                SOM Toolbox (Vesanto 2000)
``"cut_gaussian"``  the Gaussian where ``d <= sigma``, else 0    SOM Toolbox (Vesanto 2000)
``"mexican_hat"``   ``(1 - d^2/sigma^2) exp(-d^2/(2 sigma^2))``  Kohonen 1982; online rule only
==================  ===========================================  ===================================

With ``S_b`` and ``n_b`` the sum and the number of the samples that node ``b`` wins and
``H[k, b] = h(|v_k - v_b|)``, the weighted means of eq. 8 are

.. math::  codebook = (H S) / (H n) ,

row by row.  Where a neighbourhood leaves a node without any sample (``H n = 0``), the node stays.
``mexican_hat`` has negative values, its ``H n`` can vanish or turn negative: the batch rule is
undefined for it.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .compiled import compiled
from .grid import Grid
from .threads import ALONE, Threads

Neighborhood = Literal[
    "gaussian", "exponential", "bubble", "epanechnikov", "cut_gaussian", "mexican_hat"
]
Decay = Literal["geometric", "linear", "asymptotic"]
ROWS_OF_H = 64  # rows of H made at a time: 5 MB at 10,000 nodes


def square(d: NDArray, sigma: float) -> NDArray:
    """``(d / sigma)^2``; infinite for the smallest sigma, where every ``h`` but ``h(0)`` is 0."""
    with np.errstate(over="ignore", under="ignore"):
        return (d / sigma) ** 2


def gaussian(d: NDArray, sigma: float) -> NDArray:
    with np.errstate(under="ignore"):
        return np.exp(-square(d, sigma) / 2)


def exponential(d: NDArray, sigma: float) -> NDArray:
    with np.errstate(over="ignore", under="ignore"):
        return np.exp(-d / sigma)


def bubble(d: NDArray, sigma: float) -> NDArray:
    return (d <= sigma).astype(np.float64)


def epanechnikov(d: NDArray, sigma: float) -> NDArray:
    return np.maximum(0.0, 1 - square(d, sigma))


def cut_gaussian(d: NDArray, sigma: float) -> NDArray:
    return gaussian(d, sigma) * (d <= sigma)


def mexican_hat(d: NDArray, sigma: float) -> NDArray:
    ratio = np.minimum(square(d, sigma), 2000.0)  # where the exponential is 0
    with np.errstate(under="ignore"):
        return (1 - ratio) * np.exp(-ratio / 2)


NEIGHBORHOODS = {
    "gaussian": gaussian,
    "exponential": exponential,
    "bubble": bubble,
    "epanechnikov": epanechnikov,
    "cut_gaussian": cut_gaussian,
    "mexican_hat": mexican_hat,
}


def decayed(start: float, end: float, epoch: int, n_epochs: int, decay: Decay) -> float:
    """The value of a quantity that falls from ``start`` to ``end`` over the epochs.

    Parameters
    ----------
    decay : {"geometric", "linear", "asymptotic"}
        With ``t`` from 0 (first epoch) to 1 (last): ``start (end/start)^t``,
        ``start + (end - start) t``, or ``start / (1 + t (start/end - 1))``
        (MiniSom's asymptotic decay, made to meet ``end``).

    Examples
    --------
    >>> from rejuvenet.sofm.neighborhood import decayed
    >>> [decayed(8.0, 0.5, t, 5, "geometric") for t in range(5)]
    [8.0, 4.0, 2.0, 1.0, 0.5]
    """
    t = epoch / (n_epochs - 1) if n_epochs > 1 else 1.0
    if decay == "geometric":
        value = start * (end / start) ** t
    elif decay == "linear":
        value = start + (end - start) * t
    else:
        value = start / (1 + t * (start - end) / end)
    return float(max(value, end))  # no less, where the ratio of start and end is no number


def profile(grid: Grid, axis: int, h, sigma: float) -> NDArray[np.float64]:
    """``h`` between rows (axis 0) or columns (axis 1), by the difference of their indices."""
    n = grid.rows if axis == 0 else grid.columns
    step = np.arange(n, dtype=np.float64)
    return h(np.minimum(step, n - step) if grid.periodic else step, sigma)


@compiled
def rows_of_h(values_of, row, end_row):
    """Rows of ``H[k, b] = values_of[|k - b|]``, but for columns where all of them vanish.

    Returns
    -------
    H : float64 array of shape (end_row - row, n)
    column : int
        The first column of ``H``.
    """
    last = values_of.shape[0] - 1
    while values_of[last] == 0:
        last -= 1
    column, end_column = max(0, row - last), min(values_of.shape[0], end_row + last)
    H = np.empty((end_row - row, end_column - column))
    mirrored = np.concatenate((values_of[:0:-1], values_of))
    for k in range(H.shape[0]):
        zero = values_of.shape[0] - 1 + column - (row + k)
        for b in range(H.shape[1]):
            H[k, b] = mirrored[zero + b]
    return H, column


@compiled
def smooth_rows(values_of, sums, counts, first, last, new_sums, new_counts):
    """``new[a, k] = sum_b values_of[|k - b|] old[a, b]`` for sums and for counts.

    Parameters
    ----------
    values_of : float64 array of shape (n,)
        A :func:`profile`.
    sums, counts, new_sums, new_counts : float64 arrays of shape (A, n, B)
    first, last : int
        Which pieces of ``ROWS_OF_H`` rows ``k``.
    """
    n = values_of.shape[0]
    for row in range(first * ROWS_OF_H, min(last * ROWS_OF_H, n), ROWS_OF_H):
        end = min(row + ROWS_OF_H, n)
        H, column = rows_of_h(values_of, row, end)
        end_column = column + H.shape[1]
        for a in range(sums.shape[0]):
            np.dot(H, sums[a, column:end_column], new_sums[a, row:end])
            np.dot(H, counts[a, column:end_column], new_counts[a, row:end])


def smooth(
    grid: Grid, neighborhood: Neighborhood, sigma: float, sums: NDArray, counts: NDArray,
    threads: Threads = ALONE,
) -> tuple[NDArray, NDArray]:  # fmt: skip
    """``H S`` and ``H n`` (numerator and denominator of eq. 8).

    On a line ``H`` depends on differences of indices alone, and a Gaussian on a rectangular map is
    a product of two such profiles: both are applied along the axes.  Otherwise ``H`` is made
    ``ROWS_OF_H`` rows at a time, for occupied nodes only.

    Parameters
    ----------
    sums : float64 array of shape (K, D)
    counts : float64 array of shape (K,), or (K, D) with missing values
    threads : Threads

    Returns
    -------
    numerator, denominator : float64 arrays of shapes (K, D) and (K, 1) or (K, D)
    """
    h = NEIGHBORHOODS[neighborhood]
    counts = counts.reshape(grid.n_nodes, -1)
    if grid.is_line or (neighborhood == "gaussian" and grid.is_separable):

        def along(values_of: NDArray, *shape: int) -> None:
            nonlocal sums, counts
            old = sums.reshape(shape), counts.reshape(shape)
            sums, counts = new = np.empty_like(old[0]), np.empty_like(old[1])
            pieces = -(-len(values_of) // ROWS_OF_H)  # the same, however many threads
            work = ROWS_OF_H * sums.size
            threads.share(
                pieces, work, lambda: None, lambda i, j, _: smooth_rows(values_of, *old, i, j, *new)
            )

        across = profile(grid, 1, h, sigma)
        along(across, grid.rows, grid.columns, -1)
        if not grid.is_line:
            down = across if grid.rows == grid.columns else profile(grid, 0, h, sigma)
            along(down, 1, grid.rows, -1)
        return sums.reshape(grid.n_nodes, -1), counts.reshape(grid.n_nodes, -1)
    occupied = np.flatnonzero(counts.any(axis=1))
    numerator, denominator = np.empty_like(sums), np.empty_like(counts)
    for first in range(0, grid.n_nodes, ROWS_OF_H):
        rows = slice(first, first + ROWS_OF_H)
        H = h(grid.distances(rows, occupied), sigma)
        np.matmul(H, sums[occupied], out=numerator[rows])
        np.matmul(H, counts[occupied], out=denominator[rows])
    return numerator, denominator


@compiled
def updated(codebook, numerator, denominator):
    """Eq. 8: the weighted means, where anything has a weight; other nodes stay.

    A denominator below 2^-1000 of the largest is nothing: its quotient would have lost its digits.

    Parameters
    ----------
    codebook : array of shape (K, D)
    numerator : float64 array of shape (K, D)
    denominator : float64 array of shape (K, 1) or (K, D)

    Returns
    -------
    codebook : array of shape (K, D)
        A new one.
    """
    largest = 0.0
    for k in range(denominator.shape[0]):
        for d in range(denominator.shape[1]):
            largest = max(largest, denominator[k, d])
    least = largest * 2.0**-1000
    new = codebook.copy()
    for k in range(codebook.shape[0]):
        if denominator.shape[1] == 1:
            weight = denominator[k, 0]
            if weight > least:
                for d in range(codebook.shape[1]):
                    new[k, d] = numerator[k, d] / weight
        else:
            for d in range(codebook.shape[1]):
                if denominator[k, d] > least:
                    new[k, d] = numerator[k, d] / denominator[k, d]
    return new
