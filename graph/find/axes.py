"""Which axes of its inputs the output of a node still has, position by position."""

from __future__ import annotations

from collections.abc import Mapping

from .components import reshape_blocks
from .nodes import (
    Concat,
    Contraction,
    Elementwise,
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
