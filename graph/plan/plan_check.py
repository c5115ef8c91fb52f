"""Whether a plan says one thing that can be done: types, shapes and ranges of all that it holds.

A plan that was read from a file is checked as a whole before anyone sees it.  Whether it fits the
weights of a model is checked when it is applied (:mod:`.surgery`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, get_args

import numpy as np

from ..find.channels import Kind, Member
from .plan import GroupPlan, filter_name
from .recipe import Init, NewOutgoing, Outgoing

TEXTS = ("group", "method", "note", "reason")
COUNTS = ("channels", "seed", "nodes", "occupied", "merged")
CHOICES = {
    "kind": ("arrange", "reorganize"),
    "init": get_args(Init),
    "new_outgoing": get_args(NewOutgoing),
    "outgoing": get_args(Outgoing),
}
MATRICES = ("A", "B", "shares")


def check_plan(plan: GroupPlan) -> None:
    """Raise for the first thing that is wrong.

    Raises
    ------
    ValueError
        With its name, what was expected and what came.
    """
    for name in TEXTS:
        _expect(isinstance(getattr(plan, name), str), name, "text", getattr(plan, name))
    for name in COUNTS:
        _expect(_is_count(getattr(plan, name)), name, "a number from 0", getattr(plan, name))
    for name, allowed in CHOICES.items():
        value = getattr(plan, name)
        known = isinstance(value, str) and value in allowed
        _expect(known, name, " or ".join(map(repr, allowed)), value)
    o, reorganizes = plan.channels, plan.kind == "reorganize"
    _expect(o > 0, "channels", "at least one", o)
    _indices("new", plan.new, o)
    for places in plan.sets:
        _indices("an exchangeable set", places, o)
        _expect(len(places) > 0, "an exchangeable set", "channels", places)
    _indices("all exchangeable sets", np.concatenate([np.zeros(0, np.int64), *plan.sets]), o)
    if reorganizes:
        _expect(plan.order is None, "order", "None", plan.order)
    else:
        _indices("order", plan.order, o)
        _expect(len(plan.order) == o, "order", f"{o} channels", plan.order)  # type: ignore[arg-type]
        _expect(not plan.new.size, "new", "none in a plan that arranges", plan.new)
    for name in MATRICES:
        matrix = getattr(plan, name, None)
        if matrix is None:
            _expect(not reorganizes or name == "shares", name, "a matrix", None)
            continue
        _expect(reorganizes, name, "None in a plan that arranges", matrix)
        _floats(name, matrix, (o, o))
        _expect(not matrix[plan.new].any(), name, "zeros in rows of new channels", matrix)
    for member in plan.members:
        _check_member(member, o)
    wanted = {filter_name(member): member.own_shape for member in plan.members}
    for name, rows in plan.filters.items():
        _expect(name in wanted, "filters", " or ".join(wanted), name)
        _floats(f"the filters of {name!r}", rows, (len(plan.new), *wanted[name]))
    if plan.capacity is not None:
        for entry in fields(plan.capacity):
            value = getattr(plan.capacity, entry.name)
            share = entry.type == "float" and type(value) is float and 0 <= value < math.inf
            _expect(share or _is_count(value), f"capacity.{entry.name}", "a number from 0", value)


def check_names(names: Any) -> None:
    """Raise unless ``names`` maps text to text."""
    good = isinstance(names, Mapping) and all(
        isinstance(name, str) and isinstance(text, str) for name, text in names.items()
    )
    _expect(good, "skipped", "names and reasons", names)


def _check_member(member: Member, channels: int) -> None:
    for name in ("weight", "role", "origin"):
        _expect(isinstance(getattr(member, name), str), name, "text", getattr(member, name))
    known = isinstance(member.kind, str) and member.kind in get_args(Kind)
    _expect(known, "kind", " or ".join(map(repr, get_args(Kind))), member.kind)
    _expect(isinstance(member.trained, bool), "trained", "True or False", member.trained)
    _expect(_is_count(member.fan_in), "fan_in", "a number from 0 on", member.fan_in)
    sizes = all(_is_count(n) and n > 0 for n in member.view)
    _expect(sizes, f"the shape of {member.weight!r}", "positive numbers", member.view)
    rank = len(member.view)
    axes = all(_is_count(axis) and axis < rank for axis in member.axes)
    _expect(
        axes and 0 < len(set(member.axes)) == len(member.axes),
        f"the axes of {member.weight!r}", f"different numbers below {rank}", member.axes,
    )  # fmt: skip
    rows = math.prod(member.view[axis] for axis in member.axes)
    positions = member.positions
    shape = positions.ndim == 2 and len(positions) == channels
    _expect(shape, f"positions in {member.weight!r}", f"rows of {channels} channels", positions)
    _indices(f"positions in {member.weight!r}", positions.ravel(), rows)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _indices(name: str, array: Any, n: int) -> None:
    """Different whole numbers below ``n``."""
    good = isinstance(array, np.ndarray) and array.ndim == 1 and array.dtype.kind in "iu"
    good = good and (not array.size or bool(array.min() >= 0 and array.max() < n))
    good = good and len(np.unique(array)) == len(array)
    _expect(good, name, f"different numbers below {n}", array)


def _floats(name: str, array: Any, shape: tuple[int, ...]) -> None:
    good = isinstance(array, np.ndarray) and array.dtype.kind == "f" and array.shape == shape
    _expect(good and bool(np.isfinite(array).all()), name, f"finite numbers {shape}", array)


def _expect(good: bool, name: str, expected: str, got: Any) -> None:
    if not good:
        if isinstance(got, np.ndarray):
            got = f"{got.dtype} of shape {got.shape}"
        raise ValueError(f"{name}: expected {expected}, got {str(got)[:80]!r}")
