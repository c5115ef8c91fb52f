"""Channels that can be freed without giving anything up: ``ratio="redundant"``.

With ``q_j`` the fingerprint of channel ``j`` (its class-representative activations of all classes)
and ``m_j`` the mean of its values, two channels lie apart by ::

    d(j, k) = |q_j - q_k| / max(|q_j - m_j|, |q_k - m_k|)

the change that one in place of the other would make, relative to what they vary.  It does not
depend on the scale of the layer, and an offset that all values share does not make channels alike.
For channels of equal mean and variation ``d^2 = 2 (1 - r)``, ``r`` their correlation.

A node holds channels of which any two lie apart by at most the tolerance (complete linkage, so
that no chain of small steps connects different channels).  Dormant channels, whose mean absolute
activation is at most ``tau`` times that of the layer (Sokar et al. 2023), have no node.

Where several tensors describe a group (a layer that is called twice, a stage that several blocks
read), ``d`` is the largest of theirs: channels are alike where they are in all of them.

Class means are compared, not single samples: what varies within classes only is not seen, which
matters where there are few classes and few positions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .clustering import ALIKE, coordinates, order_of_samples, squared_distances
from .mapping import ChannelMapping, fingerprints, one_node_each
from .recipe import Recipe

FAR = 1e150  # a channel that never varies beside one of another value


def distances(X: np.ndarray) -> np.ndarray:
    """``d(j, k)`` of all pairs of fingerprints.

    Parameters
    ----------
    X : ndarray, shape (s, features)

    Returns
    -------
    ndarray of float64, shape (s, s)
        Symmetric, zero on the diagonal and where fingerprints are equal to rounding.

    Examples
    --------
    >>> distances(np.array([[0.0, 1.0], [0.0, 1.0], [1.0, 0.0], [0.0, 0.5]])).round(2).tolist()
    [[0.0, 0.0, 2.0, 0.71], [0.0, 0.0, 2.0, 0.71], [2.0, 2.0, 0.0, 1.58], [0.71, 0.71, 1.58, 0.0]]
    """
    n = len(X)
    gram, variation, size = np.zeros((n, n)), np.zeros(n), np.zeros(n)
    mean = X.mean(axis=1, keepdims=True, dtype=np.float64)
    for start in range(0, X.shape[1], 4096):
        block = X[:, start : start + 4096].astype(np.float64)
        variation += ((block - mean) ** 2).sum(axis=1)
        size += (block**2).sum(axis=1)
        block -= block.mean(axis=0)  # distances stay, and so do more of their digits
        gram += block @ block.T
    norms = np.diagonal(gram)
    squared = norms[:, None] + norms[None, :] - gram - gram.T
    squared[squared <= ALIKE**2 * size.mean()] = 0.0
    scale = np.maximum(variation[:, None], variation[None, :])
    found = np.full(squared.shape, FAR)
    np.divide(squared, scale, out=found, where=scale > 0.0)
    found[squared == 0.0] = 0.0
    return np.sqrt(found)


def distances_everywhere(Q: np.ndarray, starts: Sequence[int]) -> np.ndarray:
    """The largest distance of each pair in all tensors of a group.

    Parameters
    ----------
    Q : ndarray, shape (C, s, h, w)
    starts : sequence of int
        Where along the last axis those behind the first begin (:attr:`ClassMeans.starts`).
    """
    return np.max([distances(fingerprints(part)) for part in np.split(Q, starts, -1)], axis=0)


def dormant_channels(activity: np.ndarray, tau: float) -> np.ndarray:
    """Channels with a mean absolute activation of at most ``tau`` times the mean of the layer.

    >>> dormant_channels(np.array([1.0, 1.0, 0.02, 0.0]), 0.025).tolist()
    [False, False, False, True]
    """
    return activity <= tau * activity.mean()


def alike_within(d: np.ndarray, tolerance: float) -> np.ndarray:
    """Label of each channel; any two with one label lie apart by at most the tolerance.

    Parameters
    ----------
    d : ndarray, shape (s, s)
        Distances of all pairs; ``s`` is at least 2.
    tolerance : float

    Returns
    -------
    ndarray of int, shape (s,)
        Numbered as they come.
    """
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import squareform

    tree = linkage(squareform(d, checks=False), method="complete")
    label = fcluster(tree, tolerance, criterion="distance")
    _, first, inverse = np.unique(label, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse]


def map_redundant(
    Q: np.ndarray, dormant: np.ndarray, recipe: Recipe, seed: int, starts: Sequence[int] = ()
) -> ChannelMapping | None:
    """Nodes for one exchangeable set: one for every response, none for dormant channels.

    Parameters
    ----------
    Q : ndarray of float32, shape (C, s, h, w)
        Class-representative activations of the set's channels.
    dormant : ndarray of bool, shape (s,)
    recipe : Recipe
        ``tolerance``, ``method`` and the options of the map, which orders the nodes; with
        ``"kmeans"`` they are numbered as they come.
    seed : int
    starts : sequence of int
        As of :func:`distances_everywhere`.

    Returns
    -------
    ChannelMapping or None
        None where nothing is redundant.  ``M`` is -1 for dormant channels.
    """
    C, s = Q.shape[:2]
    live = np.flatnonzero(~dormant)
    X = fingerprints(Q[:, live])
    label = np.zeros(len(live), dtype=np.int64)
    if len(live) > 1:
        label = alike_within(distances_everywhere(Q[:, live], starts), recipe.tolerance)
    K = int(label.max(initial=-1)) + 1
    if s == K:
        return None
    members = np.bincount(label, minlength=K)
    codebook = np.zeros((K, X.shape[1]))
    np.add.at(codebook, label, X)
    codebook /= members[:, None]
    order = np.arange(K)
    if recipe.method == "sofm" and K > 1:
        order = order_of_samples(coordinates(codebook), recipe, seed)
    units = np.argsort(order)[label]
    squared = squared_distances(X, codebook[order], units)
    return one_node_each(live, units, squared, K, (C, s))


def why_not(Q: np.ndarray, activity: np.ndarray, recipe: Recipe, starts: Sequence[int]) -> str:
    """Why nothing in a group is redundant, in one sentence."""
    least = activity.min() / activity.mean()
    text = (
        f"its least active channel has {least:.2g} of the mean activity (dormant: "
        f"{recipe.dormant:g})"
    )
    if recipe.method != "activity" and Q.shape[1] > 1:
        d = distances_everywhere(Q, starts)
        nearest = d[~np.eye(len(d), dtype=bool)].min()
        text = (
            f"its two channels most alike lie {nearest:.2g} of what they vary apart (tolerance: "
            f"{recipe.tolerance:g}), and {text}"
        )
    return f"nothing is redundant: {text}"
