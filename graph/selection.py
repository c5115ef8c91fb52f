"""Which channel groups a user means: layer names, weight names, patterns, "last", "all".

Ratios by name are resolved here as well.
"""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Mapping, Sequence

from .channels import ChannelGroup
from .recipe import Ratio


def find_group(groups: Sequence[ChannelGroup], name: str) -> ChannelGroup:
    """The first group named ``name`` or made by a layer or weight of that name.

    Raises
    ------
    ValueError
        No such group; near matches are named.
    """
    for group in groups:
        if group.name == name:
            return group
    names: dict[str, ChannelGroup] = {}
    for group in groups:
        for member in group.producers:
            names.setdefault(member.weight, group)
            names.setdefault(member.weight.rsplit(".", 1)[0], group)
    if name in names:
        return names[name]
    matches = [key for key in names if fnmatch.fnmatch(key, name)]
    if matches:
        return names[matches[0]]
    near = difflib.get_close_matches(name, names, n=3)
    hint = f"did you mean {' or '.join(map(repr, near))}" if near else "see .groups for all"
    raise ValueError(f"no channel group is made by a layer {name!r}; {hint}")


def unmovable(group: ChannelGroup) -> str | None:
    """Why no channel of a group may move, or None."""
    if group.frozen is not None:
        return group.frozen
    if not any(len(indices) > 1 for indices in group.exchangeable):
        return "no two of its channels may be exchanged"
    return None


def select_groups(
    groups: Sequence[ChannelGroup], layers: str | Sequence[str | ChannelGroup]
) -> tuple[list[tuple[ChannelGroup, str | None]], dict[str, str]]:
    """The groups that ``layers`` names, deepest last.

    Parameters
    ----------
    groups : sequence of ChannelGroup
        All groups of the model, in the order of execution.
    layers : str or sequence of str or ChannelGroup
        ``"last"`` (the deepest group that can move), ``"all"``, the name of a layer, of its
        weight or of a group, or a pattern such as ``"layer4.*"``.

    Returns
    -------
    chosen : list of (ChannelGroup, str or None)
        Groups in the order of execution, each with the weight of the layer that was named.
    skipped : dict of str to str
        Groups that a pattern matched and that cannot move, with the reason.

    Raises
    ------
    ValueError
        For an unknown name (near matches are named), a named group that cannot move (with the
        reason), or nothing that can move.
    """
    requests = [layers] if isinstance(layers, (str, ChannelGroup)) else list(layers)
    if not requests:
        raise ValueError("expected at least one layer, got none")
    place = {group.name: i for i, group in enumerate(groups)}
    chosen: dict[str, tuple[ChannelGroup, str | None]] = {}
    skipped: dict[str, str] = {}
    for request in requests:
        if request in ("last", "all") or (isinstance(request, str) and _is_pattern(request)):
            movable = []
            for group in _matching(groups, str(request)):
                reason = unmovable(group) or (
                    "nothing reads its channels" if group.tap is None else None
                )
                if reason is None:
                    movable.append(group)
                elif request != "last":
                    skipped[group.name] = reason
            if not movable:
                raise ValueError(
                    f"no channel group that can move is made by {request!r}; the reasons: "
                    f"{'; '.join(sorted(set(skipped.values()))) or 'there is none'}"
                )
            for group in movable[-1:] if request == "last" else movable:
                chosen.setdefault(group.name, (group, None))
            continue
        group = find_group(groups, request) if isinstance(request, str) else request
        reason = unmovable(group)
        if reason is not None:
            raise ValueError(f"layer {request!r} cannot be reorganized: {reason}")
        chosen.setdefault(group.name, (group, _weight(group, request)))
    return sorted(chosen.values(), key=lambda item: place.get(item[0].name, -1)), skipped


def _is_pattern(name: str) -> bool:
    return any(mark in name for mark in "*?[")


def _matching(groups: Sequence[ChannelGroup], request: str) -> list[ChannelGroup]:
    """Groups that a pattern, "last" or "all" stands for."""
    if request in ("last", "all"):
        return list(groups)
    found = [group for group in groups if fits(group, request)]
    if not found:
        find_group(groups, request)  # raises, with near matches
    return found


def fits(group: ChannelGroup, pattern: str) -> bool:
    """Whether a name or pattern means a group: its own name, that of a layer or of its weight."""
    weights = [m.weight for m in group.producers if m.role == "weight"]
    names = {group.name, *weights, *(name.rpartition(".")[0] for name in weights)}
    return pattern in names or any(fnmatch.fnmatch(name, pattern) for name in names)


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


def _weight(group: ChannelGroup, request: object) -> str | None:
    """The weight of the layer that was asked for, where a group has several."""
    names = [m.weight for m in group.producers if m.role == "weight"]
    return next((n for n in names if request in (n, n.rpartition(".")[0])), None)
