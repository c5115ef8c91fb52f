"""The same elements in another shape or order, as structural nodes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ....graph.find.composites import divided, looked_up, rearranged, repeated, taken, viewed
from ....graph.find.nodes import (
    Concat,
    Elementwise,
    Expand,
    Graph,
    Pad,
    Positional,
    Reshape,
    Transpose,
)
from .table import Value, resolved_axes, resolved_axis, rule


@rule(
    "view", "_unsafe_view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze",
    "_reshape_alias", "view_copy", "squeeze_", "unsqueeze_",
)  # fmt: skip
def reshape(graph: Graph, out: Value, x: Value, *_: Any, **__: Any) -> None:
    """Row-major order is kept."""
    graph.nodes.append(Reshape(x.name, out.name))


@rule("permute")
def permute(graph: Graph, out: Value, x: Value, order: Sequence[int]) -> None:
    """Axes in a new order."""
    graph.nodes.append(Transpose(x.name, out.name, resolved_axes(order, len(x.shape))))


@rule("transpose", "transpose_", "swapaxes")
def transpose(graph: Graph, out: Value, x: Value, a: int, b: int) -> None:
    """Two axes exchanged."""
    order = list(range(len(x.shape)))
    a, b = resolved_axis(a, len(order)), resolved_axis(b, len(order))
    if order:
        order[a], order[b] = order[b], order[a]
    graph.nodes.append(Transpose(x.name, out.name, tuple(order)))


@rule("t", "mT", "numpy_T")
def matrix_transpose(graph: Graph, out: Value, x: Value) -> None:
    """A matrix transposed."""
    graph.nodes.append(Transpose(x.name, out.name, tuple(reversed(range(len(x.shape))))))


@rule("cat", "concat")
def concat(graph: Graph, out: Value, parts: Sequence[Value], axis: int = 0) -> None:
    """One after the other; legacy empty tensors are skipped."""
    names = tuple(p.name for p in parts if p.shape != (0,))
    graph.nodes.append(Concat(names, out.name, resolved_axis(axis, len(out.shape))))


@rule("stack")
def stack(graph: Graph, out: Value, parts: Sequence[Value], axis: int = 0) -> None:
    """Along a new axis."""
    axis = resolved_axis(axis, len(out.shape))
    shape = tuple(1 if a == axis else n for a, n in enumerate(out.shape))
    names = []
    for part in parts:
        names.append(graph.temporary(shape))
        graph.nodes.append(Reshape(part.name, names[-1]))
    graph.nodes.append(Concat(tuple(names), out.name, axis))


@rule(
    "split", "split_with_sizes", "chunk", "tensor_split", "split_copy", "unsafe_split",
    "unsafe_chunk", "unsafe_split_with_sizes",
)  # fmt: skip
def split(graph: Graph, outs: Sequence[Value], x: Value, _: Any, axis: int = 0, **__: Any) -> None:
    """Consecutive parts of one axis."""
    divided(graph, x.name, resolved_axis(axis, len(x.shape)), [out.name for out in outs])


@rule("slice", "slice_copy")
def slice_(
    graph: Graph,
    out: Value,
    x: Value,
    axis: int = 0,
    start: Any = None,
    stop: Any = None,
    step: int = 1,
) -> None:
    """A range of one axis."""
    axis = resolved_axis(axis, len(x.shape))
    taken(graph, x.name, {axis: np.arange(x.shape[axis])[start:stop:step]}, out.name)


@rule("narrow")
def narrow(graph: Graph, out: Value, x: Value, axis: int, start: int, length: int) -> None:
    """A range of one axis by its length."""
    slice_(graph, out, x, axis, start, start + length)


@rule("select", "select_copy")
def select(graph: Graph, out: Value, x: Value, axis: int, index: int) -> None:
    """One position of one axis."""
    axis = resolved_axis(axis, len(x.shape))
    taken(graph, x.name, {axis: np.array([index % x.shape[axis]])}, out.name)


@rule("unbind")
def unbind(graph: Graph, outs: Sequence[Value], x: Value, axis: int = 0) -> None:
    """Every position of one axis."""
    for index, out in enumerate(outs):
        select(graph, out, x, axis, index)


@rule("flip")
def flip(graph: Graph, out: Value, x: Value, axes: Sequence[int]) -> None:
    """Axes reversed."""
    found = resolved_axes(axes, len(x.shape))
    taken(graph, x.name, {a: np.arange(x.shape[a])[::-1] for a in found}, out.name)


@rule("roll")
def roll(graph: Graph, out: Value, x: Value, shifts: Any, axes: Any = ()) -> bool | None:
    """Axes shifted cyclically, one axis several times perhaps."""
    if not isinstance(axes, int) and not axes:  # all elements, across channels and samples
        return False
    shifts = [shifts] if isinstance(shifts, int) else shifts
    found = resolved_axes(axes, len(x.shape))
    order = {a: np.arange(x.shape[a]) for a in found}
    for a, s in zip(found, shifts, strict=True):
        order[a] = np.roll(order[a], s)
    taken(graph, x.name, order, out.name)
    return None


@rule("index_select")
def index_select(graph: Graph, out: Value, x: Value, axis: int, index: Value) -> None:
    """Positions of one axis, by a constant or by data."""
    axis = resolved_axis(axis, len(x.shape))
    if index.constant is not None:
        taken(graph, x.name, {axis: index.constant.ravel()}, out.name)
    else:
        looked_up(graph, x.name, index.name, axis, out.name)


@rule("gather")
def gather(graph: Graph, out: Value, x: Value, axis: int, index: Value, **_: Any) -> bool | None:
    """For every position of the index another one of an axis."""
    axis = resolved_axis(axis, len(x.shape))
    if any(n != m for a, (n, m) in enumerate(zip(x.shape, out.shape, strict=True)) if a != axis):
        return False
    one = graph.temporary([1 if a == axis else n for a, n in enumerate(x.shape)])
    every = graph.temporary(out.shape)
    graph.nodes += [
        Positional(x.name, one, (axis,)),
        Expand(one, every),
        Elementwise((every, index.name), out.name),
    ]
    return None


@rule("index")
def index(graph: Graph, out: Value, x: Value, indices: Sequence[Value | None]) -> bool | None:
    """``x[:, index]``: one index along one axis, of any rank, constant or chosen by data.

    A mask is of as many axes as it has.
    """
    given = [(a, v) for a, v in enumerate(indices) if v is not None]
    if len(given) != 1:
        return False
    axis, value = given[0]
    flat = value.constant
    if flat is None:
        if out.shape != (*x.shape[:axis], *value.shape, *x.shape[axis + 1 :]):  # a mask
            return False
        looked_up(graph, x.name, value.name, axis, out.name)
        return None
    name = x.name
    if flat.dtype in (np.bool_, np.uint8):
        end = axis + flat.ndim
        joined = (*x.shape[:axis], math.prod(x.shape[axis:end]), *x.shape[end:])
        name = viewed(graph, name, joined) if flat.ndim != 1 else name
        flat = np.flatnonzero(flat)
    else:
        flat = flat.ravel() % x.shape[axis]
    taken(graph, name, {axis: flat}, out.name)
    return None


@rule("embedding")
def embedding(graph: Graph, out: Value, weight: Value, index: Value, *_: Any) -> None:
    """Rows of a table chosen by data."""
    if index.constant is not None:
        taken(graph, weight.name, {0: index.constant.ravel()}, out.name)
    else:
        looked_up(graph, weight.name, index.name, 0, out.name)


@rule("expand", "expand_copy", "broadcast_to")
def expand(graph: Graph, out: Value, x: Value, *_: Any, **__: Any) -> None:
    """Broadcast."""
    graph.nodes.append(Expand(x.name, out.name))


@rule("repeat", "tile")
def repeat(graph: Graph, out: Value, x: Value, times: Sequence[int]) -> None:
    """The whole tensor several times along each axis."""
    repeated(graph, x.name, times, out.name)


@rule("repeat_interleave")
def repeat_interleave(
    graph: Graph, out: Value, x: Value, times: Any = None, axis: Any = None, **_: Any
) -> bool | None:
    """Every position several times."""
    if not isinstance(times, int) or axis is None:
        return False
    axis = resolved_axis(axis, len(x.shape))
    each = [times if a == axis else 1 for a in range(len(x.shape))]
    repeated(graph, x.name, each, out.name, interleaved=True)
    return None


@rule("constant_pad_nd", "pad")
def pad(graph: Graph, out: Value, x: Value, widths: Sequence[int], *_: Any) -> None:
    """Constant border; widths come in pairs from the last axis on."""
    rank = len(x.shape)
    before, after = [0] * rank, [0] * rank
    for i in range(len(widths) // 2):
        before[rank - 1 - i], after[rank - 1 - i] = widths[2 * i], widths[2 * i + 1]
    graph.nodes.append(Pad(x.name, out.name, tuple(before), tuple(after)))


@rule("pixel_shuffle")
def pixel_shuffle(graph: Graph, out: Value, x: Value, r: int) -> None:
    """``(n, c r r, h, w)`` to ``(n, c, h r, w r)``."""
    *lead, c, h, w = x.shape
    n = math.prod(lead)
    view = (n, c // (r * r), r, r, h, w)
    rearranged(graph, x.name, view, (0, 1, 4, 2, 5, 3), out.name)


@rule("pixel_unshuffle")
def pixel_unshuffle(graph: Graph, out: Value, x: Value, r: int) -> None:
    """``(n, c, h r, w r)`` to ``(n, c r r, h, w)``."""
    *lead, c, h, w = x.shape
    n = math.prod(lead)
    view = (n, c, h // r, r, w // r, r)
    rearranged(graph, x.name, view, (0, 1, 3, 5, 2, 4), out.name)


@rule("channel_shuffle", "native_channel_shuffle")
def channel_shuffle(graph: Graph, out: Value, x: Value, groups: int) -> None:
    """Channels of all groups interleaved."""
    n, c, *rest = x.shape
    view = (n, groups, c // groups, *rest)
    rearranged(graph, x.name, view, (0, 2, 1, *range(3, len(view))), out.name)
