"""Symmetric functions over axes, as structural nodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ....graph.find.nodes import Elementwise, Graph, Positional, Reduce, Reshape
from .table import Value, resolved_axes, rule

# f(s x) = s f(x) for every s > 0.
HOMOGENEOUS = frozenset({"mean", "sum", "nansum", "amax", "amin", "max", "min", "median", "std"})


@rule(
    "mean", "sum", "amax", "amin", "prod", "logsumexp", "any", "all", "nansum", "norm", "var",
    "std", "linalg_vector_norm", "max", "min", "median",
)  # fmt: skip
def reduction(
    graph: Graph, outs: Sequence[Value], x: Value, *args: Any, operator: str, **named: Any
) -> None:
    """Symmetric functions over some axes."""
    if args and isinstance(args[0], Value):  # max(x, y)
        graph.nodes.append(Elementwise((x.name, args[0].name), outs[0].name))
        return
    if operator in ("linalg_vector_norm", "norm"):
        args = args[1:]
    axes = resolved_axes(
        named.get("dim", args[0] if args and not isinstance(args[0], bool) else None), len(x.shape)
    )
    keepdims = len(outs[0].shape) == len(x.shape)
    homogeneous = operator in HOMOGENEOUS
    graph.nodes.append(Reduce(x.name, outs[0].name, axes, keepdims, homogeneous))
    for indices in outs[1:]:  # they depend on the order
        graph.nodes.append(_positions(graph, x, indices, axes))


def _positions(graph: Graph, x: Value, out: Value, axes: tuple[int, ...]) -> Reshape:
    kept = graph.temporary([1 if a in axes else n for a, n in enumerate(x.shape)])
    graph.nodes.append(Positional(x.name, kept, axes))
    return Reshape(kept, out.name)


@rule("argmax", "argmin")
def arg_reduction(graph: Graph, out: Value, x: Value, axis: Any = None, *_: Any) -> None:
    """Where the extremum is."""
    graph.nodes.append(_positions(graph, x, out, resolved_axes(axis, len(x.shape))))


@rule("var_mean", "std_mean", "aminmax")
def two_reductions(graph: Graph, outs: Sequence[Value], x: Value, *args: Any, **named: Any) -> None:
    """Two statistics at once."""
    for out in outs:
        reduction(graph, [out], x, *args, operator="var", **named)
