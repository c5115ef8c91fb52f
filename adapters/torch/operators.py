"""ATen operators as structural nodes: the one table of the PyTorch adapter.

Each rule gets the graph and one call ``out = operator(*args, **kwargs)`` with tensors replaced by
:class:`Value`, and appends nodes.  A rule with a parameter ``outs`` gets all outputs, the others
the first; a rule with a parameter ``operator`` is told the name that it was called by; a rule that
cannot describe a call returns False.  Operators that PyTorch itself tags as pointwise need
no entry.  What has no entry is opaque: it freezes what it touches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...graph.nodes import (
    Concat,
    Contraction,
    Elementwise,
    Expand,
    Gather,
    Graph,
    Pad,
    PerChannel,
    Positional,
    Reduce,
    Reshape,
    Shape,
    Transpose,
)


@dataclass(frozen=True)
class Value:
    """A tensor in a call: its name in the graph, its layout, and its value where it is constant."""

    name: str
    shape: Shape
    strides: tuple[int, ...] = ()
    constant: np.ndarray | None = None


Rule = Callable[..., "bool | None"]
RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Enter a function into the table under the names of the operators that it describes."""

    def enter(function: Rule) -> Rule:
        for name in names:
            RULES[name] = function
        return function

    return enter


def _axis(axis: int, rank: int) -> int:
    return axis % rank if rank else 0


def _axes(axes: int | Sequence[int] | None, rank: int) -> tuple[int, ...]:
    if axes is None or (not isinstance(axes, int) and len(axes) == 0):
        return tuple(range(rank))
    return tuple(_axis(a, rank) for a in ([axes] if isinstance(axes, int) else axes))


# --- products -----------------------------------------------------------------------------------


@rule("convolution", "cudnn_convolution", "mkldnn_convolution", "_convolution")
def convolution(graph: Graph, out: Value, x: Value, weight: Value, bias: Value | None, *rest: Any):
    """``convolution(x, weight, bias, stride, padding, dilation, transposed, _, groups)``."""
    transposed, groups = rest[3], rest[5]
    target = out.name if bias is None else graph.temporary(out.shape)
    graph.add_convolution(x.name, weight.name, target, groups, transposed)
    if bias is not None:
        graph.nodes.append(PerChannel((target, bias.name), out.name, 1, ("bias",)))


def _product(graph: Graph, a: Value, b: Value, out: str, axes: tuple[str, str, str]) -> None:
    graph.nodes.append(
        Contraction((a.name, b.name), out, tuple(axes[0]), tuple(axes[1]), tuple(axes[2]))
    )


@rule("mm")
def mm(graph: Graph, out: Value, a: Value, b: Value) -> None:
    """Matrix by matrix."""
    _product(graph, a, b, out.name, ("mk", "kn", "mn"))


@rule("bmm")
def bmm(graph: Graph, out: Value, a: Value, b: Value, *_: Any) -> None:
    """A batch of matrix products."""
    _product(graph, a, b, out.name, ("bmk", "bkn", "bmn"))


@rule("mv")
def mv(graph: Graph, out: Value, a: Value, b: Value) -> None:
    """Matrix by vector."""
    _product(graph, a, b, out.name, ("mk", "k", "m"))


@rule("addmm", "baddbmm")
def addmm(graph: Graph, out: Value, bias: Value, a: Value, b: Value, **_: Any) -> None:
    """A product plus a bias."""
    target = graph.temporary(out.shape)
    axes = ("mk", "kn", "mn") if len(a.shape) == 2 else ("bmk", "bkn", "bmn")
    _product(graph, a, b, target, axes)
    if len(bias.shape) == 1:
        graph.nodes.append(PerChannel((target, bias.name), out.name, len(out.shape) - 1, ("bias",)))
    else:
        graph.nodes.append(Elementwise((target, bias.name), out.name, "add"))


@rule("linear")
def linear(graph: Graph, out: Value, x: Value, weight: Value, bias: Value | None = None) -> None:
    """``x @ weight.T + bias``."""
    batch = tuple(f"b{i}" for i in range(len(x.shape) - 1))
    target = out.name if bias is None else graph.temporary(out.shape)
    graph.nodes.append(
        Contraction((x.name, weight.name), target, (*batch, "k"), ("n", "k"), (*batch, "n"))
    )
    if bias is not None:
        graph.nodes.append(PerChannel((target, bias.name), out.name, len(out.shape) - 1, ("bias",)))


@rule(
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_fused_attention_overrideable",
)
def attention(
    graph: Graph, out: Value, q: Value, k: Value, v: Value, bias: Any = None, *_: Any, **named: Any
) -> None:
    """``softmax(q k^T) v`` over ``(batch, heads, tokens, channels)``."""
    bias = named.get("attn_mask", bias)
    shape = (*q.shape[:3], k.shape[2])
    scores = graph.temporary(shape)
    _product(graph, q, k, scores, ("bhtd", "bhsd", "bhts"))
    if isinstance(bias, Value):
        biased = graph.temporary(shape)
        graph.nodes.append(Elementwise((scores, bias.name), biased, "add"))
        scores = biased
    _product(graph, Value(scores, shape), v, out.name, ("bhts", "bhse", "bhte"))


# --- normalizations -----------------------------------------------------------------------------


@rule(
    "native_batch_norm",
    "cudnn_batch_norm",
    "miopen_batch_norm",
    "_native_batch_norm_legit_no_training",
    "_native_batch_norm_legit",
    "_batch_norm_no_update",
    "_batch_norm_with_update",
)
def batch_norm(graph: Graph, out: Value, x: Value, *rest: Any) -> None:
    """``batch_norm(x, scale, shift, running_mean, running_var, ...)``."""
    given = zip(rest[:4], ("scale", "shift", "running_mean", "running_var"), strict=False)
    used = [(value.name, role) for value, role in given if isinstance(value, Value)]
    graph.nodes.append(
        PerChannel(
            (x.name, *(name for name, _ in used)), out.name, 1, tuple(role for _, role in used)
        )
    )


def _normalize(graph: Graph, x: str, shape: Shape, axes: tuple[int, ...], out: str) -> None:
    """``out = f(x, statistics of x over axes)``."""
    statistics = graph.temporary([1 if a in axes else n for a, n in enumerate(shape)])
    graph.nodes += [Reduce(x, statistics, axes, True), Elementwise((x, statistics), out, "add")]


def _affine(graph: Graph, x: str, out: Value, axis: int, scale: Any, shift: Any) -> None:
    used = [(v, r) for v, r in ((scale, "scale"), (shift, "shift")) if isinstance(v, Value)]
    graph.nodes.append(
        PerChannel((x, *(v.name for v, _ in used)), out.name, axis, tuple(r for _, r in used))
    )


@rule("native_layer_norm", "_fused_rms_norm")
def layer_norm(
    graph: Graph,
    out: Value,
    x: Value,
    over: Sequence[int],
    scale: Any = None,
    shift: Any = None,
    *_: Any,
) -> None:
    """Normalization over the last axes."""
    rank = len(x.shape)
    axes = tuple(range(rank - len(over), rank))
    normal = graph.temporary(x.shape)
    _normalize(graph, x.name, x.shape, axes, normal)
    if len(axes) == 1:
        _affine(graph, normal, out, axes[0], scale, shift)
        return
    for value, op in ((scale, "mul"), (shift, "add")):
        if isinstance(value, Value):
            target = graph.temporary(x.shape)
            graph.nodes.append(Elementwise((normal, value.name), target, op))
            normal = target
    graph.nodes.append(Elementwise((normal,), out.name))


@rule("native_group_norm")
def group_norm(
    graph: Graph,
    out: Value,
    x: Value,
    scale: Any,
    shift: Any,
    n: int,
    c: int,
    size: int,
    groups: int,
    *_: Any,
) -> None:
    """Normalization over the channels of a group and all positions."""
    shape = (n, groups, c // groups, *x.shape[2:])
    split, normal = graph.temporary(shape), graph.temporary(shape)
    graph.nodes.append(Reshape(x.name, split))
    _normalize(graph, split, shape, tuple(range(2, len(shape))), normal)
    whole = graph.temporary(x.shape)
    graph.nodes.append(Reshape(normal, whole))
    _affine(graph, whole, out, 1, scale, shift)


@rule("_softmax", "_log_softmax", "softmax", "log_softmax", "_safe_softmax")
def softmax(graph: Graph, out: Value, x: Value, axis: int, *_: Any, **__: Any) -> None:
    """Normalization over one axis."""
    _normalize(graph, x.name, x.shape, (_axis(axis, len(x.shape)),), out.name)


@rule("_weight_norm_interface")
def weight_norm(graph: Graph, outs: Sequence[Value], v: Value, g: Value, axis: int = 0) -> None:
    """``g * v / |v|``, the norm over all axes but one."""
    out = outs[0]
    normal = graph.temporary(v.shape)
    axes = tuple(a for a in range(len(v.shape)) if a != axis)
    _normalize(graph, v.name, v.shape, axes, normal)
    graph.nodes.append(Elementwise((normal, g.name), out.name, "mul"))


# --- reductions ---------------------------------------------------------------------------------


@rule(
    "mean",
    "sum",
    "amax",
    "amin",
    "prod",
    "logsumexp",
    "any",
    "all",
    "nansum",
    "norm",
    "var",
    "std",
    "linalg_vector_norm",
    "max",
    "min",
    "median",
)
def reduction(
    graph: Graph, outs: Sequence[Value], x: Value, *args: Any, operator: str, **named: Any
) -> None:
    """Symmetric functions over some axes."""
    if args and isinstance(args[0], Value):  # max(x, y)
        graph.nodes.append(Elementwise((x.name, args[0].name), outs[0].name))
        return
    if operator in ("linalg_vector_norm", "norm"):
        args = args[1:]
    axes = _axes(
        named.get("dim", args[0] if args and not isinstance(args[0], bool) else None), len(x.shape)
    )
    graph.nodes.append(Reduce(x.name, outs[0].name, axes, len(outs[0].shape) == len(x.shape)))
    for indices in outs[1:]:  # they depend on the order
        graph.nodes.append(_positions(graph, x, indices, axes))


def _positions(graph: Graph, x: Value, out: Value, axes: tuple[int, ...]) -> Reshape:
    kept = graph.temporary([1 if a in axes else n for a, n in enumerate(x.shape)])
    graph.nodes.append(Positional(x.name, kept, axes))
    return Reshape(kept, out.name)


@rule("argmax", "argmin")
def arg_reduction(graph: Graph, out: Value, x: Value, axis: Any = None, *_: Any) -> None:
    """Where the extremum is."""
    graph.nodes.append(_positions(graph, x, out, _axes(axis, len(x.shape))))


@rule("var_mean", "std_mean", "aminmax")
def two_reductions(graph: Graph, outs: Sequence[Value], x: Value, *args: Any, **named: Any) -> None:
    """Two statistics at once."""
    for out in outs:
        reduction(graph, [out], x, *args, operator="var", **named)


# --- positions told apart -----------------------------------------------------------------------


@rule(
    "max_pool2d_with_indices",
    "max_pool3d_with_indices",
    "avg_pool1d",
    "avg_pool2d",
    "avg_pool3d",
    "max_pool1d",
    "max_pool2d",
    "max_pool3d",
    "mkldnn_max_pool2d",
    "_adaptive_avg_pool2d",
    "_adaptive_avg_pool3d",
    "adaptive_avg_pool1d",
    "adaptive_avg_pool2d",
    "adaptive_max_pool2d",
    "adaptive_max_pool3d",
    "fractional_max_pool2d",
    "upsample_nearest1d",
    "upsample_nearest2d",
    "upsample_nearest3d",
    "_upsample_nearest_exact2d",
    "upsample_linear1d",
    "upsample_bilinear2d",
    "upsample_bicubic2d",
    "upsample_trilinear3d",
    "_upsample_bilinear2d_aa",
    "_upsample_bicubic2d_aa",
    "reflection_pad1d",
    "reflection_pad2d",
    "reflection_pad3d",
    "replication_pad1d",
    "replication_pad2d",
    "replication_pad3d",
)
def spatial(
    graph: Graph, outs: Sequence[Value], x: Value, *_: Any, operator: str, **__: Any
) -> None:
    """Pooling, resizing and border padding of the last one, two or three axes."""
    rank = len(x.shape)
    count = next(k for k in (1, 2, 3) if f"{k}d" in operator)
    for value in outs:
        graph.nodes.append(Positional(x.name, value.name, tuple(range(rank - count, rank))))


@rule("cumsum", "cumprod", "logcumsumexp", "sort", "topk")
def ordered(
    graph: Graph, outs: Sequence[Value], x: Value, *args: Any, operator: str, **named: Any
) -> None:
    """Functions of the order along one axis."""
    position = 1 if operator == "topk" else 0
    axis = named.get("dim", args[position] if len(args) > position else -1)
    axis = axis if isinstance(axis, int) and not isinstance(axis, bool) else -1
    for value in outs:
        graph.nodes.append(Positional(x.name, value.name, (_axis(axis, len(x.shape)),)))


@rule("unfold")
def unfold(graph: Graph, out: Value, x: Value, axis: int, size: int, step: int) -> None:
    """Sliding windows along one axis; the place in the window is a new last axis."""
    axis = _axis(axis, len(x.shape))
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


# --- the same elements in another shape or order ------------------------------------------------


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


@rule("as_strided", "as_strided_")
def as_strided(
    graph: Graph, out: Value, x: Value, shape: Sequence[int], strides: Sequence[int], *_: Any
) -> bool | None:
    """Only where it changes nothing but the strides of axes of size one."""
    layout = [(n, s) for n, s in zip(x.shape, x.strides, strict=True) if n > 1]
    if tuple(shape) != x.shape or layout != [
        (n, s) for n, s in zip(shape, strides, strict=True) if n > 1
    ]:
        return False
    graph.nodes.append(Reshape(x.name, out.name))
    return None


@rule("permute")
def permute(graph: Graph, out: Value, x: Value, order: Sequence[int]) -> None:
    """Axes in a new order."""
    graph.nodes.append(Transpose(x.name, out.name, _axes(order, len(x.shape))))


@rule("transpose", "swapaxes")
def transpose(graph: Graph, out: Value, x: Value, a: int, b: int) -> None:
    """Two axes exchanged."""
    order = list(range(len(x.shape)))
    a, b = _axis(a, len(order)), _axis(b, len(order))
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
    graph.nodes.append(Concat(names, out.name, _axis(axis, len(out.shape))))


@rule("stack")
def stack(graph: Graph, out: Value, parts: Sequence[Value], axis: int = 0) -> None:
    """Along a new axis."""
    axis = _axis(axis, len(out.shape))
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
    axis, start = _axis(axis, len(x.shape)), 0
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
    axis = _axis(axis, len(x.shape))
    indices = np.arange(x.shape[axis])[start:stop:step]
    graph.nodes.append(Gather(x.name, out.name, axis, indices))


@rule("narrow")
def narrow(graph: Graph, out: Value, x: Value, axis: int, start: int, length: int) -> None:
    """A range of one axis by its length."""
    slice_(graph, out, x, axis, start, start + length)


@rule("select", "select_copy")
def select(graph: Graph, out: Value, x: Value, axis: int, index: int) -> None:
    """One position of one axis."""
    axis = _axis(axis, len(x.shape))
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
    _gather_axes(graph, out, x, {a: np.arange(x.shape[a])[::-1] for a in _axes(axes, len(x.shape))})


@rule("roll")
def roll(graph: Graph, out: Value, x: Value, shifts: Any, axes: Any = ()) -> None:
    """Axes shifted cyclically."""
    shifts = [shifts] if isinstance(shifts, int) else shifts
    pairs = zip(_axes(axes, len(x.shape)), shifts, strict=True)
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
    axis = _axis(axis, len(x.shape))
    if index.constant is None:
        graph.nodes.append(Positional(x.name, out.name, (axis,)))
    else:
        graph.nodes.append(Gather(x.name, out.name, axis, index.constant.ravel()))


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
def embedding(graph: Graph, out: Value, weight: Value, *_: Any) -> None:
    """Rows of a table chosen by data."""
    row = graph.temporary((1, weight.shape[1]))
    graph.nodes += [Positional(weight.name, row, (0,)), Expand(row, out.name)]


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
    axis = _axis(axis, len(x.shape))
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


# --- elementwise --------------------------------------------------------------------------------

ELEMENTWISE_OP = {
    "add": "add", "sub": "add", "rsub": "add", "add_": "add", "sub_": "add",
    "mul": "mul", "div": "mul", "mul_": "mul", "div_": "mul", "_prelu_kernel": "prelu",
}  # fmt: skip


@rule(
    "clone", "_to_copy", "contiguous", "alias", "detach", "lift_fresh", "lift", "dropout",
    "copy", "relu_", "to", "lift_fresh_copy", "_assert_tensor_metadata", "masked_fill",
    "masked_fill_", "native_dropout", "glu_jvp", "copy_", "requires_grad_",
    "_prelu_kernel", "prelu", "rrelu_with_noise", "fake_quantize_per_tensor_affine",
    "_conj", "nan_to_num", "bernoulli", "hardswish", "hardswish_", "hardsigmoid_", "hardtanh_",
    "silu_", "leaky_relu_", "elu_", "sigmoid_", "celu_", "mish_",
)  # fmt: skip
def elementwise(graph: Graph, out: Value, *args: Any, operator: str, **named: Any) -> None:
    """Every tensor among the arguments meets the output position by position."""
    values = [v for v in (*args, *named.values()) if isinstance(v, Value)]
    graph.nodes.append(
        Elementwise(tuple(v.name for v in values), out.name, ELEMENTWISE_OP.get(operator, "other"))
    )


@rule("glu")
def glu(graph: Graph, out: Value, x: Value, axis: int = -1) -> None:
    """The first half of an axis gated by the second."""
    axis = _axis(axis, len(x.shape))
    half = x.shape[axis] // 2
    names = [graph.temporary(out.shape) for _ in range(2)]
    for i, name in enumerate(names):
        graph.nodes.append(Gather(x.name, name, axis, np.arange(half) + i * half))
    graph.nodes.append(Elementwise(tuple(names), out.name, "mul"))
