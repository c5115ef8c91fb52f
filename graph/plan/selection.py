"""Which channel groups a user means: layer names, weight names, patterns, "last", "all".

Ratios by name are resolved here as well.
"""

from __future__ import annotations

import difflib
import fnmatch
import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from ..find.channels import SUMMED, ChannelGroup, Unfit
from .recipe import Ratio

Layers = str | Sequence[str | ChannelGroup]


def find_group(groups: Sequence[ChannelGroup], name: str) -> ChannelGroup:
    """The first group named ``name`` or made by a layer or weight of that name.

    Raises
    ------
    ValueError
        No such group; near matches are named.
    """
    names = {group.name: group for group in groups}
    for group in groups:
        for key in _names(group, [m.weight for m in group.producers]):
            names.setdefault(key, group)
    found = [key for key in names if key == name] or fnmatch.filter(names, name)
    if found:
        return names[found[0]]
    raise ValueError(no_group(name, names))


def named_groups(groups: Sequence[ChannelGroup], pattern: str) -> list[ChannelGroup]:
    """All groups that a name or pattern means.

    Raises
    ------
    ValueError
        There is none; near matches are named.
    """
    found = [group for group in groups if fits(group, pattern)]
    if not found:
        names = (_names(group, [m.weight for m in group.producers]) for group in groups)
        raise ValueError(no_group(pattern, itertools.chain.from_iterable(names)))
    return found


def no_group(name: str, names: Iterable[str]) -> str:
    """What is said of a name that is none of those of the channel groups."""
    near = difflib.get_close_matches(name, sorted(set(names)), n=3)
    hint = "all are in .groups, and rejuvenet inspect prints them"
    if near:
        hint = f"did you mean {' or '.join(map(repr, near))}"
    return f"no channel group is made by a layer {name!r}; {hint}"


def unmovable(group: ChannelGroup) -> str | None:
    """Why no channel of a group may move, or None."""
    if group.frozen is not None:
        return group.frozen
    if not any(len(indices) > 1 for indices in group.exchangeable):
        return "no two of its channels may be exchanged"
    return None


def untapped(group: ChannelGroup) -> str | None:
    """Why no activations describe a group, or None."""
    if group.tap is not None:
        return None
    if group.unit == "set":
        return "its channels are whole sets of channels, which no activations describe"
    return (
        "no activations describe it: no tensor holds its channels along one axis and the samples "
        "along another"
    )


def unmergeable(group: ChannelGroup) -> str | None:
    """Why channels of a group can only be permuted, or None."""
    made = {(m.weight, m.view, m.axes) for m in group.members if m.kind == "producer"}
    for member in group.consumers:
        if (member.weight, member.view, member.axes) in made:
            return f"the weight {member.weight!r} is tied: it both makes and reads its channels"
    return None


def unaided(group: ChannelGroup) -> str | None:
    """Why a group is only merged or freed where it is named, or None."""
    if group.unit == "set":
        return "its channels are whole sets of channels: name it to reorganize it"
    if not group.consumers:
        return (
            "no weight reads its channels, so that nothing makes up for what merges or starts "
            "anew: name it to reorganize it"
        )
    if group.exact_merge == SUMMED:
        return (
            f"its channels are {SUMMED}, so that nothing makes up for what merges or starts anew: "
            "name it to reorganize it"
        )
    return None


class Choice(NamedTuple):
    """A group that was chosen.

    Attributes
    ----------
    group : ChannelGroup
    layer : str or None
        The weight of the layer that was named.
    named : bool
        Whether the group was asked for by its own name, and not by a pattern.
    """

    group: ChannelGroup
    layer: str | None
    named: bool


def listed(layers: Layers | ChannelGroup) -> list[str | ChannelGroup]:
    """What is asked for, one by one; raises TypeError for other things than names and groups."""
    several = isinstance(layers, Iterable) and not isinstance(layers, str)
    requests: list[Any] = list(layers) if several else [layers]  # type: ignore[arg-type]
    for request in requests:
        if not isinstance(request, (str, ChannelGroup)):
            raise TypeError(
                f"expected layers as names, patterns, 'last' or 'all', got {request!r}"
            )
    return requests


def select_groups(
    groups: Sequence[ChannelGroup],
    layers: Layers,
    activations: bool = True,
    permute: bool = False,
) -> tuple[list[Choice], dict[str, str]]:
    """The groups that ``layers`` names, deepest last.

    Parameters
    ----------
    groups : sequence of ChannelGroup
        All groups of the model, in the order of execution.
    layers : str or sequence of str or ChannelGroup
        ``"last"`` (the deepest group that can move), ``"all"``, the name of a layer, of its
        weight or of a group, or a pattern such as ``"layer4.*"``.
    activations : bool
        Whether activations are needed that describe the groups.
    permute : bool
        Whether channels are only permuted, which more groups allow.

    Returns
    -------
    chosen : list of Choice
        In the order of execution.
    skipped : dict of str to str
        Groups that a pattern matched and that cannot be changed, with the reason.

    Raises
    ------
    ValueError
        For an unknown name (near matches are named), a named group that cannot be changed (with
        the reason), or nothing that can.
    """
    requests = listed(layers)
    if not requests:
        raise ValueError("expected at least one layer, got none")

    def reason_against(group: ChannelGroup) -> str | None:
        return (
            unmovable(group)
            or (None if permute else unmergeable(group))
            or (untapped(group) if activations else None)
        )

    place = {group.name: i for i, group in enumerate(groups)}
    chosen: dict[str, Choice] = {}
    skipped: dict[str, str] = {}
    for request in requests:
        if request in ("last", "all") or (isinstance(request, str) and _is_pattern(request, place)):
            movable, against = [], {}
            for group in _matching(groups, str(request)):
                reason = reason_against(group) or (None if permute else unaided(group))
                if reason is None:
                    movable.append(group)
                else:
                    against[group.name] = reason
            if not movable:
                reasons = "; ".join(sorted(set(against.values())))
                raise ValueError(
                    f"no channel group that can move is made by {request!r}; the reasons: "
                    f"{reasons or 'it has no layer that makes channels'}"
                )
            if request != "last":
                skipped |= against
            for group in movable[-1:] if request == "last" else movable:
                chosen.setdefault(group.name, Choice(group, None, False))
            continue
        group = find_group(groups, request) if isinstance(request, str) else request
        reason = reason_against(group)
        if reason is not None:
            raise ValueError(f"layer {request!r} cannot be reorganized: {reason}")
        chosen[group.name] = Choice(group, _weight(group, request), True)
    skipped = {name: reason for name, reason in skipped.items() if name not in chosen}
    return sorted(chosen.values(), key=lambda item: place.get(item.group.name, -1)), skipped


def protected_channels(
    groups: Sequence[ChannelGroup], protected: Mapping[str, Sequence[int]]
) -> dict[str, list[int]]:
    """Channels that are to stay, by the name of their group.

    Parameters
    ----------
    groups : sequence of ChannelGroup
        All groups of the model.
    protected : mapping of str to sequence of int
        By names or patterns of groups, layers or weights.  The name of a group means it alone; a
        group of whole sets of channels is meant by its own name only.

    Raises
    ------
    ValueError
        A name stands for no group, or a group does not have such channels.
    """
    found: dict[str, set[int]] = {}
    for name, channels in protected.items():
        given = np.asarray(channels)
        named = [group for group in groups if group.name == name]
        for group in named or [g for g in named_groups(groups, name) if g.unit != "set"]:
            numbers = given.size == 0 or given.dtype.kind in "iu"
            if given.ndim != 1 or not numbers or not np.isin(given, range(group.channels)).all():
                raise ValueError(
                    f"expected numbers from 0 to {group.channels - 1} of the channels of group "
                    f"{group.name!r} that are protected, got {channels!r}"
                )
            found.setdefault(group.name, set()).update(given.tolist())
    return {name: sorted(channels) for name, channels in found.items()}


def without_channels(
    chosen: Sequence[Choice], protected: Mapping[str, Sequence[int]]
) -> tuple[list[Choice], dict[str, str]]:
    """The groups without some of their channels, and those of which none are left to exchange."""
    left, spared = [], {}
    for choice in chosen:
        group = choice.group
        channels = protected.get(group.name, ())
        sets = tuple(np.setdiff1d(indices, channels) for indices in group.exchangeable)
        if len(channels) and not any(len(indices) > 1 for indices in sets):
            spared[group.name] = "its channels are protected"
        elif len(channels):
            sets = tuple(indices for indices in sets if len(indices))
            left.append(choice._replace(group=replace(group, exchangeable=sets)))
        else:
            left.append(choice)
    return left, spared


def refuse_named(chosen: Sequence[Choice], refused: Mapping[str, str]) -> None:
    """Raise where a group that turned out unfit was asked for by name, or none is left.

    Raises
    ------
    Unfit
        With the reason.
    """
    for choice in chosen:
        if choice.named and choice.group.name in refused:
            raise Unfit(f"group {choice.group.name!r}: {refused[choice.group.name]}")
    if refused and all(choice.group.name in refused for choice in chosen):
        reasons = "; ".join(sorted(set(refused.values())))
        raise Unfit(f"no channel group can be changed; the reasons: {reasons}")


def _is_pattern(name: str, groups: Collection[str]) -> bool:
    """Not the name of a group, in which brackets say which part of a weight it is."""
    return name not in groups and any(mark in name for mark in "*?[")


def _matching(groups: Sequence[ChannelGroup], request: str) -> list[ChannelGroup]:
    """Groups that a pattern, "last" or "all" stands for."""
    return list(groups) if request in ("last", "all") else named_groups(groups, request)


def fits(group: ChannelGroup, pattern: str) -> bool:
    """Whether a name or pattern means a group: its own name, that of a layer or of its weight."""
    names = _names(group, [m.weight for m in group.producers if m.role == "weight"])
    return pattern in names or any(fnmatch.fnmatch(name, pattern) for name in names)


def _names(group: ChannelGroup, weights: Sequence[str]) -> list[str]:
    """Its own name, those of weights, and those of their layers."""
    return [group.name, *weights, *(name.rpartition(".")[0] or name for name in weights)]


def ratio_of(group: ChannelGroup, ratio: Ratio | Mapping[str, Ratio]) -> Ratio:
    """The ratio of one group: the first entry of a mapping whose name or pattern fits it.

    Raises
    ------
    ValueError
        No entry fits.
    """
    if not isinstance(ratio, Mapping):
        return ratio
    for pattern, value in ratio.items():
        if fits(group, pattern):
            return value
    raise ValueError(
        f"expected a ratio for group {group.name!r}, got ratios for {', '.join(map(repr, ratio))}; "
        "add one for '*', which fits every layer"
    )


def refuse_unknown(groups: Sequence[ChannelGroup], ratio: Ratio | Mapping[str, Ratio]) -> None:
    """Raise ValueError for a ratio of what is no group of the model; near matches are named."""
    for pattern in ratio if isinstance(ratio, Mapping) else ():
        named_groups(groups, pattern)


def _weight(group: ChannelGroup, request: object) -> str | None:
    """The weight of the layer that was asked for, where a group has several."""
    names = [m.weight for m in group.producers if m.role == "weight"]
    return next((n for n in names if request in (n, n.rpartition(".")[0])), None)
