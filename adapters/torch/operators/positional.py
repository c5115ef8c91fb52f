"""Operators that tell the positions along an axis apart, as structural nodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ....graph.find.composites import viewed
from ....graph.find.nodes import Elementwise, Expand, Freeze, Graph, Positional, Reshape
from .table import Value, resolved_axis, rule

PLACES = "its values are places to read"


@rule(
    "max_pool2d_with_indices", "max_pool3d_with_indices", "avg_pool1d", "avg_pool2d", "avg_pool3d",
    "max_pool1d", "max_pool2d", "max_pool3d", "mkldnn_max_pool2d", "_adaptive_avg_pool2d",
    "_adaptive_avg_pool3d", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_max_pool2d",
    "adaptive_max_pool3d", "fractional_max_pool2d", "upsample_nearest1d", "upsample_nearest2d",
    "upsample_nearest3d", "_upsample_nearest_exact2d", "upsample_linear1d", "upsample_bilinear2d",
    "upsample_bicubic2d", "upsample_trilinear3d", "_upsample_bilinear2d_aa",
    "_upsample_bicubic2d_aa", "reflection_pad1d", "reflection_pad2d", "reflection_pad3d",
    "replication_pad1d", "replication_pad2d", "replication_pad3d",
)  # fmt: skip
def spatial(
    graph: Graph, outs: Sequence[Value], x: Value, *_: Any, operator: str, **__: Any
) -> None:
    """Pooling, resizing and border padding of the last one, two or three axes."""
    rank = len(x.shape)
    count = next(k for k in (1, 2, 3) if f"{k}d" in operator)
    axes = tuple(range(rank - count, rank))
    for number, value in enumerate(outs):  # the second one holds places, not values
        graph.nodes.append(Positional(x.name, value.name, axes, homogeneous=number == 0))


@rule("cumsum", "cumprod", "logcumsumexp", "sort", "topk")
def ordered(
    graph: Graph, outs: Sequence[Value], x: Value, *args: Any, operator: str, **named: Any
) -> None:
    """Functions of the order along one axis."""
    position = 1 if operator == "topk" else 0
    axis = named.get("dim", args[position] if len(args) > position else -1)
    axis = axis if isinstance(axis, int) and not isinstance(axis, bool) else -1
    for value in outs:
        graph.nodes.append(Positional(x.name, value.name, (resolved_axis(axis, len(x.shape)),)))


@rule("unfold")
def unfold(graph: Graph, out: Value, x: Value, axis: int, size: int, step: int) -> None:
    """Sliding windows along one axis; the place in the window is a new last axis."""
    axis = resolved_axis(axis, len(x.shape))
    windows = graph.temporary(out.shape[:-1])
    column = graph.temporary((*out.shape[:-1], 1))
    graph.nodes += [
        Positional(x.name, windows, (axis,)),
        Reshape(windows, column),
        Expand(column, out.name),
    ]


@rule("im2col")
def im2col(graph: Graph, out: Value, x: Value, *_: Any) -> None:
    """Sliding blocks: ``(n, c, h, w)`` to ``(n, c * kh * kw, blocks)``."""
    n, c = x.shape[:2]
    point = graph.temporary((n, c, 1, 1))
    blocks = graph.temporary((n, c, out.shape[1] // c, out.shape[2]))
    graph.nodes += [
        Positional(x.name, point, (2, 3)),
        Expand(point, blocks),
        Reshape(blocks, out.name),
    ]


@rule("col2im")
def col2im(graph: Graph, out: Value, x: Value, *_: Any) -> None:
    """Sliding blocks summed up: ``(n, c * kh * kw, blocks)`` to ``(n, c, h, w)``."""
    *lead, rows, count = x.shape
    c = out.shape[-3]
    blocks = viewed(graph, x.name, (*lead, c, rows // c, count))
    axes = len(lead) + 1, len(lead) + 2
    graph.nodes.append(Positional(blocks, out.name, axes, homogeneous=True))


@rule("max_unpool2d", "max_unpool3d")
def unpool(graph: Graph, out: Value, x: Value, places: Value, size: Sequence[int], *_: Any) -> None:
    """Values put back where a pooling of the same channels took them."""
    placed, rank = graph.temporary(x.shape), len(x.shape)
    axes = tuple(range(rank - len(size), rank))
    graph.nodes += [
        Elementwise((x.name, places.name), placed),
        Positional(placed, out.name, axes),
    ]


@rule("grid_sampler_2d", "grid_sampler_3d")
def sampled(graph: Graph, out: Value, x: Value, grid: Value, *_: Any) -> None:
    """Every channel read at the same places, which data choose."""
    axes = tuple(range(2, len(x.shape)))
    graph.nodes += [Freeze((grid.name,), PLACES), Positional(x.name, out.name, axes)]


@rule("torchvision::roi_align", "torchvision::roi_pool")
def regions(graph: Graph, outs: Sequence[Value], x: Value, boxes: Value, *_: Any) -> None:
    """Regions of some samples: the first axis of the output counts regions."""
    graph.nodes.append(Freeze((boxes.name,), PLACES))
    for out in outs:
        graph.nodes.append(Positional(x.name, out.name, (0, 2, 3)))
