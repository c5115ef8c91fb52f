"""What becomes of the channels of an exchangeable set: by a map, a score, or where redundant."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..change.new_channels import named_seed
from ..find.channels import ChannelGroup
from .importance import importance
from .mapping import ChannelMapping, averages, map_channels, nearest, one_node_each, shares
from .recipe import Recipe
from .redundancy import dormant_channels, map_redundant
from .subset import read_by, subset


@dataclass(frozen=True)
class Part:
    """What becomes of one exchangeable set of ``s`` channels.

    Attributes
    ----------
    channels : ndarray of int, shape (s,)
    places : ndarray of int, shape (survivors,)
        Where the survivors go.
    A, B : ndarray of float64, shape (survivors, s)
        Their rows of the matrices of the plan.
    nodes : int
        Nodes that there were for them.
    merged : int
        Channels that share a place.
    """

    channels: np.ndarray
    places: np.ndarray
    A: np.ndarray
    B: np.ndarray
    nodes: int
    merged: int


def parts(
    group: ChannelGroup,
    weights: Mapping[str, np.ndarray],
    recipe: Recipe,
    Q: np.ndarray | None,
    activity: np.ndarray | None,
    starts: Sequence[int] = (),
    gram: np.ndarray | None = None,
) -> Iterator[Part]:
    """One part for every exchangeable set of a group.

    Parameters
    ----------
    group : ChannelGroup
    weights : mapping of str to ndarray
    recipe : Recipe
        With a ratio for this group.
    Q : ndarray of float32, shape (C, o, h, w), optional
        Needed by ``"sofm"``, ``"kmeans"`` and ``"redundant"``.
    activity : ndarray, shape (o,), optional
        Mean absolute activations, needed by ``"activity"`` and ``"redundant"``.
    starts : sequence of int
        Where in ``Q`` other tensors of the group begin (:attr:`ClassMeans.starts`).
    gram : ndarray of float64, shape (o, o), optional
        Second moments of the channels, needed by ``"subset"``.
    """
    ratio, maps = recipe.ratio, recipe.method in ("sofm", "kmeans")
    assert not isinstance(ratio, Mapping)
    redundant, share = ratio == "redundant", 1.0 if ratio == "redundant" else ratio
    read = read_by(group, weights) if recipe.method == "subset" else None
    score = None if maps or read is not None else importance(group, weights, recipe, activity)
    dormant = None if activity is None else dormant_channels(activity, recipe.dormant)
    left = group.channels if recipe.max_new is None else recipe.max_new
    for number, indices in enumerate(group.exchangeable):
        S = np.sort(indices)
        own = named_seed(recipe.seed, group.name, str(number))
        least = len(S) - left  # channels that stay
        K = max(1, round(share * len(S)), least)
        if maps:
            assert Q is not None
            assert activity is not None
            assert dormant is not None
            resting = np.flatnonzero(dormant[S])
            resting = resting[np.argsort(activity[S][resting], kind="stable")]
            found = (
                map_redundant(Q[:, S], dormant[S], recipe, own, starts)
                if redundant
                else map_channels(Q[:, S], K, recipe, own, resting)
            )
            if found is not None and recipe.max_new is not None:
                found = separated(found, least, activity[S])
            part = _kept(S, np.arange(len(S))) if found is None else _merged(S, found, recipe)
        elif read is not None:
            assert gram is not None
            block = np.ix_(S, S)
            part = _kept(S, np.sort(subset(gram[block], read[block]).order[:K]))
        else:
            assert score is not None
            if redundant:
                assert dormant is not None
                K = max(int(np.sum(~dormant[S])), least)
            part = _kept(S, np.sort(np.argsort(-score[S], kind="stable")[:K]))
        left -= len(S) - len(part.places)
        yield part


def _kept(S: np.ndarray, kept: np.ndarray) -> Part:
    """The part of a set of which some channels stay as and where they are."""
    rows = np.eye(len(S))[kept]
    return Part(S, S[kept], rows, rows, len(kept), 0)


def separated(mapping: ChannelMapping, least: int, activity: np.ndarray) -> ChannelMapping:
    """At least so many nodes with channels: those that would be missed most get one of their own.

    Of the channels that share a node, the farthest from it come first, then dormant channels, the
    most active first.

    Parameters
    ----------
    mapping : ChannelMapping
        With one node a channel at most.
    least : int
    activity : ndarray, shape (s,)
    """
    missing = least - len(mapping.occupied)
    if missing <= 0:
        return mapping
    C, s = mapping.M.shape
    node, own = mapping.M[0], mapping.distance.min(axis=0)
    medoid = nearest(mapping.distance[mapping.occupied])
    dormant = np.flatnonzero(node < 0)
    sharing = np.setdiff1d(np.flatnonzero(node >= 0), medoid)
    leaving = np.concatenate(
        [
            sharing[np.argsort(-own[sharing], kind="stable")],
            dormant[np.argsort(-activity[dormant], kind="stable")],
        ]
    )[:missing]
    alone = np.full(s, -1)
    alone[leaving], own[leaving] = leaving, 0.0
    live = np.flatnonzero((node >= 0) | (alone >= 0))
    pairs = np.stack([np.where(node < 0, len(mapping.N), node), alone])[:, live]
    nodes, units = np.unique(pairs, axis=1, return_inverse=True)
    return one_node_each(live, units.reshape(-1), own[live], nodes.shape[1], (C, s))


def _merged(S: np.ndarray, mapping: ChannelMapping, recipe: Recipe) -> Part:
    """The part of a set whose channels went to the nodes of a map."""
    kept = mapping.occupied
    A = averages(mapping.N)[kept]
    B = A if recipe.outgoing == "mean" else shares(mapping.N)[kept]
    if recipe.merge == "medoid":
        A = np.eye(len(S))[nearest(mapping.distance[kept])]
    votes = mapping.N > 0
    merged = int(np.any(votes[votes.sum(axis=1) > 1], axis=0).sum())
    places = mapping.medoids if recipe.placement == "in_place" else kept
    return Part(S, S[places], A, B, len(mapping.N), merged)
