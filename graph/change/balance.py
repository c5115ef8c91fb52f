"""Scale between what makes channels and what reads them, moved without changing the function.

Merging averages the incoming weights of channels and adds up their outgoing ones, so that with
every event the former shrink and the latter grow.  Where all that lies between is positively
homogeneous, ``f(s x) = s f(x)`` for ``s > 0`` (rectifiers, pooling), a channel may be scaled::

    w_in s,  bias s,  w_out / s          s^2 = (|out| / |in|) / r

(``in`` is ``w_in`` with the bias: without it, the bias of a channel whose incoming weights shrink
would grow at every event), which leaves it with the ratio ``r``: 1, or, behind a normalization,
whose scale and shift are then what is scaled, the ratio that the channels merged into it had (root
mean squares over these).

The paths are followed from every consumer back to the first weights that can take the scale.
Anything on the way that is not known to be homogeneous, and any other reader of a tensor that
would be scaled, leaves the group as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from ..find.axes import kept_axes
from ..find.channels import Member
from ..find.nodes import (
    Concat,
    Contraction,
    Elementwise,
    Gather,
    Graph,
    Node,
    PerChannel,
    Positional,
    Reduce,
    Reshape,
    Transpose,
    input_names,
    output_names,
)
from ..plan.plan import GroupPlan
from .moments import squared_norms
from .normalizations import weight_of

# Differences of scale below this share are left alone: those that a refit makes by rounding.
SLIGHT = 1e-3


def balance_plan(
    graph: Graph,
    plan: GroupPlan,
    before: Mapping[str, np.ndarray],
    after: Mapping[str, np.ndarray],
) -> GroupPlan | None:
    """The plan that gives merged channels the ratio of scales that their members had.

    Parameters
    ----------
    graph : Graph
    plan : GroupPlan
        Of kind ``"reorganize"``.
    before, after : mapping of str to ndarray
        Weights of the plan's members before and after it.

    Returns
    -------
    GroupPlan or None
        None where nothing between is known to allow it, or nothing is out of balance.
    """
    if plan.A is None or plan.shares is None or plan.outgoing == "mean":  # as the paper prints it
        return None
    merges = bool(((plan.shares > 0.0).sum(axis=1) > 1).any())
    if not merges and plan.outgoing != "least_squares":
        return None
    taking = scaled_members(graph, plan.members)
    if not taking:
        return None
    consumers = [m for m in plan.members if m.kind == "consumer"]
    scales = [m for m in taking if m.role == "scale"]
    making = scales or taking
    kept = plan.survivors
    out, made = (squared_norms(members, after)[kept] for members in (consumers, making))
    wanted = np.ones(len(kept))
    square = plan.A[kept] ** 2
    scale = np.ones(plan.channels)
    with np.errstate(all="ignore"):
        if scales:
            wanted = square @ squared_norms(consumers, before)
            wanted /= square @ squared_norms(making, before)
        ratio = out / made / wanted
    scale[kept] = np.where((ratio > 0.0) & np.isfinite(ratio), ratio, 1.0) ** 0.25
    if np.all(np.abs(scale - 1.0) < SLIGHT):
        return None
    return replace(
        plan,
        members=(*taking, *consumers),
        A=np.diag(scale),
        B=np.diag(1.0 / scale),
        shares=None,
        new=np.zeros(0, dtype=np.int64),
        filters={},
    )


def scaled_members(graph: Graph, members: tuple[Member, ...]) -> tuple[Member, ...]:
    """The members that scale the channels as their consumers read them; none where unknown."""
    try:
        return _Paths(graph, members).taking()
    except _Unknown:
        return ()


class _Unknown(Exception):
    """The effect of a scale is not known."""


class _Paths:
    """From every consumer of a group back to the weights that can take a scale."""

    def __init__(self, graph: Graph, members: tuple[Member, ...]) -> None:
        self.graph = graph
        self.weights = weight_of(graph)
        self.made_by = {name: node for node in graph.nodes for name in output_names(node)}
        self.consumers = {m.weight for m in members if m.kind == "consumer"}
        self.others = {m.weight for m in members if m.kind != "consumer"}
        self.members = members
        self.found: set[str] = set()  # weights that take the scale
        self.carries: dict[tuple[str, int], bool] = {}
        self.passed: set[int] = set()  # nodes whose effect on the scale is known

    def taking(self) -> tuple[Member, ...]:
        for node in self.graph.nodes:
            if isinstance(node, Contraction):
                for x, weight, x_axes, _ in _operands(node):
                    if self.weights.get(weight) in self.consumers:
                        axis = _read_axis(x_axes, node)
                        if node.groups > 1 or not self._carries(x, axis):
                            raise _Unknown
                        self.passed.add(id(node))
        scaled = {name for (name, _), ours in self.carries.items() if ours}
        if scaled & set(self.graph.outputs):
            raise _Unknown
        for node in self.graph.nodes:
            named = {self.weights.get(name) for name in input_names(node)}
            reads = scaled & set(input_names(node)) or named & (self.found | self.consumers)
            of_weights = isinstance(node, (Reshape, Transpose)) and all(named)
            # A depthwise kernel that takes the scale must not read it as well.
            depthwise = isinstance(node, Contraction) and node.groups > 1
            twice = depthwise and scaled & set(input_names(node))
            known = id(node) in self.passed and not twice
            # A layer that is called again makes scaled channels where no path came along.
            again = isinstance(node, Contraction) and node.output not in scaled
            astray = again and bool(named & self.found)
            if astray or (reads and not of_weights and not known):
                raise _Unknown
        return tuple(m for m in self.members if m.kind != "consumer" and m.weight in self.found)

    def _carries(self, name: str, axis: int) -> bool:
        """Whether a tensor has the group's channels along an axis; their scale reaches it."""
        key = (name, axis)
        if key not in self.carries:
            node = self.made_by.get(name)
            self.carries[key] = node is not None and self._through(node, name, axis)
            if self.carries[key]:
                self.passed.add(id(node))
        return self.carries[key]

    def _through(self, node: Node, name: str, axis: int) -> bool:
        shapes = self.graph.shapes
        if isinstance(node, Contraction):
            return self._made(node, axis)
        if isinstance(node, PerChannel):
            return self._per_channel(node, axis)
        if isinstance(node, Elementwise):
            return self._elementwise(node, axis - len(shapes[name]))
        if isinstance(node, (Positional, Reduce)):
            ((_, kept),) = kept_axes(node, shapes)
            before = next((old for old, new in kept.items() if new == axis), None)
            if before is None or not node.homogeneous:
                raise _Unknown
            return self._carries(node.input, before)
        if isinstance(node, Transpose):
            return self._carries(node.input, node.order[axis])
        if isinstance(node, Reshape):
            return self._carries(node.input, _unflattened(shapes[node.input], shapes[name], axis))
        if isinstance(node, Concat) and node.axis == axis:
            return any([self._carries(part, axis) for part in node.inputs])
        if isinstance(node, Gather):
            return self._carries(node.input, axis)
        raise _Unknown

    def _made(self, node: Contraction, axis: int) -> bool:
        """Channels begin at a contraction with a weight, a depthwise one included."""
        for _, weight, _, w_axes in _operands(node):
            own = self.weights.get(weight)
            if own is not None:
                depthwise = self.graph.shapes[weight][:2] == (node.groups, 1)
                if node.out_axes[axis] not in w_axes or (node.groups > 1 and not depthwise):
                    raise _Unknown
                return self._takes(own)
        raise _Unknown

    def _takes(self, weight: str) -> bool:
        if weight in self.others:
            self.found.add(weight)
            return True
        return False

    def _per_channel(self, node: PerChannel, axis: int) -> bool:
        x, *parameters = node.inputs
        by_role = {
            role: self.weights.get(name) for role, name in zip(node.roles, parameters, strict=True)
        }
        if axis != node.axis or not all(by_role.values()):
            raise _Unknown
        if set(by_role) == {"bias"}:
            ours = self._carries(x, axis)
            return self._takes(str(by_role["bias"])) and ours
        if not {"scale", "shift"} <= set(by_role) <= {
            "scale", "shift", "running_mean", "running_var"
        }:  # fmt: skip
            raise _Unknown
        return all([self._takes(str(by_role[role])) for role in ("scale", "shift")])

    def _elementwise(self, node: Elementwise, axis: int) -> bool:
        """``axis`` counts from the end, as numpy broadcasts."""
        shapes = self.graph.shapes
        data = [name for name in node.inputs if name not in self.weights]
        weights = [name for name in node.inputs if name in self.weights]
        if any(-axis > len(shapes[name]) or shapes[name][axis] == 1 for name in node.inputs):
            raise _Unknown
        places = [len(shapes[name]) + axis for name in data]
        if node.homogeneous and len(data) == 1 and data[0] in self.made_by:
            return self._carries(data[0], places[0])
        if node.op == "add" and data and len(node.inputs) > 1:  # a number alone is no input
            ours = [self._carries(*where) for where in zip(data, places, strict=True)]
            ours += [self._takes(self.weights[name]) for name in weights]
            if len(set(ours)) > 1:
                raise _Unknown
            return ours[0]
        if node.op == "mul" and len(data) == len(weights) == 1:
            return self._takes(self.weights[weights[0]])
        raise _Unknown


def _read_axis(x_axes: tuple[str, ...], node: Contraction) -> int:
    """The one axis of the data that a contraction with a weight sums over."""
    if len(node.summed) != 1:
        raise _Unknown
    return x_axes.index(node.summed[0])


def _operands(
    node: Contraction,
) -> list[tuple[str, str, tuple[str, ...], tuple[str, ...]]]:
    """Both ways to see a contraction: what is data and what is the weight, and their axes."""
    a, b = node.inputs
    return [(a, b, node.a_axes, node.b_axes), (b, a, node.b_axes, node.a_axes)]


def _unflattened(before: tuple[int, ...], after: tuple[int, ...], axis: int) -> int:
    """The axis of the channels before they were flattened with what lies behind them.

    >>> _unflattened((2, 8, 3, 3), (2, 72), 1), _unflattened((2, 8, 1, 1), (2, 8), 1)
    (1, 1)
    """
    lead = int(np.prod(after[:axis], dtype=np.int64))
    for candidate in range(len(before)):
        inside = int(np.prod(before[candidate + 1 :], dtype=np.int64))
        outside = int(np.prod(before[:candidate], dtype=np.int64))
        if outside == lead and before[candidate] > 1:
            if after[axis] in (before[candidate], before[candidate] * inside):
                return candidate
            break
    raise _Unknown
