"""Whether two descriptions of one network have the same channel groups.

Every row of every weight axis carries two numbers in each description: its channel, and the set of
channels with which it may be exchanged (none where it is frozen).  The descriptions agree where
both numberings are the same up to names, that is where equal numbers in the one are equal numbers
in the other, every weight has the same role, and merging channels is exact in both or neither.

Channels and whole sets of them (attention heads) are numbered apart.

Weights are the same by name, or, where an exporter renamed or transposed one, by their values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from rejuvenet.graph import ChannelGroup

Axis = tuple[str, tuple[int, ...], tuple[int, ...], str]  # weight; view, axes: without length one


class Agreement(NamedTuple):
    """``difference`` is None, or the first one in a sentence."""

    compared: int
    weights: int
    difference: str | None


def agreement(
    groups: Sequence[ChannelGroup],
    weights: Mapping[str, np.ndarray],
    other_groups: Sequence[ChannelGroup],
    other_weights: Mapping[str, np.ndarray],
) -> Agreement:
    """Compare what two adapters say of one network; ``weights`` are those of the first."""
    names = _same_weights(weights, other_weights)
    own = {name: (name, False) for name, _ in names.values()}
    mine, theirs = _rows(groups, weights, own), _rows(other_groups, other_weights, names)
    difference = _difference(mine, theirs) or _meaning_differs(
        _meanings(groups, own), _meanings(other_groups, names)
    )
    return Agreement(len(names), len(weights), difference)


def _meanings(
    groups: Sequence[ChannelGroup], names: Mapping[str, tuple[str, bool]]
) -> dict[tuple[str, bool], tuple[str, bool]]:
    """Role of every weight that moves, and whether merging its channels is exact.

    What is added is a bias or a shift, as the shape that an exporter gave it may be.
    """
    added = {"bias": "shift"}
    return {
        (names[m.weight][0], m.kind == "consumer"): (
            added.get(m.role, m.role),
            group.exact_merge is None,
        )
        for group in groups
        if group.frozen is None and group.unit == "channel"
        for m in group.members
        if m.weight in names
    }


def _meaning_differs(
    mine: Mapping[tuple[str, bool], tuple[str, bool]],
    theirs: Mapping[tuple[str, bool], tuple[str, bool]],
) -> str | None:
    for (weight, reads), meaning in mine.items():
        other = theirs.get((weight, reads))
        if other != meaning:
            return f"(role, exact) of {weight}: {meaning} in the first, {other} in the second"
    return None


def _same_weights(
    weights: Mapping[str, np.ndarray], others: Mapping[str, np.ndarray]
) -> dict[str, tuple[str, bool]]:
    """The name of each of ``others`` among ``weights``, and whether it is transposed there."""
    names = {name: (name, False) for name in others if _fits(weights.get(name), others[name])}
    known = {name for name, _ in names.values()}
    by_value: dict[bytes, tuple[str, bool] | None] = {}
    for name in sorted(set(weights) - known):
        values = weights[name]
        forms = [(values, False)] + ([(values.T, True)] if values.ndim == 2 else [])
        for form, transposed in forms:
            key = _key(form)
            by_value[key] = None if key in by_value else (name, transposed)
    for other in sorted(set(others) - set(names)):
        found = by_value.get(_key(others[other]))
        if found is not None and found[0] not in known:
            names[other] = found
            known.add(found[0])
    return names


def _fits(values: np.ndarray | None, other: np.ndarray) -> bool:
    return values is not None and _long(values.shape) == _long(other.shape)


def _long(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(n for n in shape if n > 1)


def _key(values: np.ndarray) -> bytes:
    values = np.ascontiguousarray(values, np.float32)
    return repr(_long(values.shape)).encode() + values.tobytes()


def _rows(
    groups: Sequence[ChannelGroup],
    weights: Mapping[str, np.ndarray],
    names: Mapping[str, tuple[str, bool]],
) -> dict[Axis, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """For each axis of the common weights: channel, set, and group of every row."""
    rows: dict[Axis, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
    channel = exchangeable = 0
    for number, group in enumerate(groups):
        sets = np.full(group.channels, -1)
        for indices in group.exchangeable if group.frozen is None else ():
            sets[indices] = exchangeable
            exchangeable += 1
        for member in group.members:
            if member.weight not in names:
                continue
            name, transposed = names[member.weight]
            long = [a for a, n in enumerate(member.view) if n > 1]
            view = _long(member.view)
            axes = tuple(long.index(a) for a in member.axes if a in long)
            if transposed:
                view, axes = view[::-1], tuple(len(view) - 1 - a for a in axes)
            size = int(np.prod([member.view[a] for a in member.axes]))
            held = rows.setdefault((name, view, axes, group.unit), tuple(np.full((3, size), -1)))
            for values, row in zip(
                (np.arange(group.channels) + channel, sets, np.full(group.channels, number)),
                held,
                strict=True,
            ):
                row[member.positions] = values[:, None]
        channel += group.channels
    return rows


def _difference(
    mine: dict[Axis, tuple[np.ndarray, np.ndarray, np.ndarray]],
    theirs: dict[Axis, tuple[np.ndarray, np.ndarray, np.ndarray]],
) -> str | None:
    for axis in [*mine, *theirs]:
        if axis not in mine or axis not in theirs:
            if (mine if axis in mine else theirs)[axis][1].max() < 0:
                continue  # a group that no one can move, which only one of them lists
            which = "first" if axis in mine else "second"
            name, view, axes, unit = axis
            return f"{name}, axes {axes} of {view}, belongs to a {unit} group in the {which} only"
    what = ("channels", "exchangeable sets")
    for i, name in enumerate(what):
        forward: dict[int, int] = {-1: -1}
        backward: dict[int, int] = {-1: -1}
        for axis, held in mine.items():
            if axis not in theirs:
                continue
            for row, pair in enumerate(
                zip(held[i].tolist(), theirs[axis][i].tolist(), strict=True)
            ):
                a, b = pair
                if forward.setdefault(a, b) != b or backward.setdefault(b, a) != a:
                    return f"the {name} differ at row {row} of {axis[0]}, axes {axis[2]}"
    return None
