"""Vectors and the nodes that they go to, by a map or by k-means."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np

from ..one_thread import one_thread
from .recipe import Recipe

if TYPE_CHECKING:
    from sklearn.cluster import KMeans

# Activations of duplicated filters differ by float32 rounding, about 1e-6 of their size.
ALIKE = 1e-5


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
    # Fewer distinct samples than clusters: some stay empty, which is what new channels are for.
    fitted = k_means(X, min(K, len(X)), 10, seed)
    labels = fitted.labels_
    _, first = np.unique(labels, return_index=True)
    present = labels[np.sort(first)]
    order = np.concatenate([present, np.setdiff1d(np.arange(fitted.n_clusters), present)])
    codebook = np.full((K, X.shape[1]), np.inf)
    codebook[: len(order)] = fitted.cluster_centers_[order]
    return np.argsort(order)[labels], codebook


def k_means(X: np.ndarray, K: int, starts: int, seed: int) -> KMeans:
    """scikit-learn's k-means, of some starts the best; clusters may stay empty."""
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    # One thread: scikit-learn adds the threads' partial sums in the order in which they finish.
    with one_thread(), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return KMeans(K, n_init=starts, random_state=seed % 2**32).fit(X)


def filled(X: np.ndarray, units: np.ndarray, codebook: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
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
