"""Operators of the domain ``com.microsoft``, which onnxruntime's optimizers and quantizer write.

A table beside that of :mod:`rejuvenet.adapters.onnx.operators.table`, by the same rules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ....graph.find.composites import gated, multiplied, normalized, parametrized
from ....graph.find.nodes import Concat, Elementwise, Positional, Reduce, Transpose
from .attention import multi_head_attention, projected_attention
from .contractions import (
    before_function,
    channel_parameters,
    convolution,
    convolved,
    gemm,
    matrix_product,
    quantized_convolution,
    quantized_product,
)
from .normalizations import in_groups, over_last_axes
from .shapes import gather_nd, pad, reshape
from .table import global_pool, pool, quantize, triangle, unary

if TYPE_CHECKING:
    from ..call import Call


def sum_of_all(c: Call) -> None:
    """A sum of the inputs by broadcasting, then perhaps a function of each element."""
    c.emit(Elementwise(c.every_input(), c.output(), "add"))


def quantized_pair(c: Call) -> None:
    """``QLinearAdd``, ``QLinearMul``: each operand is followed by a scale and a zero point."""
    op = "add" if c.op == "QLinearAdd" else "mul"
    c.emit(Elementwise((c.data(0), c.data(3)), c.output(), op))


def quantized_where(c: Call) -> None:
    c.emit(Elementwise((c.data(0), c.data(1), c.data(4)), c.output()))


def quantized_concat(c: Call) -> None:
    """Inputs 2, 5, 8, ... are the tensors."""
    tensors = tuple(c.data(i) for i in range(2, len(c.node.inputs), 3))
    axis = c.attribute("axis", 0) % len(c.shape(c.output()))
    c.emit(Concat(tensors, c.output(), axis))


def quantized_mean(c: Call) -> None:
    """``QLinearReduceMean``."""
    x = c.data(0)
    rank = len(c.shape(x))
    axes = tuple(sorted(axis % rank for axis in c.attribute("axes", range(rank))))
    c.emit(Reduce(x, c.output(), axes, bool(c.attribute("keepdims", 1))))


def quantized_softmax(c: Call) -> None:
    """``QLinearSoftmax``, as ``Softmax`` of the opset that it names."""
    x, old = c.data(0), c.attribute("opset", 13) < 13
    rank = len(c.shape(x))
    axis = c.attribute("axis", -1) % rank
    axes = range(axis, rank) if old else (axis,)
    normalized(c.graph, x, axes, c.output())


def quantized_gemm(c: Call) -> None:
    """``QGemm``: scales, zero points and bias of the columns of B."""
    if any(c.has(i) and c.size(i) > 1 for i in (1, 2, 7, 8)):
        raise c.unsupported("has scales along an axis of its input or output")
    c.not_trained(4, 5)
    parameters = channel_parameters(c, (4, "parameter"), (5, "parameter"), (6, "bias"))
    with parametrized(c.graph, 1, parameters, c.output()) as y:
        matrix_product(c, c.data(0), c.data(3), y)


def integer_matmul_to_float(c: Call) -> None:
    """``MatMulIntegerToFloat``: zero points and scales of the columns of B, then a bias."""
    if c.has(2) and c.size(2) > 1:
        raise c.unsupported("has scales for each row of its input")
    quantized_product(c, 1, 4, (3, "parameter"), (5, "parameter"), (6, "bias"))


def dynamic_quantize_matmul(c: Call) -> None:
    quantized_product(c, 1, None, (2, "parameter"), (3, "parameter"), (4, "bias"))


def fused_matmul(c: Call) -> None:
    """``FusedMatMul``: operands with their last two axes exchanged, a factor, a function."""
    if c.attribute("transBatchA", 0) or c.attribute("transBatchB", 0):
        raise c.unsupported("moves its batch axes")
    if c.attribute("activation", "") == "Softmax":
        raise c.unsupported("normalizes along an axis")
    a, b = (_turned(c, c.data(i), name) for i, name in enumerate(("transA", "transB")))
    with before_function(c, c.output()) as y:
        multiplied(c.graph, a, b, y)


def _turned(c: Call, x: str, attribute: str) -> str:
    """``x`` with its last two axes exchanged where the attribute says so."""
    rank = len(c.shape(x))
    if not c.attribute(attribute, 0) or rank < 2:
        return x
    order = (*range(rank - 2), rank - 1, rank - 2)
    turned = c.temporary([c.shape(x)[axis] for axis in order])
    c.emit(Transpose(x, turned, order))
    return turned


def matmul_with_bias(c: Call) -> None:
    """``GemmFastGelu``."""
    axis, parameters = len(c.shape(c.output())) - 1, channel_parameters(c, (2, "bias"))
    with (
        before_function(c, c.output(), "FastGelu") as made,
        parametrized(c.graph, axis, parameters, made) as y,
    ):
        multiplied(c.graph, c.data(0), c.data(1), y)


def fused_convolution(c: Call) -> None:
    """``FusedConv``: a convolution, its bias, a summand, a function."""
    with before_function(c, c.output()) as made, summed(c, made) as y:
        convolved(c, 1, (2, "bias"), output=y)


@contextmanager
def summed(c: Call, output: str) -> Iterator[str]:
    """Where to put a convolution that input 3 is added to; the output where there is none."""
    if not c.has(3):
        yield output
        return
    y = c.temporary(c.shape(output))
    yield y
    c.emit(Elementwise((y, c.data(3)), output, "add"))


def with_channels_second(c: Call, x: str) -> str:
    """``x`` with its last axis moved to the second place."""
    rank = len(c.shape(x))
    order = (0, rank - 1, *range(1, rank - 1))
    moved = c.temporary([c.shape(x)[axis] for axis in order])
    c.emit(Transpose(x, moved, order))
    return moved


def with_channels_last(c: Call, x: str, output: str) -> Transpose:
    """The node that moves the second axis of ``x`` to the end."""
    rank = len(c.shape(x))
    return Transpose(x, output, (0, *range(2, rank), 1))


def convolution_channels_last(c: Call) -> None:
    """``NhwcConv``, ``NhwcFusedConv``: data of shape (n, *spatial, channels)."""
    n, *spatial, channels = c.shape(c.output())
    y = c.temporary((n, channels, *spatial))
    x = with_channels_second(c, c.data(0))
    with parametrized(c.graph, 1, channel_parameters(c, (2, "bias")), y) as result:
        c.graph.add_convolution(x, c.data(1), result, c.attribute("group", 1))
    with before_function(c, c.output()) as made, summed(c, made) as last:
        c.emit(with_channels_last(c, y, last))


def pool_channels_last(c: Call) -> None:
    """``NhwcMaxPool``."""
    x = c.data(0)
    c.emit(Positional(x, c.output(), tuple(range(1, len(c.shape(x)) - 1))))


def skip_layer_normalization(c: Call) -> None:
    """A sum, which may be an output too, then a normalization over the last axis."""
    simplified = c.op == "SkipSimplifiedLayerNormalization"
    bias = 3 if simplified else 4
    summands = tuple(c.data(i) for i in (0, 1, bias) if c.has(i))
    x = c.output(3) if c.gives(3) else c.temporary(c.shape(c.output()))
    c.emit(Elementwise(summands, x, "add"))
    over_last_axes(c, x, [(2, "scale")] if simplified else [(2, "scale"), (3, "shift")])


def group_normalization(c: Call) -> None:
    """``GroupNorm``, ``SkipGroupNorm``: scale and shift are per channel."""
    x = c.data(0)
    if c.op == "SkipGroupNorm":
        summands = tuple(c.data(i) for i in (0, 3, 4) if c.has(i))
        x = c.output(1) if c.gives(1) else c.temporary(c.shape(c.output()))
        c.emit(Elementwise(summands, x, "add"))
    groups = c.attribute("groups", 1)
    if not c.attribute("channels_last", 1):
        return in_groups(c, x, c.output(), groups)
    second = with_channels_second(c, x)
    normal = c.temporary(c.shape(second))
    in_groups(c, second, normal, groups)
    return c.emit(with_channels_last(c, normal, c.output()))


def bias_softmax(c: Call) -> None:
    x = c.temporary(c.shape(c.output()))
    c.emit(Elementwise(c.every_input(), x, "add"))
    rank = len(c.shape(x))
    axes = range(c.attribute("axis", 1) % rank, rank)
    normalized(c.graph, x, axes, c.output())


def bias_split_gelu(c: Call) -> None:
    """Halves of the last axis: one gates the other."""
    x, y = c.data(0), c.output()
    shifted = c.temporary(c.shape(x))
    c.emit(Elementwise((x, c.data(1)), shifted, "add"))
    gated(c.graph, shifted, len(c.shape(x)) - 1, y)


MICROSOFT: dict[str, Callable[[Call], None]] = {
    **dict.fromkeys(
        ["Gelu", "QLinearLeakyRelu", "QLinearSigmoid", "QuickGelu", "ScaledSiLU"],
        unary,
    ),
    **dict.fromkeys(["BiasAdd", "BiasGelu", "FastGelu"], sum_of_all),
    **dict.fromkeys(["QLinearAdd", "QLinearMul"], quantized_pair),
    **dict.fromkeys(["QuantizeLinear", "DequantizeLinear"], quantize),
    **dict.fromkeys(["FusedMatMul", "FusedMatMulActivation", "TransposeMatMul"], fused_matmul),
    **dict.fromkeys(["NhwcConv", "NhwcFusedConv"], convolution_channels_last),
    **dict.fromkeys(["GroupNorm", "SkipGroupNorm"], group_normalization),
    **dict.fromkeys(
        ["SkipLayerNormalization", "SkipSimplifiedLayerNormalization"], skip_layer_normalization
    ),
    "Attention": projected_attention,
    "BiasSoftmax": bias_softmax,
    "BiasSplitGelu": bias_split_gelu,
    "ConvTransposeWithDynamicPads": convolution,
    "DynamicQuantizeMatMul": dynamic_quantize_matmul,
    "ExpandDims": reshape,
    "FusedConv": fused_convolution,
    "FusedGemm": gemm,
    "GatherND": gather_nd,
    "GemmFastGelu": matmul_with_bias,
    "MatMulIntegerToFloat": integer_matmul_to_float,
    "MultiHeadAttention": multi_head_attention,
    "NhwcMaxPool": pool_channels_last,
    "Pad": pad,
    "QGemm": quantized_gemm,
    "QLinearAveragePool": pool,
    "QLinearConcat": quantized_concat,
    "QLinearConv": quantized_convolution,
    "QLinearGlobalAveragePool": global_pool,
    "QLinearReduceMean": quantized_mean,
    "QLinearSoftmax": quantized_softmax,
    "QLinearWhere": quantized_where,
    "Trilu": triangle,
}
