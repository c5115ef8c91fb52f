r"""How well a map keeps the order of the data: of its nodes as a codebook see :mod:`.measures`.

=============================  ====================================================================
:func:`topographic_error`      share of samples whose two nearest nodes do not touch; Kiviluoto 1996
:func:`topographic_product`    < 0: the map has too few dimensions, > 0: too many;
                               Bauer & Pawelzik 1992
:func:`neighborhood_preservation`, :func:`trustworthiness`
                               whether neighbours of the data are neighbours on the map, and the
                               other way round; Venna & Kaski 2001
=============================  ====================================================================

All take a fitted :class:`.SOFM` and samples in every form that it takes; distances are
those of :meth:`.SOFM.transform`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from .distances import PIECE_BYTES
from .metrics import WithoutMeans, has_means
from .nodes import winners
from .opening import open_samples
from .parameters import integer
from .samples import InMemory


def topographic_error(som, X, sample_weight=None) -> float:
    """Share of samples whose best and second best matching units do not touch on the map.

    Parameters
    ----------
    som : SOFM
        Fitted.
    X : array, CSR matrix, dask array or blocks, of shape (N, D)
    sample_weight : array of shape (N,), optional

    Returns
    -------
    share : float

    Raises
    ------
    ValueError
        X or the weights do not fit the map or each other.

    References
    ----------
    Kiviluoto, "Topology preservation in self-organizing maps", ICNN 1996.

    Examples
    --------
    >>> import numpy as np
    >>> from rejuvenet.sofm import SOFM, topographic_error
    >>> X = np.array([[0.0], [5.0], [1.0]])  # the line of nodes folds
    >>> som = SOFM(shape=3, init=X, n_epochs=1, sigma=0.01).fit(X)
    >>> round(topographic_error(som, X), 4)
    0.6667
    """
    check_is_fitted(som, "codebook_")
    samples = open_samples(som, X, sample_weight, reset=False)
    return som.grid_.share_apart(som._nearest(samples, 2)[0], samples.weights)


def topographic_product(som) -> float:
    """Whether the map's dimension fits the data: about 0 if it does.

    With ``Q1`` (``Q2``) the ratio of distances between codebook vectors (places) to the ``j``-th
    neighbour found on the map and to that found in the data space, the mean over nodes and ``k``
    of ``log((prod_{j<=k} Q1 Q2)^(1/2k))``.

    Parameters
    ----------
    som : SOFM
        Fitted.

    Returns
    -------
    product : float
        Below 0: the map has too few dimensions; above: too many.  0 for fewer than 3 nodes.

    References
    ----------
    Bauer & Pawelzik, "Quantifying the neighborhood preservation of self-organizing feature maps",
    IEEE Transactions on Neural Networks 3, 1992.

    Examples
    --------
    >>> import numpy as np
    >>> from rejuvenet.sofm import SOFM, topographic_product
    >>> X = np.array([[0.0], [1.0], [2.0]])
    >>> topographic_product(SOFM(shape=3, init=X, n_epochs=1, sigma=0.01).fit(X))
    0.0
    """
    check_is_fitted(som, "codebook_")
    codebook = som.codebook_.astype(np.float64)
    means = has_means(som.metric)
    W = InMemory(codebook) if means else WithoutMeans(codebook, None, som.metric)
    K = W.n_rows
    if K < 3:
        return 0.0
    tiny = np.finfo(float).tiny  # equal nodes: the ratio of two zeros is one
    step = max(1, PIECE_BYTES // (8 * K))
    total = 0.0
    for first in range(0, K, step):
        rows = slice(first, first + step)
        output, space = som.grid_.distances(rows), _distances_to(W, codebook[rows])
        by_output, by_space = _others(output, first), _others(space, first)
        logs = np.zeros(by_output.shape)
        for distances in (output, space):
            distances = np.log(np.maximum(distances, tiny))
            logs += np.take_along_axis(distances, by_output, axis=1)
            logs -= np.take_along_axis(distances, by_space, axis=1)
        total += float((np.cumsum(logs, axis=1) / (2 * np.arange(1, K))).sum())
    return total / (K * (K - 1))


def _distances_to(samples, some: NDArray) -> NDArray[np.float64]:
    """Distances (n, N) of some samples (n, D) to all; infinite where no feature is shared."""
    table = np.concatenate([d for d, _ in samples.distances(some)])
    return np.where(np.isnan(table), np.inf, table).T


def _others(distances: NDArray, first: int) -> NDArray[np.int64]:
    """All but oneself, nearest first, of rows ``first ...``; the lowest on ties."""
    own = np.arange(len(distances))
    distances[own, first + own] = -1
    return np.argsort(distances, axis=1, kind="stable")[:, 1:]


def _ranked(distances: NDArray) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """How many others are nearer to a sample, and how many are as near (with it): ``l`` and ``t``.

    Parameters
    ----------
    distances : float64 array of shape (n, N)
        Of which the smallest in each row, one, is a sample's to itself.
    """
    ordered = np.sort(distances, axis=1)
    ends = [
        [np.searchsorted(o, d, side) for o, d in zip(ordered, distances, strict=True)]
        for side in ("left", "right")
    ]
    nearer, up_to = np.array(ends)
    return nearer - 1, up_to - nearer


def _penalty(som, X, n_neighbors: int, of_map: bool) -> float:
    r"""Venna & Kaski's sum over intruders (``of_map``) or missing neighbours, scaled to [0, 1].

    On a map many samples share a node, so ranks tie.  The sum is its mean over all orders of what
    ties.  One of ``t`` that are as near, ``l`` being nearer, has each of the ranks ``l + 1`` to
    ``l + t`` with the same probability: it is among the ``k`` nearest with ``p = (k - l) / t``,
    between 0 and 1, and the mean of ``max(0, rank - k)`` is that of ``m = l + t - k`` numbers at
    most, between 0 and ``t``, of which the largest is ``l + t - k``.
    """
    samples, nodes = winners(som, X)
    N = samples.n_rows
    k = integer("n_neighbors", n_neighbors, 1, (N - 1) // 2)
    total = 0.0
    first = 0
    for some, _ in samples.slices(N):
        own = np.arange(len(some))
        itself = own, first + own
        in_data = _distances_to(samples, some)
        in_map = np.round(som.grid_.distances(nodes[itself[1]], nodes), 9)  # equal but for rounding
        in_data[itself] = in_map[itself] = -1
        near, far = (in_map, in_data) if of_map else (in_data, in_map)
        nearer, ties = _ranked(near)
        p = np.clip((k - nearer) / ties, 0, 1)
        nearer, ties = _ranked(far)
        most = nearer + ties - k
        m = np.clip(most, 0, ties)
        beyond = m * (2 * most - m + 1) / (2 * ties)
        p[itself] = 0
        total += float((p * beyond).sum())
        first += len(some)
    return 1 - 2 * total / (N * k * (2 * N - 3 * k - 1))


def trustworthiness(som, X, n_neighbors: int = 5) -> float:
    """1 if what is near on the map is near in the data; intruders cost by their rank.

    Of what ties, as samples of one node do, the mean over all orders.  Time grows with the square
    of the number of samples.

    Parameters
    ----------
    som : SOFM
        Fitted.
    X : array, CSR matrix, dask array or blocks, of shape (N, D)
    n_neighbors : int, default=5
        Less than half of the samples.

    Returns
    -------
    trust : float

    Raises
    ------
    ValueError
        ``n_neighbors`` is no such integer, or X does not fit the map.

    References
    ----------
    Venna & Kaski, "Neighborhood preservation in nonlinear projection methods", ICANN 2001.

    Examples
    --------
    >>> import numpy as np
    >>> from rejuvenet.sofm import SOFM, trustworthiness
    >>> X = np.array([[0.0], [1.0], [2.1], [3.3], [4.6], [6.0]])
    >>> trustworthiness(SOFM(shape=6, init=X, n_epochs=1, sigma=0.01).fit(X), X, n_neighbors=2)
    1.0
    """
    return _penalty(som, X, n_neighbors, of_map=True)


def neighborhood_preservation(som, X, n_neighbors: int = 5) -> float:
    """1 if what is near in the data is near on the map (also called continuity).

    Of what ties, as samples of one node do, the mean over all orders.  Time grows with the square
    of the number of samples.

    Parameters
    ----------
    som : SOFM
        Fitted.
    X : array, CSR matrix, dask array or blocks, of shape (N, D)
    n_neighbors : int, default=5
        Less than half of the samples.

    Returns
    -------
    preservation : float

    Raises
    ------
    ValueError
        ``n_neighbors`` is no such integer, or X does not fit the map.

    References
    ----------
    Venna & Kaski, "Neighborhood preservation in nonlinear projection methods", ICANN 2001.

    Examples
    --------
    >>> import numpy as np
    >>> from rejuvenet.sofm import SOFM, neighborhood_preservation
    >>> X = np.array([[0.0], [1.0], [2.1], [3.3], [4.6], [6.0]])
    >>> som = SOFM(shape=6, init=X, n_epochs=1, sigma=0.01).fit(X)
    >>> neighborhood_preservation(som, X, n_neighbors=2)
    1.0
    """
    return _penalty(som, X, n_neighbors, of_map=False)
