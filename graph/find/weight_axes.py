"""Labels of weights, and what each of their axes is to the operators that use it."""

from __future__ import annotations

from math import prod

import numpy as np

from .channels import Kind
from .components import Component, occurrence
from .constraints import Constraints, Places
from .nodes import (
    Contraction,
    Elementwise,
    Graph,
    Node,
    PerChannel,
    Reshape,
    input_names,
    output_names,
)


class WeightAxes:
    """The axes of all weights of a graph; each has an atom for every position, its places."""

    def __init__(self, graph: Graph, state: Constraints) -> None:
        self.graph, self.state = graph, state
        self._labels: dict[str, list[Component]] = {}
        self._groups = _grouped_weights(graph)
        self._filters = _filters(graph)

    def labelled(self, name: str) -> list[Component]:
        """Labels of a tensor that no node makes.

        Of a kernel that several weights make, the largest is the filters themselves.  It is
        labelled first, and what comes first makes the channels: not what scales them.
        """
        if name in self._filters:
            self._labelled(self._filters[name])
        return self._labelled(name)

    def _labelled(self, name: str) -> list[Component]:
        weight = self.graph.weights.get(name)
        if weight is None:
            return []
        if weight in self._labels:
            return self._labels[weight]
        shape, state = self.graph.shapes[name], self.state
        groups, transposed = self._groups.get(weight, (1, False))
        components = []
        for axis, size in enumerate(shape):
            if size == 1:
                continue
            if axis == 1 and groups > 1:
                view = (groups, shape[0] // groups, *shape[1:])
                # Where a group reads one channel, what moves this row moves all that it makes.
                if transposed and shape[0] == groups:
                    atoms = state.fresh((groups, size))
                else:
                    atoms = state.claim(weight, view, (0, 2), (groups, size))
                    # Both axes hold the groups: only one of them may exchange whole groups.
                    state.divide(Component((0, 1), atoms), -1 - np.arange(groups)[:, None])
                atoms = np.repeat(atoms, shape[0] // groups, axis=0)
                component = Component((0, 1), atoms, occurrence(atoms))
            else:
                component = Component((axis,), state.claim(weight, shape, (axis,), (size,)))
            components.append(component)
        self._labels[weight] = components
        return components

    def places_of(self, component: Component) -> list[Places]:
        """Places whose atoms occur in a component."""
        flat = component.atoms.ravel()
        if flat[-1] - flat[0] == flat.size - 1:  # as made: one origin
            found = {self.state.origin(int(flat[0])), self.state.origin(int(flat[-1]))}
        else:
            rows = np.unique(np.searchsorted(self.state.starts, flat, side="right") - 1)
            found = {self.state.origins[row] for row in rows}
        return [self.state.places[i] for i in sorted(found) if i >= 0]

    def describe(self, components: list[Component], kind: Kind, role: str, met: str) -> None:
        """Record what a weight is to the operator that uses it; a contraction has the last word."""
        for component in components:
            for places in self.places_of(component):
                if places.kind in ("", "per_channel"):
                    places.kind, places.role = kind, role
                    places.origin = places.origin or met

    def met(self, components: list[Component]) -> str:
        """Name of the weight that made the channels in ``components``."""
        for component in components:
            for places in self.places_of(component):
                return places.weight
        return ""


def _filters(graph: Graph) -> dict[str, str]:
    """By weight that a kernel is computed from beside others: the largest of these."""
    data, made_by = set(graph.inputs), dict[str, Node]()
    for node in graph.nodes:
        if data.isdisjoint(input_names(node)):
            made_by |= dict.fromkeys(output_names(node), node)
        else:
            data.update(output_names(node))
    found: dict[str, str] = {}
    for product in graph.nodes:
        if isinstance(product, Contraction) and not data.isdisjoint(product.inputs):
            for kernel in (name for name in product.inputs if name in made_by):
                behind = {kernel: None}  # all that it is computed from, as it is met
                pending = [kernel]
                while pending:
                    name = pending.pop()
                    read = input_names(made_by[name]) if name in made_by else ()
                    further = [n for n in read if n not in behind]
                    behind |= dict.fromkeys(further)
                    pending += further
                weights = [name for name in behind if name in graph.weights]
                largest = max(weights, key=lambda name: prod(graph.shapes[name]), default="")
                found |= {n: largest for n in weights if n != largest and n not in found}
    return found


def _grouped_weights(graph: Graph) -> dict[str, tuple[int, bool]]:
    """Weights of grouped convolutions: number of groups, and whether the input axis comes first.

    Their input axis has places for each group of its own, which has to be known before the
    weight's labels are made, however it is normalized on its way to the convolution.
    """
    grouped = [n for n in graph.nodes if isinstance(n, Contraction) and n.groups > 1]
    made_by = {name: node for node in graph.nodes if grouped for name in output_names(node)}
    found: dict[str, tuple[int, bool]] = {}
    for product in grouped:
        pending, shape = [product.inputs[1]], graph.shapes[product.inputs[1]]
        while pending:
            name = pending.pop()
            if name in graph.weights:
                if graph.shapes[name] == shape and len(shape) > 1 and shape[1] > 1:
                    transposed = product.b_axes[0] in product.summed
                    found[graph.weights[name]] = product.groups, transposed
            elif isinstance(made_by.get(name), (Elementwise, PerChannel, Reshape)):
                pending += input_names(made_by[name])
    return found
