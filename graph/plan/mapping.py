"""From class-representative activations to the matrices of a merge (equations 2, 3 and 4).

``C`` classes, ``s`` channels that may be exchanged, ``K`` nodes, slices of ``h * w`` values::

    M[c, j] = best matching unit of channel j's slice of class c                        (eq. 2)
    N[k, j] = number of classes c with M[c, j] = k                                       votes
    n_k     = sum_j N[k, j]
    A       = N / n_k      rows of occupied nodes sum to 1     W' = A W                  (eq. 3)
    B       = N / C        columns sum to 1                    V' = V B^T, or V A^T      (eq. 4)

The paper's rule: for every class, scatter channel ``j`` to the target place ``M[c, j]``, then
weigh what arrived at a place by ``1/n``.  That is ``W' = A W`` for the producers and, taken to the
letter, ``V' = V A^T`` for the consumers.  ``V' = V B^T`` keeps the function where channels with
equal activations merge.  A hard assignment (one node a channel) is the special case in which all
classes agree: ``M[c, j]`` does not depend on ``c``, ``A`` averages and ``B`` adds.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np

from ..one_thread import one_thread
from .recipe import Recipe

# Activations of duplicated filters differ by float32 rounding, about 1e-6 of their size.
ALIKE = 1e-5


@dataclass(frozen=True)
class ChannelMapping:
    """Where the channels of one exchangeable set go.

    Attributes
    ----------
    M : ndarray of int, shape (C, s)
        Node of every channel for every class; -1 where it has none.
    N : ndarray of float64, shape (K, s)
        Votes.
    distance : ndarray of float64, shape (K, s)
        Mean squared distance of a channel's samples at a node to that node; infinite where the
        channel has no vote.
    """

    M: np.ndarray
    N: np.ndarray
    distance: np.ndarray

    @property
    def occupied(self) -> np.ndarray:
        """Nodes with votes, ascending."""
        return np.flatnonzero(self.N.sum(axis=1) > 0)

    @property
    def medoids(self) -> np.ndarray:
        """Nearest channel of each occupied node, one node a channel where that is possible.

        With one node a channel this is the nearest member.  With votes several nodes may share
        their nearest channel: then the sum of distances decides, and a node whose channels are
        all taken gets a channel without a vote for it.
        """
        from scipy.optimize import linear_sum_assignment

        cost = self.distance[self.occupied]
        if not len(cost):
            return np.zeros(0, dtype=np.int64)
        finite = cost[np.isfinite(cost)]
        without_vote = (float(finite.max()) + 1.0) * (cost.shape[0] + 1)
        rows, channels = linear_sum_assignment(np.where(np.isfinite(cost), cost, without_vote))
        return channels[np.argsort(rows)]


def slices(Q: np.ndarray) -> np.ndarray:
    """Every channel of every class as one sample: shape (C * s, h * w), class by class."""
    C, s = Q.shape[:2]
    return Q.reshape(C * s, -1)


def fingerprints(Q: np.ndarray) -> np.ndarray:
    """One sample a channel, its slices of all classes: shape (s, C * h * w)."""
    C, s, h, w = Q.shape
    return np.ascontiguousarray(np.moveaxis(Q, 1, 0)).reshape(s, C * h * w)


def coordinates(X: np.ndarray) -> np.ndarray:
    """The samples in an orthonormal basis of their own span: as many features as samples at most.

    All distances and weighted means stay as they are, so a map of the coordinates is the map of
    the samples, at a fraction of the cost where fingerprints are long (512 channels of 1000
    classes and 7 x 7 positions: 49,000 features become 512, and 283 s of training 1 s).

    Parameters
    ----------
    X : ndarray, shape (samples, features)

    Returns
    -------
    ndarray of float64, shape (samples, min(samples, features))
    """
    if X.shape[1] <= X.shape[0]:
        return X.astype(np.float64)
    gram = np.zeros((X.shape[0], X.shape[0]))
    for start in range(0, X.shape[1], 4096):
        block = X[:, start : start + 4096].astype(np.float64)
        gram += block @ block.T
    values, vectors = np.linalg.eigh(gram)
    return vectors * np.sqrt(np.clip(values, 0.0, None))


def alike(X: np.ndarray) -> np.ndarray:
    """Label of each sample; samples that are equal to rounding share one, numbered as they come.

    Equal to rounding is a distance of at most ``ALIKE`` times the root mean square norm.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    n = len(X)
    norms = np.einsum("ij,ij->i", X, X)
    limit = ALIKE**2 * norms.mean()
    rows, columns = [], []
    block = max(1, 2**22 // n)
    for start in range(0, n, block):
        part = slice(start, start + block)
        squared = norms[part, None] + norms[None, :] - 2.0 * (X[part] @ X.T)
        near = np.nonzero(squared <= limit)
        rows.append(near[0] + start)
        columns.append(near[1])
    row, column = np.concatenate(rows), np.concatenate(columns)
    pairs = coo_array((np.ones(len(row), dtype=np.int8), (row, column)), shape=(n, n))
    label = connected_components(pairs, directed=False)[1]
    _, first, inverse = np.unique(label, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse]


def votes(M: np.ndarray, K: int) -> np.ndarray:
    """``N[k, j]``, the number of classes for which channel ``j`` maps to node ``k``."""
    C, s = M.shape
    N = np.zeros((K, s))
    np.add.at(N, (M, np.broadcast_to(np.arange(s), (C, s))), 1.0)
    return N


def majority(M: np.ndarray, K: int) -> np.ndarray:
    """Every class takes the channel's most frequent node; the lower node wins a tie."""
    return np.broadcast_to(votes(M, K).argmax(axis=0), M.shape)


def averages(N: np.ndarray) -> np.ndarray:
    """``A = N / n_k``; rows of nodes without votes are zero."""
    n = N.sum(axis=1, keepdims=True)
    return np.divide(N, n, out=np.zeros_like(N), where=n > 0)


def shares(N: np.ndarray) -> np.ndarray:
    """``B = N / C``, as every channel has one vote a class; zero for a channel without votes."""
    n = N.sum(axis=0, keepdims=True)
    return np.divide(N, n, out=np.zeros_like(N), where=n > 0)


def best_matching_units(
    X: np.ndarray, K: int, recipe: Recipe, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Train a map (or k-means) of ``K`` nodes on ``X``.

    Parameters
    ----------
    X : ndarray of float32, shape (samples, features)
    K : int
    recipe : Recipe
        Method and options of the map.
    seed : int

    Returns
    -------
    units : ndarray of int, shape (samples,)
    codebook : ndarray, shape (K, features)
    """
    if K == 1:
        return np.zeros(len(X), dtype=np.int64), X.mean(axis=0, keepdims=True, dtype=np.float64)
    if recipe.method == "kmeans":
        return _k_means(X, K, seed)
    from ...sofm import SOFM

    sofm = SOFM(
        shape=K,
        neighborhood=recipe.neighborhood,
        sigma=recipe.sigma,
        decay=recipe.decay,
        init=recipe.map_init,
        n_epochs=recipe.epochs,
        random_state=seed,
    ).fit(X)
    return np.asarray(sofm.predict(X), dtype=np.int64), np.asarray(sofm.codebook_).reshape(K, -1)


def _k_means(X: np.ndarray, K: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """k-means, its clusters in the order of their first sample (there is no map to order them)."""
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    # One thread: scikit-learn adds the threads' partial sums in the order in which they finish.
    with one_thread(), warnings.catch_warnings():
        # Fewer distinct samples than clusters: some stay empty, which is what new channels are for.
        warnings.simplefilter("ignore", ConvergenceWarning)
        fitted = KMeans(min(K, len(X)), n_init=10, random_state=seed % 2**32).fit(X)
    labels = fitted.labels_
    _, first = np.unique(labels, return_index=True)
    present = labels[np.sort(first)]
    absent = np.setdiff1d(np.arange(fitted.n_clusters), present)
    order = np.concatenate([present, absent])
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    codebook = np.full((K, X.shape[1]), np.inf)
    codebook[: len(order)] = fitted.cluster_centers_[order]
    return rank[labels], codebook


def map_channels(
    Q: np.ndarray, K: int, recipe: Recipe, seed: int, dormant: np.ndarray | None = None
) -> ChannelMapping:
    """Equation 2 for one exchangeable set.

    With ``assign="fingerprint"`` every node gets a channel, as far as there are channels that
    respond differently.  Where there are more than nodes, dormant channels have none (``M`` is
    -1), the least active first; silent ones never have.  With votes, ``K`` is a bound: nodes that
    no class maps to stay empty, as the paper has it.

    Parameters
    ----------
    Q : ndarray of float32, shape (C, s, h, w)
        Class-representative activations of the set's channels.
    K : int
        Nodes.
    recipe : Recipe
        ``method`` ("sofm" or "kmeans"), ``assign`` and the options of the map.
    seed : int
    dormant : ndarray of int, optional
        Dormant channels, the least active first; none by default.
    """
    C, s = Q.shape[:2]
    if recipe.assign == "fingerprint":
        live = _with_nodes(Q, K, np.zeros(0, dtype=np.int64) if dormant is None else dormant)
        X = coordinates(fingerprints(Q[:, live]))
        units, codebook = _one_node_each(X, K, recipe, seed)
        return one_node_each(live, units, squared_distances(X, codebook, units), K, (C, s))
    X = slices(Q)
    units, codebook = best_matching_units(X, K, recipe, seed)
    M = units.reshape(C, s)
    if recipe.assign == "mode":
        M = majority(M, K)
    squared = squared_distances(X, codebook, M.reshape(-1)).reshape(C, s)
    N = votes(M, K)
    total = np.zeros((K, s))
    np.add.at(total, (M, np.broadcast_to(np.arange(s), (C, s))), squared)
    distance = np.divide(total, N, out=np.full((K, s), np.inf), where=N > 0)
    return ChannelMapping(M, N, distance)


def _with_nodes(Q: np.ndarray, K: int, dormant: np.ndarray) -> np.ndarray:
    """Channels that get one of ``K`` nodes."""
    silent = ~Q[:, dormant].any(axis=(0, 2, 3))
    live = np.setdiff1d(np.arange(Q.shape[1]), dormant[silent])
    dormant = dormant[~silent]
    if len(dormant) and len(live) > K:
        different = len(np.unique(alike(coordinates(fingerprints(Q[:, live])))))
        live = np.setdiff1d(live, dormant[: max(0, different - K)])
    return live


def one_node_each(
    live: np.ndarray, units: np.ndarray, squared: np.ndarray, K: int, shape: tuple[int, int]
) -> ChannelMapping:
    """The mapping in which all classes of a channel agree, and only live channels have a node.

    Parameters
    ----------
    live : ndarray of int
        Channels that have a node.
    units, squared : ndarray, shape (len(live),)
        Their nodes, and their squared distances to these.
    K : int
    shape : (int, int)
        Classes and channels.
    """
    M = np.full(shape[1], -1, dtype=np.int64)
    M[live] = units
    N, distance = np.zeros((K, shape[1])), np.full((K, shape[1]), np.inf)
    N[units, live], distance[units, live] = shape[0], squared
    return ChannelMapping(np.broadcast_to(M, shape), N, distance)


def _one_node_each(
    X: np.ndarray, K: int, recipe: Recipe, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Nodes of fingerprints; where there is a node for every distinct one, each keeps its own.

    A trained map need not tell all distinct channels apart, even if it has as many nodes: its
    neighbourhood pulls nodes together.  Where there is a node for each, channels that respond
    alike, and no others, merge, in the order of the map; else nodes that stayed empty are filled.
    """
    label = alike(X) if len(X) else np.zeros(0, dtype=np.int64)
    _, first = np.unique(label, return_index=True)
    distinct = X[first]
    if len(first) > K:
        units, codebook = best_matching_units(X.astype(np.float32), K, recipe, seed)
        units, codebook = filled(distinct, units[first], codebook)
        return units[label], codebook
    order = np.arange(len(first))
    if recipe.method == "sofm" and len(first):
        order = order_of_samples(distinct, recipe, seed)
    codebook = np.full((K, X.shape[1]), np.inf)
    codebook[: len(first)] = distinct[order]
    return np.argsort(order)[label], codebook


def filled(
    X: np.ndarray, units: np.ndarray, codebook: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Every node with a sample: empty ones go to the samples that fit theirs the least.

    A map leaves a quarter to a third of its nodes empty.  One after the other, the sample that is
    farthest from the mean of its node leaves it, with those that are nearer to it than to the
    mean, for a node of its own.

    Parameters
    ----------
    X : ndarray, shape (samples, features)
        At least as many different ones as there are nodes.
    units : ndarray of int, shape (samples,)
    codebook : ndarray, shape (K, features)

    Returns
    -------
    units : ndarray of int, shape (samples,)
        Nodes that came of one lie side by side, in the order of the map.
    codebook : ndarray, shape (K, features)

    Examples
    --------
    >>> X, codebook = np.array([[0.0], [1.0], [5.0]]), np.array([[1.0], [9.0]])
    >>> units, codebook = filled(X, np.zeros(3, dtype=np.int64), codebook)
    >>> units.tolist(), codebook.tolist()
    ([0, 0, 1], [[0.5], [5.0]])
    """
    K, node = len(codebook), units.astype(np.int64)
    empty = np.setdiff1d(np.arange(K), node)
    if not len(empty):
        return node, codebook
    origin, nodes, apart = np.arange(K), codebook.astype(np.float64), np.zeros(len(X))

    def settle(k: int) -> None:
        members = np.flatnonzero(node == k)
        nodes[k] = X[members].mean(axis=0)
        apart[members] = ((X[members] - nodes[k]) ** 2).sum(axis=1)

    for k in np.unique(node):
        settle(k)
    for k in empty:
        farthest = int(apart.argmax())
        old = node[farthest]
        away = ((X - X[farthest]) ** 2).sum(axis=1)
        node[(node == old) & (away < apart)] = k
        origin[k] = origin[old]
        settle(old)
        settle(k)
    order = along_map(nodes, origin, codebook)
    return np.argsort(order)[node], nodes[order]


def squared_distances(X: np.ndarray, codebook: np.ndarray, units: np.ndarray) -> np.ndarray:
    """Squared distance of every sample to its node, in blocks, float64."""
    distances = np.empty(len(X))
    block = max(1, 2**22 // max(X.shape[1], 1))
    for start in range(0, len(X), block):
        part = slice(start, start + block)
        difference = X[part].astype(np.float64) - codebook[units[part]]
        distances[part] = np.einsum("ij,ij->i", difference, difference)
    return distances


def order_along_map(Q: np.ndarray, recipe: Recipe, seed: int) -> np.ndarray:
    """The channels of one set sorted by their place on a map with as many nodes as channels.

    Channels of one node are sorted by the neighbouring node that they are nearer to, then by
    index.

    Parameters
    ----------
    Q : ndarray of float32, shape (C, s, h, w)

    Returns
    -------
    ndarray of int, shape (s,)
        Place ``p`` takes channel ``order[p]``.
    """
    return order_of_samples(coordinates(fingerprints(Q)), recipe, seed)


def order_of_samples(X: np.ndarray, recipe: Recipe, seed: int) -> np.ndarray:
    """Samples sorted by their place on a map with as many nodes as samples."""
    units, codebook = best_matching_units(X.astype(np.float32), len(X), recipe, seed)
    return along_map(X, units, codebook)


def along_map(X: np.ndarray, units: np.ndarray, codebook: np.ndarray) -> np.ndarray:
    """Samples sorted by their nodes, then by the neighbouring node that they are nearer to."""
    before, after = np.zeros(len(X)), np.zeros(len(X))
    inner = units > 0
    before[inner] = squared_distances(X[inner], codebook, units[inner] - 1)
    inner = units < len(codebook) - 1
    after[inner] = squared_distances(X[inner], codebook, units[inner] + 1)
    return np.lexsort((np.arange(len(X)), before - after, units))
