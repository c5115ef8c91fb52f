"""ONNX operators that contract data with a weight or with data, as ``einsum``.

Part of the table in :mod:`rejuvenet.adapters.onnx.operators.table`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ....graph.find.composites import multiplied, parametrized
from ....graph.find.nodes import Contraction, Elementwise, Freeze, Reduce, Transpose, Window

if TYPE_CHECKING:
    from ..call import Call


# f(s x) = s f(x) for every s > 0; the empty name is none, after which only factors are left.
HOMOGENEOUS_ACTIVATIONS = ("", "LeakyRelu", "Relu")


@contextmanager
def before_function(c: Call, output: str, activation: str = "") -> Iterator[str]:
    """Where to put a product that factors or a function of its own node change; else the output.

    What is fitted to a product is fitted to its tensor: it must be no other than the product.
    """
    activation = c.attribute("activation", activation)
    factors = c.attribute("alpha", 1.0), c.attribute("beta", 1.0)
    if not activation and factors == (1.0, 1.0):
        yield output
        return
    made = c.temporary(c.shape(output))
    yield made
    c.emit(Elementwise((made,), output, homogeneous=activation in HOMOGENEOUS_ACTIVATIONS))


def channel_parameters(c: Call, *parameters: tuple[int, str]) -> list[tuple[str, str]]:
    """Tensors and roles by the places of inputs; scalars and absent ones count for nothing."""
    present = []
    for i, role in parameters:
        if c.has(i) and c.size(i) > 1:
            shape = c.shape(c.data(i))
            if len(shape) > 1:
                raise c.unsupported(f"has an input {i} of shape {shape}, expected one axis")
            present.append((c.data(i), role))
    return present


def convolved(c: Call, weight: int, *parameters: tuple[int, str], output: str = "") -> None:
    """A convolution (grouped or not) with input ``weight``, then parameters of its channels."""
    output = output or c.output()
    with parametrized(c.graph, 1, channel_parameters(c, *parameters), output) as y:
        transposed = "ConvTranspose" in c.op
        windows = _windows(c) if c.op == "Conv" else None
        c.graph.add_convolution(
            c.data(0), c.data(weight), y, c.attribute("group", 1), transposed, windows
        )


def _windows(c: Call) -> tuple[Window, ...]:
    """Where the kernel of a convolution reads."""
    sizes, made = c.shape(c.data(0))[2:], c.shape(c.output())[2:]
    kernel, rank = c.shape(c.data(1))[2:], len(sizes)
    strides = c.attribute("strides", (1,) * rank)
    dilations = c.attribute("dilations", (1,) * rank)
    pads, rule = c.attribute("pads", (0,) * 2 * rank), c.attribute("auto_pad", "NOTSET")
    found = []
    for i, (stride, dilation) in enumerate(zip(strides, dilations, strict=True)):
        before, after = pads[i], pads[rank + i]
        if rule.startswith("SAME"):
            span = (kernel[i] - 1) * dilation + 1
            total = max((made[i] - 1) * stride + span - sizes[i], 0)
            before = total // 2 if rule == "SAME_UPPER" else total - total // 2
            after = total - before
        found.append(Window(stride, dilation, before, after))
    return tuple(found)


def convolution(c: Call) -> None:
    """``Conv`` and ``ConvTranspose``, then the bias."""
    convolved(c, 1, (2, "bias"))


def integer_convolution(c: Call) -> None:
    """``ConvInteger``: the zero points of the weight are per output channel or one."""
    c.not_trained(3)
    convolved(c, 1, (3, "parameter"))


def quantized_convolution(c: Call) -> None:
    """``QLinearConv``: scale, zero point and bias of every output channel move with it."""
    if c.attribute("channels_last", 0):
        raise c.unsupported("has its channels last")
    c.not_trained(4, 5)
    convolved(c, 3, (4, "parameter"), (5, "parameter"), (8, "bias"))


def deformable_convolution(c: Call) -> None:
    """``DeformConv``: a convolution whose kernel reads at places that depend on the data."""
    if c.attribute("offset_group", 1) != 1:
        raise c.unsupported("has offsets for each group of channels")
    places = tuple(c.data(i) for i in (2, 4) if c.has(i))
    c.emit(Freeze(places, "its values are places to read"))
    convolved(c, 1, (3, "bias"))


def gemm(c: Call) -> None:
    """``A B + C`` with optional transpositions."""
    a, b = c.data(0), c.data(1)
    with before_function(c, c.output()) as y:
        if c.has(2) and c.shape(c.data(2)) != c.shape(y)[1:]:
            made = c.temporary(c.shape(y))
            matrix_product(c, a, b, made)
            c.emit(Elementwise((made, c.data(2)), y, "add"))
            return
        with parametrized(c.graph, 1, channel_parameters(c, (2, "bias")), y) as made:
            matrix_product(c, a, b, made)


def matrix_product(c: Call, a: str, b: str, y: str) -> None:
    """``y = A B``, either of them transposed as the attributes say."""
    a_axes = ("k", "m") if c.attribute("transA", 0) else ("m", "k")
    b_axes = ("n", "k") if c.attribute("transB", 0) else ("k", "n")
    c.emit(Contraction((a, b), y, a_axes, b_axes, ("m", "n")))


def matmul(c: Call) -> None:
    """``MatMul``."""
    multiplied(c.graph, c.data(0), c.data(1), c.output())


def integer_matmul(c: Call) -> None:
    """``MatMulInteger``: zero points of ``B`` are per column or one."""
    quantized_product(c, 1, 2, (3, "parameter"))


def quantized_matmul(c: Call) -> None:
    """``QLinearMatMul``: scales and zero points of ``B`` are per column or one."""
    for i in (1, 6, 7):
        if c.has(i) and c.size(i) > 1:
            raise c.unsupported("has scales along an axis of its input or output")
    quantized_product(c, 3, 2, (4, "parameter"), (5, "parameter"))


def quantized_product(
    c: Call, second: int, zero_point: int | None, *parameters: tuple[int, str]
) -> None:
    """``A B`` with parameters of the columns of ``B``, which is input ``second``."""
    if zero_point is not None and c.has(zero_point) and c.size(zero_point) > 1:
        raise c.unsupported("has zero points for each row of its input")
    if any(c.has(i) and c.size(i) > 1 and len(c.shape(c.data(i))) > 1 for i, _ in parameters):
        raise c.unsupported("has scales or zero points along several axes")
    c.not_trained(*(i for i, role in parameters if role == "parameter"))
    y = c.output()
    found = channel_parameters(c, *parameters)
    with parametrized(c.graph, len(c.shape(y)) - 1, found, y) as made:
        multiplied(c.graph, c.data(0), c.data(second), made)


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
