"""Products of tensors as structural nodes: convolutions, matrix products, attention."""

from __future__ import annotations

from typing import Any

from ....graph.find.composites import attended
from ....graph.find.nodes import Contraction, Elementwise, Graph, PerChannel
from .table import Value, rule


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


@rule("dot", "vdot")
def dot(graph: Graph, out: Value, a: Value, b: Value) -> None:
    """Vector by vector."""
    _product(graph, a, b, out.name, ("k", "k", ""))


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
    _product(graph, q, k, scores, ("bhsd", "bhld", "bhsl"))
    if isinstance(bias, Value):
        biased = graph.temporary(shape)
        graph.nodes.append(Elementwise((scores, bias.name), biased, "add"))
        scores = biased
    graph.nodes += attended(graph, scores, v.name, "bhle", out.name, "bhse")
