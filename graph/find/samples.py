"""Where the samples of a batch lie in every tensor, which is what a class mean is taken over.

In row-major order, ``outer`` elements lie in front of the axis of samples, the ``n`` samples one
after the other on it, everything else behind.  Reshapes keep ``outer``, whatever they join and
split: ``(time, n, d)`` and ``(time * n, d)`` both have ``outer = time``, and only the first has
an axis of samples.  Of a tensor of which this is not known, nothing is said.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from .axes import kept_axes
from .nodes import (
    Contraction,
    Graph,
    Node,
    Opaque,
    Reshape,
    Shape,
    input_names,
    output_names,
)

Place = tuple[int, int]  # an axis, and how many rows on it lie in front of each run of samples


def sample_axes(graph: Graph) -> dict[str, int]:
    """The axis of each tensor along which whole samples follow one another, each of some rows.

    Samples are those along the first axis of the first input.

    >>> from rejuvenet.graph import Transpose
    >>> graph = Graph(inputs=["x"])
    >>> for name, shape in {"x": (2, 5, 3), "t": (5, 2, 3), "r": (10, 3), "s": (5, 2, 3)}.items():
    ...     _ = graph.add_tensor(name, shape)
    >>> graph.nodes = [Transpose("x", "t", (1, 0, 2)), Reshape("t", "r"), Reshape("r", "s")]
    >>> sample_axes(graph)
    {'x': 0, 't': 1, 's': 1}
    """
    shapes = graph.shapes
    first = next((shapes[name] for name in graph.inputs if shapes[name]), None)
    if first is None or first[0] == 0:
        return {}
    n = first[0]
    places: dict[str, Place | None] = {  # of what depends on the inputs
        name: (0, 1) if shapes[name][:1] == (n,) else None for name in graph.inputs
    }
    for node in graph.nodes:
        inputs = [name for name in input_names(node) if name in places]
        if not inputs:
            continue
        for output in output_names(node):
            held = {name: places[name] for name in inputs}
            found = {
                None if place is None else _moved(node, name, output, place, shapes, n)
                for name, place in held.items()
                if place is not None or math.prod(shapes[name]) > 1  # a number has no axis to lose
            }
            places[output] = found.pop() if len(found) == 1 else None
    return {name: place[0] for name, place in places.items() if place and place[1] == 1}


def _moved(
    node: Node, name: str, output: str, place: Place, shapes: dict[str, Shape], n: int
) -> Place | None:
    """The place in an output of a node, by its input ``name``."""
    axis, rows = place
    chosen = isinstance(node, Contraction) and _is_chosen(node, name, axis)
    if isinstance(node, Opaque) or chosen:  # samples in front stay there, if the shape allows it
        after = shapes[output]
        return place if place == (0, 1) and after and after[0] % n == 0 else None
    if isinstance(node, Reshape):
        return _located(shapes[output], math.prod(shapes[name][:axis]) * rows, n)
    for axis, rows in (place, *_also(place, shapes[name], n)):
        found = {kept.get(axis) for own, kept in kept_axes(node, shapes) if own == name}
        kept = found.pop() if len(found) == 1 else None
        if kept is not None:
            return kept, rows
    return None


def _also(place: Place, shape: Shape, n: int) -> list[Place]:
    """A single sample that begins an axis stands at the end of the one before as well."""
    axis, rows = place
    return [(axis - 1, shape[axis - 1])] if n == rows == 1 and axis else []


def _is_chosen(node: Contraction, name: str, axis: int) -> bool:
    """Whether data choose along an axis: no other tensor has it."""
    sides = zip(node.inputs, (node.a_axes, node.b_axes), (node.b_axes, node.a_axes), strict=True)
    found = {axes[axis] in (*others, *node.out_axes) for x, axes, others in sides if x == name}
    return found == {False}


def _located(shape: Sequence[int], outer: int, n: int) -> Place | None:
    """The axis that holds runs of ``n`` samples behind ``outer`` elements; one of its own first."""
    found = []
    for axis, size in enumerate(shape):
        rows, rest = divmod(outer, math.prod(shape[:axis]) or 1)
        if not rest and rows and size % (rows * n) == 0:
            found.append((axis, rows))
    return min(found, key=lambda place: place[1], default=None)
