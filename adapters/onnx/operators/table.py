"""One table from ONNX operators to the structural kinds of :mod:`rejuvenet.graph.find.nodes`.

``OPERATORS`` maps an operator to a short function that receives a
:class:`~rejuvenet.adapters.onnx.structure.Call` and emits structural nodes.  An operator that is
missing, or that raises :class:`Unsupported`, becomes opaque: what it touches is frozen, with the
reason.  Forms of all opsets from 11 on are understood: where an operator moved an attribute to
an input, the shapes of its outputs decide where they can, and :meth:`Call.setting` where not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from ....graph.find.composites import (
    divided,
    looked_up,
    rearranged,
    repeated,
    taken,
    viewed,
)
from ....graph.find.nodes import (
    Concat,
    Elementwise,
    Expand,
    Freeze,
    Opaque,
    Pad,
    PerChannel,
    Positional,
    Reduce,
    Reshape,
    Transpose,
    Unlabelled,
)
from .attention import ATTENTION
from .contractions import CONTRACTIONS
from .normalizations import NORMALIZATIONS
from .recurrent import RECURRENT

if TYPE_CHECKING:
    from ..structure import Call

UNARY = [
    "Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "BitCast", "BitwiseNot", "Cast",
    "CastLike", "Ceil", "Celu", "Clip", "Cos", "Cosh", "Dropout", "Elu", "Erf", "Exp", "Floor",
    "Gelu", "HardSigmoid", "HardSwish", "Identity", "IsInf", "IsNaN", "LeakyRelu", "Log", "Mish",
    "Neg", "Not", "Reciprocal", "Relu", "Round", "Selu", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh",
    "Softplus", "Softsign", "Sqrt", "Swish", "Tan", "Tanh", "ThresholdedRelu",
]  # fmt: skip
# f(s x) = s f(x) for every s > 0.
HOMOGENEOUS = frozenset({
    "Abs", "Dropout", "Identity", "LeakyRelu", "Neg", "PRelu", "Relu",
    "ReduceL1", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum",
})  # fmt: skip
BROADCAST = {
    "Add": "add",
    "Sub": "add",
    "Sum": "add",
    "Mul": "mul",
    **dict.fromkeys(
        [
            "And", "BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Div", "Equal", "Greater",
            "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Mean", "Min", "Mod", "Or", "PRelu",
            "Pow", "Where", "Xor",
        ],
        "other",
    ),
}  # fmt: skip
REDUCTIONS = [
    "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean",
    "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare",
]  # fmt: skip


def unary(c: Call) -> None:
    """A function of each element alone; further inputs are settings (bounds, ratio, type)."""
    c.emit(Elementwise((c.data(0),), c.output(), homogeneous=c.op in HOMOGENEOUS))


def broadcast(c: Call) -> None:
    """A function of several tensors with numpy broadcasting; before opset 7 from an axis on."""
    x, *others = c.every_input()
    axis = 1 if c.op == "PRelu" else c.attribute("axis") if c.attribute("broadcast", 0) else None
    if c.opset < 7 and axis is not None and others:
        (other,), rank = others, len(c.shape(x))
        shape = c.shape(other)
        behind = rank - axis % rank - len(shape)
        if len(shape) < rank and behind > 0:
            others = [c.temporary((*shape, *[1] * behind))]
            c.emit(Reshape(other, others[0]))
    c.emit(Elementwise((x, *others), c.output(), BROADCAST[c.op], c.op in HOMOGENEOUS))


def quantize(c: Call) -> None:
    """Scales and zero points along an axis move with its channels."""
    x, y = c.data(0), c.output()
    if c.attribute("block_size", 0):
        raise c.unsupported("quantizes in blocks")
    parameters = [i for i in (1, 2) if c.has(i) and c.size(i) > 1]
    if parameters:
        c.not_trained(*parameters)
        axis = c.attribute("axis", 1) % len(c.shape(x))
        inputs = (x, *(c.data(i) for i in parameters))
        c.emit(PerChannel(inputs, y, axis, ("parameter",) * len(parameters)))
    else:
        c.emit(Elementwise((x,), y))


def dynamic_quantize(c: Call) -> None:
    x = c.data(0)
    everything = tuple(range(len(c.shape(x))))
    c.emit(Elementwise((x,), c.output(0)))
    c.emit(*(Reduce(x, c.output(i), everything, False) for i in (1, 2)))


def spatial_axes(c: Call, x: str) -> tuple[int, ...]:
    """Axes that are neither the batch nor the channels, which may be last."""
    last = 1 if c.attribute("channels_last", 0) else 0
    return tuple(range(2 - last, len(c.shape(x)) - last))


def pool(c: Call) -> None:
    """Windows over the spatial axes."""
    c.emit(Positional(c.data(0), c.output(), spatial_axes(c, c.data(0)), homogeneous=True))


def global_pool(c: Call) -> None:
    c.emit(Reduce(c.data(0), c.output(), spatial_axes(c, c.data(0)), True, homogeneous=True))


def places_by_data(c: Call) -> None:
    """``GridSample``, ``RoiAlign``: further inputs say where the channels are read."""
    x = c.data(0)
    places = tuple(c.data(i) for i in range(1, len(c.node.inputs)) if c.has(i))
    c.emit(Freeze(places, "its values are places to read"))
    axes = tuple(axis for axis in range(len(c.shape(x))) if axis != 1)
    c.emit(Positional(x, c.output(), axes))


def by_shape(c: Call) -> None:
    """Only the shape of what is read matters."""
    c.emit(Unlabelled(c.outputs()))


def reverse_sequence(c: Call) -> None:
    c.emit(Positional(c.data(0), c.output(), (0, 1)))


def center_crop_pad(c: Call) -> None:
    """Half of what is too much, or missing, on each side of an axis."""
    x, y = c.data(0), c.output()
    rank = len(c.shape(x))
    before, after = [0] * rank, [0] * rank
    for axis in range(rank):
        d = c.shape(y)[axis] - c.shape(x)[axis]
        before[axis] = d // 2 if d > 0 else -(-d // 2)
        after[axis] = d - before[axis]
    c.emit(Pad(x, y, tuple(before), tuple(after)))


def swiglu(c: Call) -> None:
    """A gate of two tensors of one shape."""
    c.emit(Elementwise(c.every_input(), c.output()))


def local_response(c: Call) -> None:
    """Each channel reads its neighbours."""
    c.emit(Positional(c.data(0), c.output(), (1,)))


def along_axis(c: Call) -> None:
    """``CumSum``, ``CumProd``: the position along the axis matters."""
    x = c.data(0)
    c.emit(Positional(x, c.output(), (int(c.value(1).item()) % len(c.shape(x)),)))


def triangle(c: Call) -> None:
    """``Trilu``: the positions of the last two axes matter."""
    x = c.data(0)
    rank = len(c.shape(x))
    c.emit(Positional(x, c.output(), (rank - 2, rank - 1)))


def resize(c: Call) -> None:
    """The axes that change their length are interpolated."""
    x, y = c.data(0), c.output()
    pairs = zip(c.shape(x), c.shape(y), strict=True)
    axes = tuple(axis for axis, (before, after) in enumerate(pairs) if before != after)
    if c.attribute("coordinate_transformation_mode", "") == "tf_crop_and_resize":
        axes = tuple(range(len(c.shape(x))))
    c.emit(Positional(x, y, axes) if axes else Elementwise((x,), y))


def reduce(c: Call) -> None:
    x = c.data(0)
    rank = len(c.shape(x))
    axes = c.setting("axes", 1)
    if axes is None or len(axes) == 0:
        if c.attribute("noop_with_empty_axes", 0):
            return c.emit(Elementwise((x,), c.output()))
        axes = range(rank)
    places = tuple(sorted(int(axis) % rank for axis in axes))
    keepdims = bool(c.attribute("keepdims", 1))
    return c.emit(Reduce(x, c.output(), places, keepdims, c.op in HOMOGENEOUS))


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


def opaque(c: Call) -> None:
    """The operator is known to have no structure: what it touches is frozen."""
    c.emit(Opaque(c.every_input(), c.outputs(), f"the operator {c.op} {WITHOUT_STRUCTURE[c.op]}"))


WITHOUT_STRUCTURE = {
    **dict.fromkeys(
        ["ArgMax", "ArgMin", "Hardmax", "NonZero", "TopK", "Unique"],
        "tells positions by their number",
    ),
    **dict.fromkeys(
        [
            "Compress", "GatherElements", "MaxUnpool", "NonMaxSuppression", "OneHot", "Scatter",
            "ScatterElements", "TensorScatter",
        ],
        "chooses positions by data",
    ),
    **dict.fromkeys(
        ["AffineGrid", "Col2Im", "DFT", "Det", "MelWeightMatrix", "RotaryEmbedding", "STFT"],
        "mixes the positions of an axis in a fixed way",
    ),
    **dict.fromkeys(
        ["Bernoulli", "Multinomial", "RandomNormal", "RandomUniform"], "draws random numbers"
    ),
    **dict.fromkeys(["CausalConvWithState", "LinearAttention"], "keeps a state between its calls"),
    **dict.fromkeys(
        ["NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss"], "compares with numbered classes"
    ),
    **dict.fromkeys(
        [
            "ConcatFromSequence", "Optional", "OptionalGetElement", "OptionalHasElement",
            "SequenceConstruct", "SequenceEmpty", "SequenceErase", "SequenceInsert",
            "SequenceLength",
        ],
        "works on a sequence",
    ),
    **dict.fromkeys(
        [
            "ImageDecoder", "RegexFullMatch", "StringConcat", "StringNormalizer", "StringSplit",
            "TfIdfVectorizer",
        ],
        "works on text or files",
    ),
}  # fmt: skip

BY_SHAPE = [
    "BlackmanWindow", "ConstantOfShape", "EyeLike", "HammingWindow", "HannWindow",
    "RandomNormalLike", "RandomUniformLike", "Range", "Shape", "Size",
]  # fmt: skip


OPERATORS: dict[str, Callable[[Call], None]] = {
    **dict.fromkeys(UNARY, unary),
    **dict.fromkeys(BROADCAST, broadcast),
    **dict.fromkeys(REDUCTIONS, reduce),
    **dict.fromkeys(("MaxPool", "AveragePool", "LpPool"), pool),
    **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"), global_pool),
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), reshape),
    **dict.fromkeys(("QuantizeLinear", "DequantizeLinear"), quantize),
    **dict.fromkeys(("Resize", "Upsample"), resize),
    **dict.fromkeys(("GridSample", "MaxRoiPool", "RoiAlign"), places_by_data),
    **dict.fromkeys(("CumSum", "CumProd"), along_axis),
    **dict.fromkeys(BY_SHAPE, by_shape),
    **dict.fromkeys(WITHOUT_STRUCTURE, opaque),
    **ATTENTION,
    **CONTRACTIONS,
    **NORMALIZATIONS,
    **RECURRENT,
    "Concat": concat,
    "CenterCropPad": center_crop_pad,
    "DepthToSpace": depth_to_space,
    "DynamicQuantizeLinear": dynamic_quantize,
    "Expand": expand,
    "Gather": gather,
    "GatherND": gather_nd,
    "LRN": local_response,
    "Pad": pad,
    "ReverseSequence": reverse_sequence,
    "ScatterND": scatter_nd,
    "Slice": slices,
    "SpaceToDepth": space_to_depth,
    "SequenceAt": sequence_at,
    "Split": split,
    "SplitToSequence": split_to_sequence,
    "SwiGLU": swiglu,
    "Tile": tile,
    "Transpose": transpose,
    "Trilu": triangle,
}
