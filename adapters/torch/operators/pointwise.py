"""Functions of equal positions, as structural nodes."""

from __future__ import annotations

from typing import Any

import numpy as np

from ....graph.find.composites import gated
from ....graph.find.nodes import Elementwise, Graph
from .table import Value, resolved_axis, rule

ELEMENTWISE_OP = {
    "add": "add", "sub": "add", "rsub": "add", "add_": "add", "sub_": "add",
    "mul": "mul", "mul_": "mul", "_prelu_kernel": "prelu",
}  # fmt: skip

# f(s x) = s f(x) for every s > 0.
HOMOGENEOUS = frozenset({
    "clone", "contiguous", "alias", "detach", "lift_fresh", "lift", "lift_fresh_copy",
    "requires_grad_", "dropout", "native_dropout", "relu", "relu_", "leaky_relu",
    "leaky_relu_", "_prelu_kernel", "prelu", "rrelu_with_noise", "abs", "neg", "positive",
})  # fmt: skip


# PyTorch 2.6 to 2.11 do not tag leaky_relu as pointwise, nor celu_ to selu_.
@rule(
    "clone", "_to_copy", "contiguous", "alias", "detach", "lift_fresh", "lift", "dropout",
    "copy", "relu_", "to", "lift_fresh_copy", "_assert_tensor_metadata", "masked_fill",
    "masked_fill_", "native_dropout", "glu_jvp", "copy_", "requires_grad_",
    "_prelu_kernel", "prelu", "rrelu_with_noise", "fake_quantize_per_tensor_affine",
    "_conj", "nan_to_num", "bernoulli", "hardswish", "hardswish_", "silu_", "sigmoid_", "mish_",
    "log_sigmoid_forward", "leaky_relu", "leaky_relu_", "celu_", "elu_", "hardsigmoid_",
    "hardtanh_", "selu_",
)  # fmt: skip
def elementwise(graph: Graph, out: Value, *args: Any, operator: str, **named: Any) -> None:
    """Every tensor among the arguments meets the output position by position."""
    values = [v for v in (*args, *named.values()) if isinstance(v, Value)]
    graph.nodes.append(
        Elementwise(
            tuple(v.name for v in values),
            out.name,
            ELEMENTWISE_OP.get(operator, "other"),
            operator in HOMOGENEOUS,
        )
    )


@rule("addcmul", "addcmul_", "addcdiv", "addcdiv_")
def add_product(
    graph: Graph, out: Value, x: Value, a: Value, b: Value, operator: str, **_: Any
) -> None:
    """``x + a b`` or ``x + a / b``."""
    made = graph.temporary(np.broadcast_shapes(a.shape, b.shape))
    op = "mul" if "mul" in operator else "other"
    graph.nodes += [
        Elementwise((a.name, b.name), made, op),
        Elementwise((x.name, made), out.name, "add"),
    ]


@rule("glu")
def glu(graph: Graph, out: Value, x: Value, axis: int = -1) -> None:
    """The first half of an axis gated by the second."""
    gated(graph, x.name, resolved_axis(axis, len(x.shape)), out.name)
