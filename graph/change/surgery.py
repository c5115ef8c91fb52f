"""Surgery: carry a plan out on named numpy arrays.

On the rows of every member, ``W'`` taking the place of ``W``::

    arrange                  W'[p] = W[order[p]]          an exact gather
    producer, per channel    W' = A W                     (eq. 3)
    consumer                 V' = V B^T                   (eq. 4)

First all linear parts, which commute, as different groups own different axes or rows of a weight;
then the new channels, in an order of their own.  So the outcome does not depend on the order of
the groups.  New channels:

=====================================  ===================================================
producer, depthwise filter             drawn (:mod:`.new_channels`), or as the plan says
bias, shift, running mean              0
scale, running variance                1
slope, other per-channel parameter     mean over the surviving channels
consumer                               0 or drawn
weight that is not trained             what is at the place (a consumer: 0)
=====================================  ===================================================

With ``init="keep"`` all but the consumers keep what is at the place.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from ..find.channels import Member, Unfit
from ..plan.plan import GroupPlan, Plan, filter_name
from .new_channels import draw, generator

State = Literal[False, True, "linear"]
AnyPlan = Plan | GroupPlan | Sequence[GroupPlan]

CONSTANTS = {"bias": 0.0, "shift": 0.0, "running_mean": 0.0, "scale": 1.0, "running_var": 1.0}
STATISTICS = ("running_mean", "running_var", "scale", "shift")


class NotFinite(ValueError):
    """A change would leave values that are not finite."""


def transform(
    plan: AnyPlan, weights: Mapping[str, np.ndarray], state: State = False
) -> dict[str, np.ndarray]:
    """New arrays of every weight that a plan touches; nothing is written.

    Parameters
    ----------
    plan : Plan, GroupPlan or sequence of GroupPlan
    weights : mapping of str to ndarray
        Floating-point weights of any width; integers where the plan only permutes.
    state : {False, True, "linear"}
        For tensors that an optimizer keeps beside the weights (momentum), under the names of the
        weights; names that are absent are left out.  They merge like the weights, and new
        channels get zero.  A second moment is not linear: its square root is nearly so.

    Returns
    -------
    dict of str to ndarray
        Same shapes and types as in ``weights``; computed in float64.

    Raises
    ------
    ValueError
        Where a weight is missing, has another shape than in the plan, is quantized and would be
        merged, or would overflow its type.

    Examples
    --------
    >>> import numpy as np
    >>> from rejuvenet.graph import Graph, arrange_plan, composites, find_groups, transform
    >>> graph = Graph(inputs=["x"], outputs=["y"], weights={"a": "first", "b": "second"}, shapes={
    ...     "x": (5, 1), "a": (1, 4), "h": (5, 4), "b": (4, 1), "y": (5, 1)})
    >>> composites.multiplied(graph, "x", "a", "h")
    >>> composites.multiplied(graph, "h", "b", "y")
    >>> plan = arrange_plan(find_groups(graph), {"first": np.array([3, 2, 1, 0])})
    >>> weights = {"first": np.array([[1.0, 4, 2, 3]]), "second": np.array([[1.0], [2], [3], [4]])}
    >>> transform(plan, weights)["first"], transform(plan, weights)["second"].ravel()
    (array([[3., 2., 4., 1.]]), array([4., 3., 2., 1.]))
    """
    if state not in (False, True, "linear"):
        raise ValueError(f"expected state to be False, True or 'linear', got {state!r}")
    plans = _group_plans(plan)
    check(plans, weights, partial=bool(state))
    work: dict[str, list[tuple[GroupPlan, Member]]] = defaultdict(list)
    for group_plan in plans:
        for member in _distinct(group_plan):
            if member.weight in weights:
                work[member.weight].append((group_plan, member))
    return {
        name: _transformed(name, np.asarray(weights[name]), parts, state)
        for name, parts in work.items()
    }


def apply(plan: AnyPlan, weights: Mapping[str, np.ndarray]) -> list[str]:
    """Carry a plan out in place: everything is checked and computed before the first write.

    Parameters
    ----------
    plan : Plan, GroupPlan or sequence of GroupPlan
    weights : mapping of str to ndarray
        Written in place; shapes and types do not change.

    Returns
    -------
    list of str
        Names of the weights that were written.

    Raises
    ------
    ValueError
        As :func:`transform`, and where an array is read-only.  No weight has changed then.

    Examples
    --------
    >>> import numpy as np
    >>> from rejuvenet.graph import Graph, apply, arrange_plan, composites, find_groups
    >>> graph = Graph(inputs=["x"], outputs=["y"], weights={"a": "first", "b": "second"}, shapes={
    ...     "x": (5, 1), "a": (1, 4), "h": (5, 4), "b": (4, 1), "y": (5, 1)})
    >>> composites.multiplied(graph, "x", "a", "h")
    >>> composites.multiplied(graph, "h", "b", "y")
    >>> weights = {"first": np.array([[1.0, 4, 2, 3]]), "second": np.array([[1.0], [2], [3], [4]])}
    >>> apply(arrange_plan(find_groups(graph), {"first": np.array([3, 2, 1, 0])}), weights)
    ['first', 'second']
    >>> weights["first"]
    array([[3., 2., 4., 1.]])
    """
    results = transform(plan, weights)
    for name in results:
        target = weights[name]
        if not isinstance(target, np.ndarray) or not target.flags.writeable:
            raise ValueError(
                f"expected a writable numpy array for {name!r}, got "
                f"{'a read-only one' if isinstance(target, np.ndarray) else type(target).__name__}"
            )
    for name, values in results.items():
        np.copyto(weights[name], values)
    return list(results)


def restricted(plan: AnyPlan, weights: Collection[str]) -> list[GroupPlan]:
    """What a plan does to some weights; together such parts do what the plan does."""
    parts = [
        replace(p, members=tuple(m for m in p.members if m.weight in weights))
        for p in _group_plans(plan)
    ]
    return [part for part in parts if part.members]


def check(plan: AnyPlan, weights: Mapping[str, np.ndarray], partial: bool = False) -> None:
    """Raise ValueError where a plan does not fit the weights.

    ``partial`` allows names to be absent.
    """
    for group_plan in _group_plans(plan):
        _check_matrices(group_plan)
        for member in _distinct(group_plan):
            if member.weight not in weights:
                if partial:
                    continue
                raise ValueError(
                    f"expected the weight {member.weight!r} of group {group_plan.group!r}, "
                    "got weights without it; was the plan made for this model?"
                )
            _check_member(group_plan, member, np.asarray(weights[member.weight]))


def _group_plans(plan: AnyPlan) -> list[GroupPlan]:
    if isinstance(plan, GroupPlan):
        return [plan]
    return Plan(list(plan.groups if isinstance(plan, Plan) else plan)).groups


def _check_matrices(plan: GroupPlan) -> None:
    o = plan.channels
    if plan.kind == "arrange":
        if plan.order is None or not np.array_equal(np.sort(plan.order), np.arange(o)):
            raise ValueError(f"expected a permutation of {o} channels for group {plan.group!r}")
        return
    for matrix in (plan.A, plan.B):
        if matrix is None or matrix.shape != (o, o) or not np.isfinite(matrix).all():
            raise ValueError(f"expected finite A and B of shape ({o}, {o}) for {plan.group!r}")
    if plan.new.size and not (plan.new.min() >= 0 and plan.new.max() < o):
        raise ValueError(f"expected new places from 0 to {o - 1} for group {plan.group!r}")


def _check_member(plan: GroupPlan, member: Member, values: np.ndarray) -> None:
    name = member.weight
    expected = int(np.prod(member.view, dtype=np.int64))
    same_rank = len(member.view) == values.ndim
    if values.size != expected or (same_rank and values.shape != member.view):
        raise ValueError(
            f"expected {name!r} of shape {member.view} as when the plan was made, got "
            f"{values.shape}"
        )
    rows = int(np.prod([member.view[axis] for axis in member.axes], dtype=np.int64))
    places = member.positions
    if places.ndim != 2 or len(places) != plan.channels:
        raise ValueError(
            f"expected rows of {plan.channels} channels in {name!r}, got positions of shape "
            f"{places.shape}"
        )
    if places.size and not (places.min() >= 0 and places.max() < rows):
        raise ValueError(f"expected positions from 0 to {rows - 1} in {name!r}")
    if np.bincount(places.ravel(), minlength=1).max() > 1:
        raise ValueError(f"expected every row of {name!r} in one channel, got a row in two")
    wanted = (len(plan.new), *member.own_shape)
    rows_given = plan.filters.get(filter_name(member))
    if member.kind != "consumer" and rows_given is not None and rows_given.shape != wanted:
        raise ValueError(
            f"expected filters of shape {wanted} for the new channels in {name!r}, got "
            f"{rows_given.shape}"
        )
    if plan.kind == "reorganize" and not _is_float(values.dtype):
        raise Unfit(
            f"cannot merge channels of {name!r}, whose values are {values.dtype}: quantized "
            "weights can be arranged, or reorganize the model before it is quantized"
        )


def _is_float(dtype: np.dtype) -> bool:
    """Whether averages make sense; bfloat16 and float8 of ml_dtypes are of numpy's kind "V"."""
    return dtype.kind == "f" or "float" in dtype.name


def _distinct(plan: GroupPlan) -> list[Member]:
    """Members of a plan, the same rows of a tied weight once.

    Rows that are made and read by the same group (a tied embedding) move as one; they cannot be
    averaged and added up at the same time.
    """
    found: dict[tuple, list[Member]] = defaultdict(list)
    distinct = []
    for member in plan.members:
        same_axis = found[member.weight, member.view, member.axes]
        twin = next((m for m in same_axis if np.array_equal(m.positions, member.positions)), None)
        if twin is not None:
            tied = "consumer" in (twin.kind, member.kind) and twin.kind != member.kind
            if tied and plan.kind == "reorganize":
                raise Unfit(
                    f"cannot merge channels of {member.weight!r}, whose rows group "
                    f"{plan.group!r} both makes and reads: arrange it, or untie the weight"
                )
            continue
        if any(np.isin(m.positions, member.positions).any() for m in same_axis):
            raise Unfit(
                f"cannot move {member.weight!r}: it is shared, and its rows belong to several "
                f"channels of group {plan.group!r}"
            )
        same_axis.append(member)
        distinct.append(member)
    return distinct


def _transformed(
    name: str,
    values: np.ndarray,
    parts: list[tuple[GroupPlan, Member]],
    state: State,
) -> np.ndarray:
    """One weight after all plans that touch it."""
    if all(plan.kind == "arrange" for plan, _ in parts):
        result = values
        for plan, member in parts:
            result = _arranged(plan, member, result)
        return result if result is not values else values.copy()
    result = values.astype(np.float64)
    with np.errstate(invalid="ignore"):  # NaN weights stay NaN; only new ones are an error
        for plan, member in parts:
            new = _linear(plan, member, state, member.channels(result))
            result = member.replaced(result, new)
        result = _zero_new(result, parts) if state else _fill_new(result, parts)
    with np.errstate(over="ignore"):
        cast = result.astype(values.dtype)
    if not _finite(cast) and _finite(values):
        raise NotFinite(
            f"merging channels of {name!r} overflows {values.dtype}: convert the weights to "
            "float32 first"
        )
    return cast


def _finite(values: np.ndarray) -> bool:
    return bool(np.isfinite(values.astype(np.float64)).all())


def _arranged(plan: GroupPlan, member: Member, values: np.ndarray) -> np.ndarray:
    """The rows of all channels in their new order."""
    source = np.arange(math.prod(member.view[axis] for axis in member.axes))
    source[member.positions] = member.positions[plan.order]
    if len(member.axes) == 1:
        viewed = values.reshape(member.view).take(source, axis=member.axes[0])
        return viewed.reshape(values.shape)
    return member.restore(member.rows(values)[source], values.shape)


def _linear(plan: GroupPlan, member: Member, state: State, X: np.ndarray) -> np.ndarray:
    """The linear part of a plan on what the channels own of one member."""
    if plan.order is not None:
        return X[plan.order]
    matrix = _matrix(plan, member, state)
    changed = np.flatnonzero(np.any(matrix != np.eye(plan.channels), axis=1))
    read = np.flatnonzero(np.any(matrix[changed] != 0.0, axis=0))
    block = matrix[np.ix_(changed, read)]
    result = X.copy()
    result[changed] = product(block, X[read]) if block.size else 0.0
    return result


def _matrix(plan: GroupPlan, member: Member, state: State) -> np.ndarray:
    """``A`` or ``B``, with the rows of new channels whose values come from what is there."""
    new = plan.new
    matrix = np.array(plan.B if member.kind == "consumer" else plan.A)
    if state or member.kind == "consumer" or not new.size:
        return matrix
    if plan.init == "keep" or (not member.trained and member.role not in STATISTICS):
        matrix[new, new] = 1.0
    elif member.kind == "per_channel" and member.role not in (*CONSTANTS, "weight"):
        survivors = plan.survivors
        if survivors.size:
            matrix[new] = matrix[survivors].mean(axis=0)
    return matrix


def product(matrix: np.ndarray, X: np.ndarray) -> np.ndarray:
    """``matrix @ X`` along the first axis.

    A hard assignment has one entry a column: then a sparse product saves nearly all the work
    (a 4096 x 25088 linear layer behind 512 channels: 105 Gflop as a dense product).
    """
    flat = np.ascontiguousarray(X.reshape(len(X), -1))
    if np.count_nonzero(matrix) < 0.1 * matrix.size:
        from scipy.sparse import csr_array

        result = csr_array(matrix) @ flat
    else:
        result = matrix @ flat
    return result.reshape(len(matrix), *X.shape[1:])


def _zero_new(values: np.ndarray, parts: list[tuple[GroupPlan, Member]]) -> np.ndarray:
    """Optimizer state of new channels."""
    for plan, member in parts:
        if plan.new.size:
            values = member.replaced(values, 0.0, plan.new)
    return values


def _fill_new(values: np.ndarray, parts: list[tuple[GroupPlan, Member]]) -> np.ndarray:
    """Weights of new channels: what is drawn or constant first, zero outgoing weights last."""
    fills = [(plan, m) for plan, m in parts if plan.new.size and _is_filled(plan, m)]
    fills.sort(key=lambda part: (_fill_rank(*part), part[0].group, part[1].axes))
    drawn = [(plan, m) for plan, m in fills if _is_drawn(plan, m)]
    # The layer's spread is that of weights that no plan replaces, whatever the order of plans.
    fresh = np.zeros(values.shape, dtype=bool)
    for plan, member in fills if drawn else ():
        fresh = member.replaced(fresh, True, plan.new)
    linear = values
    for plan, member in fills:
        content: np.ndarray | float
        if member.kind != "consumer" and filter_name(member) in plan.filters:
            content = plan.filters[filter_name(member)]
        elif _is_drawn(plan, member):
            kept = plan.survivors
            present = member.channels(linear)[kept][~member.channels(fresh)[kept]]
            rng = generator(plan.seed, plan.group, member.weight, member.kind, str(member.axes))
            shape = (len(plan.new), *member.own_shape)
            content = draw(shape, plan.init, member, present, rng)
        else:
            content = 0.0 if member.kind == "consumer" else CONSTANTS[member.role]
        values = member.replaced(values, content, plan.new)
    return values


def _is_filled(plan: GroupPlan, member: Member) -> bool:
    if member.kind == "consumer":
        return True
    if plan.init == "keep":
        return False
    return member.role in STATISTICS or (
        member.trained and (member.kind == "producer" or member.role in ("weight", *CONSTANTS))
    )


def _is_drawn(plan: GroupPlan, member: Member) -> bool:
    if member.kind == "consumer":
        return plan.new_outgoing == "random" and member.trained
    return member.role not in CONSTANTS


def _fill_rank(plan: GroupPlan, member: Member) -> int:
    """Incoming weights, then outgoing ones, then zero outgoing ones, which have the last word."""
    if member.kind != "consumer":
        return 0
    return 1 if _is_drawn(plan, member) else 2
