r"""Where the nodes begin.

=============  ===================================================================================
``"pca"``      on the plane (line) of the first two (one) principal components through the mean,
               from -1 to 1 standard deviation along each; the longer side of the map follows the
               first (Kohonen 2001, section 3.2; SOM Toolbox).  Deterministic, converges fastest.
``"sample"``   distinct samples (as long as there are), drawn in proportion to their weights.
``"random"``   uniform between the smallest and the largest value of every feature (Algorithm 2).
array          the codebook itself, of shape (K, D) or (rows, columns, D).
=============  ===================================================================================
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .grid import Grid
from .parameters import INITS, initial_array

DRAWS = 4  # rows drawn for every one that is wanted
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
    weights = None if weights is None else weights / weights.max()
    mean = np.average(X, axis=0, weights=weights)
    A = X - mean
    largest = float(np.abs(A).max(initial=0.0)) or 1.0
    A /= largest  # whose squares then neither overflow nor vanish
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
        from sklearn.utils.extmath import randomized_svd

        _, s, vectors = randomized_svd(A, q, n_iter=3, random_state=0)
        values = s * s
    directions, deviations = np.zeros((q, D)), np.zeros(q)
    n = min(q, len(vectors))
    directions[:n] = vectors[:n]
    deviations[:n] = largest * np.sqrt(np.maximum(values[:n], 0) / total)
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


def distinct(samples, n: int, random: np.random.RandomState) -> NDArray:
    """``n`` rows, no two of them equal as long as there are, drawn in proportion to their weights.

    Equal nodes would win and learn the same for ever.
    """
    p = None if samples.weights is None else samples.weights / samples.weights.sum()
    available = samples.n_rows if p is None else int((p > 0).sum())
    drawn = random.choice(samples.n_rows, min(available, DRAWS * n), replace=False, p=p)
    found: dict[bytes, NDArray] = {}

    def look(rows: NDArray) -> bool:
        for row in rows:
            found.setdefault((row + 0.0).tobytes(), row)  # -0.0 is 0.0
            if len(found) == n:
                return True
        return False

    if not look(samples.take(drawn[:n])) and not look(samples.take(drawn[n:])):
        for piece, _ in samples.pieces():  # most rows are equal: look at all of them
            if look(samples.filled(piece)):
                break
    return np.resize(np.stack(list(found.values())), (n, samples.n_features))


def begin(init, grid: Grid, samples, some, weights, random: np.random.RandomState) -> NDArray:
    """The initial codebook, of the samples' type.

    Parameters
    ----------
    init : str or array
        See the top of this module.
    samples : Samples
    some, weights : arrays
        Samples that stand for all, and their weights (:meth:`.samples.Samples.some`).
    random : RandomState

    Returns
    -------
    codebook : array of shape (K, D)

    Raises
    ------
    ValueError
        ``init`` is no known word, or an array of the wrong shape.
    """
    if isinstance(init, str) and init not in INITS:
        raise ValueError(f"init: expected {', '.join(map(repr, INITS))} or an array, got {init!r}")
    D, K = samples.n_features, grid.n_nodes
    if not isinstance(init, str):
        codebook = initial_array(init, grid, D, samples.dtype)
    elif init == "pca":
        codebook = pca(grid, *principal_components(some, weights, 2))
        largest = np.finfo(samples.dtype).max
        codebook = np.clip(codebook, -largest, largest)
    elif init == "sample":
        codebook = distinct(samples, K, random)
    else:
        low, high = samples.range.low, samples.range.high
        share = random.random_sample((K, D))
        codebook = low * (1 - share) + high * share  # a difference could overflow
    return np.ascontiguousarray(codebook, dtype=samples.dtype)


def spread(some: NDArray, weights: NDArray | None = None) -> float:
    """Root mean square distance of samples from their mean."""
    scale = float(np.abs(some).max()) or 1.0
    x = (some / scale).astype(np.float64)
    mean = np.average(x, axis=0, weights=weights)
    return scale * float(np.sqrt(np.average(((x - mean) ** 2).sum(axis=1), weights=weights)))


def movement(codebook: NDArray, before: NDArray) -> float:
    """Root mean square distance that the nodes went."""
    step = codebook - before
    with np.errstate(over="ignore", under="ignore"):
        total = float(np.vdot(step, step))
    scale = 1.0
    if not 1e-30 < total < np.inf:  # perhaps too large or too small to be squared
        scale = float(np.abs(step).max()) or 1.0
        step = step / scale
        total = float(np.vdot(step, step))
    return scale * float(np.sqrt(total / len(codebook)))
