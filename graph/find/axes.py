"""What a node's kind says of the axes of its tensors.

- :func:`kept_axes`: which axes of its inputs the output still has, position by position;
- :func:`uniform_after`: along which axes all slices of the output are equal, so that their order
  means nothing.  Constants and weights are looked at by the adapters; copies that an expansion
  makes stay equal through whatever treats all of them alike;
- :func:`check_shapes`: whether the shapes are what the kind makes of them.  Shapes that were
  measured always are.  Those that were inferred, declared or guessed may not be, and then nothing
  that follows from them would be right.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import numpy as np

from .components import reshape_blocks
from .nodes import (
    Concat,
    Contraction,
    Elementwise,
    Expand,
    Freeze,
    Gather,
    Node,
    Opaque,
    Pad,
    PerChannel,
    Positional,
    Reduce,
    Reshape,
    Shape,
    Transpose,
    Unlabelled,
    input_names,
)

Kept = dict[int, int]  # axes of an input to those of the output that have their positions


def kept_axes(node: Node, shapes: Mapping[str, Shape]) -> list[tuple[str, Kept]]:
    """For every input of a node, the axes that the output has with the same positions.

    Axes that are broadcast, summed, cut or read position by position are left out, and so are all
    of a node without a structure.

    >>> shapes = {"x": (2, 8, 5), "mean": (2, 5), "y": (2, 8, 5), "gate": (8, 1)}
    >>> kept_axes(Reduce("x", "mean", (1,), False), shapes)
    [('x', {0: 0, 2: 1})]
    >>> kept_axes(Elementwise(("x", "gate"), "y"), shapes)
    [('x', {0: 0, 1: 1, 2: 2}), ('gate', {0: 1})]
    """
    if isinstance(node, (Unlabelled, Freeze, Opaque)):
        return []
    after = shapes[node.output]
    if isinstance(node, Contraction):
        pairs = [
            (name, {i: node.out_axes.index(v) for i, v in enumerate(axes) if v in node.out_axes})
            for name, axes in zip(node.inputs, (node.a_axes, node.b_axes), strict=True)
        ]
    elif isinstance(node, (Elementwise, PerChannel, Concat)):
        pairs = [(name, _shifted(shapes[name], after)) for name in node.inputs]
        if isinstance(node, PerChannel):
            pairs[1:] = [(name, {0: node.axis}) for name in node.inputs[1:]]
    elif isinstance(node, Transpose):
        pairs = [(node.input, {old: new for new, old in enumerate(node.order)})]
    elif isinstance(node, Reshape):
        blocks = reshape_blocks(shapes[node.input], after)
        alone = {old[0]: new[0] for old, new in blocks if len(old) == len(new) == 1}
        pairs = [(node.input, alone)]
    elif isinstance(node, Reduce) and not node.keepdims:
        left = (axis for axis in range(len(shapes[node.input])) if axis not in node.axes)
        pairs = [(node.input, {old: new for new, old in enumerate(left)})]
    else:
        pairs = [(node.input, _shifted(shapes[node.input], after))]
    touched = _touched(node)
    return [
        (name, {a: b for a, b in own.items() if b not in touched and shapes[name][a] == after[b]})
        for name, own in pairs
    ]


def _shifted(before: Shape, after: Shape) -> Kept:
    """As numpy broadcasts."""
    return {axis: axis + len(after) - len(before) for axis in range(len(before))}


def _touched(node: Node) -> set[int]:
    """Axes of the output whose positions are others than those of the input."""
    if isinstance(node, Positional) or (isinstance(node, Reduce) and node.keepdims):
        return set(node.axes)
    if isinstance(node, (Concat, Gather)):
        return {node.axis}
    if isinstance(node, Pad):
        pairs = enumerate(zip(node.before, node.after, strict=True))
        return {axis for axis, (before, after) in pairs if before or after}
    return set()


def uniform_after(
    node: Node, uniform: Mapping[str, frozenset[int]], shapes: Mapping[str, Shape]
) -> frozenset[int]:
    """The uniform axes of a node's output.

    >>> shapes = {"gate": (2, 1, 5), "all": (2, 8, 5)}
    >>> sorted(uniform_after(Expand("gate", "all"), {}, shapes))
    [1]
    """
    if isinstance(node, Reshape):
        alike = uniform.get(node.input, frozenset())
        return uniform_reshaped(alike, shapes[node.input], shapes[node.output])
    kept = [
        (after, axis in uniform.get(name, ()))
        for name, axes in kept_axes(node, shapes)
        for axis, after in axes.items()
    ]
    if isinstance(node, (Elementwise, PerChannel, Expand, Concat)):
        long = {axis for axis, size in enumerate(shapes[node.output]) if size > 1}
        if isinstance(node, Concat):  # each part may have a value of its own
            long.discard(node.axis)
        return frozenset(long - {axis for axis, alike in kept if not alike})
    if isinstance(node, (Transpose, Positional, Reduce, Pad)):
        return frozenset(axis for axis, alike in kept if alike)
    if isinstance(node, Gather):
        return uniform.get(node.input, frozenset())
    return frozenset()


def uniform_reshaped(alike: frozenset[int], before: Shape, after: Shape) -> frozenset[int]:
    """The uniform axes of a tensor that is reshaped."""
    blocks = reshape_blocks(before, after) if alike else ()
    return frozenset(axis for old, new in blocks if alike.issuperset(old) for axis in new)


def check_shapes(node: Node, shapes: Mapping[str, Shape]) -> None:
    """Raise unless the shapes of a node's tensors are what its kind makes of them.

    Raises
    ------
    ValueError
        They do not agree.

    Examples
    --------
    >>> check_shapes(Reshape("x", "y"), {"x": (2, 6), "y": (3, 4)})
    >>> check_shapes(Reshape("x", "y"), {"x": (2, 6), "y": (3, 5)})
    Traceback (most recent call last):
    ValueError: the shapes around Reshape do not agree
    """
    if not _agree(node, shapes):
        raise ValueError(f"the shapes around {type(node).__name__} do not agree")


def _agree(node: Node, shapes: Mapping[str, Shape]) -> bool:
    if isinstance(node, (Unlabelled, Freeze, Opaque)):
        return True
    given = [shapes[name] for name in input_names(node)]
    x, y = given[0], shapes[node.output]
    if isinstance(node, Elementwise):
        return np.broadcast_shapes(*given) == y
    if isinstance(node, PerChannel):
        return x == y and all(shape in ((x[node.axis],), (1,)) for shape in given[1:])
    if isinstance(node, Contraction):
        return _sizes_agree(node, shapes)
    if isinstance(node, Reshape):
        return prod(x) == prod(y)
    if isinstance(node, Expand):
        return np.broadcast_shapes(x, y) == y
    if isinstance(node, Reduce):
        kept = [(1 if axis in node.axes else n) for axis, n in enumerate(x)]
        left = [n for axis, n in enumerate(x) if axis not in node.axes]
        return y == tuple(kept if node.keepdims else left)
    if isinstance(node, Transpose):
        return y == tuple(x[axis] for axis in node.order) and len(x) == len(y)
    if isinstance(node, Pad):
        return y == tuple(n + a + b for n, a, b in zip(x, node.before, node.after, strict=True))
    # What is left changes some axes: all others stay.
    axes = set(node.axes) if isinstance(node, Positional) else {node.axis}
    others = all(
        len(shape) == len(y)
        and all(m == n or axis in axes for axis, (m, n) in enumerate(zip(shape, y, strict=True)))
        for shape in given
    )
    if isinstance(node, Concat):
        return others and sum(shape[node.axis] for shape in given) == y[node.axis]
    if isinstance(node, Gather):
        inside = bool(((node.indices >= 0) & (node.indices < x[node.axis])).all())
        return others and inside and len(node.indices) == y[node.axis]
    return others


def _sizes_agree(node: Contraction, shapes: Mapping[str, Shape]) -> bool:
    sizes: dict[str, int] = {}
    plain, given = node.apart(shapes)
    for names, shape in zip((plain.a_axes, plain.b_axes, plain.out_axes), given, strict=True):
        if len(names) != len(shape):
            return False
        for name, n in zip(names, shape, strict=True):
            if sizes.setdefault(name, n) != n:
                return False
    return True
