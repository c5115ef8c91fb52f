"""One table from ONNX operators to the structural kinds of :mod:`rejuvenet.graph.find.nodes`.

``OPERATORS`` maps an operator to a short function that receives a
:class:`~rejuvenet.adapters.onnx.call.Call` and emits structural nodes.  An operator that is
missing, or that raises :class:`Unsupported`, becomes opaque: what it touches is frozen, with the
reason.  Forms of all opsets from 11 on are understood: where an operator moved an attribute to
an input, the shapes of its outputs decide where they can, and :meth:`Call.setting` where not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ....graph.find.nodes import (
    Elementwise,
    Freeze,
    Opaque,
    Pad,
    PerChannel,
    Positional,
    Reduce,
    Reshape,
    Unlabelled,
)
from .attention import ATTENTION
from .contractions import CONTRACTIONS
from .normalizations import NORMALIZATIONS
from .recurrent import RECURRENT
from .shapes import SHAPES

if TYPE_CHECKING:
    from ..call import Call

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


def added(c: Call) -> None:
    """A sum, or the bias of a product that a node before it makes, as exporters write it."""
    for i, other in ((0, 1), (1, 0)):
        if c.opset >= 7 and c.is_made_by(i, "MatMul"):
            x, bias = c.data(i), c.data(other)
            if bias in c.graph.weights and c.shape(bias) == c.shape(x)[-1:]:
                return c.emit(PerChannel((x, bias), c.output(), len(c.shape(x)) - 1, ("bias",)))
    broadcast(c)


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
    samples = c.op == "GridSample"  # regions of RoiAlign are of any
    axes = tuple(axis for axis in range(len(c.shape(x))) if axis != 1 and (axis or not samples))
    c.emit(Positional(x, c.output(), axes))


def column_to_image(c: Call) -> None:
    """``Col2Im``: sliding blocks summed up, ``(n, c * kh * kw, blocks)`` to ``(n, c, h, w)``."""
    x, y = c.data(0), c.output()
    n, rows, count = c.shape(x)
    if len(c.shape(y)) != 4:
        raise c.unsupported("makes images of other than two axes")
    channels = c.shape(y)[1]
    blocks = c.temporary((n, channels, rows // channels, count))
    c.emit(Reshape(x, blocks), Positional(blocks, y, (2, 3), homogeneous=True))


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
        ["AffineGrid", "DFT", "Det", "MelWeightMatrix", "RotaryEmbedding", "STFT"],
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
    "Add": added,
    **dict.fromkeys(REDUCTIONS, reduce),
    **dict.fromkeys(("MaxPool", "AveragePool", "LpPool"), pool),
    **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"), global_pool),
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
    **SHAPES,
    "CenterCropPad": center_crop_pad,
    "Col2Im": column_to_image,
    "DynamicQuantizeLinear": dynamic_quantize,
    "LRN": local_response,
    "ReverseSequence": reverse_sequence,
    "SwiGLU": swiglu,
    "Trilu": triangle,
}
