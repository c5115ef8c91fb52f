"""What the picture of a network shows: layers, sums, concatenations, and what runs between them.

The structural graph of a network has a node for every operator.  A reader wants to see the layers
that hold weights and how their channels flow, so that

- an operator that reads weights is an *operation*: a layer (convolution, linear), or parameters of
  its channels (normalization, bias, layer scale);
- parameters stand in one *unit* with the layer that they directly follow or precede;
- an operator without weights that joins several units is a unit too: a sum, a product, a
  concatenation;
- everything else (activations, pooling, reshaping) is part of the line between two units, and so
  are a product with a gate of itself and the attention between ``qkv`` and the projection.

A concatenation of all that an earlier one joined and something more is drawn as the earlier one
joined with the rest, which is the same tensor: dense blocks have one line, not one for each pair.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Literal

import numpy as np

from ....graph.find.channels import ChannelGroup, Member
from ....graph.find.nodes import (
    Concat,
    Contraction,
    Elementwise,
    Freeze,
    Graph,
    Node,
    Opaque,
    PerChannel,
    Shape,
    input_names,
    output_names,
)

Strip = tuple[tuple[int, int], ...]
"""Runs of ``(group, rows)`` along an axis; group -1 stands for rows of no group."""

UnitKind = Literal["layers", "sum", "product", "concat", "join", "opaque", "input", "output"]
_MOST_RUNS = 64  # more alternating runs than this are shown as one run for each group


@dataclass(frozen=True)
class Operation:
    """One operator that reads weights.

    Attributes
    ----------
    kind : {"layer", "parameters", "opaque"}
    weights : tuple of str
        What it reads, the largest first.
    module : str
        Dotted name of the module that holds them.
    text : str
        Size of a layer: channels in and out, kernel; else empty.
    reads, makes : Strip
        Groups along the axis that it reads and the axis that it makes.
    read_sets, made_sets : Strip
        Groups of whole sets of channels (attention heads) on the same axes.
    reason : str
        Why it freezes what it touches, where nothing is known about it.
    bias : bool
        Whether it adds one value to each channel, which is part of a layer just before it.
    """

    kind: Literal["layer", "parameters", "opaque"]
    weights: tuple[str, ...]
    module: str
    text: str
    reads: Strip
    makes: Strip
    read_sets: Strip = ()
    made_sets: Strip = ()
    reason: str = ""
    bias: bool = False


@dataclass
class Unit:
    """What stands at one place of the picture.

    Attributes
    ----------
    kind : str
    tensor : str
        Name of what it puts out.
    sources : list of int
        Units that it reads, in order.
    operations : list of Operation
        One below the other.
    makes : Strip
        Groups along the channels of what it puts out.
    reason : str
        Of an operator without weights about which nothing is known.
    """

    kind: UnitKind
    tensor: str
    sources: list[int]
    operations: list[Operation] = field(default_factory=list)
    makes: Strip = ()
    reason: str = ""

    @property
    def module(self) -> str:
        """Dotted name of the module of its layer; empty where it reads no weights."""
        layers = [o for o in self.operations if o.kind == "layer"] or self.operations
        return layers[0].module if layers else ""


@dataclass(frozen=True)
class Network:
    """What is drawn.

    Attributes
    ----------
    units : list of Unit
        In the order of execution.
    modules : dict of str to str
        Module of each weight in a unit.
    unused : list of str
        Weights that no path from the inputs meets.
    """

    units: list[Unit]
    modules: dict[str, str]
    unused: list[str]


def by(shape: Sequence[int]) -> str:
    """A shape as text.

    >>> by((64, 3, 7, 7))
    '64×3×7×7'
    """
    return "\N{MULTIPLICATION SIGN}".join(map(str, shape))


def module_of_weight(name: str) -> str:
    """Dotted name of the module that holds a weight, by the name of the weight.

    >>> module_of_weight("layer1.0.conv1.weight")
    'layer1.0.conv1'
    """
    return name.rpartition(".")[0] or name


def network_of(
    graph: Graph, groups: Sequence[ChannelGroup], modules: Mapping[str, str] | None = None
) -> Network:
    """The units of a network.

    Parameters
    ----------
    graph : Graph
    groups : sequence of ChannelGroup
        Of the same graph; strips refer to them by their index.
    modules : mapping of str to str, optional
        Module of each weight; by the names of the weights where it says nothing.
    """
    reader = _Reader(graph, groups, modules or {})
    for node in graph.nodes:
        reader.read(node)
    for name in graph.outputs:
        if name in reader.unit_of:
            reader.units.append(Unit("output", name, [reader.unit_of[name]]))
    units = _numbered(_attached(reader.units))
    module = {w: o.module for unit in reversed(units) for o in unit.operations for w in o.weights}
    unused = [weight for weight in dict.fromkeys(graph.weights.values()) if weight not in module]
    return Network(units, module, unused)


class _Reader:
    """Units in the order of the nodes, before parameters are put to their layers."""

    def __init__(self, graph: Graph, groups: Sequence[ChannelGroup], modules: Mapping[str, str]):
        self.graph = graph
        self.modules = modules
        self.units = [Unit("input", name, []) for name in graph.inputs]
        self.unit_of = {name: i for i, name in enumerate(graph.inputs)}
        self.weights_of: dict[str, tuple[str, ...]] = {
            tensor: (weight,) for tensor, weight in graph.weights.items()
        }
        self.members: dict[str, list[tuple[int, Member]]] = {}
        for i, group in enumerate(groups):
            for member in group.members:
                self.members.setdefault(member.weight, []).append((i, member))
        self.shape: dict[str, Shape] = {w: graph.shapes[t] for t, w in graph.weights.items()}
        self.concats: dict[tuple[str, ...], int] = {}

    def read(self, node: Node) -> None:
        """Add the unit of a node, or let its outputs stand for the unit that it reads."""
        inputs = input_names(node)
        sources = list(dict.fromkeys(self.unit_of[n] for n in inputs if n in self.unit_of))
        found = dict.fromkeys(w for n in inputs for w in self.weights_of.get(n, ()))
        weights = tuple(sorted(found, key=lambda w: -prod(self.shape[w])))
        outputs = output_names(node)
        tensor = outputs[0] if outputs else ""  # an operator whose output has no known shape
        if not sources:
            if weights:
                self.weights_of |= dict.fromkeys(outputs, weights)
            return
        if weights:
            operation = self.operation(node, weights)
            made = operation.makes or self.units[sources[0]].makes
            unit = Unit("layers", tensor, sources, [operation], made)
        elif isinstance(node, (Freeze, Opaque)):
            unit = Unit("opaque", tensor, sources, reason=node.reason)
        elif len(sources) > 1:
            unit = self.join(node, sources)
        else:
            self.unit_of |= dict.fromkeys(outputs, sources[0])
            return
        self.unit_of |= dict.fromkeys(outputs, len(self.units))
        self.units.append(unit)

    def join(self, node: Node, sources: list[int]) -> Unit:
        """The unit of a node without weights that reads several units."""
        widest = max((self.units[i].makes for i in sources), key=_rows)
        if isinstance(node, Elementwise):
            names: dict[str, UnitKind] = {"add": "sum", "mul": "product"}
            return Unit(names.get(node.op, "join"), node.output, sources, makes=widest)
        if not isinstance(node, Concat):
            return Unit("join", output_names(node)[0], sources, makes=widest)
        for n in range(len(node.inputs) - 1, 1, -1):
            earlier = self.concats.get((str(node.axis), *node.inputs[:n]))
            if earlier is not None:
                rest = [self.unit_of[name] for name in node.inputs[n:] if name in self.unit_of]
                sources = list(dict.fromkeys([earlier, *rest]))
                break
        self.concats[(str(node.axis), *node.inputs)] = len(self.units)
        strips = [self.units[i].makes for i in sources]
        whole = tuple(run for strip in strips for run in strip)
        along = _rows(whole) == self.graph.shapes[node.output][node.axis]
        return Unit("concat", node.output, sources, makes=whole if along else widest)

    def operation(self, node: Node, weights: tuple[str, ...]) -> Operation:
        """What a node does with its weights."""
        main = weights[0]
        module = self.modules.get(main) or module_of_weight(main)
        if isinstance(node, (Freeze, Opaque)):
            return Operation("opaque", weights, module, "", (), (), reason=node.reason)
        scaled, scaled_sets = self.strips(main, "per_channel")
        reads, read_sets = self.strips(main, "consumer")
        makes, made_sets = self.strips(main, "producer")
        reads, read_sets = (reads, read_sets) if reads else (scaled, scaled_sets)
        makes, made_sets = (makes, made_sets) if makes else (scaled, scaled_sets)
        if isinstance(node, Contraction):
            size = self.layer_size(node)
            return Operation("layer", weights, module, size, reads, makes, read_sets, made_sets)
        bias = len(weights) == 1 and (
            (isinstance(node, PerChannel) and node.roles == ("bias",))
            or (isinstance(node, Elementwise) and node.op == "add" and len(self.shape[main]) == 1)
        )
        along = (makes, made_sets) if makes else (reads, read_sets)
        strips = along[0], along[0], along[1], along[1]
        return Operation("parameters", weights, module, "", *strips, bias=bias)

    def layer_size(self, node: Contraction) -> str:
        """Channels in and out, kernel and groups of a layer: ``"64→256 1×1"``."""
        plain, shapes = node.apart(self.graph.shapes)
        of_weight, of_data, shape = plain.b_axes, plain.a_axes, shapes[1]
        if node.inputs[1] in self.unit_of:
            of_weight, of_data, shape = of_data, of_weight, shapes[0]
        size = {"in": 1, "out": 1, "groups": 1}
        kernel = []
        for axis, n in zip(of_weight, shape, strict=True):
            if axis not in of_data and axis not in node.out_axes:
                kernel.append(n)
            elif axis not in of_data:
                size["out"] *= n
            else:
                size["groups" if axis in node.out_axes else "in"] *= n
        groups = size["groups"]
        text = f"{size['in'] * groups}→{size['out'] * groups}"
        text += f" {by(kernel)}" if kernel else ""
        if groups > 1:
            text += " dw" if size["in"] == 1 else f" /{groups}"
        return text

    def strips(self, weight: str, kind: str) -> tuple[Strip, Strip]:
        """Groups along the axis of a weight that is of a kind, and groups of sets of channels."""
        axes: dict[tuple, list[tuple[int, Member]]] = {}
        for i, member in self.members.get(weight, []):
            if member.kind == kind:
                axes.setdefault((member.view, member.axes), []).append((i, member))
        if not axes:
            return (), ()
        (view, along), found = max(axes.items(), key=lambda item: len(item[1]))
        group, sets = np.full((2, prod(view[axis] for axis in along)), -1)
        for i, member in sorted(found, key=lambda item: item[1].positions.shape[1]):
            rows = member.positions.ravel()
            if (group[rows] < 0).any():
                group[rows] = np.where(group[rows] < 0, i, group[rows])
            else:
                sets[rows] = i
        return _runs(group), _runs(sets) if (sets >= 0).any() else ()


def _runs(group: np.ndarray) -> Strip:
    cuts = np.flatnonzero(np.r_[True, group[1:] != group[:-1], True])
    if len(cuts) <= _MOST_RUNS:
        return tuple((int(group[a]), int(b - a)) for a, b in itertools.pairwise(cuts))
    names = dict.fromkeys(group.tolist())
    return tuple((i, int((group == i).sum())) for i in names)


def _rows(strip: Strip) -> int:
    return sum(n for _, n in strip)


def _attached(units: list[Unit]) -> list[Unit | None]:
    """Parameters in the unit of the layer that they directly follow, else precede."""
    readers = [0] * len(units)
    for unit in units:
        for i in unit.sources:
            readers[i] += 1
    kept: list[Unit | None] = list(units)
    stands_for = list(range(len(units)))
    for i, unit in enumerate(units):
        unit.sources = list(dict.fromkeys(stands_for[j] for j in unit.sources))
        if unit.kind != "layers" or len(unit.sources) != 1:
            continue
        j = unit.sources[0]
        before = units[j]
        if before.kind != "layers" or readers[j] != 1:
            continue
        parameters = all(o.kind == "parameters" for o in unit.operations)
        leading = all(o.kind == "parameters" for o in before.operations)
        if parameters:  # behind a layer, or behind other parameters
            before.operations = _merged(before.operations, unit.operations)
            before.makes, before.tensor = unit.makes, unit.tensor
            readers[j], kept[i], stands_for[i] = readers[i], None, j
        elif leading and unit.operations[0].kind == "layer":
            unit.operations = _merged(before.operations, unit.operations)
            unit.sources, kept[j] = before.sources, None
            stands_for[j] = i
    return kept


def _merged(first: list[Operation], second: list[Operation]) -> list[Operation]:
    """Operations one after the other; a bias joins its layer, a shift the scale before it."""
    merged = list(first)
    for operation in second:
        last = merged[-1]
        weights = last.weights + operation.weights
        if last.kind == "layer" and operation.bias:
            # Exporters transpose weights and name them anew; a bias keeps its name.
            renamed = "." not in last.weights[0] and "." in operation.weights[0]
            module = operation.module if renamed else last.module
            merged[-1] = replace(last, weights=weights, module=module)
        elif last.kind == operation.kind == "parameters" and operation.module == last.module:
            merged[-1] = replace(last, weights=weights)
        else:
            merged.append(operation)
    return merged


def _numbered(units: list[Unit | None]) -> list[Unit]:
    """Without the units that others have taken in, and without inputs that nothing reads."""
    read = {j for unit in units if unit is not None for j in unit.sources}
    number: dict[int, int] = {}
    kept: list[Unit] = []
    for i, unit in enumerate(units):
        if unit is not None and (unit.kind != "input" or i in read):
            number[i] = len(kept)
            kept.append(unit)
    for unit in kept:
        unit.sources = [number[j] for j in unit.sources]
    return kept
