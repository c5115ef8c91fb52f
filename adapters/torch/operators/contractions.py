"""Products of tensors as structural nodes: convolutions, matrix products, attention."""

from __future__ import annotations

from typing import Any

import numpy as np

from ....graph.find.composites import attended, multiplied, parametrized, taken, viewed
from ....graph.find.nodes import Contraction, Elementwise, Graph, Reduce, Window
from .table import Value, rule


def _bias(bias: Value | None) -> list[tuple[str, str]]:
    return [] if bias is None else [(bias.name, "bias")]


@rule("convolution", "cudnn_convolution", "mkldnn_convolution", "_convolution")
def convolution(graph: Graph, out: Value, x: Value, weight: Value, bias: Value | None, *rest: Any):
    """``convolution(x, weight, bias, stride, padding, dilation, transposed, _, groups)``."""
    with parametrized(graph, 1, _bias(bias), out.name) as product:
        windows = None if rest[3] else _windows(len(x.shape) - 2, *rest[:3])
        graph.add_convolution(x.name, weight.name, product, rest[5], rest[3], windows)


def _windows(rank: int, *options: list[int]) -> tuple[Window, ...]:
    """From stride, padding and dilation, of which one may be for all axes."""
    each = (option * rank if len(option) == 1 else option for option in options)
    return tuple(Window(s, d, p, p) for s, p, d in zip(*each, strict=True))


@rule("mm", "bmm", "mv", "dot", "vdot")
def product(graph: Graph, out: Value, a: Value, b: Value, *_: Any) -> None:
    """Matrices and vectors, or a batch of them."""
    multiplied(graph, a.name, b.name, out.name)


@rule("addmm", "baddbmm")
def addmm(graph: Graph, out: Value, bias: Value, a: Value, b: Value, **factors: Any) -> None:
    """A product plus a bias, each perhaps with a factor."""
    # What is fitted to a product is fitted to its tensor, which must be the plain product.
    plain = all(factor == 1 for factor in factors.values())
    if plain and bias.shape == out.shape[-1:]:
        with parametrized(graph, len(out.shape) - 1, _bias(bias), out.name) as target:
            multiplied(graph, a.name, b.name, target)
        return
    target = graph.temporary(out.shape)
    multiplied(graph, a.name, b.name, target)
    graph.nodes.append(Elementwise((target, bias.name), out.name, "add"))


@rule("_euclidean_dist", "_cdist_forward")
def distances(graph: Graph, out: Value, a: Value, b: Value, *_: Any) -> None:
    """``|a[i] - b[j]|`` for all pairs of rows."""
    *lead, channels = a.shape
    rows = viewed(graph, a.name, (*lead, 1, channels))
    columns = viewed(graph, b.name, (*b.shape[:-2], 1, *b.shape[-2:]))
    difference = graph.temporary((*out.shape, channels))
    graph.nodes += [
        Elementwise((rows, columns), difference, "add"),
        Reduce(difference, out.name, (len(out.shape),), False),
    ]


@rule("linear")
def linear(graph: Graph, out: Value, x: Value, weight: Value, bias: Value | None = None) -> None:
    """``x @ weight.T + bias``."""
    batch = tuple(f"b{i}" for i in range(len(x.shape) - 1))
    axes = (*batch, "k"), ("n", "k"), (*batch, "n")
    with parametrized(graph, len(batch), _bias(bias), out.name) as target:
        graph.nodes.append(Contraction((x.name, weight.name), target, *axes))


@rule("_trilinear")
def bilinear(
    graph: Graph, out: Value, a: Value, weight: Value, b: Value, *axes: Any
) -> bool | None:
    """``sum_ij a[n, i] W[o, i, j] b[n, j]``, as ``nn.Bilinear`` calls it."""
    if list(axes[:4]) != [[1, 3], [0], [1, 2], [2, 3]]:
        return False
    pairs = graph.temporary((*a.shape, b.shape[1]))
    graph.nodes += [
        Contraction((a.name, b.name), pairs, ("n", "i"), ("n", "j"), ("n", "i", "j")),
        Contraction((pairs, weight.name), out.name, ("n", "i", "j"), ("o", "i", "j"), ("n", "o")),
    ]
    return None


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
    """Over ``(batch, heads, tokens, channels)``; several heads may share keys and values."""
    bias = named.get("attn_mask", bias)
    shared = []
    for value in (k, v):
        heads = value.shape[1]
        whole = graph.temporary((value.shape[0], q.shape[1], *value.shape[2:]))
        taken(graph, value.name, {1: np.repeat(np.arange(heads), q.shape[1] // heads)}, whole)
        shared.append(whole)
    masks = [bias.name] if isinstance(bias, Value) else []
    operands = (q.name, "bhsd"), (shared[0], "bhld"), (shared[1], "bhle")
    attended(graph, operands, masks, (out.name, "bhse"))
