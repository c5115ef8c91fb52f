r"""Where the nodes begin.

=============  ===================================================================================
``"pca"``      on the plane (line) of the first two (one) principal components through the mean,
               from -1 to 1 standard deviation along each; the longer side of the map follows the
               first (Kohonen 2001, section 3.2; SOM Toolbox).  Deterministic, converges fastest.
``"sample"``   distinct samples, drawn in proportion to their weights.
``"random"``   uniform between the smallest and the largest value of every feature (Algorithm 2).
array          the codebook itself, of shape (K, D) or (rows, columns, D).
=============  ===================================================================================
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.extmath import randomized_svd

from .grid import Grid

SMALL = 160  # features up to which the covariance is decomposed outright


def principal_components(
    X: NDArray, weights: NDArray | None, q: int
) -> tuple[NDArray, NDArray, NDArray]:
    """Mean, first ``q`` principal directions and standard deviations along them.

    Signs are fixed (the largest coordinate of a direction is positive), so that the same data give
    the same map.

    Parameters
    ----------
    X : array of shape (N, D)
    weights : array of shape (N,), or None
    q : int
        Directions beyond the rank have a deviation of zero.

    Returns
    -------
    mean : float64 array of shape (D,)
    directions : float64 array of shape (q, D)
    deviations : float64 array of shape (q,)
    """
    X = np.asarray(X, np.float64)
    N, D = X.shape
    mean = np.average(X, axis=0, weights=weights)
    A = X - mean
    total = N if weights is None else weights.sum()
    if weights is not None:
        A *= np.sqrt(weights)[:, None]
    if D <= SMALL or min(N, D) <= q + 10:
        if D <= N:
            values, vectors = np.linalg.eigh(A.T @ A)
            values, vectors = values[::-1], vectors[:, ::-1].T
        else:
            _, s, vectors = np.linalg.svd(A, full_matrices=False)
            values = s * s
    else:
        _, s, vectors = randomized_svd(A, q, n_iter=3, random_state=0)
        values = s * s
    directions, deviations = np.zeros((q, D)), np.zeros(q)
    n = min(q, len(vectors))
    directions[:n] = vectors[:n]
    deviations[:n] = np.sqrt(np.maximum(values[:n], 0) / total)
    largest = np.abs(directions).argmax(axis=1)
    signs = np.sign(directions[np.arange(q), largest])
    return mean, directions * np.where(signs == 0, 1, signs)[:, None], deviations


def pca(grid: Grid, mean: NDArray, directions: NDArray, deviations: NDArray) -> NDArray:
    """Nodes on the principal plane, see the top of this module.

    Examples
    --------
    >>> import numpy as np
    >>> from rejuvenet.sofm.grid import Grid
    >>> from rejuvenet.sofm.initialization import pca
    >>> pca(Grid(1, 3), np.zeros(2), np.eye(2), np.array([2.0, 1.0]))[:, 0]
    array([-2.,  0.,  2.])
    """
    sides = [grid.columns, grid.rows] if grid.columns >= grid.rows else [grid.rows, grid.columns]
    along = [np.linspace(-1, 1, n) if n > 1 else np.zeros(1) for n in sides]
    axes = [t[:, None] * (s * v) for t, s, v in zip(along, deviations, directions, strict=False)]
    if len(axes) == 1:
        axes.append(np.zeros((sides[1], len(mean))))
    long, short = axes
    if grid.columns >= grid.rows:
        plane = short[:, None, :] + long[None, :, :]
    else:
        plane = long[:, None, :] + short[None, :, :]
    return plane.reshape(grid.n_nodes, -1) + mean


def sample(
    X: NDArray, weights: NDArray | None, n_nodes: int, random: np.random.RandomState
) -> NDArray:
    """Samples drawn as nodes; repeated only where there are fewer than nodes."""
    p = None if weights is None else weights / weights.sum()
    available = len(X) if p is None else int((p > 0).sum())
    return X[random.choice(len(X), n_nodes, replace=n_nodes > available, p=p)]


def uniform(
    smallest: NDArray, largest: NDArray, n_nodes: int, random: np.random.RandomState
) -> NDArray:
    """Nodes uniform in the box of the data."""
    return smallest + (largest - smallest) * random.random_sample((n_nodes, len(smallest)))
