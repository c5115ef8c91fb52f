"""Which positions of every tensor stay where channels of some groups are removed.

A channel is a class of atoms (:mod:`rejuvenet.graph.find.exchange`), and a position of a tensor
goes where one of its atoms does.  What goes has to be whole: along every axis some positions stay,
whatever the position along the others.  Then every node is asked whether it can still compute what
it did:

- what has one length in several tensors keeps one length; a constant that is the same all along an
  axis becomes shorter with what it meets, and so does what is made of such constants;
- nothing is left out of a sum over channels other than a product with a weight, whose rows for
  silent channels are zero: a mean or a normalization over channels would change;
- nothing is removed that is read position by position, or that flows into what is not understood.

A removal is decided here, as data, and carried out by an adapter, which knows where its framework
keeps lengths.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from math import prod

import numpy as np

from ..find.axes import kept_axes
from ..find.channels import Unfit
from ..find.components import Component, reshape_blocks
from ..find.exchange import Classes
from ..find.nodes import (
    Concat,
    Contraction,
    Freeze,
    Gather,
    Graph,
    Node,
    Opaque,
    Pad,
    Positional,
    Reduce,
    Reshape,
    Shape,
    Unlabelled,
    input_names,
    output_names,
)
from ..find.propagate import Propagation
from ..plan.plan import GroupPlan

Mask = np.ndarray  # of bool: which positions along an axis stay
Masks = dict[str, dict[int, Mask]]
End = tuple[str, int]  # a tensor and an axis


@dataclass(frozen=True, eq=False)
class Removal:
    """What stays of a network.

    Attributes
    ----------
    graph : Graph
        As it is.
    kept : dict of str to dict of int to ndarray of int
        For every tensor that becomes smaller: the positions that stay, ascending, by axis.
    weights : dict of str to dict of int to ndarray of int
        The same for weights, by their names.
    channels : dict of str to ndarray of int
        The channels that go, by group.
    """

    graph: Graph
    kept: dict[str, dict[int, np.ndarray]] = field(default_factory=dict)
    weights: dict[str, dict[int, np.ndarray]] = field(default_factory=dict)
    channels: dict[str, np.ndarray] = field(default_factory=dict)

    def shape(self, name: str) -> Shape:
        """The shape that a tensor of the graph will have."""
        own = self.kept.get(name, {})
        return tuple(
            len(own[axis]) if axis in own else n for axis, n in enumerate(self.graph.shapes[name])
        )

    @property
    def shapes(self) -> dict[str, Shape]:
        """The shapes that all tensors will have."""
        return {**self.graph.shapes, **{name: self.shape(name) for name in self.kept}}

    def groups(self, node: Contraction) -> int:
        """The number of groups that a grouped contraction will have."""
        (name, axis), (weight, second) = _divided(node)[-1]
        return self.shape(name)[axis] // self.shape(weight)[second]

    def taken(self, values: np.ndarray, kept: Mapping[int, np.ndarray]) -> np.ndarray:
        """What stays of an array."""
        for axis, positions in kept.items():
            values = values.take(positions, axis=axis)
        return np.ascontiguousarray(values)


class Layout:
    """Where the channels of every group lie in every tensor of a network."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        pass_ = Propagation(graph)
        state = pass_.run()
        self._uniform, self._weight_only = pass_.uniform, pass_.weight_only
        label = Classes(state).label
        self._size = state.size
        self._places: dict[tuple, np.ndarray] = {
            (p.weight, p.view, p.axes): label[p.atoms.ravel()] for p in state.places
        }
        self._labels = {
            name: [replace(c, atoms=label[c.atoms]) for c in components]
            for name, components in state.labels.items()
            if components
        }
        made = (name for node in graph.nodes for name in output_names(node))
        self._fixed = set(made) | set(graph.inputs) | set(graph.weights)

    def removal(self, freed: Mapping[str, np.ndarray], plans: Iterable[GroupPlan]) -> Removal:
        """What stays where the ``freed`` channels of the groups of some plans go.

        Raises
        ------
        Unfit
            They cannot go, with the reason.
        """
        gone = np.zeros(self._size, dtype=bool)
        plans = [plan for plan in plans if len(freed[plan.group])]
        for plan in plans:
            gone[self._classes(plan, freed[plan.group])] = True
        masks: Masks = {}
        for name, components in self._labels.items():
            found = _masks(components, gone)
            if found:
                masks[name] = found
        _Agreement(self.graph, masks, self._uniform, self._labels, self._weight_only).reach()
        kept = {
            name: {axis: np.flatnonzero(mask) for axis, mask in sorted(own.items())}
            for name, own in masks.items()
        }
        weights: dict[str, dict[int, np.ndarray]] = {}
        for name, own in kept.items():
            weight = self.graph.weights.get(name)
            if weight is None:
                continue
            other = weights.setdefault(weight, own)
            if other.keys() != own.keys() or any(
                not np.array_equal(other[axis], own[axis]) for axis in own
            ):
                raise Unfit(f"the shared weight {weight!r} would need two shapes")
        channels = {plan.group: freed[plan.group] for plan in plans}
        return Removal(self.graph, kept, weights, channels)

    def constants(self, removal: Removal) -> dict[str, dict[int, np.ndarray]]:
        """What stays of tensors that are neither weights nor made by a node."""
        return {name: own for name, own in removal.kept.items() if name not in self._fixed}

    def _classes(self, plan: GroupPlan, channels: np.ndarray) -> np.ndarray:
        """Labels of the classes that some channels of a group are."""
        member = plan.members[0]
        labels = self._places[member.weight, member.view, member.axes]
        return labels[member.positions[channels].ravel()]


def _masks(components: Sequence[Component], gone: np.ndarray) -> dict[int, Mask]:
    """Which positions stay along each axis; axes along which all do are left out."""
    masks: dict[int, Mask] = {}
    for component in components:
        stays = ~gone[component.atoms]
        if stays.all():
            continue
        rank = range(stays.ndim)
        along = [stays.any(axis=tuple(i for i in rank if i != own)) for own in rank]
        if not np.array_equal(reduce(np.logical_and.outer, along), stays):
            raise Unfit("its channels share an axis with others so that what is left has gaps")
        if not stays.any():
            raise Unfit("nothing would be left of a tensor")
        for axis, mask in zip(component.axes, along, strict=True):
            if not mask.all():
                masks[axis] = masks[axis] & mask if axis in masks else mask
    if not all(mask.any() for mask in masks.values()):
        raise Unfit("nothing would be left of a tensor")
    return masks


def _made(node: Contraction) -> tuple[str, ...]:
    return tuple(v for v in node.out_axes if v in node.b_axes)


def _divided(node: Contraction) -> tuple[tuple[End, End], tuple[End, End]]:
    """What a grouped contraction has in parts: two pairs of equal axes.

    First those whose axis of the weight consists of groups, then those of which it has one.
    """
    a, b = node.inputs
    (read,), (made,) = node.summed, _made(node)
    of = {read: (a, node.a_axes.index(read)), made: (node.output, node.out_axes.index(made))}
    first, second = node.b_axes[:2]
    return (of[first], (b, 0)), (of[second], (b, 1))


class _Agreement:
    """Masks that hold for all nodes at once."""

    def __init__(
        self,
        graph: Graph,
        masks: Masks,
        uniform: Mapping[str, frozenset[int]],
        labels: Mapping[str, Sequence[Component]],
        weight_only: set[str],
    ) -> None:
        self.graph, self.masks, self.uniform = graph, masks, uniform
        self.labels, self.weight_only = labels, weight_only
        self.bounds = {*graph.inputs, *graph.outputs}
        self.changed = False

    def reach(self) -> None:
        """Ask every node, until none asks for more."""
        while True:
            self.changed = False
            for node in self.graph.nodes:
                names = *input_names(node), *output_names(node)
                if any(name in self.masks for name in names):
                    self._ask(node)
            if not self.changed:
                return

    def _ask(self, node: Node) -> None:
        if isinstance(node, (Opaque, Freeze)):
            raise Unfit(node.reason)
        if isinstance(node, Unlabelled):
            raise Unfit("its channels meet a tensor of a fixed length")
        if isinstance(node, Reshape):
            self._reshape(node)
            return
        if isinstance(node, Contraction):
            self._contraction(node)
            return
        ends: dict[int, list[End]] = {}
        for name, kept in kept_axes(node, self.graph.shapes):
            for axis, after in kept.items():
                ends.setdefault(after, [(node.output, after)]).append((name, axis))
        for same in ends.values():
            self._equal(same)
        if isinstance(node, Reduce) and self._any(node.input, node.axes):
            raise Unfit("its channels are normalized or averaged over, which removal would change")
        if isinstance(node, Positional) and self._any(node.input, node.axes):
            raise Unfit("its axis is read position by position")
        if isinstance(node, Concat):
            parts = [self._mask(name, node.axis) for name in node.inputs]
            self._must_be(node.output, node.axis, np.concatenate(parts))
        if isinstance(node, Gather):
            mask = self._mask(node.input, node.axis)[node.indices]
            self._must_be(node.output, node.axis, mask)
        if isinstance(node, Pad):
            self._pad(node)

    def _equal(self, ends: Sequence[End]) -> None:
        """One length: what has no positions of its own takes those of the others."""
        given = [self.masks[n][a] for n, a in ends if a in self.masks.get(n, {})]
        if not given:
            return
        for name, axis in ends:
            self._must_be(name, axis, given[0])

    def _must_be(self, name: str, axis: int, mask: Mask) -> None:
        own = self.masks.get(name, {}).get(axis)
        if own is not None:
            if not np.array_equal(own, mask):
                raise Unfit("its channels meet others that stay")
            return
        if mask.all():
            return
        if any(axis in component.axes for component in self.labels.get(name, ())):
            raise Unfit("its channels meet others that stay")
        if name in self.bounds or (
            axis not in self.uniform.get(name, ()) and self.graph.shapes[name][axis] > 1
        ):
            raise Unfit("its channels meet a tensor of a fixed length")
        self.masks.setdefault(name, {})[axis] = mask
        self.changed = True

    def _contraction(self, node: Contraction) -> None:
        ends: dict[str, list[End]] = defaultdict(list)
        sides = (node.a_axes, node.b_axes, node.out_axes)
        for name, letters in zip((*node.inputs, node.output), sides, strict=True):
            for axis, letter in enumerate(letters):
                ends[letter].append((name, axis))
        if node.groups > 1:
            self._grouped(node)
            for letter in (*node.summed, *_made(node)):
                del ends[letter]
        products = all(name not in self.weight_only for name in node.inputs)
        for letter, found in ends.items():
            masked = [(n, a) for n, a in found if a in self.masks.get(n, {})]
            if not masked:
                continue
            if letter not in node.out_axes:
                if len(found) == 1:
                    raise Unfit("its axis is read position by position")
                if products:
                    raise Unfit("its channels are summed with those of another tensor")
            self._equal([(n, a) for n, a in found if self.graph.shapes[n][a] > 1])

    def _grouped(self, node: Contraction) -> None:
        """Groups stay or go as a whole, and those that stay keep equally many channels."""
        stays: list[Mask] = []
        for whole, other in _divided(node):
            per_group = other[1] == 1  # the axis of the weight that holds one group
            within: list[Mask] = []
            for name, axis in (whole, other):
                mask = self._mask(name, axis)
                if not (per_group and (name, axis) == other):
                    parts = mask.reshape(node.groups, -1)
                    stays.append(np.any(parts, axis=1))
                    mask = np.any(parts, axis=0)
                    if not np.array_equal(parts, np.logical_and.outer(stays[-1], mask)):
                        raise Unfit("the groups of a convolution would have unequal lengths")
                within.append(mask)
            if not np.array_equal(within[0], within[1]):
                raise Unfit("its channels meet others that stay")
        if not all(np.array_equal(stays[0], other) for other in stays):
            raise Unfit("its channels meet others that stay")

    def _reshape(self, node: Reshape) -> None:
        shapes = self.graph.shapes
        for old, new in reshape_blocks(shapes[node.input], shapes[node.output]):
            if len(old) == len(new) == 1:
                self._equal([(node.input, old[0]), (node.output, new[0])])
                continue
            counts = [
                prod(int(self._mask(name, axis).sum()) for axis in axes)
                for name, axes in ((node.input, old), (node.output, new))
            ]
            if counts[0] != counts[1]:
                raise Unfit("its channels are laid out along several axes, which would not fit")

    def _pad(self, node: Pad) -> None:
        for axis, (before, after) in enumerate(zip(node.before, node.after, strict=True)):
            if not before and not after:
                continue
            masks = self._mask(node.input, axis), self._mask(node.output, axis)
            if all(mask.all() for mask in masks):
                continue
            if min(before, after) < 0 or not np.array_equal(
                masks[1][before : len(masks[1]) - after], masks[0]
            ):
                raise Unfit("its channels are padded")

    def _mask(self, name: str, axis: int) -> Mask:
        own = self.masks.get(name, {}).get(axis)
        return np.ones(self.graph.shapes[name][axis], dtype=bool) if own is None else own

    def _any(self, name: str, axes: Sequence[int]) -> bool:
        return any(axis in self.masks.get(name, {}) for axis in axes)
