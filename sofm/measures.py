r"""How good a map is: of its nodes as a codebook, and of its order.

=============================  ====================================================================
:func:`quantization_error`     mean distance to the node; Kohonen 2001
:func:`topographic_error`      share of samples whose two nearest nodes do not touch; Kiviluoto 1996
:func:`distortion`             mean of ``sum_k h(|v_b - v_k|) d(x, w_k)^2``, which the batch rule
                               nearly minimizes; Kohonen 2001, Heskes 1999
:func:`topographic_product`    < 0: the map has too few dimensions, > 0: too many;
                               Bauer & Pawelzik 1992
:func:`neighborhood_preservation`, :func:`trustworthiness`
                               whether neighbours of the data are neighbours on the map, and the
                               other way round; Venna & Kaski 2001
:func:`hit_histogram`          samples per node
:func:`explained_variance`     ``1 - sum |x - w_b|^2 / sum |x - mean|^2``
=============================  ====================================================================

All take a fitted :class:`.estimator.SOFM`; distances are those of its metric.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from .neighborhood import NEIGHBORHOODS
from .opening import open_samples

ROWS = 1024  # samples whose distances to all others are in memory at a time


def quantization_error(som, X, sample_weight=None) -> float:
    """Mean distance of samples to their best matching units.

    Examples
    --------
    >>> import numpy as np
    >>> from rejuvenet.sofm import SOFM, quantization_error
    >>> X = np.array([[0.0], [1.0]])
    >>> som = SOFM(shape=2, init=X, n_epochs=1, sigma=0.01).fit(X)
    >>> quantization_error(som, X + 0.25)
    0.25
    """
    return -som.score(X, sample_weight=sample_weight)


def topographic_error(som, X, sample_weight=None) -> float:
    """Share of samples whose best and second best matching units do not touch on the map."""
    check_is_fitted(som, "codebook_")
    samples = open_samples(som, X, sample_weight, reset=False)
    return som.grid_.share_apart(som._nearest(samples, 2)[0], samples.weights)


def distortion(som, X, sigma: float = 0.5) -> float:
    """Mean over the samples of their squared distances to all nodes, weighted by ``h``.

    Parameters
    ----------
    sigma : float
        Width of the neighbourhood, in nodes.
    """
    H = NEIGHBORHOODS[som.neighborhood](som.grid_.distances(), sigma)
    total = 0.0
    X = np.asarray(X)
    for first in range(0, len(X), ROWS):
        squares = np.asarray(som.transform(X[first : first + ROWS]), np.float64) ** 2
        total += float((H[squares.argmin(axis=1)] * squares).sum())
    return total / len(X)


def topographic_product(som) -> float:
    """Whether the map's dimension fits the data: about 0 if it does.

    With ``Q1`` (``Q2``) the ratio of distances between codebook vectors (places) to the ``j``-th
    neighbour found on the map and to that found in the data space, the mean over nodes and ``k``
    of ``log((prod_{j<=k} Q1 Q2)^(1/2k))``.
    """
    check_is_fitted(som, "codebook_")
    W = som.codebook_.astype(np.float64)
    K = len(W)
    if K < 3:
        return 0.0
    from sklearn.metrics import pairwise_distances

    output = som.grid_.distances()
    space = pairwise_distances(W)
    np.fill_diagonal(output, -1)
    np.fill_diagonal(space, -1)
    by_output = np.argsort(output, axis=1, kind="stable")[:, 1:]
    by_space = np.argsort(space, axis=1, kind="stable")[:, 1:]

    def ratio(distances: NDArray) -> NDArray:
        a = np.take_along_axis(distances, by_output, axis=1)
        b = np.take_along_axis(distances, by_space, axis=1)
        tiny = np.finfo(float).tiny  # equal nodes: the ratio of two zeros is one
        return np.log(np.maximum(a, tiny) / np.maximum(b, tiny))

    logs = np.cumsum(ratio(space) + ratio(output), axis=1) / (2 * np.arange(1, K))
    return float(logs.mean())


def _ranked(distances: NDArray) -> NDArray[np.int64]:
    """Rank of every other sample (0: itself); ties share the lowest rank."""
    ordered = np.sort(distances, axis=1)
    return np.stack([np.searchsorted(o, d) for o, d in zip(ordered, distances, strict=True)])


def _penalty(som, X, n_neighbors: int, of_map: bool) -> float:
    """Venna & Kaski's sum over intruders (``of_map``) or missing neighbours, scaled to [0, 1].

    On a map many samples share a node, so ranks tie; a tie counts with its lowest rank.
    """
    check_is_fitted(som, "codebook_")
    X = np.asarray(X, np.float64)
    N, k = len(X), n_neighbors
    if not 0 < k < N / 2:
        raise ValueError(f"n_neighbors: expected between 1 and {(N - 1) // 2}, got {k}")
    from sklearn.metrics import pairwise_distances

    nodes = som.predict(X)
    places = som.grid_.distances()
    total = 0.0
    for first in range(0, N, ROWS):
        rows = slice(first, first + ROWS)
        data = pairwise_distances(X[rows], X, metric=som.metric)
        on_map = places[nodes[rows]][:, nodes]
        own = np.arange(len(data))
        for distances in (data, on_map):
            distances[own, first + own] = -1
        in_data, in_map = _ranked(data), _ranked(on_map)
        near, far = (in_map, in_data) if of_map else (in_data, in_map)
        total += float(((far - k) * ((near <= k) & (far > k))).sum())
    return 1 - 2 * total / (N * k * (2 * N - 3 * k - 1))


def trustworthiness(som, X, n_neighbors: int = 5) -> float:
    """1 if what is near on the map is near in the data; intruders cost by their rank."""
    return _penalty(som, X, n_neighbors, of_map=True)


def neighborhood_preservation(som, X, n_neighbors: int = 5) -> float:
    """1 if what is near in the data is near on the map (also called continuity)."""
    return _penalty(som, X, n_neighbors, of_map=False)


def hit_histogram(som, X=None, sample_weight=None) -> NDArray[np.float64]:
    """Samples (or their weights) per node, of shape (rows, columns).

    Parameters
    ----------
    X : array of shape (N, D), optional
        The training samples unless given.

    Examples
    --------
    >>> import numpy as np
    >>> from rejuvenet.sofm import SOFM, hit_histogram
    >>> hit_histogram(SOFM(shape=2).fit(np.array([[0.0], [0.9], [1.0]])))
    array([[1., 2.]])
    """
    check_is_fitted(som, "codebook_")
    labels = som.labels_ if X is None else som.predict(X)
    hits = np.bincount(labels, weights=sample_weight, minlength=som.grid_.n_nodes)
    return hits.astype(np.float64).reshape(som.grid_.rows, som.grid_.columns)


def explained_variance(som, X) -> float:
    """Share of the samples' variance that their nodes account for (k-means' measure)."""
    X = np.asarray(X, np.float64)
    rest = ((X - som.codebook_[som.predict(X)]) ** 2).sum()
    return float(1 - rest / ((X - X.mean(axis=0)) ** 2).sum())
