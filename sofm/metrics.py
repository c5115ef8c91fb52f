r"""Distances that have no mean: nearest nodes, and where nodes move.

The batch rule (eq. 8) moves node ``k`` to the mean, which minimizes the sum of *squared Euclidean*
distances with the weights ``m_ik = m_i h(|v_b(i) - v_k|)`` of the neighbourhood.  Under another
distance ``d`` it moves to what minimizes ``sum_i m_ik d(x_i, w)``, or to the best sample:

===============  ==================================  ==========================================
``metric``       ``d(x, w)``                         where node ``k`` moves
===============  ==================================  ==========================================
``"manhattan"``  ``sum_d |x_d - w_d|``               weighted median of every feature, the lower
                                                     one on ties: the minimizer [1]_
``"chebyshev"``  ``max_d |x_d - w_d|``               medoid: the sample with the least sum [2]_
``"haversine"``  angle between two places on the     direction of the weighted sum of unit
                 globe; ``x = (latitude,             vectors: the mean direction, which minimizes
                 longitude)``, all in radians        the sum of ``2 (1 - cos d)`` [3]_
callable         ``metric(x, w)``                    medoid [2]_
===============  ==================================  ==========================================

A search costs N times K distances and a medoid N times N of them (kept while they fit into
``KEPT_BYTES``, else computed again in every epoch); a callable is called for each, and slow.
Samples are one dense array in memory.

References
----------
.. [1] Bradley, Mangasarian & Street, "Clustering via concave minimization", NIPS 1996 (k-median).
.. [2] Kohonen & Somervuo, "How to make large self-organizing maps for nonvectorial data", Neural
   Networks 15, 2002 (generalized median).
.. [3] Mardia & Jupp, "Directional Statistics", Wiley, 2000, section 9.2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.spatial.distance import cdist
from sklearn.metrics.pairwise import haversine_distances

from .compiled import compiled
from .distances import PIECE_BYTES
from .grid import Grid
from .neighborhood import NEIGHBORHOODS, ROWS_OF_H, smooth
from .samples import Samples
from .scan import Range

WITHOUT_MEANS = ("manhattan", "chebyshev", "haversine")
KEPT_BYTES = 64 << 20  # of distances between samples
TIE = 1 - 1e-12  # of half of the weights: rounding decides no tie between two medians

Metric = str | Callable[[NDArray, NDArray], float]


def has_means(metric: Metric) -> bool:
    """Whether nodes move to means, by eq. 8."""
    return isinstance(metric, str) and metric not in WITHOUT_MEANS


def table(X: NDArray, codebook: NDArray, metric: Metric) -> NDArray[np.float64]:
    """Distances (n, K) of samples (n, D) to nodes.

    Raises
    ------
    ValueError
        A callable returns what is no distance.
    """
    if metric == "haversine":
        return haversine_distances(X, codebook).astype(np.float64)
    name = "cityblock" if metric == "manhattan" else metric
    distances = cdist(X, codebook, name)
    if callable(metric) and not (distances >= 0).all():  # NaN is not either
        bad = distances[~(distances >= 0)][0]
        raise ValueError(f"metric: expected a function that returns distances >= 0, got {bad}")
    return distances


def paired(A: NDArray, B: NDArray, metric: Metric) -> NDArray[np.float64]:
    """Distances (n,) between rows of two arrays (n, D).

    Examples
    --------
    >>> import numpy as np
    >>> from rejuvenet.sofm.metrics import paired
    >>> paired(np.array([[0.0, 0.0]]), np.array([[3.0, 4.0]]), "manhattan")
    array([7.])
    """
    if callable(metric):
        return np.array([float(metric(a, b)) for a, b in zip(A, B, strict=True)])
    if metric == "haversine":
        half = (A - B) / 2
        squares = np.sin(half[:, 0]) ** 2
        squares += np.cos(A[:, 0]) * np.cos(B[:, 0]) * np.sin(half[:, 1]) ** 2
        return 2 * np.arcsin(np.sqrt(np.minimum(squares, 1)))
    apart = np.abs(A - B)
    return apart.sum(axis=1) if metric == "manhattan" else apart.max(axis=1)


def unit_vectors(X: NDArray) -> NDArray[np.float64]:
    """Places (n, 2), latitude and longitude in radians, as unit vectors (n, 3)."""
    latitude, longitude = X.astype(np.float64).T
    flat = np.cos(latitude)
    return np.stack([flat * np.cos(longitude), flat * np.sin(longitude), np.sin(latitude)], axis=1)


@compiled
def weighted_medians(column, order, weights, nodes, H, medians):
    """Lower weighted medians of one feature, under the weights of several nodes.

    Parameters
    ----------
    column : array of shape (N,)
    order : int array of shape (N,)
        That sorts it.
    weights : float64 array of shape (N,)
    nodes : int array of shape (N,)
        The winners.
    H : float64 array of shape (K, n)
        Weights of the ``n`` nodes' neighbourhoods, by winner.
    medians : array of shape (n,)
        Filled in where a node has any weight.
    """
    n = H.shape[1]
    halves, sums = np.zeros(n), np.zeros(n)
    for i in order:
        for k in range(n):
            halves[k] += weights[i] * H[nodes[i], k] / 2
    for i in order:
        for k in range(n):
            if sums[k] < halves[k] * TIE:
                sums[k] += weights[i] * H[nodes[i], k]
                if sums[k] >= halves[k] * TIE:
                    medians[k] = column[i]


class WithoutMeans(Samples):
    """A dense array under a distance that has no mean.

    Parameters
    ----------
    X : float32 or float64 array of shape (N, D)
    weights : float64 array of shape (N,), or None
    metric : str or callable
    """

    _kept: list | None = None

    def __init__(self, X: NDArray, weights: NDArray | None, metric: Metric) -> None:
        self.X, self.weights, self.metric = X, weights, metric
        self.dtype, self.n_features = X.dtype, X.shape[1]
        self.range = Range.of(X)
        if metric == "haversine" and (
            X.shape[1] != 2 or max(-self.range.low[0], self.range.high[0]) > np.pi / 2 + 1e-6
        ):
            raise ValueError(
                "metric='haversine': expected two features, latitude (-pi/2 to pi/2) and longitude "
                f"in radians, got {X.shape[1]} from {self.range.low.min():.4g} to "
                f"{self.range.high.max():.4g}: pass np.radians of degrees"
            )

    def only(self, rows, weights):
        return WithoutMeans(self.X[rows], weights, self.metric)

    def take(self, rows: NDArray) -> NDArray:
        return self.X[rows]

    def pieces(self):
        yield self.X, self.weights

    def begin(self, codebook, threads, some=None) -> None:
        self.threads = threads

    def distances(self, codebook: NDArray):
        for X, weights in self.slices(len(codebook)):
            yield table(X, codebook, self.metric), weights

    def own_distances(self, codebook: NDArray, nodes: NDArray) -> NDArray[np.float64]:
        return paired(self.X.astype(np.float64), codebook[nodes].astype(np.float64), self.metric)

    def nearest(self, codebook: NDArray, n: int):
        nearest = np.full((self.n_rows, n), -1, np.int32)
        least = np.empty(self.n_rows)
        K, D = codebook.shape

        def search(first: int, last: int, _) -> None:
            step = max(1, PIECE_BYTES // (8 * max(K, D)))
            for start in range(first, last, step):
                rows = slice(start, min(start + step, last))
                d = table(self.X[rows], codebook, self.metric)
                own = np.arange(len(d))
                for j in range(min(n, K)):
                    nearest[rows, j] = best = d.argmin(axis=1)
                    if j == 0:
                        least[rows] = d[own, best]
                    d[own, best] = np.inf

        self.threads.share(self.n_rows, K * D, lambda: None, search)
        return nearest, float(least.sum() if self.weights is None else least @ self.weights)

    def moved(self, codebook: NDArray, grid: Grid, neighborhood, sigma: float):
        """The nodes after an epoch, and the weighted sum of the distances to the winners.

        Where a neighbourhood leaves a node without any sample, the node stays.
        """
        nearest, error = self.nearest(codebook, 1)
        nodes, new = nearest[:, 0], codebook.copy()
        weights = np.ones(self.n_rows) if self.weights is None else self.weights
        places = nodes, np.arange(self.n_rows)
        of_nodes = sparse.csr_array((weights, places), shape=(grid.n_nodes, self.n_rows))
        counts = of_nodes.sum(axis=1)
        if self.metric == "haversine":
            sums, counts = smooth(
                grid, neighborhood, sigma, of_nodes @ unit_vectors(self.X), counts, self.threads
            )
            some = np.linalg.norm(sums, axis=1) > 1e-12 * counts[:, 0]
            x, y, z = sums[some].T
            new[some] = np.stack([np.arctan2(z, np.hypot(x, y)), np.arctan2(y, x)], axis=1)
            return new, error
        move = self._to_medians if self.metric == "manhattan" else self._to_medoids
        for first in range(0, grid.n_nodes, ROWS_OF_H):
            rows = slice(first, first + ROWS_OF_H)
            H = NEIGHBORHOODS[neighborhood](grid.distances(rows), sigma)
            moved = move(of_nodes, nodes, weights, H, new[rows])
            some = H @ counts > 0
            new[rows][some] = moved[some]
        return new, error

    def _to_medians(self, of_nodes, nodes, weights, H, before: NDArray) -> NDArray:
        medians = before.T.copy()
        by_winner = np.ascontiguousarray(H.T)

        def of_features(first: int, last: int, _) -> None:
            for d in range(first, last):
                column = np.ascontiguousarray(self.X[:, d])
                order = np.argsort(column, kind="stable")
                weighted_medians(column, order, weights, nodes, by_winner, medians[d])

        self.threads.share(self.n_features, 2 * self.n_rows * len(H), lambda: None, of_features)
        return medians.T

    def _to_medoids(self, of_nodes, nodes, weights, H, before: NDArray) -> NDArray:
        least, medoids = np.full(len(H), np.inf), np.zeros(len(H), np.int64)
        for first, apart in self._between():
            sums = H @ (of_nodes @ apart)  # of every node, for every candidate
            best = sums.argmin(axis=1)
            found = sums[np.arange(len(H)), best]
            better = found < least
            least[better], medoids[better] = found[better], first + best[better]
        return self.X[medoids]

    def _between(self) -> Iterator[tuple[int, NDArray]]:
        """Distances (N, n) of all samples to ``n`` at a time, with the first one's row."""
        if self._kept is not None:
            yield from self._kept
            return
        N, kept = self.n_rows, []
        step = max(1, PIECE_BYTES // (8 * N))
        for first in range(0, N, step):
            piece = first, table(self.X, self.X[first : first + step], self.metric)
            if 8 * N * N <= KEPT_BYTES:
                kept.append(piece)
            yield piece
        self._kept = kept or None
