"""One pass over the nodes: what each kind of node says about the labels of its tensors.

Every axis of every weight starts with an atom for each position; these are its *places*
(:mod:`rejuvenet.graph.find.weight_axes`).  A rule labels the output of a node and records in
:mod:`rejuvenet.graph.find.constraints` what must move together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import prod

import numpy as np

from .axes import kept_axes, uniform_after, uniform_reshaped
from .channels import SUMMED, Kind
from .components import Component, is_distinct, occurrence, reshaped
from .constraints import BY_POSITION, FIXED_ORDER, Constraints
from .joining import join, join_contraction
from .nodes import (
    Concat,
    Contraction,
    Elementwise,
    Expand,
    Freeze,
    Gather,
    Graph,
    Opaque,
    Pad,
    PerChannel,
    Positional,
    Reduce,
    Reshape,
    Shape,
    Transpose,
    Unlabelled,
    input_names,
    output_names,
)
from .weight_axes import WeightAxes

MULTIPLIED = "multiplied by another tensor"
COMPUTED = "a weight is computed from what would be merged"


class Propagation:
    """Labels of all tensors of a graph, in one pass."""

    def __init__(self, graph: Graph):
        self.graph = graph
        self.state = Constraints()
        self.labels = self.state.labels
        self.weights = WeightAxes(graph, self.state)
        self.weight_only: set[str] = set(graph.weights)  # depends on weights only
        self.uniform = dict(graph.uniform)
        self.function_of: dict[str, str] = {}  # one tensor that all channels are made from alone
        self.rules: dict[type, Callable] = {
            Elementwise: self.elementwise,
            PerChannel: self.per_channel,
            Contraction: self.contraction,
            Positional: self.positional,
            Reduce: self.reduce,
            Reshape: self.reshape,
            Transpose: self.transpose,
            Concat: self.concat,
            Gather: self.gather,
            Pad: self.pad,
            Expand: self.expand,
            Unlabelled: self.opaque,
            Freeze: self.opaque,
            Opaque: self.opaque,
        }

    def run(self) -> Constraints:
        """Visit every node once."""
        computed = set(self.graph.inputs)  # depends on the data
        for node in self.graph.nodes:
            for name in input_names(node):
                if name not in self.labels:
                    self.labels[name] = self.weights.labelled(name)
            self.rules[type(node)](node)
            if alike := uniform_after(node, self.uniform, self.graph.shapes):
                self.uniform[output_names(node)[0]] = alike
            if computed.isdisjoint(input_names(node)):
                self.weight_only.update(output_names(node))
                continue
            for name in output_names(node):
                computed.add(name)
                self.labels[name] = self.state.as_labels(self.labels[name])
        for name in self.graph.outputs:
            self.state.freeze(self.labels.get(name, []), "reaches an output of the model")
        return self.state

    # --- one rule for each kind of node ---------------------------------------------------

    def align(self, name: str, output: str) -> tuple[list[Component], set[int], set[int]]:
        """Labels of an operand in the axes of the output, axes it runs along, and fixed ones."""
        shape, out = self.graph.shapes[name], self.graph.shapes[output]
        shift = len(out) - len(shape)
        components = [replace(c, axes=tuple(a + shift for a in c.axes)) for c in self.labels[name]]
        uniform = self.uniform.get(name, frozenset())
        along = {a + shift for a, n in enumerate(shape) if n > 1 and a not in uniform}
        covered = {a for c in components for a in c.axes}
        return components, along, along - covered

    def elementwise(self, node: Elementwise | PerChannel) -> None:
        """Equal positions are equal channels."""
        operands = [(name, *self.align(name, node.output)) for name in node.inputs]
        op = node.op if isinstance(node, Elementwise) else "other"
        data = [o for o in operands if o[0] not in self.weight_only and o[1]]
        if not data:  # filters before what scales them
            operands.sort(key=lambda o: -prod(self.graph.shapes[o[0]]))
        self._combine(node.output, operands)
        if not data:  # f(w + v) is not f(w) + f(v)
            self.state.inexact += [(c.atoms, COMPUTED) for o in operands for c in o[1]]
        labelled = {self.function_of.get(o[0], o[0]) for o in operands if o[1]}
        if len(labelled) == 1:  # x sigmoid(x) is a function of each element, however it is written
            self.function_of[node.output] = labelled.pop()
        elif len(data) > 1 and op != "add":
            self.state.inexact += [(c.atoms, MULTIPLIED) for o in data for c in o[1]]
        role = {"mul": "scale", "add": "shift"}.get(op, "parameter")
        met = self.weights.met([c for o in data for c in o[1]])
        for name, components, *_ in operands if data else ():
            if name in self.weight_only:
                self.weights.describe(components, "per_channel", role, met)

    def _combine(
        self, output: str, operands: list[tuple[str, list[Component], set[int], set[int]]]
    ) -> None:
        shape, state = self.graph.shapes[output], self.state
        fixed = set().union(*(o[3] for o in operands))
        merged: list[Component] = []
        along: set[int] = set()
        for _, components, axes, _ in operands:
            kept = []
            for component in components:
                kept += state.fix(component, fixed)
            merged = join(state, merged, kept, shape, along & axes)
            along |= axes
        self.labels[output] = merged

    def per_channel(self, node: PerChannel) -> None:
        """Parameters along one axis."""
        x = node.inputs[0]
        operands = [(x, *self.align(x, node.output))]
        for name in node.inputs[1:]:
            if self.graph.shapes[name][0] == 1:
                continue
            components = [replace(c, axes=(node.axis,)) for c in self.labels[name]]
            uniform = 0 in self.uniform.get(name, frozenset())
            along = set() if uniform else {node.axis}
            operands.append((name, components, along, along if not components else set()))
        met = self.weights.met(operands[0][1])
        self._combine(node.output, operands)
        for name, role in zip(node.inputs[1:], node.roles, strict=True):
            if name in self.weight_only:
                kind: Kind = "producer" if role == "bias" else "per_channel"
                self.weights.describe(self.labels[name], kind, role, met)

    def contraction(self, node: Contraction) -> None:
        """A product summed over the axes that only the inputs share."""
        state = self.state
        node, shapes = node.apart(self.graph.shapes)
        letters = list(dict.fromkeys((*node.out_axes, *node.a_axes, *node.b_axes)))
        index = {letter: i for i, letter in enumerate(letters)}
        a_set, b_set, out_set = set(node.a_axes), set(node.b_axes), set(node.out_axes)
        alone = {index[v] for v in (a_set ^ b_set) - out_set}
        shared = {index[v] for v in a_set & b_set}
        summed = {index[v] for v in (a_set & b_set) - out_set}
        sizes = [1] * len(letters)
        sides, fixed = [], set()
        operands = zip(node.inputs, (node.a_axes, node.b_axes), shapes, strict=False)
        for name, axes, view in operands:
            for letter, size in zip(axes, view, strict=True):
                sizes[index[letter]] = max(sizes[index[letter]], size)
            whole = self.graph.shapes[name]
            uniform = uniform_reshaped(self.uniform.get(name, frozenset()), whole, view)
            along = {index[v] for i, v in enumerate(axes) if view[i] > 1 and i not in uniform}
            labels = self._viewed(self.labels[name], whole, view)
            components = [c.moved(tuple(index[axes[a]] for a in c.axes)) for c in labels]
            fixed |= (along & shared) - {a for c in components for a in c.axes}
            sides.append(components)
        shape = tuple(sizes)
        for k, side in enumerate(sides):
            kept = []
            for component in side:
                for part in state.collapse(component, alone, BY_POSITION):
                    kept += state.fix(part, fixed)
            sides[k] = kept
        self._describe_contraction(node, sides, index, shape, shared, summed)
        made = join_contraction(state, sides, shape, shared)
        merged = [c for c in made if summed.isdisjoint(c.axes)]  # which have met each other
        for component in made:
            if not summed.isdisjoint(component.axes):
                parts = state.without(component, summed, copies=True)
                merged = join(state, merged, parts, shape, set(range(len(shape))))
        place = {i: node.out_axes.index(v) for v, i in index.items() if v in out_set}
        made = [c.moved(tuple(place[a] for a in c.axes)) for c in merged]
        whole = self.graph.shapes[node.output]
        self.labels[node.output] = self._viewed(made, shapes[2], whole)

    def _viewed(self, labels: list[Component], before: Shape, after: Shape) -> list[Component]:
        """Labels of a tensor that is reshaped."""
        if before == after:
            return labels
        return [part for c in labels for part in self.state.settle(reshaped(c, before, after))]

    def _describe_contraction(
        self,
        node: Contraction,
        sides: list[list[Component]],
        index: dict[str, int],
        shape: Shape,
        shared: set[int],
        summed: set[int],
    ) -> None:
        weights = [name in self.weight_only for name in node.inputs]
        if all(weights):
            return
        if not any(weights):
            if all(sides):
                added = [c for side in sides for c in side if set(c.axes) & summed]
                # Of what is said of a channel the first counts.
                self.state.inexact[:0] = [(c.atoms, SUMMED) for c in added]
                self.state.inexact += [(c.atoms, MULTIPLIED) for side in sides for c in side]
            return
        k = weights.index(True)
        tensor = node.inputs[1 - k]
        met = self.weights.met([c for c in sides[1 - k] if set(c.axes) & shared])
        own = (node.a_axes, node.b_axes)[k]
        fan_in = prod(shape[index[v]] for v in own if v not in node.out_axes)
        for component in sides[k]:
            axes = set(component.axes)
            kind: Kind = (
                "consumer" if axes & summed else "per_channel" if axes <= shared else "producer"
            )
            self.weights.describe([component], kind, "weight", "" if kind == "producer" else met)
            for places in self.weights.places_of(component):
                if kind == "consumer":
                    places.reads.append(tensor)
                    places.fan_in = places.fan_in or fan_in
                elif kind == "producer":
                    places.makes = True

    def positional(self, node: Positional) -> None:
        """Axes whose positions are told apart."""
        self.labels[node.output] = [
            part
            for c in self.labels[node.input]
            for part in self.state.collapse(c, set(node.axes), BY_POSITION)
        ]

    def reduce(self, node: Reduce) -> None:
        """Sums forget the order and keep the membership."""
        drop, shape = set(node.axes), self.graph.shapes[node.input]
        merged, parts = list[Component](), list[Component]()
        for component in self.labels[node.input]:
            if drop & set(component.axes):
                self.state.inexact.append((component.atoms, "reduced over its channels"))
            parts += self.state.without(component, drop)
        own = {c.axes: c for c in parts if not c.coarse and c.keys is None}
        for part in parts:
            if part.coarse and part.axes in own:  # rows of a weight, told apart by their atoms
                self.state.divide(own[part.axes], part.atoms)
            else:
                merged = join(self.state, merged, [part], shape, set(range(len(shape))))
        ((_, place),) = kept_axes(node, self.graph.shapes)
        self.labels[node.output] = [c.moved(tuple(place[a] for a in c.axes)) for c in merged]

    def reshape(self, node: Reshape) -> None:
        """Atoms are reshaped like the data."""
        before, after = self.graph.shapes[node.input], self.graph.shapes[node.output]
        if before != after and 0 in before:
            self.opaque(Opaque((node.input,), (node.output,), "an empty tensor"))
        else:
            self.labels[node.output] = self._viewed(self.labels[node.input], before, after)

    def transpose(self, node: Transpose) -> None:
        """Axes change places."""
        place = {old: new for new, old in enumerate(node.order)}
        self.labels[node.output] = [
            c.moved(tuple(place[a] for a in c.axes)) for c in self.labels[node.input]
        ]

    def concat(self, node: Concat) -> None:
        """Arrays of atoms one after the other; on the other axes the inputs agree."""
        state, graph, k = self.state, self.graph, node.axis
        shape = graph.shapes[node.output]
        if self.stack(node):
            return
        along: list[Component | None] = []
        across: list[Component] = []
        others = []
        for name in node.inputs:
            components, runs, fixed = self.align(name, node.output)
            mine = [c for c in components if k in c.axes]
            rest = [c for c in components if k not in c.axes]
            for extra in mine[1:]:
                rest += state.collapse(extra, {k}, FIXED_ORDER)
            along.append(state.refined(mine[0]) if mine else None)
            others.append((name, rest, runs - {k}, fixed - {k}))
        target: tuple[int, ...] = ()
        if any(c is not None for c in along):
            axes = {c.axes for c in along if c is not None}
            target = axes.pop() if len(axes) == 1 else (k,)
            for i, (name, component) in enumerate(zip(node.inputs, along, strict=True)):
                if component is not None and component.axes != target:
                    apart = set(component.axes) - {k}  # their positions are told apart here
                    others[i][3].update(apart)
                    kept = state.collapse(component, apart, FIXED_ORDER)
                    component = kept[0] if kept else None
                if component is None:
                    component = self._beside(name, target, k, others[i][1])
                across.append(component)
            place = target.index(k)
            atoms = np.concatenate([c.atoms for c in across], axis=place)
            keys = None
            if not is_distinct(atoms):  # parts are told apart
                keys = np.concatenate(
                    [
                        (0 if c.keys is None else c.keys * len(across)) + np.full_like(c.atoms, i)
                        for i, c in enumerate(across)
                    ],
                    axis=place,
                )
        self._combine(node.output, others)
        if across:
            everywhere = set(range(len(shape)))
            made = [Component(target, atoms, keys)]
            self.labels[node.output] = join(
                state, self.labels[node.output], made, shape, everywhere
            )

    def _beside(
        self, name: str, target: tuple[int, ...], k: int, rest: list[Component]
    ) -> Component:
        """Atoms over ``target`` of a part that has none along ``k``, beside parts that have some.

        A part that has them on the other axes of the target (one column of ``(anchors, columns)``)
        carries them along ``k``, and they leave ``rest``.
        """
        state, whole = self.state, self.graph.shapes[name]
        shape = tuple(whole[axis] for axis in target)
        place, size = target.index(k), whole[k]
        for i, c in enumerate(rest):
            if (*c.axes[:place], k, *c.axes[place:]) == target:
                own = state.refined(rest.pop(i))
                view = [1 if axis == k else n for axis, n in zip(target, shape, strict=True)]
                atoms = np.broadcast_to(own.atoms.reshape(view), shape)
                if size == 1:
                    keys = None if own.keys is None else own.keys.reshape(view)
                else:
                    at = np.arange(size).reshape([-1 if axis == k else 1 for axis in target])
                    old = 0 if own.keys is None else own.keys.reshape(view) * size
                    keys = np.broadcast_to(old + at, shape)
                return Component(target, atoms, keys)
        made = Component(target, state.fresh(shape))
        along = {axis for axis, n in zip(target, shape, strict=True) if n > 1}
        if along <= self.uniform.get(name, frozenset()):  # as those that padding makes
            state.divide(made, None)
        else:
            state.freeze([made], FIXED_ORDER)
        return made

    def stack(self, node: Concat) -> bool:
        """Weights laid one upon the other stay apart, as those of the two directions of a layer."""
        k, held = node.axis, [self.labels[name] for name in node.inputs]
        axes = [c.axes for c in held[0]]
        if not all(
            name in self.weight_only
            and self.graph.shapes[name][k] == 1
            and [c.axes for c in components] == axes
            and all(c.keys is None and not c.coarse for c in components)
            for name, components in zip(node.inputs, held, strict=True)
        ):
            return False
        self.labels[node.output] = []
        for layers in zip(*held, strict=True):
            atoms = np.stack([c.atoms for c in layers])
            keys = None if is_distinct(atoms) else occurrence(atoms)
            stacked = Component((k, *layers[0].axes), atoms, keys)
            self.labels[node.output].append(stacked.moved(stacked.axes))
        return True

    def gather(self, node: Gather) -> None:
        """Some positions of one axis; which ones is remembered, their order need not be."""
        parts = []
        size = self.graph.shapes[node.input][node.axis]
        once = len(np.unique(node.indices)) == len(node.indices)
        for c in self.labels[node.input]:
            if node.axis not in c.axes:
                parts.append(c)
                continue
            i = c.axes.index(node.axis)
            atoms = c.atoms.take(node.indices, axis=i)
            keys = None if c.keys is None else c.keys.take(node.indices, axis=i)
            if not once:
                place = occurrence(node.indices).reshape(
                    [-1 if a == i else 1 for a in range(atoms.ndim)]
                )
                keys = (0 if keys is None else keys * len(node.indices)) + place
                keys = np.broadcast_to(keys, atoms.shape)
            taken = Component(c.axes, atoms, keys, c.coarse)
            if not once or len(node.indices) < size:
                self.state.divide(taken, None)
            parts += self.state.settle(taken)
        self.labels[node.output] = parts

    def pad(self, node: Pad) -> None:
        """Padding makes positions that can be exchanged with each other only."""
        parts = []
        for c in self.labels[node.input]:
            before = [node.before[a] for a in c.axes]
            after = [node.after[a] for a in c.axes]
            if not any(before) and not any(after):
                parts.append(c)
                continue
            crop = tuple(
                slice(max(-b, 0), n - max(-a, 0))
                for b, a, n in zip(before, after, c.atoms.shape, strict=True)
            )
            grow = [(max(b, 0), max(a, 0)) for b, a in zip(before, after, strict=True)]
            atoms = np.pad(c.atoms[crop], grow, constant_values=-1)
            hole = atoms < 0
            if hole.any():
                made = self.state.fresh((int(hole.sum()),))
                self.state.divide(Component((0,), made), None)
                atoms[hole] = made
            keys = None if c.keys is None else np.pad(c.keys[crop], grow)
            padded = Component(c.axes, atoms, keys, c.coarse)
            if min(*before, *after) < 0:
                self.state.divide(padded, None)
            parts += self.state.settle(padded)
        self.labels[node.output] = parts

    def expand(self, node: Expand) -> None:
        """Copies carry the labels of what they copy."""
        self.labels[node.output] = self.align(node.input, node.output)[0]

    def opaque(self, node: Unlabelled | Freeze | Opaque) -> None:
        """What is not understood does not move."""
        if not isinstance(node, Unlabelled):
            for name in node.inputs:
                self.state.freeze(self.labels[name], node.reason)
        self.labels |= {name: [] for name in output_names(node)}
