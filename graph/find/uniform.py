"""Axes along which all slices of a tensor are equal, so that their order means nothing.

Constants and weights are looked at by the adapters.  Here is what follows for computed tensors:
copies that an expansion makes stay equal through whatever treats all of them alike.
"""

from __future__ import annotations

from collections.abc import Mapping

from .components import reshape_blocks
from .nodes import (
    Elementwise,
    Expand,
    Node,
    PerChannel,
    Positional,
    Reduce,
    Reshape,
    Shape,
    Transpose,
)


def uniform_after(
    node: Node, uniform: Mapping[str, frozenset[int]], shapes: Mapping[str, Shape]
) -> frozenset[int]:
    """The uniform axes of a node's output.

    >>> shapes = {"gate": (2, 1, 5), "all": (2, 8, 5)}
    >>> sorted(uniform_after(Expand("gate", "all"), {}, shapes))
    [1]
    """
    if isinstance(node, (Elementwise, PerChannel, Expand)):
        out = shapes[node.output]
        inputs = (node.input,) if isinstance(node, Expand) else node.inputs
        found = {axis for axis, size in enumerate(out) if size > 1}
        for k, name in enumerate(inputs):
            shift = len(out) - len(shapes[name])
            if isinstance(node, PerChannel) and k:
                shift = node.axis
            varies = {
                axis + shift
                for axis, size in enumerate(shapes[name])
                if size > 1 and axis not in uniform.get(name, ())
            }
            found -= varies
        return frozenset(found)
    if not isinstance(node, (Transpose, Positional, Reduce, Reshape)):
        return frozenset()
    alike = uniform.get(node.input, frozenset())
    if isinstance(node, Transpose):
        return frozenset(node.order.index(axis) for axis in alike)
    if isinstance(node, Reshape):
        return uniform_reshaped(alike, shapes[node.input], shapes[node.output])
    alike -= set(node.axes)
    if isinstance(node, Positional) or node.keepdims:
        return alike
    return frozenset(axis - sum(a < axis for a in node.axes) for axis in alike)


def uniform_reshaped(alike: frozenset[int], before: Shape, after: Shape) -> frozenset[int]:
    """The uniform axes of a tensor that is reshaped."""
    blocks = reshape_blocks(before, after) if alike else ()
    return frozenset(axis for old, new in blocks if alike.issuperset(old) for axis in new)
