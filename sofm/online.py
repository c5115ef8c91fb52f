r"""The online rule (eq. 6): every sample moves its winner and the winner's neighbours at once,

.. math::  w_k \leftarrow w_k + \alpha h_{bk} (x - w_k) .

Samples come in a new random order every epoch (blocks one after the other, each in random order);
``sigma`` and ``alpha`` decay from epoch to epoch.
A sample of weight ``m`` moves a node as far as ``m`` equal samples would:
``1 - (1 - alpha h)^m`` of the way.  Sequential by nature, and far slower than the batch rule; it is
here for its neighbourhoods with negative values and for comparison.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .compiled import compiled
from .grid import ROW_STEP, Grid
from .neighborhood import NEIGHBORHOODS, Neighborhood
from .threads import STEP

FAR = 1e3  # times the largest coordinate: nodes that an epoch brings there have run away


def displacement_table(grid: Grid, neighborhood: Neighborhood, sigma: float) -> NDArray[np.float64]:
    """``h`` by rows apart and half columns apart, of shape (rows, 2 columns + 1)."""
    vertical = np.arange(grid.rows) * ROW_STEP[grid.topology]
    horizontal = np.arange(2 * grid.columns + 1) / 2
    return NEIGHBORHOODS[neighborhood](np.hypot(vertical[:, None], horizontal[None, :]), sigma)


@compiled
def show(X, weights, order, codebook, table, shifted, periodic, alpha):
    """Eq. 6 for some samples, in place.

    Parameters
    ----------
    X : array of shape (N, D)
        NaN means not observed: neither compared nor learned.
    weights : float64 array of shape (N,) or (0,)
    order : int64 array of shape (n,)
        Rows in the order in which they are shown.
    codebook : float64 array of shape (K, D)
    table : float64 array of shape (rows, 2 columns + 1)
        From :func:`displacement_table`.
    shifted : bool
        Whether odd rows are shifted by half a column (hexagonal maps).
    alpha : float

    Returns
    -------
    error : float
        Weighted sum of the distances to the winners when they were shown.
    """
    n_nodes, n_features = codebook.shape
    rows, columns = table.shape[0], (table.shape[1] - 1) // 2
    error = 0.0
    for i in order:
        weight = weights[i] if weights.shape[0] > 0 else 1.0
        if weight == 0:
            continue
        best, nearest = 0, np.inf
        present = 0
        for d in range(n_features):
            if X[i, d] == X[i, d]:
                present += 1
        for k in range(n_nodes):
            total = 0.0
            for d in range(n_features):
                difference = np.float64(X[i, d]) - codebook[k, d]
                if difference == difference:
                    total += difference * difference
            if total < nearest:
                best, nearest = k, total
        error += weight * np.sqrt(nearest * n_features / present)
        row, column = best // columns, best % columns
        for k in range(n_nodes):
            down = abs(k // columns - row)
            across = 2 * (k % columns - column)
            if shifted:
                across += (k // columns) % 2 - row % 2
            across = abs(across)
            if periodic:
                down = min(down, rows - down)
                across = min(across, abs(2 * columns - across))
            step = alpha * table[down, across]
            if weight != 1.0:
                step = 1.0 - (1.0 - step) ** weight
            if step != 0.0:
                for d in range(n_features):
                    difference = np.float64(X[i, d]) - codebook[k, d]
                    if difference == difference:
                        codebook[k, d] += step * difference
    return error


def online_epoch(
    samples, codebook: NDArray, grid: Grid, neighborhood: Neighborhood, sigma: float, alpha: float,
    random: np.random.RandomState,
) -> tuple[NDArray, float]:  # fmt: skip
    """One epoch of eq. 6: the pieces of the samples in turn, each in a random order.

    Returns
    -------
    codebook : array of shape (K, D)
    error : float
        Weighted sum of the distances to the winners when they were shown.

    Raises
    ------
    FloatingPointError
        The nodes ran away, which neighbourhoods with negative values can cause.
    """
    moved, error = codebook.astype(np.float64), 0.0
    table = displacement_table(grid, neighborhood, sigma)
    for X, weights in samples.pieces():
        order, step = random.permutation(len(X)), max(1, int(STEP / (8 * moved.size)))
        for first in range(0, len(X), step):  # an interrupt is noticed between
            error += show(
                X, np.empty(0) if weights is None else weights, order[first : first + step], moved,
                table, grid.topology == "hexagonal", grid.periodic, alpha,
            )  # fmt: skip
    largest = max(float(np.abs(samples.range.low).max()), float(np.abs(samples.range.high).max()))
    if not np.abs(moved).max() <= FAR * max(largest, float(np.abs(codebook).max())):
        raise FloatingPointError(
            f"algorithm='online': the nodes ran away from the samples with neighborhood="
            f"{neighborhood!r} and sigma={sigma:.3g}: pass a smaller learning_rate or sigma"
        )
    return moved.astype(codebook.dtype), error
