"""Operators that are made of several structural nodes, the same for every framework.

An adapter reads the attributes of its operator and calls one of these functions, which append
nodes to the graph.  Tensors are given by their names, ``output`` is one whose shape is known, and
axes are counted from 0.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from .nodes import (
    Contraction,
    Elementwise,
    Expand,
    Gather,
    Graph,
    Opaque,
    PerChannel,
    Positional,
    Reduce,
    Reshape,
    Shape,
    Transpose,
)

__all__ = [
    "attended",
    "divided",
    "gated",
    "layer_normalized",
    "looked_up",
    "multiplied",
    "normalized",
    "normalized_in_groups",
    "parametrized",
    "parts",
    "rearranged",
    "recurrent",
    "repeated",
    "taken",
    "viewed",
]

Parameters = Sequence[tuple[str, str]]  # tensor and role


# --- the same elements elsewhere --------------------------------------------------------------


def viewed(graph: Graph, x: str, shape: Sequence[int]) -> str:
    """The elements of ``x`` in another shape.

    Parameters
    ----------
    graph : Graph
    x : str
    shape : sequence of int
        Of as many elements.

    Returns
    -------
    str
        A tensor of the structural description.
    """
    view = graph.temporary(tuple(shape))
    graph.nodes.append(Reshape(x, view))
    return view


def rearranged(graph: Graph, x: str, view: Shape, order: Sequence[int], output: str) -> None:
    """``x.reshape(view).transpose(order)``, reshaped: pixel and channel shuffles.

    Parameters
    ----------
    graph : Graph
    x, output : str
        Of as many elements, in any shapes.
    view : tuple of int
    order : sequence of int
        The axes of the view, as they follow each other.
    """
    turned = graph.temporary([view[axis] for axis in order])
    graph.nodes.append(Transpose(viewed(graph, x, view), turned, tuple(order)))
    graph.nodes.append(Reshape(turned, output))


def taken(graph: Graph, x: str, chosen: Mapping[int, np.ndarray], output: str) -> None:
    """The positions ``chosen[axis]`` of some axes, reshaped: slices, rolls, constant indices.

    Parameters
    ----------
    graph : Graph
    x : str
    chosen : mapping of int to ndarray of int, shape (positions,)
    output : str
        Of as many elements as are taken.
    """
    for axis, indices in chosen.items():
        shape = list(graph.shapes[x])
        if not np.array_equal(indices, np.arange(shape[axis])):
            shape[axis] = len(indices)
            part = graph.temporary(shape)
            graph.nodes.append(Gather(x, part, axis, indices))
            x = part
    graph.nodes.append(Reshape(x, output))


def divided(graph: Graph, x: str, axis: int, outputs: Sequence[str]) -> None:
    """Consecutive parts of one axis, each as long as its output.

    Parameters
    ----------
    graph : Graph
    x : str
    axis : int
    outputs : sequence of str
        With the shape of ``x`` but for the length of the axis.
    """
    start = 0
    for output in outputs:
        stop = start + graph.shapes[output][axis]
        graph.nodes.append(Gather(x, output, axis, np.arange(start, stop)))
        start = stop


def parts(graph: Graph, x: str, axis: int, lengths: Sequence[int]) -> list[str]:
    """As :func:`divided`, into tensors of the structural description.

    Parameters
    ----------
    graph : Graph
    x : str
    axis : int
    lengths : sequence of int
        Of the parts.

    Returns
    -------
    list of str
    """
    shape = graph.shapes[x]
    made = [graph.temporary((*shape[:axis], n, *shape[axis + 1 :])) for n in lengths]
    divided(graph, x, axis, made)
    return made


def repeated(
    graph: Graph, x: str, times: Sequence[int], output: str, interleaved: bool = False
) -> None:
    """The whole tensor several times along each axis, or each position of it.

    Parameters
    ----------
    graph : Graph
    x : str
        Axes of length one are put in front where ``times`` has more.
    times : sequence of int
        For every axis of the output.
    output : str
    interleaved : bool
        Whether the copies of a position lie side by side.
    """
    shape = (1,) * (len(times) - len(graph.shapes[x])) + graph.shapes[x]
    before = [(n, 1) if interleaved else (1, n) for n in shape]
    after = [(n, k) if interleaved else (k, n) for n, k in zip(shape, times, strict=True)]
    copies = graph.temporary([n for pair in after for n in pair])
    graph.nodes.append(Expand(viewed(graph, x, [n for pair in before for n in pair]), copies))
    graph.nodes.append(Reshape(copies, output))


def looked_up(graph: Graph, table: str, indices: str, axis: int, output: str) -> None:
    """What data choose along one axis of a table: its order is fixed.

    Parameters
    ----------
    graph : Graph
    table, indices : str
    axis : int
        Of the table.
    output : str
        Shape ``(*table[:axis], *indices, *table[axis + 1:])``.
    """
    rows = [f"a{k}" for k in range(len(graph.shapes[table]))]
    places = [f"n{k}" for k in range(len(graph.shapes[indices]))]
    once = graph.temporary([1] * len(places))
    kept = (*rows[:axis], *places, *rows[axis + 1 :])
    graph.nodes += [
        Opaque((indices,), (once,), "selects by data"),
        Contraction((table, once), output, tuple(rows), tuple(f"once {k}" for k in places), kept),
    ]


# --- products and parameters ------------------------------------------------------------------


@contextlib.contextmanager
def parametrized(graph: Graph, axis: int, parameters: Parameters, output: str) -> Iterator[str]:
    """Where to put a result whose channels parameters apply to; without any, the output itself.

    Parameters
    ----------
    graph : Graph
    axis : int
        Of the channels.
    parameters : sequence of (tensor, role)
        Each of shape ``(channels,)``.
    output : str

    Examples
    --------
    >>> graph = Graph()
    >>> _ = graph.add_tensor("y", (2, 8, 4, 4))
    >>> with parametrized(graph, 1, [("bias", "bias")], "y") as product:
    ...     pass  # append what makes the product
    >>> graph.nodes
    [PerChannel(inputs=('%1', 'bias'), output='y', axis=1, roles=('bias',))]
    """
    if not parameters:
        yield output
        return
    result = graph.temporary(graph.shapes[output])
    yield result
    names, roles = zip(*parameters, strict=True)
    graph.nodes.append(PerChannel((result, *names), output, axis, roles))


def multiplied(graph: Graph, a: str, b: str, output: str) -> None:
    """``numpy.matmul(a, b)``; batch axes of length one that broadcast are dropped first.

    Parameters
    ----------
    graph : Graph
    a, b : str
        Shapes ``(*batch, m, k)`` and ``(*batch, k, n)``, or ``(k,)``.
    output : str

    Examples
    --------
    A batch of one sample is a batch:

    >>> graph = Graph(shapes={"a": (1, 3, 4), "b": (1, 4, 5), "y": (1, 3, 5)})
    >>> multiplied(graph, "a", "b", "y")
    >>> graph.nodes[-1].a_axes, graph.nodes[-1].out_axes
    (('b1', 'm', 'k'), ('b1', 'm', 'n'))
    """
    shape = graph.shapes[output]
    ends = sum(len(graph.shapes[x]) > 1 for x in (a, b))
    batch = shape[: len(shape) - ends]
    a, a_axes = _operand(graph, a, ("m", "k"), "m", batch)
    b, b_axes = _operand(graph, b, ("k", "n"), "n", batch)
    free = [name for name in ("m", "n") if name in (*a_axes, *b_axes)]
    out = (*(f"b{len(batch) - j}" for j in range(len(batch))), *free)
    graph.nodes.append(Contraction((a, b), output, a_axes, b_axes, out))


def _operand(
    graph: Graph, x: str, names: tuple[str, str], free: str, batch: Shape
) -> tuple[str, tuple[str, ...]]:
    """An operand and the names of its axes, ``b1`` being the last batch axis."""
    shape = graph.shapes[x]
    if len(shape) == 1:
        return x, tuple(name for name in names if name != free)
    own = len(shape) - 2
    sizes = batch[len(batch) - own :]
    keep = [j for j in range(own) if shape[j] == sizes[j]]
    if len(keep) < own:
        x = viewed(graph, x, [*(shape[j] for j in keep), *shape[-2:]])
    return x, (*(f"b{own - j}" for j in keep), *names)


def gated(graph: Graph, x: str, axis: int, output: str) -> None:
    """The first half of an axis, multiplied by a function of the second.

    Parameters
    ----------
    graph : Graph
    x : str
    axis : int
    output : str
        With half the length of the axis.
    """
    n = graph.shapes[output][axis]
    graph.nodes.append(Elementwise(tuple(parts(graph, x, axis, (n, n))), output, "mul"))


# --- normalizations ---------------------------------------------------------------------------


def normalized(graph: Graph, x: str, axes: Sequence[int], output: str) -> None:
    """``x`` that met statistics of itself over ``axes`` (softmax, a norm).

    Channels that the statistics are not over keep to themselves, so that merging those that are
    equal stays exact.

    Parameters
    ----------
    graph : Graph
    x, output : str
        Of one shape.
    axes : sequence of int
    """
    shape, over = graph.shapes[x], tuple(axes)
    statistics = graph.temporary([1 if a in over else n for a, n in enumerate(shape)])
    graph.nodes += [Reduce(x, statistics, over, True), Elementwise((x, statistics), output, "add")]


def layer_normalized(
    graph: Graph, x: str, axes: Sequence[int], parameters: Parameters, output: str
) -> None:
    """Over the last axes, then a scale and a shift of their shape, where there are any.

    Parameters
    ----------
    graph : Graph
    x, output : str
        Of one shape.
    axes : sequence of int
        The last ones of ``x``.
    parameters : sequence of (tensor, role)
        Roles ``"scale"`` and ``"shift"``.
    """
    shape = graph.shapes[x]
    if all(graph.shapes[name] == shape[-1:] for name, _ in parameters):
        with parametrized(graph, len(shape) - 1, parameters, output) as result:
            normalized(graph, x, axes, result)
        return
    steps = [*(graph.temporary(shape) for _ in parameters), output]
    normalized(graph, x, axes, steps[0])
    for (name, role), before, after in zip(parameters, steps, steps[1:], strict=False):
        op = "mul" if role == "scale" else "add"
        graph.nodes.append(Elementwise((before, name), after, op))


def normalized_in_groups(
    graph: Graph, x: str, groups: int, parameters: Parameters, output: str
) -> None:
    """Group normalization: over the channels of a group (axis 1) and all positions.

    Parameters
    ----------
    graph : Graph
    x, output : str
        Shape ``(n, channels, *spatial)``.
    groups : int
    parameters : sequence of (tensor, role)
        Each of shape ``(channels,)``, or each of shape ``(groups,)``.
    """
    n, channels, *spatial = graph.shapes[x]
    split = viewed(graph, x, (n, groups, channels // groups, *spatial))
    normal = graph.temporary(graph.shapes[split])
    normalized(graph, split, range(2, len(spatial) + 3), normal)
    if all(graph.shapes[name] == (channels,) for name, _ in parameters):
        with parametrized(graph, 1, parameters, output) as result:
            graph.nodes.append(Reshape(normal, result))
        return
    names, roles = zip(*parameters, strict=True)
    scaled = graph.temporary(graph.shapes[split])
    graph.nodes += [PerChannel((normal, *names), scaled, 1, roles), Reshape(scaled, output)]


# --- layers of several products ---------------------------------------------------------------


def attended(
    graph: Graph, operands: Sequence[tuple[str, str]], masks: Sequence[str], output: tuple[str, str]
) -> None:
    """Attention: ``softmax(q k^T + masks) v``; who sees whom depends on the places.

    Parameters
    ----------
    graph : Graph
    operands : (tensor, axes) of q, k and v
        Axes ``b, h, s, d``, ``b, h, l, d`` and ``b, h, l, e`` in any order.
    masks : sequence of str
        Added by broadcasting to ``(b, h, s, l)``.
    output : (tensor, axes)
        Axes ``b, h, s, e`` in any order.
    """
    (q, q_axes), (k, k_axes), (v, v_axes) = operands
    sizes = {a: n for x, axes in operands for a, n in zip(axes, graph.shapes[x], strict=True)}
    shape = [sizes[letter] for letter in "bhsl"]
    scores, placed, weights = (graph.temporary(shape) for _ in range(3))
    letters = tuple("bhsl")
    graph.nodes.append(Contraction((q, k), scores, tuple(q_axes), tuple(k_axes), letters))
    for mask in masks:
        before, scores = scores, graph.temporary(shape)
        graph.nodes.append(Elementwise((before, mask), scores, "add"))
    graph.nodes.append(Positional(scores, placed, (2, 3)))
    normalized(graph, placed, (3,), weights)
    name, axes = output
    graph.nodes.append(Contraction((weights, v), name, letters, tuple(v_axes), tuple(axes)))


def recurrent(
    graph: Graph,
    x: str,
    time: int,
    weights: tuple[str, str],
    biases: Sequence[str],
    states: Sequence[str],
    state: str,
) -> None:
    """A recurrent layer, with ``g`` gates and ``h`` hidden units in each of ``d`` directions.

    One step reads the input ``x`` and its own state ``s``::

        total[g, h] = sum_i W[g, h, i] x[i] + sum_k R[g, h, k] s[k] + biases[g, h]
        s'[h]       = f(total[0, h], ..., total[g - 1, h], s[h], states[h])

    Every hidden unit has one row in each gate of ``W`` and of ``R``, and one column of ``R``: they
    move together, as the equations say.  Unrolling once is enough: all steps use the same weights.
    Steps keep their order, and so do directions.

    Parameters
    ----------
    graph : Graph
    x : str
        Shape ``(t, b, i)``, or ``(b, t, i)`` where ``time`` is 1.
    time : int
        The axis of the steps.
    weights : (str, str)
        ``W`` of shape ``(d, g, h, i)`` and ``R`` of shape ``(d, g, h, h)``.
    biases : sequence of str
        Shape ``(d, g, h)``.
    states : sequence of str
        What else every unit reads (first states, peepholes), broadcast to ``(b, d, h)``.
    state : str
        The result, of shape ``(t, b, d, h)``.
    """
    W, R = weights
    one = graph.shapes[state]
    directions, gates, hidden, _ = graph.shapes[W]
    full = (*one[:3], gates, hidden)
    steps = graph.temporary(graph.shapes[x])
    graph.nodes.append(Positional(x, steps, (time,)))

    def stepped(total: str) -> str:
        read = [viewed(graph, part, one) for part in parts(graph, total, 3, [1] * gates)]
        result = graph.temporary(one)
        graph.nodes.append(Elementwise((*read, *states), result))
        return result

    def summed(*terms: str) -> str:
        result = graph.temporary(full)
        graph.nodes.append(Elementwise(terms, result, "add"))
        return result

    axes = "tbdgh"
    made, recurred = graph.temporary(full), graph.temporary(full)
    x_axes = tuple("bti" if time else "tbi")
    graph.nodes.append(Contraction((steps, W), made, x_axes, tuple("dghi"), tuple(axes)))
    read = summed(made, *biases)
    again = (stepped(read), R)
    graph.nodes.append(Contraction(again, recurred, tuple("tbdk"), tuple("dghk"), tuple(axes)))
    order = graph.temporary((directions, 1))  # nothing makes it: its positions are fixed
    graph.nodes.append(Elementwise((stepped(summed(read, recurred)), order), state))
