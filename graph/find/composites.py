"""Operators that are made of several structural nodes, the same for every framework.

Each function returns the nodes, in the order of execution; an adapter reads the attributes of its
operator and appends them.
"""

from __future__ import annotations

from collections.abc import Sequence

from .nodes import (
    Contraction,
    Elementwise,
    Graph,
    Node,
    PerChannel,
    Positional,
    Reduce,
    Reshape,
)


def normalized(graph: Graph, x: str, axes: Sequence[int], output: str) -> list[Node]:
    """``output = x`` that met statistics of itself over ``axes`` (layer norm, softmax, a norm).

    Channels that the statistics are not over keep to themselves, so that merging those that are
    equal stays exact.
    """
    shape, over = graph.shapes[x], tuple(axes)
    statistics = graph.temporary([1 if a in over else n for a, n in enumerate(shape)])
    return [Reduce(x, statistics, over, True), Elementwise((x, statistics), output, "add")]


def normalized_in_groups(
    graph: Graph, x: str, groups: int, parameters: Sequence[tuple[str, str]], output: str
) -> list[Node]:
    """Group normalization: over the channels of a group (axis 1) and all positions.

    ``parameters`` are pairs of tensor and role, with a value for each channel, or for each group.
    """
    n, channels, *spatial = graph.shapes[x]
    split = graph.temporary((n, groups, channels // groups, *spatial))
    normal = graph.temporary(graph.shapes[split])
    rest = range(2, len(graph.shapes[split]))
    nodes: list[Node] = [Reshape(x, split), *normalized(graph, split, tuple(rest), normal)]
    names, roles = zip(*parameters, strict=True) if parameters else ((), ())
    if all(graph.shapes[name] == (channels,) for name in names):
        whole = graph.temporary(graph.shapes[x])
        return [*nodes, Reshape(normal, whole), PerChannel((whole, *names), output, 1, roles)]
    scaled = graph.temporary(graph.shapes[split])
    return [*nodes, PerChannel((normal, *names), scaled, 1, roles), Reshape(scaled, output)]


def attended(
    graph: Graph, scores: str, values: str, value_axes: Sequence[str], output: str,
    output_axes: Sequence[str],
) -> list[Node]:  # fmt: skip
    """``softmax(scores) values``; scores have the axes ``b, h, s, l``.

    Who sees whom depends on the places.
    """
    shape = graph.shapes[scores]
    placed, weights = graph.temporary(shape), graph.temporary(shape)
    axes = (tuple("bhsl"), tuple(value_axes), tuple(output_axes))
    return [
        Positional(scores, placed, (2, 3)),
        *normalized(graph, placed, (3,), weights),
        Contraction((weights, values), output, *axes),
    ]
