"""ONNX operators that contract data with a weight or with data, as ``einsum``.

Part of the table in :mod:`rejuvenet.adapters.onnx.operators.table`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ....graph.find.nodes import (
    Contraction,
    Elementwise,
    Opaque,
    PerChannel,
    Reduce,
    Reshape,
    Transpose,
)

if TYPE_CHECKING:
    from ..structure import Call


def with_channel_parameters(
    c: Call, output: str, axis: int, parameters: list[tuple[int, str]]
) -> str:
    """Where a result goes before parameters of its channels (a bias) apply to it.

    ``parameters`` holds the places of inputs and their roles; scalars and absent ones count for
    nothing.  Without any, the result is ``output`` itself.
    """
    present = [(i, role) for i, role in parameters if c.has(i) and c.size(i) > 1]
    if not present:
        return output
    for i, _ in present:
        if len(c.shape(c.data(i))) > 1:
            shape = c.shape(c.data(i))
            raise c.unsupported(f"has an input {i} of shape {shape}, expected one axis")
    result = c.temporary(c.shape(output))
    inputs = (result, *(c.data(i) for i, _ in present))
    c.after(PerChannel(inputs, output, axis, tuple(role for _, role in present)))
    return result


def convolution(c: Call) -> None:
    """``Conv`` and ``ConvTranspose`` (grouped or not), then the bias."""
    y = with_channel_parameters(c, c.output(), 1, [(2, "bias")])
    transposed = c.op.startswith("ConvTranspose")
    c.graph.add_convolution(c.data(0), c.data(1), y, c.attribute("group", 1), transposed)


def integer_convolution(c: Call) -> None:
    """``ConvInteger``: the zero points of the weight are per output channel or one."""
    c.not_trained(3)
    y = with_channel_parameters(c, c.output(), 1, [(3, "parameter")])
    c.graph.add_convolution(c.data(0), c.data(1), y, c.attribute("group", 1))


def quantized_convolution(c: Call) -> None:
    """``QLinearConv``: scale, zero point and bias of every output channel move with it."""
    if c.attribute("channels_last", 0):
        raise c.unsupported("has its channels last")
    c.not_trained(4, 5)
    parameters = [(4, "parameter"), (5, "parameter"), (8, "bias")]
    y = with_channel_parameters(c, c.output(), 1, parameters)
    c.graph.add_convolution(c.data(0), c.data(3), y, c.attribute("group", 1))


def deformable_convolution(c: Call) -> None:
    """``DeformConv``: a convolution whose kernel reads at places that depend on the data."""
    if c.attribute("offset_group", 1) != 1:
        raise c.unsupported("has offsets for each group of channels")
    places = [c.data(i) for i in (2, 4) if c.has(i)]
    c.emit(Opaque(tuple(places), (c.temporary((1,)),), "its values are places to read"))
    y = with_channel_parameters(c, c.output(), 1, [(3, "bias")])
    c.graph.add_convolution(c.data(0), c.data(1), y, c.attribute("group", 1))


def gemm(c: Call) -> None:
    """``A B + C`` with optional transpositions."""
    y = c.output()
    if c.has(2) and c.size(2) > 1 and len(c.shape(c.data(2))) > 1:
        y = c.temporary(c.shape(c.output()))
        c.after(Elementwise((y, c.data(2)), c.output(), "add"))
    else:
        y = with_channel_parameters(c, y, 1, [(2, "bias")])
    matrix_product(c, c.data(0), c.data(1), y)


def matrix_product(c: Call, a: str, b: str, y: str) -> None:
    """``y = A B``, either of them transposed as the attributes say."""
    a_axes = ("k", "m") if c.attribute("transA", 0) else ("m", "k")
    b_axes = ("n", "k") if c.attribute("transB", 0) else ("k", "n")
    c.emit(Contraction((a, b), y, a_axes, b_axes, ("m", "n")))


def matmul(c: Call) -> None:
    """``MatMul``."""
    product(c, c.data(0), c.data(1), c.output())


def integer_matmul(c: Call) -> None:
    """``MatMulInteger``: zero points of ``B`` are per column or one."""
    quantized_product(c, 1, 2, [(3, "parameter")])


def quantized_matmul(c: Call) -> None:
    """``QLinearMatMul``: scales and zero points of ``B`` are per column or one."""
    for i in (1, 6, 7):
        if c.has(i) and c.size(i) > 1:
            raise c.unsupported("has scales along an axis of its input or output")
    quantized_product(c, 3, 2, [(4, "parameter"), (5, "parameter")])


def quantized_product(
    c: Call, second: int, zero_point: int | None, parameters: list[tuple[int, str]]
) -> None:
    """``A B`` with parameters of the columns of ``B``, which is input ``second``."""
    if zero_point is not None and c.has(zero_point) and c.size(zero_point) > 1:
        raise c.unsupported("has zero points for each row of its input")
    if any(c.has(i) and c.size(i) > 1 and len(c.shape(c.data(i))) > 1 for i, _ in parameters):
        raise c.unsupported("has scales or zero points along several axes")
    c.not_trained(*(i for i, role in parameters if role == "parameter"))
    y = with_channel_parameters(c, c.output(), len(c.shape(c.output())) - 1, parameters)
    product(c, c.data(0), c.data(second), y)


def product(c: Call, a: str, b: str, y: str) -> None:
    """numpy's ``matmul``; an axis of length one that broadcasts is dropped first."""
    a, a_axes = batched(c, a, "m", ("m", "k"))
    b, b_axes = batched(c, b, "n", ("k", "n"))
    ends = [name for name, axes in (("m", a_axes), ("n", b_axes)) if name in axes]
    n_batch = len(c.shape(y)) - len(ends)
    out = (*(f"b{n_batch - j}" for j in range(n_batch)), *ends)
    c.emit(Contraction((a, b), y, a_axes, b_axes, out))


def batched(c: Call, x: str, free: str, names: tuple[str, str]) -> tuple[str, tuple[str, ...]]:
    """An operand of ``matmul`` and the names of its axes, ``b1`` being the last batch axis."""
    shape = c.shape(x)
    if len(shape) == 1:
        return x, tuple(name for name in names if name != free)
    n_batch = len(shape) - 2
    keep = [j for j in range(n_batch) if shape[j] != 1]
    if len(keep) < n_batch:
        x_in, x = x, c.temporary([*(shape[j] for j in keep), *shape[-2:]])
        c.emit(Reshape(x_in, x))
    return x, (*(f"b{n_batch - j}" for j in keep), *names)


def einsum(c: Call) -> None:
    """One or two operands, no repeated index inside one."""
    equation = c.attribute("equation", "").replace(" ", "")
    terms, _, result = equation.partition("->")
    operands = c.every_input()
    pairs = zip(terms.split(","), operands, strict=True)
    axes = [spell_ellipsis(term, len(c.shape(x))) for term, x in pairs]
    out = spell_ellipsis(result, len(c.shape(c.output())))
    sizes: dict[str, set[int]] = {}
    for names, x in zip(axes, operands, strict=True):
        for name, n in zip(names, c.shape(x), strict=True):
            sizes.setdefault(name, set()).add(n)
    if (
        "->" not in equation
        or any(len(set(t)) < len(t) for t in axes)
        or any(len(n) > 1 for n in sizes.values())
        or len(operands) > 2
    ):
        raise c.unsupported(f"has the equation {equation!r}")
    if len(operands) == 2:
        a, b = operands
        a, a_axes = summed_alone(c, a, axes[0], {*axes[1], *out})
        b, b_axes = summed_alone(c, b, axes[1], {*axes[0], *out})
        return c.emit(Contraction((a, b), c.output(), a_axes, b_axes, out))
    x, names = summed_alone(c, operands[0], axes[0], set(out))
    return c.emit(Transpose(x, c.output(), tuple(names.index(name) for name in out)))


def spell_ellipsis(term: str, rank: int) -> tuple[str, ...]:
    """Names of the axes of one term of an equation."""
    head, dots, tail = term.partition("...")
    n_hidden = rank - len(head) - len(tail)
    hidden = [f"batch {k}" for k in range(n_hidden, 0, -1)] if dots else []
    return (*(f"e{v}" for v in head), *hidden, *(f"e{v}" for v in tail))


def summed_alone(
    c: Call, x: str, names: tuple[str, ...], elsewhere: set[str]
) -> tuple[str, tuple[str, ...]]:
    """``x`` summed over the axes that occur nowhere else."""
    axes = tuple(k for k, name in enumerate(names) if name not in elsewhere)
    if not axes:
        return x, names
    kept = [k for k in range(len(names)) if k not in axes]
    y = c.temporary([c.shape(x)[k] for k in kept])
    c.emit(Reduce(x, y, axes, False))
    return y, tuple(names[k] for k in kept)


CONTRACTIONS: dict[str, Callable[[Call], None]] = {
    "Conv": convolution,
    "ConvInteger": integer_convolution,
    "ConvTranspose": convolution,
    "DeformConv": deformable_convolution,
    "Einsum": einsum,
    "Gemm": gemm,
    "MatMul": matmul,
    "MatMulInteger": integer_matmul,
    "QLinearConv": quantized_convolution,
    "QLinearMatMul": quantized_matmul,
}
