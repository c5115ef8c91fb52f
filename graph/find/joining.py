"""Labels of a position that two tensors describe.

Components over equal axes are equal channels.  Where one lies within the other, as a value for each
head meets ``(heads, dim)``, the finer one is divided by it (if it stands for sets of channels) or
tied to it.  When in doubt a rule ties or freezes more than necessary: that loses freedom and never
exactness.
"""

from __future__ import annotations

import numpy as np

from .components import Component
from .constraints import BY_POSITION, FLATTENED, Constraints
from .nodes import Shape


def join(
    state: Constraints,
    left: list[Component],
    right: list[Component],
    shape: Shape,
    shared: set[int],
) -> list[Component]:
    """Labels of a tensor that ``left`` and ``right`` both describe.

    ``shared`` are the axes that both tensors run along.
    """
    apart: set[int] = set()
    return _fixed(state, _joined(state, left, right, shape, shared, apart), apart)


def _fixed(state: Constraints, merged: list[Component], apart: set[int]) -> list[Component]:
    """What else runs along axes whose positions one of several components tells apart."""
    return [part for c in merged for part in state.fix(c, apart)]


def _joined(
    state: Constraints,
    left: list[Component],
    right: list[Component],
    shape: Shape,
    shared: set[int],
    apart: set[int],
) -> list[Component]:
    """As :func:`join`; axes whose positions are told apart from now on are added to ``apart``."""
    if not left or not right:
        return [*left, *right]
    by_axes = {c.axes: [d for d in right if d.axes == c.axes] for c in left}
    merged: list[Component] = []
    for axes, others in by_axes.items():
        mine = [c for c in left if c.axes == axes]
        merged += _all_same(state, mine, others) if others else mine
    for other in right:
        if other.axes not in by_axes:
            merged = _relate(state, merged, other, shape, shared, apart)
    return merged


def _all_same(
    state: Constraints, left: list[Component], right: list[Component]
) -> list[Component]:
    """Components over the same axes, several where axes of several channels were flattened.

    Where one side has more, its smaller ones (the kernel axes of a flattened weight) stay.
    """
    few, several = (left, right) if len(left) < len(right) else (right, left)
    if len(few) < len(several):
        several = sorted(several, key=lambda c: -len(np.unique(c.atoms)))
        state.freeze(several[len(few) :], FLATTENED)
    return [_same(state, a, b) for a, b in zip(several, few, strict=False)]


def _same(state: Constraints, a: Component, b: Component) -> Component:
    """``a`` and ``b`` lie over the same axes; the one to go on with."""
    if a.coarse == b.coarse:
        return state.equate(a, b)
    fine, coarse = (b, a) if a.coarse else (a, b)
    _divide(state, fine, coarse.atoms, coarse.keys)
    return coarse


def _divide(
    state: Constraints, fine: Component, sets: np.ndarray, keys: np.ndarray | None
) -> None:
    """``fine`` is divided by sets; where these repeat, ``keys`` tell their copies apart."""
    if keys is not None:
        own = 0 if fine.keys is None else fine.keys * (int(keys.max()) + 1)
        fine = Component(fine.axes, fine.atoms, np.broadcast_to(own + keys, fine.atoms.shape))
    state.divide(fine, sets)


def _relate(
    state: Constraints,
    merged: list[Component],
    other: Component,
    shape: Shape,
    shared: set[int],
    apart: set[int],
) -> list[Component]:
    """Add ``other``, whose axes are those of no component in ``merged``."""
    for i, component in enumerate(merged):
        common = set(component.axes) & set(other.axes) & shared
        if not common:
            continue
        rest = [*merged[:i], *merged[i + 1 :]]
        if common == set(component.axes):
            inner, outer = component, other
        elif common == set(other.axes):
            inner, outer = other, component
        elif not component.coarse and not other.coarse:  # (heads, d) and (heads, e)
            axes = tuple(sorted(common))
            sets = Component(axes, state.fresh(tuple(shape[a] for a in axes)), coarse=True)
            for half in (component, other):
                state.divide(half, sets.over(half.axes, shape))
            continue
        else:  # what they share is one component
            for half in (component, other):
                apart |= set(half.axes) - common
                left = state.collapse(half, set(half.axes) - common, BY_POSITION)
                rest = _joined(state, rest, left, shape, shared, apart)
            return rest
        if inner.coarse:
            keys = None if inner.keys is None else inner.over(outer.axes, shape, inner.keys)
            _divide(state, outer, inner.over(outer.axes, shape), keys)
        else:  # positions along the other axes are told apart from now on
            state.tie(state.refined(outer), inner.over(outer.axes, shape))
            apart |= set(outer.axes) - set(inner.axes)
            outer = inner
        return _joined(state, rest, [outer], shape, shared, apart)
    return [*merged, other]


def join_contraction(
    state: Constraints, sides: list[list[Component]], shape: Shape, shared: set[int]
) -> list[Component]:
    """Labels over all axes of a contraction, before anything is summed.

    Components with equal axes are equal.  One that has met its equal is compared with others only
    where it lies within them: a grouped convolution's output atoms share the axis of groups
    with its input atoms and are divided by them only once these are summed.
    """
    left, right = sides
    axes = {c.axes for c in left} & {c.axes for c in right}
    loose = [[c for c in side if c.axes not in axes] for side in sides]
    matched = [[c for c in side if c.axes in axes] for side in sides]
    apart: set[int] = set()
    equal = _joined(state, matched[0], matched[1], shape, shared, apart)
    others = _joined(state, loose[0], loose[1], shape, shared, apart)
    for component in equal:
        if any(set(component.axes) < set(other.axes) for other in others):
            others = _joined(state, others, [component], shape, shared, apart)
    return _fixed(state, equal + others, apart)
