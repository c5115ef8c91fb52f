"""Score of every channel, for the methods that merge nothing: the highest survive.

With ``w_j`` the filter of channel ``j``, its row of a producer's weight, ``o`` channels::

    l1            sum |scale_j|                            Neural Rejuvenation, Qiao et al. 2019
    l2            sum |w_j|^2                              DSD, Han et al. 2017
    random        a random rank
    activity      E|h_j|                                   ReDo, Sokar et al. 2023
    correlation   -(1 / o) sum_{k != j} |w_j . w_k| / (|w_j| |w_k|)     RePr, Prakash et al. 2019

Sums go over all producers of the group (normalizations for ``l1``).  A filter of zero norm counts
as parallel to all others, as it has no direction of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from ..change.new_channels import named_seed
from ..find.channels import ChannelGroup, Member, Unfit
from .recipe import Recipe


def importance(
    group: ChannelGroup,
    weights: Mapping[str, np.ndarray],
    recipe: Recipe,
    activity: np.ndarray | None = None,
) -> np.ndarray:
    """Score of every channel by ``recipe.method``.

    Parameters
    ----------
    group : ChannelGroup
    weights : mapping of str to ndarray
    recipe : Recipe
        ``method`` and ``seed``.
    activity : ndarray, shape (channels,), optional
        Mean absolute activations, for ``"activity"``.

    Returns
    -------
    ndarray of float64, shape (channels,)

    Raises
    ------
    ValueError
        Where the group has no weight to rank by, or ``weights`` lacks it.
    """
    if recipe.method == "activity":
        assert activity is not None
        return activity
    if recipe.method == "random":
        rng = np.random.default_rng(named_seed(recipe.seed, group.name, "survivors"))
        return rng.permutation(group.channels).astype(np.float64)
    if recipe.method == "l1":
        members = [m for m in group.per_channel if m.role == "scale"]
        if not members:
            raise Unfit(
                f"group {group.name!r} has no normalization with a scale, which method 'l1' "
                "ranks channels by; use 'l2'"
            )
    else:
        members = [m for m in group.producers if m.role == "weight"]
        if not members:
            raise Unfit(
                f"group {group.name!r} has no producer with a weight, which method "
                f"{recipe.method!r} ranks channels by; use 'random'"
            )
    total = np.zeros(group.channels)
    for rows in _rows(group, members, weights):
        if recipe.method == "l1":
            total += np.abs(rows).sum(axis=1)
        elif recipe.method == "l2":
            total += (rows**2).sum(axis=1)
        else:
            total -= overlap(rows)
    return total


def overlap(rows: np.ndarray) -> np.ndarray:
    """Mean absolute cosine of each row with the others, eq. 1 and 2 of Prakash et al. 2019.

    >>> overlap(np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]])).round(3).tolist()
    [0.333, 0.333, 0.0]
    """
    o = len(rows)
    norms = np.sqrt((rows**2).sum(axis=1, keepdims=True))
    unit = np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0.0)
    P = np.abs(unit @ unit.T)
    np.fill_diagonal(P, 0.0)
    return np.where(norms[:, 0] > 0.0, P.sum(axis=1) / o, (o - 1) / o)


def _rows(
    group: ChannelGroup, members: list[Member], weights: Mapping[str, np.ndarray]
) -> Iterator[np.ndarray]:
    """Rows of all channels of each member, float64, one line a channel."""
    for member in members:
        if member.weight not in weights:
            raise ValueError(f"expected the weight {member.weight!r} of group {group.name!r}")
        own = member.channels(np.asarray(weights[member.weight]).astype(np.float64))
        yield own.reshape(group.channels, -1)
