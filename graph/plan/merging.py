"""What becomes of the channels of an exchangeable set: by a map, a score, or where redundant."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..change.new_channels import named_seed
from ..find.channels import ChannelGroup
from .importance import importance
from .mapping import ChannelMapping, averages, map_channels, shares
from .recipe import Recipe
from .redundancy import dormant_channels, map_redundant


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
    """
    ratio, maps = recipe.ratio, recipe.method in ("sofm", "kmeans")
    score = None if maps else importance(group, weights, recipe, activity)
    dormant = None if activity is None else dormant_channels(activity, recipe.dormant)
    for number, indices in enumerate(group.exchangeable):
        S = np.sort(indices)
        own = named_seed(recipe.seed, group.name, str(number))
        if ratio == "redundant":
            assert Q is not None
            assert dormant is not None
            if maps:
                found = map_redundant(Q[:, S], dormant[S], recipe, own, starts)
                everything = _kept(S, np.arange(len(S)))
                yield everything if found is None else _merged(S, found, recipe)
            else:
                yield _kept(S, np.flatnonzero(~dormant[S]))
            continue
        assert isinstance(ratio, (int, float))
        K = max(1, round(ratio * len(S)))
        if maps:
            assert Q is not None
            yield _merged(S, map_channels(Q[:, S], K, recipe, own), recipe)
        else:
            assert score is not None
            yield _kept(S, np.sort(np.argsort(-score[S], kind="stable")[:K]))


def _kept(S: np.ndarray, kept: np.ndarray) -> Part:
    """The part of a set of which some channels stay as and where they are."""
    rows = np.eye(len(S))[kept]
    return Part(S, S[kept], rows, rows, len(kept), 0)


def _merged(S: np.ndarray, mapping: ChannelMapping, recipe: Recipe) -> Part:
    """The part of a set whose channels went to the nodes of a map."""
    kept = mapping.occupied
    A = averages(mapping.N)[kept]
    B = A if recipe.outgoing == "mean" else shares(mapping.N)[kept]
    if recipe.merge == "medoid":
        A = np.eye(len(S))[np.argmin(mapping.distance[kept], axis=1)]
    votes = mapping.N > 0
    merged = int(np.any(votes[votes.sum(axis=1) > 1], axis=0).sum())
    places = mapping.medoids if recipe.placement == "in_place" else kept
    return Part(S, S[places], A, B, len(mapping.N), merged)
