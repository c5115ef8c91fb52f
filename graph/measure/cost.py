"""What a network costs: its parameters, and the multiplications of one sample."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from ..find.nodes import Contraction, Graph, Shape


@dataclass(frozen=True)
class Cost:
    """Of one network.

    Attributes
    ----------
    parameters : int
        Elements of all weights that it reads, running statistics included.
    multiply_adds : int
        Of its convolutions and products, for one sample of the example inputs.
    """

    parameters: int
    multiply_adds: int


def cost(graph: Graph, samples: int, shapes: Mapping[str, Shape] | None = None) -> Cost:
    """What a network costs, with the shapes that it has or would have.

    Parameters
    ----------
    graph : Graph
    samples : int
        How many samples its shapes are of.
    shapes : mapping of tensor name to shape, optional
        Of a network without some of its channels.

    Examples
    --------
    >>> graph = Graph()
    >>> for name, shape in {"x": (2, 3, 8, 8), "w": (4, 3, 3, 3), "y": (2, 4, 6, 6)}.items():
    ...     _ = graph.add_tensor(name, shape)
    >>> graph.weights["w"] = "conv.weight"
    >>> graph.add_convolution("x", "w", "y")
    >>> cost(graph, samples=2)
    Cost(parameters=108, multiply_adds=3888)
    """
    shapes = graph.shapes if shapes is None else shapes
    weights = {weight: prod(shapes[tensor]) for tensor, weight in graph.weights.items()}
    products = (_products(n, shapes) for n in graph.nodes if isinstance(n, Contraction))
    return Cost(sum(weights.values()), sum(products) // samples)


def _products(node: Contraction, shapes: Mapping[str, Shape]) -> int:
    """Every output sums over what only the inputs share, and over the positions of a kernel."""
    a, b = (dict(zip(axes, shapes[name], strict=True)) for axes, name in (
        (node.a_axes, node.inputs[0]), (node.b_axes, node.inputs[1])
    ))  # fmt: skip
    out = dict(zip(node.out_axes, shapes[node.output], strict=True))
    places = prod(n for letter, n in out.items() if letter not in a and letter not in b)
    read = prod(n for letter, n in a.items() if letter not in b and letter not in out)
    # A transposed convolution multiplies at every place that it reads, others where they write.
    channels = prod(n for letter, n in out.items() if letter in a or letter in b)
    summed = prod(n for letter, n in b.items() if letter not in out)
    # The first axis of a weight consists of all groups; only equal ones meet.
    apart = node.groups if node.b_axes[0] not in out else 1
    return channels * summed * min(places, read) // apart
