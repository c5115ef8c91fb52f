"""ONNX operators that give the same elements in another shape or order.

Part of the table in :mod:`rejuvenet.adapters.onnx.operators.table`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from ....graph.find.composites import divided, looked_up, rearranged, repeated, taken, viewed
from ....graph.find.nodes import Concat, Elementwise, Expand, Pad, Reshape, Transpose

if TYPE_CHECKING:
    from ..call import Call


def reshape(c: Call) -> None:
    """Flatten, Reshape, Squeeze, Unsqueeze: the shapes say it all."""
    c.emit(Reshape(c.data(0), c.output()))


def transpose(c: Call) -> None:
    x = c.data(0)
    rank = len(c.shape(x))
    order = c.attribute("perm", tuple(reversed(range(rank))))
    c.emit(Transpose(x, c.output(), tuple(order)))


def concat(c: Call) -> None:
    axis = c.attribute("axis", 0) % len(c.shape(c.output()))
    c.emit(Concat(c.every_input(), c.output(), axis))


def split(c: Call) -> None:
    x = c.data(0)
    axis = c.attribute("axis", 0) % len(c.shape(x))
    divided(c.graph, x, axis, [c.output(i) for i in range(c.n_outputs)])


def split_to_sequence(c: Call) -> None:
    """The parts are described where they are read, by ``SequenceAt`` at a constant place."""
    c.lengths(0)
    for node in c.readers():
        place = node.inputs[1] if node.op_type == "SequenceAt" else None
        if place is None or str(place.name) not in c.model.known:
            raise c.unsupported("makes a sequence that is not read at constant places")


def sequence_at(c: Call) -> None:
    """One part of ``SplitToSequence``."""
    whole = c.maker(0)
    x = whole.data(0)
    lengths = whole.lengths(0)
    i = int(c.value(1).item()) % len(lengths)
    axis = whole.attribute("axis", 0) % len(c.shape(x))
    start = sum(lengths[:i])
    taken(c.graph, x, {axis: np.arange(start, start + lengths[i])}, c.output())


def slices(c: Call) -> None:
    x = c.data(0)
    rank = len(c.shape(x))
    starts, ends = c.setting("starts", 1), c.setting("ends", 2)
    axes, steps = c.setting("axes", 3), c.setting("steps", 4)
    axes = range(len(starts)) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    chosen = {}
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        place = int(axis) % rank
        chosen[place] = np.arange(c.shape(x)[place])[int(start) : int(end) : int(step)]
        if step < 0 and end < -c.shape(x)[place]:  # python reads -1 - n as an end inside
            chosen[place] = np.arange(c.shape(x)[place])[int(start) :: int(step)]
    taken(c.graph, x, chosen, c.output())


def gather(c: Call) -> None:
    """Constant indices of any rank; a lookup by data is a contraction with a one-hot."""
    x, y = c.data(0), c.output()
    rank = len(c.shape(x))
    axis = c.attribute("axis", 0) % rank
    if c.is_known(1):
        indices = c.value(1).reshape(-1).astype(np.int64)
        return taken(c.graph, x, {axis: indices % max(c.shape(x)[axis], 1)}, y)
    return looked_up(c.graph, x, c.data(1), axis, y)


def gather_nd(c: Call) -> None:
    """Constant indices into several axes together: they are one axis of their product."""
    x, y = c.data(0), c.output()
    indices = c.value(1)
    if c.attribute("batch_dims", 0):
        raise c.unsupported("has batch axes")
    k, shape = indices.shape[-1], c.shape(x)
    flat = viewed(c.graph, x, (int(np.prod(shape[:k])), *shape[k:]))
    sizes = np.array(shape[:k])
    rows = np.ravel_multi_index(tuple(np.moveaxis(indices % sizes, -1, 0)), shape[:k]).ravel()
    taken(c.graph, flat, {0: rows}, y)


def scatter_nd(c: Call) -> None:
    """Whole rows filled with one value: only which rows they are matters."""
    x, rows, filled = c.data(0), c.value(1), c.value(2)
    added = c.attribute("reduction", "none") != "none"
    if added or rows.shape[-1] != 1 or filled.size == 0 or (filled != filled.flat[0]).any():
        raise c.unsupported("writes more than one value into a part")
    chosen = np.unique(rows % c.shape(x)[0])
    taken(c.graph, x, {0: chosen}, c.temporary((len(chosen), *c.shape(x)[1:])))
    c.emit(Elementwise((x,), c.output()))


def pad(c: Call) -> None:
    x, y = c.data(0), c.output()
    shape = c.shape(x)
    pads = c.setting("pads", 1)
    axes = c.value(3) if c.has(3) else range(len(shape))
    before, after = [0] * len(shape), [0] * len(shape)
    for k, axis in enumerate(axes):
        before[int(axis)], after[int(axis)] = int(pads[k]), int(pads[len(pads) // 2 + k])
    mode = c.attribute("mode", "constant")
    if mode == "constant":
        return c.emit(Pad(x, y, tuple(before), tuple(after)))
    if min(before + after) < 0:
        raise c.unsupported(f"crops in mode {mode!r}")
    widths = zip(shape, before, after, strict=True)
    chosen = {i: np.pad(np.arange(n), (b, a), mode=mode) for i, (n, b, a) in enumerate(widths)}
    return taken(c.graph, x, chosen, y)


def expand(c: Call) -> None:
    c.emit(Expand(c.data(0), c.output()))


def tile(c: Call) -> None:
    repeated(c.graph, c.data(0), [int(n) for n in c.value(1)], c.output())


def depth_to_space(c: Call) -> None:
    n, channels, h, w = c.shape(c.data(0))
    b = c.attribute("blocksize", 1)
    if c.attribute("mode", "DCR") == "DCR":
        views = (n, b, b, channels // b**2, h, w), (0, 3, 4, 1, 5, 2)
    else:
        views = (n, channels // b**2, b, b, h, w), (0, 1, 4, 2, 5, 3)
    rearranged(c.graph, c.data(0), *views, c.output())


def space_to_depth(c: Call) -> None:
    n, channels, h, w = c.shape(c.data(0))
    b = c.attribute("blocksize", 1)
    view = (n, channels, h // b, b, w // b, b)
    rearranged(c.graph, c.data(0), view, (0, 3, 5, 1, 2, 4), c.output())


SHAPES: dict[str, Callable[[Call], None]] = {
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), reshape),
    "Concat": concat,
    "DepthToSpace": depth_to_space,
    "Expand": expand,
    "Gather": gather,
    "GatherND": gather_nd,
    "Pad": pad,
    "ScatterND": scatter_nd,
    "Slice": slices,
    "SpaceToDepth": space_to_depth,
    "SequenceAt": sequence_at,
    "Split": split,
    "SplitToSequence": split_to_sequence,
    "Tile": tile,
    "Transpose": transpose,
}
