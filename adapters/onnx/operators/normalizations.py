"""ONNX operators that normalize over some axes, then scale and shift.

Part of the table in :mod:`rejuvenet.adapters.onnx.operators.table`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ....graph.find.composites import (
    layer_normalized,
    normalized,
    normalized_in_groups,
    parametrized,
)
from ....graph.find.nodes import PerChannel

if TYPE_CHECKING:
    from ..call import Call


def batch_normalization(c: Call) -> None:
    """``y = scale (x - mean) / sqrt(var + eps) + shift``; the statistics are not trained."""
    roles = ("scale", "shift", "running_mean", "running_var")
    c.not_trained(3, 4)
    c.emit(PerChannel(tuple(c.data(i) for i in range(5)), c.output(), 1, roles))


def softmax(c: Call) -> None:
    """Along one axis; before opset 13, over all axes from ``axis`` on."""
    rank = len(c.shape(c.data(0)))
    axis = c.attribute("axis", 1 if c.opset < 13 else -1) % max(rank, 1)
    axes = range(axis, rank) if c.opset < 13 else (axis,)
    normalized(c.graph, c.data(0), axes, c.output())


def lp_normalization(c: Call) -> None:
    x = c.data(0)
    normalized(c.graph, x, (c.attribute("axis", -1) % len(c.shape(x)),), c.output())


def mean_variance_normalization(c: Call) -> None:
    x = c.data(0)
    axes = [axis % len(c.shape(x)) for axis in c.attribute("axes", (0, 2, 3))]
    normalized(c.graph, x, axes, c.output())


def layer_normalization(c: Call) -> None:
    """Over the last axes, then a scale and a shift of their shape."""
    over_last_axes(c, c.data(0), [(1, "scale"), (2, "shift")])


def root_mean_square_normalization(c: Call) -> None:
    """``RMSNormalization``, ``SimplifiedLayerNormalization``: without a shift."""
    over_last_axes(c, c.data(0), [(1, "scale")])


def over_last_axes(c: Call, x: str, parameters: list[tuple[int, str]]) -> None:
    """Normalized from ``axis`` on, then changed by those of the inputs that are there."""
    rank = len(c.shape(x))
    axes = range(c.attribute("axis", -1) % rank, rank)
    present = [(c.data(i), role) for i, role in parameters if c.has(i)]
    layer_normalized(c.graph, x, axes, present, c.output())


def instance_normalization(c: Call) -> None:
    x, parameters = c.data(0), [(c.data(1), "scale"), (c.data(2), "shift")]
    with parametrized(c.graph, 1, parameters, c.output()) as y:
        normalized(c.graph, x, range(2, len(c.shape(x))), y)


def group_normalization(c: Call) -> None:
    """Scale and shift are per channel, before opset 21 per group."""
    in_groups(c, c.data(0), c.output(), c.attribute("num_groups", 1))


def in_groups(c: Call, x: str, output: str, groups: int) -> None:
    """Normalized between two reshapes, axis 1 being that of the channels."""
    parameters = [(c.data(1), "scale"), (c.data(2), "shift")]
    normalized_in_groups(c.graph, x, groups, parameters, output)


NORMALIZATIONS: dict[str, Callable[[Call], None]] = {
    **dict.fromkeys(("Softmax", "LogSoftmax"), softmax),
    **dict.fromkeys(
        ("RMSNormalization", "SimplifiedLayerNormalization"), root_mean_square_normalization
    ),
    "BatchNormalization": batch_normalization,
    "GroupNormalization": group_normalization,
    "InstanceNormalization": instance_normalization,
    "LayerNormalization": layer_normalization,
    "LpNormalization": lp_normalization,
    "MeanVarianceNormalization": mean_variance_normalization,
}
