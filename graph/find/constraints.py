"""What must move together: equations, partitions and freezes between atoms.

- An **equation** ``a = b``: the two atoms are one channel.
- A **partition** ``a | k``: atoms of one array may be exchanged only where their keys ``k`` agree
  (channels summed together, channels of one group of a grouped convolution, ...).
- A **freeze**: the atom keeps its place, for a reason.

All three are arrays, recorded during the pass over the graph and solved at once afterwards.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from .channels import Kind
from .components import Component, occurrence
from .nodes import Shape

FIXED_ORDER = "meets a tensor whose order is fixed"
BY_POSITION = "its axis is read position by position"
FLATTENED = "its channels and others are one axis, on which each pair has a place"


@dataclass
class Places:
    """The positions along one axis (or one joint axis) of one weight."""

    weight: str
    view: Shape
    axes: tuple[int, ...]
    atoms: np.ndarray
    kind: Kind | Literal[""] = ""
    role: str = ""
    origin: str = ""
    makes: bool = False  # the axis of what a product makes
    reads: list[str] = field(default_factory=list)  # tensors whose axis a product sums with it
    fan_in: int = 0  # of an axis that a product sums: how many inputs an output has


@dataclass
class Constraints:
    """All that a pass over a graph recorded."""

    size: int = 0
    places: list[Places] = field(default_factory=list)
    # Atoms are made in blocks: their first atoms, and the index of their places or -1.
    starts: list[int] = field(default_factory=list)
    origins: list[int] = field(default_factory=list)
    aliases: list[tuple[int, np.ndarray, np.ndarray]] = field(default_factory=list)
    equations: list[tuple[Component, Component]] = field(default_factory=list)
    partitions: list[tuple[Component, np.ndarray]] = field(default_factory=list)
    frozen: list[tuple[np.ndarray, str]] = field(default_factory=list)
    inexact: list[tuple[np.ndarray, str]] = field(default_factory=list)
    labels: dict[str, list[Component]] = field(default_factory=dict)
    # By the identity of an array of atoms: its first atom, while no tensor carries it as a label;
    # the atoms that it is an alias of.
    _new: dict[int, int] = field(default_factory=dict)
    _old: dict[int, np.ndarray] = field(default_factory=dict)

    def fresh(self, shape: Shape, places: int = -1) -> np.ndarray:
        """New atoms; ``places`` is the index of the places that they are, if any."""
        count = int(np.prod(shape, dtype=np.int64))
        atoms = np.arange(self.size, self.size + count).reshape(shape)
        self.starts.append(self.size)
        self.origins.append(places)
        self.size += count
        return atoms

    def claim(self, weight: str, view: Shape, axes: tuple[int, ...], shape: Shape) -> np.ndarray:
        """New atoms that are places of a weight."""
        atoms = self.fresh(shape, len(self.places))
        self.places.append(Places(weight, view, axes, atoms))
        self._new[id(atoms)] = self.size - atoms.size
        return atoms

    def equate(self, a: Component, b: Component) -> Component:
        """``a`` and ``b`` over the same axes are the same channels; the one to go on with.

        Where distinct channels meet a weight for the first time, its atoms are theirs: no
        equation is left to be solved.
        """
        a, b = self.known(a), self.known(b)
        if a.atoms is b.atoms:
            return a
        if a.keys is None and b.keys is None:
            for old, new in ((a, b), (b, a)):
                start = self._new.get(id(new.atoms))
                if start is not None and int(old.atoms.max()) < start:
                    del self._new[id(new.atoms)]
                    self._old[id(new.atoms)] = old.atoms
                    self.aliases.append((start, new.atoms, old.atoms))
                    return old
        self.equations.append((a, b))
        return b if a.keys is None and b.keys is not None else a

    def known(self, component: Component) -> Component:
        """The component, with the atoms that its own are an alias of."""
        while (old := self._old.get(id(component.atoms))) is not None:
            component = replace(component, atoms=old)
        return component

    def as_labels(self, components: list[Component]) -> list[Component]:
        """Labels of a tensor that depends on the data: their atoms stay what they are."""
        for component in components:
            self._new.pop(id(component.atoms), None)
        return [self.known(c) for c in components] if self._old else components

    def tie(self, fine: Component, coarse: np.ndarray) -> None:
        """Every atom of ``fine`` is the channel ``coarse`` (broadcast to it) at its position."""
        coarse = np.broadcast_to(coarse, fine.atoms.shape)
        self.equate(fine, Component(fine.axes, coarse, occurrence(coarse)))

    def divide(self, fine: Component, sets: np.ndarray | None) -> None:
        """Atoms of ``fine`` may be exchanged where ``sets`` agree; None: all belong together.

        Sets are atoms, or negative numbers that stand for themselves.
        """
        sets = np.broadcast_to(-1 if sets is None else sets, fine.atoms.shape)
        self.partitions.append((fine, sets))

    def refined(self, component: Component) -> Component:
        """An atom for each position, divided by the sets that ``component`` may stand for."""
        if not component.coarse:
            return component
        atoms = self.fresh(component.atoms.shape)
        self.divide(Component(component.axes, atoms, component.keys), component.atoms)
        return Component(component.axes, atoms)

    def freeze(self, components: Sequence[Component], reason: str) -> None:
        """Nothing in ``components`` may move."""
        self.frozen += [(c.atoms, reason) for c in components]

    def origin(self, atom: int) -> int:
        """Index of the places that an atom was made for, or -1."""
        return self.origins[bisect_right(self.starts, atom) - 1]

    def collapse(self, component: Component, drop: set[int], reason: str) -> list[Component]:
        """The component without the axes ``drop``, whose positions are told apart from now on."""
        if not drop & set(component.axes):
            return [component]
        rest = tuple(a for a in component.axes if a not in drop)
        if not rest:
            self.freeze([component], reason)
            return []
        component = self.refined(component)
        sizes = dict(zip(component.axes, component.atoms.shape, strict=True))
        atoms = self.fresh(tuple(sizes[a] for a in rest))
        view = atoms.reshape([sizes[a] if a in rest else 1 for a in component.axes])
        self.tie(component, view)
        return [Component(rest, atoms)]

    def fix(self, component: Component, fixed: set[int]) -> list[Component]:
        """The component where positions along the axes ``fixed`` keep their places."""
        axes = [i for i, a in enumerate(component.axes) if a in fixed]
        if not axes:
            return [component]
        if len(axes) == len(component.axes):
            self.freeze([component], FIXED_ORDER)
            return []
        component = self.refined(component)
        shape = [n if i in axes else 1 for i, n in enumerate(component.atoms.shape)]
        self.divide(component, -1 - np.arange(int(np.prod(shape))).reshape(shape))
        return [component]

    def without(
        self, component: Component, drop: set[int], copies: bool = False
    ) -> list[Component]:
        """The component after its axes ``drop`` were summed: order free, membership kept.

        ``copies``: sums over different copies of the same channels are different sets.
        """
        if not drop & set(component.axes):
            return [component]
        rest = tuple(a for a in component.axes if a not in drop)
        if not rest:
            self.divide(component, None)
            return []
        order = [component.axes.index(a) for a in rest]
        order += [i for i, a in enumerate(component.axes) if a in drop]
        shape = tuple(component.atoms.shape[i] for i in order[: len(rest)])
        rows = component.atoms.transpose(order).reshape(int(np.prod(shape)), -1)
        copy = np.zeros(len(rows), np.int64)
        if copies and component.keys is not None:
            of = component.keys.transpose(order).reshape(rows.shape)
            if (of == of[:, :1]).all():  # one copy in each sum
                copy = of[:, 0]
            else:
                rows = np.hstack([rows, of])
        distinct, row = np.unique(rows, axis=0, return_inverse=True)
        atoms = self.fresh((len(distinct),))[row.reshape(shape)]
        view = atoms.reshape([shape[rest.index(a)] if a in rest else 1 for a in component.axes])
        self.divide(component, view)
        keys = None
        if len(distinct) < len(rows):
            keys = copy.reshape(shape) if copy.any() else occurrence(atoms)
        return [Component(rest, atoms, keys, coarse=True)]

    def settle(self, component: Component) -> list[Component]:
        """The component in its simplest form; a single atom picked out keeps its place."""
        component = component.simplified()
        if component.axes:
            return [component]
        self.divide(component, None)
        return []
