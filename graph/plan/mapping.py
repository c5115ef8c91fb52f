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

from dataclasses import dataclass

import numpy as np

from .clustering import (
    alike,
    best_matching_units,
    coordinates,
    filled,
    order_of_samples,
    squared_distances,
)
from .recipe import Recipe


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
        cost = np.where(_as_near(cost), cost.min(axis=1, keepdims=True), cost)
        finite = cost[np.isfinite(cost)]
        without_vote = (float(finite.max()) + 1.0) * (cost.shape[0] + 1)
        rows, channels = linear_sum_assignment(np.where(np.isfinite(cost), cost, without_vote))
        return channels[np.argsort(rows)]


def nearest(distance: np.ndarray) -> np.ndarray:
    """The nearest channel of every row, the first of those that are as near to rounding.

    Two members of a node whose weights are their mean are as far from it as each other.

    >>> nearest(np.array([[3.0, 1.0000001, 1.0], [np.inf, np.inf, 2.0]])).tolist()
    [1, 2]
    """
    return _as_near(distance).argmax(axis=1)


def _as_near(distance: np.ndarray) -> np.ndarray:
    """Whether a channel is as near as the nearest of its row, to a thousandth."""
    return distance <= 1.001 * distance.min(axis=1, keepdims=True)


def slices(Q: np.ndarray) -> np.ndarray:
    """Every channel of every class as one sample: shape (C * s, h * w), class by class."""
    C, s = Q.shape[:2]
    return Q.reshape(C * s, -1)


def fingerprints(Q: np.ndarray) -> np.ndarray:
    """One sample a channel, its slices of all classes: shape (s, C * h * w)."""
    C, s, h, w = Q.shape
    return np.ascontiguousarray(np.moveaxis(Q, 1, 0)).reshape(s, C * h * w)


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
