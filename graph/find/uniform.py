"""Axes along which all slices of a tensor are equal, so that their order means nothing.

Constants and weights are looked at by the adapters.  Here is what follows for computed tensors:
copies that an expansion makes stay equal through whatever treats all of them alike.
"""

from __future__ import annotations

from collections.abc import Mapping

from .axes import kept_axes
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
    if isinstance(node, Reshape):
        alike = uniform.get(node.input, frozenset())
        return uniform_reshaped(alike, shapes[node.input], shapes[node.output])
    kept = [
        (after, axis in uniform.get(name, ()))
        for name, axes in kept_axes(node, shapes)
        for axis, after in axes.items()
    ]
    if isinstance(node, (Elementwise, PerChannel, Expand)):
        long = {axis for axis, size in enumerate(shapes[node.output]) if size > 1}
        return frozenset(long - {axis for axis, alike in kept if not alike})
    if isinstance(node, (Transpose, Positional, Reduce)):
        return frozenset(axis for axis, alike in kept if alike)
    return frozenset()


def uniform_reshaped(alike: frozenset[int], before: Shape, after: Shape) -> frozenset[int]:
    """The uniform axes of a tensor that is reshaped."""
    blocks = reshape_blocks(before, after) if alike else ()
    return frozenset(axis for old, new in blocks if alike.issuperset(old) for axis in new)
