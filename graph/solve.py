"""Channel groups from the recorded constraints, solved once.

1. The connected components of all equations are *classes*: one channel and everything that moves
   with it.
2. The signature of a class is the multiset of the weight axes on which it has places, the roles of
   these places, and its keys in the partitions.  Classes with equal signatures may be exchanged.
3. Classes that have places on the same weight axes, equally many on each, form a channel group.

Multisets are compared by the sum of 64-bit hashes of their elements.
"""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from .channels import ChannelGroup, Member, Tap
from .constraints import Constraints, Places
from .labels import Component
from .nodes import (
    Elementwise,
    Graph,
    Opaque,
    Positional,
    Reduce,
    Reshape,
    Transpose,
    input_names,
    output_names,
)
from .propagate import Propagation


def find_groups(graph: Graph) -> list[ChannelGroup]:
    """All channel groups of a network, in the order of execution.

    Parameters
    ----------
    graph : Graph
        The network as structural nodes.

    Returns
    -------
    list of ChannelGroup
        One for every set of weights whose channels change together; those that cannot move at
        all have ``frozen`` set to the reason.

    Examples
    --------
    >>> from rejuvenet.graph.nodes import Elementwise
    >>> graph = Graph(inputs=["x"], outputs=["y"])
    >>> for name, shape in {"x": (1, 3, 8, 8), "a": (1, 4, 8, 8), "r": (1, 4, 8, 8),
    ...                     "y": (1, 2, 8, 8), "v": (4, 3, 3, 3), "w": (2, 4, 3, 3)}.items():
    ...     _ = graph.add_tensor(name, shape)
    >>> graph.weights = {"v": "first.weight", "w": "second.weight"}
    >>> graph.add_convolution("x", "v", "a")
    >>> graph.nodes.append(Elementwise(("a",), "r"))
    >>> graph.add_convolution("r", "w", "y")
    >>> for group in find_groups(graph):
    ...     print(group.name, group.channels, [m.weight for m in group.members], group.frozen)
    first.weight 4 ['first.weight', 'second.weight'] None
    second.weight 2 ['second.weight'] reaches an output of the model
    """
    state = Propagation(graph).run()
    return _Solution(graph, state).groups()


@dataclass
class _Table:
    """All places of all weights, one row each."""

    label: np.ndarray  # class
    places: np.ndarray  # index into Constraints.places
    position: np.ndarray  # row of the member
    atom: np.ndarray


class _Solution:
    def __init__(self, graph: Graph, state: Constraints):
        self.graph, self.state = graph, state
        self.step = {name: i for i, name in enumerate(state.labels)}
        self.made_by = {
            out: node
            for node in graph.nodes
            if not isinstance(node, Opaque)
            for out in output_names(node)
        }
        self.label = _classes(state)
        self.count = int(self.label.max()) + 1 if state.size else 0
        self.reason = np.full(self.count, -1)
        for i in reversed(range(len(state.frozen))):
            self.reason[self.label[state.frozen[i][0].ravel()]] = i
        self.inexact = np.full(self.count, -1)
        for i in reversed(range(len(state.inexact))):
            self.inexact[self.label[state.inexact[i][0].ravel()]] = i

    def groups(self) -> list[ChannelGroup]:
        state, label = self.state, self.label
        if not state.places:
            return []
        sizes = [places.atoms.size for places in state.places]
        table = _Table(
            label[np.concatenate([places.atoms for places in state.places])],
            np.repeat(np.arange(len(sizes)), sizes),
            np.concatenate([np.arange(size) for size in sizes]),
            np.concatenate([places.atoms for places in state.places]),
        )
        made = np.array([p.kind == "producer" and p.role == "weight" for p in state.places])
        produced = np.zeros(self.count, bool)
        produced[table.label[made[table.places]]] = True
        keep = produced[table.label]
        table = _Table(*(column[keep] for column in vars(table).values()))
        members = _sum_by(table.label, _mix(table.places, 1), self.count)
        roles = self._roles(table)
        signature = members + _sum_by(table.label, _mix(roles, _mix(table.places, 2)), self.count)
        for i, (fine, keys) in enumerate(state.partitions):
            # Keys are atoms, not classes: sets of channels that are tied are still different sets.
            np.add.at(signature, label[fine].ravel(), _mix(keys.ravel(), _mix(np.array([i]), 3)))
        # Rows that nothing tells apart could be exchanged crosswise: their channels stay.
        row = _mix(roles, _mix(table.places, _mix(table.label, 4)))
        _, inverse, counts = np.unique(row, return_inverse=True, return_counts=True)
        tied = np.unique(table.label[counts[inverse] > 1])
        signature[tied] += _mix(tied, 11)
        return self._assemble(table, members, signature, roles)

    def _roles(self, table: _Table) -> np.ndarray:
        """What tells several places of one class on one weight axis apart; zero where alone."""
        roles = np.zeros(len(table.label), np.uint64)
        pair = table.label * (len(self.state.places) + 1) + table.places
        _, inverse, counts = np.unique(pair, return_inverse=True, return_counts=True)
        several = counts[inverse] > 1
        if not several.any():
            return roles
        repeated = np.zeros(self.count, bool)
        repeated[table.label[several]] = True
        wanted = repeated[self.label]  # every atom of such a class passes its role on
        starts = np.array([start for start, _ in self.state.origins])
        links = []
        for i, (a, b) in enumerate(self.state.equations):
            for side, (mine, other) in enumerate(((a, b), (b, a))):
                atoms, met = mine.atoms.ravel(), other.atoms.ravel()
                keep = wanted[atoms]
                if keep.any():
                    source = np.searchsorted(starts, met, side="right")
                    keys = np.zeros_like(source) if other.keys is None else other.keys.ravel()
                    salt = _mix(keys, _mix(source, 7 + 2 * i + side))
                    links.append((atoms[keep], met[keep], salt[keep]))
        role = np.zeros(self.state.size, np.uint64)
        known = 0
        while True:  # roles are refined by the roles of what they meet, until that tells no more
            refined = _mix(role, 5)
            for atoms, met, salt in links:
                np.add.at(refined, atoms, _mix(role[met], salt))
            role = refined
            distinct = len(np.unique(_mix(role[table.atom], table.label)))
            if distinct == known:
                break
            known = distinct
        roles[several] = role[table.atom[several]]
        return roles

    def _assemble(
        self, table: _Table, members: np.ndarray, signature: np.ndarray, roles: np.ndarray
    ) -> list[ChannelGroup]:
        order = np.lexsort((table.position, roles, table.label, table.places))
        label, places, position = table.label[order], table.places[order], table.position[order]
        group_of = members[label]
        # Rows by group, then by member, then by class; a stable sort keeps the rest.
        by_group = np.argsort(group_of, kind="stable")
        label, places, position = label[by_group], places[by_group], position[by_group]
        group_of = group_of[by_group]
        cuts = np.flatnonzero(np.r_[True, group_of[1:] != group_of[:-1], True])
        groups = []
        for start, stop in itertools.pairwise(cuts):
            groups.append(
                self._group(label[start:stop], places[start:stop], position[start:stop], signature)
            )
        groups.sort(key=lambda item: item[0])
        return _with_unique_names([group for _, group in groups])

    def _group(
        self, label: np.ndarray, places: np.ndarray, position: np.ndarray, signature: np.ndarray
    ) -> tuple[int, ChannelGroup]:
        state = self.state
        cuts = np.flatnonzero(np.r_[True, places[1:] != places[:-1], True])
        spans = [(int(places[a]), slice(a, b)) for a, b in itertools.pairwise(cuts)]
        first = next(
            i
            for i, (p, _) in enumerate(spans)
            if state.places[p].kind == "producer" and state.places[p].role == "weight"
        )
        index, span = spans[first]
        # In every span the rows stand by class; all classes have equally many.
        classes = np.unique(label[span])
        rows = [position[s].reshape(len(classes), -1) for _, s in spans]
        # Channels in the order of their first place in the first producer.
        order = np.argsort(rows[first].min(axis=1), kind="stable")
        classes = classes[order]
        # Columns correspond by role; they are shown in the order of the first channel's rows.
        rows = [r[order][:, np.argsort(r[order[0]], kind="stable")] for r in rows]
        built = [self._member(state.places[p], r) for (p, _), r in zip(spans, rows, strict=True)]
        movable = self.reason[classes] < 0
        sets = []
        if movable.any():
            _, inverse = np.unique(signature[classes], return_inverse=True)
            for value in dict.fromkeys(inverse[movable].tolist()):
                channels = np.flatnonzero((inverse == value) & movable)
                if len(channels) > 1:
                    sets.append(channels)
        frozen = None
        if not sets:
            stuck = self.reason[classes[~movable]]
            frozen = (
                state.frozen[int(stuck.min())][1]
                if len(stuck)
                else "no two of its channels have the same connections"
            )
        inexact = self.inexact[classes]
        inexact = inexact[inexact >= 0]
        return index, ChannelGroup(
            name=state.places[index].weight,
            channels=len(classes),
            members=tuple(built),
            tap=self._tap([state.places[p] for p, _ in spans], classes),
            exchangeable=tuple(sets),
            frozen=frozen,
            exact_merge=state.inexact[int(inexact.min())][1] if len(inexact) else None,
        )

    def _member(self, places: Places, positions: np.ndarray) -> Member:
        return Member(
            weight=places.weight,
            kind=places.kind or "per_channel",
            role=places.role or "parameter",
            view=places.view,
            axes=places.axes,
            positions=positions,
            origin=places.origin or places.weight,
            trained=places.weight not in self.graph.buffers,
        )

    def _tap(self, places: list[Places], classes: np.ndarray) -> Tap | None:
        """The tensor that the last consumer reads, or the one before its spatial axes vanished."""
        read = [p.read for p in places if p.kind == "consumer" and p.read]
        if not read:
            return None
        name = max(read, key=self.step.__getitem__)
        found = self._tap_at(name, classes)
        while found is None or not self._has_extent(found):
            node = self.made_by.get(name)
            pools = isinstance(node, (Positional, Reduce, Reshape))
            if node is None or not (pools or isinstance(node, (Elementwise, Transpose))):
                break
            name = input_names(node)[0]
            before = self._tap_at(name, classes)
            # Further back than pooling, activations are not what the consumer reads.
            if pools and before is not None and (found is None or self._has_extent(before)):
                found = before
        return found

    def _tap_at(self, name: str, classes: np.ndarray) -> Tap | None:
        """The channels in one tensor of the model, where they lie along one axis."""
        axis, index = self._channel_axis(name, classes) or (-1, classes)
        return None if axis < 0 or name.startswith("%") else Tap(name, axis, index)

    def _has_extent(self, tap: Tap) -> bool:
        shape = self.graph.shapes[tap.tensor]
        return any(n > 1 for a, n in enumerate(shape) if a not in (0, tap.axis))

    def _channel_axis(self, name: str, classes: np.ndarray) -> tuple[int, np.ndarray] | None:
        """Axis on which a tensor carries the classes and their places there; axis -1 if joint."""
        for component in self.state.labels.get(name, []):
            atoms = component.atoms.ravel()
            here = self.label[atoms]
            order = np.argsort(here, kind="stable")
            at = np.searchsorted(here, classes, sorter=order)
            at = np.minimum(at, len(here) - 1)
            if (here[order[at]] == classes).all():
                if _is_plain(component):
                    return component.axes[0], order[at]
                return -1, order[at]
        return None


def _is_plain(component: Component) -> bool:
    return len(component.axes) == 1 and component.keys is None


def _classes(state: Constraints) -> np.ndarray:
    """Class of every atom: connected components of the equations."""
    if not state.equations:
        return np.arange(state.size)
    rows = np.concatenate([a.atoms.ravel() for a, _ in state.equations])
    cols = np.concatenate([b.atoms.ravel() for _, b in state.equations])
    edges = coo_array((np.ones(len(rows), np.int8), (rows, cols)), shape=(state.size, state.size))
    return connected_components(edges, directed=False)[1].astype(np.int64)


def _with_unique_names(groups: list[ChannelGroup]) -> list[ChannelGroup]:
    """Groups that share a first producer are told apart by the rows that they own there."""
    counts = Counter(group.name for group in groups)
    named = []
    for group in groups:
        if counts[group.name] > 1:
            member = next(m for m in group.members if m.weight == group.name)
            rows = np.sort(member.positions.ravel())
            step = rows[1] - rows[0] if len(rows) > 1 else 1
            regular = len(rows) < 2 or bool((np.diff(rows) == step).all())
            stride = f":{step}" if step != 1 else ""
            name = (
                f"{group.name}[{rows[0]}:{rows[-1] + 1}{stride}]"
                if regular
                else f"{group.name}[{rows[0]},...,{rows[-1]}]"
            )
            group = replace(group, name=name)
        named.append(group)
    return named


def _mix(values: np.ndarray, salt: np.ndarray | int) -> np.ndarray:
    """SplitMix64 of ``values`` and ``salt``: equal inputs only give equal hashes."""
    with np.errstate(over="ignore"):
        z = np.asarray(values).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = z + np.asarray(salt).astype(np.uint64) * np.uint64(0xD1B54A32D192ED03)
        z = z + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def _sum_by(index: np.ndarray, values: np.ndarray, size: int) -> np.ndarray:
    total = np.zeros(size, np.uint64)
    np.add.at(total, index, values)
    return total
