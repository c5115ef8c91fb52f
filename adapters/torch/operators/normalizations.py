"""Normalizations as structural nodes: a tensor meets statistics of itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ....graph.find.composites import layer_normalized, normalized, normalized_in_groups
from ....graph.find.nodes import Elementwise, Graph, PerChannel
from .table import Value, resolved_axis, rule


@rule(
    "native_batch_norm", "cudnn_batch_norm", "miopen_batch_norm",
    "_native_batch_norm_legit_no_training", "_native_batch_norm_legit", "_batch_norm_no_update",
    "_batch_norm_with_update",
)  # fmt: skip
def batch_norm(graph: Graph, out: Value, x: Value, *rest: Any) -> None:
    """``batch_norm(x, scale, shift, running_mean, running_var, ...)``."""
    given = zip(rest[:4], ("scale", "shift", "running_mean", "running_var"), strict=False)
    used = [(value.name, role) for value, role in given if isinstance(value, Value)]
    graph.nodes.append(
        PerChannel(
            (x.name, *(name for name, _ in used)), out.name, 1, tuple(role for _, role in used)
        )
    )


def _parameters(scale: Any, shift: Any) -> list[tuple[str, str]]:
    given = zip((scale, shift), ("scale", "shift"), strict=True)
    return [(value.name, role) for value, role in given if isinstance(value, Value)]


@rule("native_layer_norm", "_fused_rms_norm")
def layer_norm(
    graph: Graph, out: Value, x: Value, over: Sequence[int], scale: Any = None, shift: Any = None,
    *_: Any,
) -> None:  # fmt: skip
    """Normalization over the last axes."""
    axes = range(len(x.shape) - len(over), len(x.shape))
    layer_normalized(graph, x.name, axes, _parameters(scale, shift), out.name)


@rule("native_group_norm")
def group_norm(
    graph: Graph, out: Value, x: Value, scale: Any, shift: Any, n: int, c: int, size: int,
    groups: int, *_: Any,
) -> None:  # fmt: skip
    """Normalization over the channels of a group and all positions."""
    normalized_in_groups(graph, x.name, groups, _parameters(scale, shift), out.name)


@rule("_softmax", "_log_softmax", "softmax", "log_softmax", "_safe_softmax")
def softmax(graph: Graph, out: Value, x: Value, axis: int, *_: Any, **__: Any) -> None:
    """Normalization over one axis."""
    normalized(graph, x.name, (resolved_axis(axis, len(x.shape)),), out.name)


@rule("_weight_norm_interface")
def weight_norm(graph: Graph, outs: Sequence[Value], v: Value, g: Value, axis: int = 0) -> None:
    """``g * v / |v|``, the norm over all axes but one."""
    out = outs[0]
    normal = graph.temporary(v.shape)
    axes = tuple(a for a in range(len(v.shape)) if a != axis)
    normalized(graph, v.name, axes, normal)
    graph.nodes.append(Elementwise((normal, g.name), out.name, "mul"))
