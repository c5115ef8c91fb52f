"""The same elements in another shape or order, as structural nodes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ....graph.find.nodes import (
    Concat,
    Elementwise,
    Expand,
    Gather,
    Graph,
    Pad,
    Positional,
    Reshape,
    Transpose,
)
from .table import Value, resolved_axes, resolved_axis, rule


@rule(
    "view",
    "_unsafe_view",
    "reshape",
    "flatten",
    "unflatten",
    "squeeze",
    "unsqueeze",
    "_reshape_alias",
    "view_copy",
    "squeeze_",
    "unsqueeze_",
)
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
    "split",
    "split_with_sizes",
    "chunk",
    "tensor_split",
    "split_copy",
    "unsafe_split",
    "unsafe_chunk",
    "unsafe_split_with_sizes",
)
def split(graph: Graph, outs: Sequence[Value], x: Value, _: Any, axis: int = 0, **__: Any) -> None:
    """Consecutive parts of one axis."""
    axis, start = resolved_axis(axis, len(x.shape)), 0
    for out in outs:
        stop = start + out.shape[axis]
        graph.nodes.append(Gather(x.name, out.name, axis, np.arange(start, stop)))
        start = stop


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
    indices = np.arange(x.shape[axis])[start:stop:step]
    graph.nodes.append(Gather(x.name, out.name, axis, indices))


@rule("narrow")
def narrow(graph: Graph, out: Value, x: Value, axis: int, start: int, length: int) -> None:
    """A range of one axis by its length."""
    slice_(graph, out, x, axis, start, start + length)


@rule("select", "select_copy")
def select(graph: Graph, out: Value, x: Value, axis: int, index: int) -> None:
    """One position of one axis."""
    axis = resolved_axis(axis, len(x.shape))
    one = graph.temporary([1 if a == axis else n for a, n in enumerate(x.shape)])
    graph.nodes += [
        Gather(x.name, one, axis, np.array([index % x.shape[axis]])),
        Reshape(one, out.name),
    ]


@rule("unbind")
def unbind(graph: Graph, outs: Sequence[Value], x: Value, axis: int = 0) -> None:
    """Every position of one axis."""
    for index, out in enumerate(outs):
        select(graph, out, x, axis, index)


@rule("flip")
def flip(graph: Graph, out: Value, x: Value, axes: Sequence[int]) -> None:
    """Axes reversed."""
    _gather_axes(
        graph, out, x, {a: np.arange(x.shape[a])[::-1] for a in resolved_axes(axes, len(x.shape))}
    )


@rule("roll")
def roll(graph: Graph, out: Value, x: Value, shifts: Any, axes: Any = ()) -> None:
    """Axes shifted cyclically."""
    shifts = [shifts] if isinstance(shifts, int) else shifts
    pairs = zip(resolved_axes(axes, len(x.shape)), shifts, strict=True)
    _gather_axes(graph, out, x, {a: np.roll(np.arange(x.shape[a]), s) for a, s in pairs})


def _gather_axes(graph: Graph, out: Value, x: Value, indices: dict[int, np.ndarray]) -> None:
    name = x.name
    for i, (axis, index) in enumerate(indices.items()):
        target = out.name if i == len(indices) - 1 else graph.temporary(x.shape)
        graph.nodes.append(Gather(name, target, axis, index))
        name = target


@rule("index_select")
def index_select(graph: Graph, out: Value, x: Value, axis: int, index: Value) -> None:
    """Positions of one axis, by a constant or by data."""
    axis = resolved_axis(axis, len(x.shape))
    if index.constant is not None:
        graph.nodes.append(Gather(x.name, out.name, axis, index.constant.ravel()))
        return
    row = graph.temporary([n if a == axis else 1 for a, n in enumerate(out.shape)])
    graph.nodes.append(Reshape(index.name, row))
    _chosen(graph, out, x, axis, row)


@rule("gather")
def gather(graph: Graph, out: Value, x: Value, axis: int, index: Value, **_: Any) -> bool | None:
    """For every position of the index another one of an axis."""
    axis = resolved_axis(axis, len(x.shape))
    if any(n != m for a, (n, m) in enumerate(zip(x.shape, out.shape, strict=True)) if a != axis):
        return False
    _chosen(graph, out, x, axis, index.name)
    return None


def _chosen(graph: Graph, out: Value, x: Value, axis: int, index: str) -> None:
    """``out`` holds what data choose along one axis of ``x``, and goes with what chooses."""
    one = graph.temporary([1 if a == axis else n for a, n in enumerate(x.shape)])
    every = graph.temporary(out.shape)
    graph.nodes += [
        Positional(x.name, one, (axis,)),
        Expand(one, every),
        Elementwise((every, index), out.name),
    ]


@rule("index")
def index(graph: Graph, out: Value, x: Value, indices: Sequence[Value | None]) -> bool | None:
    """``x[:, index]``: one index along one axis; the index may have several dimensions."""
    given = [(a, v) for a, v in enumerate(indices) if v is not None]
    if len(given) != 1:
        return False
    axis, value = given[0]
    flat = value.constant
    if flat is None:
        return False
    flat = np.flatnonzero(flat) if flat.dtype == bool else flat.ravel() % x.shape[axis]
    taken = graph.temporary([len(flat) if a == axis else n for a, n in enumerate(x.shape)])
    graph.nodes += [Gather(x.name, taken, axis, flat), Reshape(taken, out.name)]
    return None


@rule("embedding")
def embedding(graph: Graph, out: Value, weight: Value, index: Value, *_: Any) -> None:
    """Rows of a table chosen by data."""
    row = graph.temporary((1, weight.shape[1]))
    graph.nodes.append(Positional(weight.name, row, (0,)))
    if index.constant is not None:
        graph.nodes.append(Expand(row, out.name))
        return
    column, every = graph.temporary((*index.shape, 1)), graph.temporary(out.shape)
    graph.nodes += [
        Reshape(index.name, column),
        Expand(row, every),
        Elementwise((every, column), out.name),
    ]


@rule("expand", "expand_copy", "broadcast_to")
def expand(graph: Graph, out: Value, x: Value, *_: Any, **__: Any) -> None:
    """Broadcast."""
    graph.nodes.append(Expand(x.name, out.name))


@rule("repeat", "tile")
def repeat(graph: Graph, out: Value, x: Value, times: Sequence[int]) -> None:
    """The whole tensor several times along each axis."""
    shape = (1,) * (len(times) - len(x.shape)) + tuple(x.shape)
    _copies(graph, out, x, [(1, n) for n in shape], list(zip(times, shape, strict=True)))


@rule("repeat_interleave")
def repeat_interleave(
    graph: Graph, out: Value, x: Value, times: Any = None, axis: Any = None, **_: Any
) -> bool | None:
    """Every position several times."""
    if not isinstance(times, int) or axis is None:
        return False
    axis = resolved_axis(axis, len(x.shape))
    before = [(n, 1) for n in x.shape]
    after = [(n, times if a == axis else 1) for a, n in enumerate(x.shape)]
    _copies(graph, out, x, before, after)
    return None


def _copies(graph: Graph, out: Value, x: Value, before: list, after: list) -> None:
    narrow_ = graph.temporary([n for pair in before for n in pair])
    wide = graph.temporary([n for pair in after for n in pair])
    graph.nodes += [Reshape(x.name, narrow_), Expand(narrow_, wide), Reshape(wide, out.name)]


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
    _rearrange(graph, out, x, (n, c // (r * r), r, r, h, w), (0, 1, 4, 2, 5, 3))


@rule("pixel_unshuffle")
def pixel_unshuffle(graph: Graph, out: Value, x: Value, r: int) -> None:
    """``(n, c, h r, w r)`` to ``(n, c r r, h, w)``."""
    *lead, c, h, w = x.shape
    n = math.prod(lead)
    _rearrange(graph, out, x, (n, c, h // r, r, w // r, r), (0, 1, 3, 5, 2, 4))


@rule("channel_shuffle", "native_channel_shuffle")
def channel_shuffle(graph: Graph, out: Value, x: Value, groups: int) -> None:
    """Channels of all groups interleaved."""
    n, c, *rest = x.shape
    shape = (n, groups, c // groups, *rest)
    _rearrange(graph, out, x, shape, (0, 2, 1, *range(3, len(shape))))


def _rearrange(
    graph: Graph, out: Value, x: Value, shape: tuple[int, ...], order: tuple[int, ...]
) -> None:
    split_ = graph.temporary(shape)
    turned = graph.temporary([shape[a] for a in order])
    graph.nodes += [
        Reshape(x.name, split_),
        Transpose(split_, turned, order),
        Reshape(turned, out.name),
    ]
