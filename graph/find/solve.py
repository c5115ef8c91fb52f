"""Channel groups from the recorded constraints, solved once.

Classes that have places on the same weight axes, equally many on each, form a channel group; those
with equal signatures may be exchanged (:mod:`rejuvenet.graph.find.exchange`).
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from .channels import ChannelGroup, Member, Tap
from .constraints import Constraints, Places
from .exchange import Classes
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
from .samples import sample_axes
from .whole_sets import exchangeable_blocks

SETS = ":sets"  # ends the name of a group whose channels are whole sets of channels


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
    >>> from rejuvenet.graph.find.nodes import Elementwise
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
class _Span:
    """The rows of one weight axis that belong to one group."""

    places: int  # index into Constraints.places
    positions: np.ndarray
    atoms: np.ndarray


class _Solution:
    def __init__(self, graph: Graph, state: Constraints):
        self.graph, self.state = graph, state
        self.step = {name: i for i, name in enumerate(state.labels)}
        self.samples = sample_axes(graph)
        self.made_by = {
            out: node
            for node in graph.nodes
            if not isinstance(node, Opaque)
            for out in output_names(node)
        }
        self.classes = Classes(state)
        self.label = self.classes.label
        self.reason = np.full(state.size, -1)
        for i in reversed(range(len(state.frozen))):
            self.reason[self.label[state.frozen[i][0].ravel()]] = i
        self.inexact = np.full(state.size, -1)
        for i in reversed(range(len(state.inexact))):
            self.inexact[self.label[state.inexact[i][0].ravel()]] = i
        self.rank = np.empty(state.size, np.int64)  # of the classes of the group at hand

    def groups(self) -> list[ChannelGroup]:
        """Every group that a producer makes, in the order of its first producer."""
        found: dict[int, list[_Span]] = {}
        for i, places in enumerate(self.state.places):
            atoms = self.classes.atom[places.atoms.ravel()]
            of = self.classes.members[self.label[atoms]]
            cuts = [0, *(np.flatnonzero(of[1:] != of[:-1]) + 1).tolist(), len(of)]
            runs: dict[int, list[np.ndarray]] = {}
            for group, (start, stop) in zip(
                of[cuts[:-1]].tolist(), itertools.pairwise(cuts), strict=True
            ):
                runs.setdefault(group, []).append(np.arange(start, stop))
            for group, parts in runs.items():
                rows = parts[0] if len(parts) == 1 else np.concatenate(parts)
                found.setdefault(group, []).append(_Span(i, rows, atoms[rows]))
        made = []
        for spans in found.values():
            first = next((s for s in spans if _is_producer(self.state.places[s.places])), None)
            if first is not None:
                made.append((first.places, self._group(spans, first)))
        for blocks in exchangeable_blocks(self.state, self.classes, self.reason >= 0):
            made += self._sets(blocks)
        made.sort(key=lambda item: item[0])
        return _with_unique_names([group for _, group in made])

    def _sets(self, blocks: np.ndarray) -> list[tuple[int, ChannelGroup]]:
        """The group whose channels are whole sets of channels, if a producer makes them."""
        row = np.full(self.state.size, -1)
        members, first = [], None
        for i, places in enumerate(self.state.places):
            row[blocks.ravel()] = -1
            row[self.classes.atom[places.atoms.ravel()]] = np.arange(places.atoms.size)
            positions = row[blocks]
            here = positions[0] >= 0
            if here.any():
                members.append(self._describe(places, positions[:, here]))
                if first is None and _is_producer(places):
                    first = i
        if first is None:
            return []
        group = ChannelGroup(
            name=self.state.places[first].weight + SETS,
            channels=len(blocks),
            members=tuple(members),
            tap=None,
            exchangeable=(np.arange(len(blocks)),),
            exact_merge="its channels are whole sets of channels",
            unit="set",
        )
        return [(first, group)]

    def _group(self, spans: list[_Span], first: _Span) -> ChannelGroup:
        state = self.state
        # Channels in the order of their first row in the first producer.
        label = self.label[first.atoms]
        classes = label[np.sort(np.unique(label, return_index=True)[1])]
        self.rank[classes] = np.arange(len(classes))
        built = [m for span in spans for m in self._members(span, len(classes))]
        movable = self.reason[classes] < 0
        channels = np.flatnonzero(movable)
        signature = self.classes.signature[classes[channels]]
        order = np.argsort(signature, kind="stable")
        ends = np.flatnonzero(np.diff(signature[order], append=~signature[order[-1:]])) + 1
        starts = ends - np.diff(ends, prepend=0)
        several = ends - starts > 1
        sets = [channels[order[i:j]] for i, j in zip(starts[several], ends[several], strict=True)]
        sets.sort(key=lambda indices: indices[0])
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
        return ChannelGroup(
            name=state.places[first.places].weight,
            channels=len(classes),
            members=tuple(built),
            tap=self._tap([state.places[s.places] for s in spans], classes, frozen is None),
            exchangeable=tuple(sets),
            frozen=frozen,
            exact_merge=state.inexact[int(inexact.min())][1] if len(inexact) else None,
        )

    def _members(self, span: _Span, channels: int) -> Iterator[Member]:
        """The rows of an axis; twice, where a tied weight both makes and reads the channels."""
        places = self.state.places[span.places]
        rank = self.rank[self.label[span.atoms]]
        if len(rank) == channels:
            positions = np.empty((channels, 1), np.int64)
            positions[rank, 0] = span.positions
        else:  # several rows of each channel correspond by colour
            order = np.lexsort((span.positions, self.classes.colour[span.atoms], rank))
            positions = span.positions[order].reshape(channels, -1)
            positions = positions[:, np.argsort(positions[0], kind="stable")]
        member = self._describe(places, positions)
        yield member
        if places.makes and places.reads:
            yield replace(member, kind="consumer" if member.kind == "producer" else "producer")

    def _describe(self, places: Places, positions: np.ndarray) -> Member:
        return Member(
            weight=places.weight,
            kind=places.kind or "per_channel",
            role=places.role or "parameter",
            view=places.view,
            axes=places.axes,
            positions=positions,
            origin=places.origin or places.weight,
            trained=places.weight not in self.graph.buffers,
            fan_in=places.fan_in,
        )

    def _tap(self, places: list[Places], classes: np.ndarray, movable: bool) -> Tap | None:
        """What the consumers read; where that does not hold the channels, any tensor that does."""
        reads = {name for p in places for name in p.reads if name in self.step}
        found: dict[tuple, Tap] = {}
        for name in sorted(reads, key=self.step.__getitem__):
            tap = self._read_at(name, classes)
            if tap is not None:
                found[tap.tensor, tap.axis, tap.index.tobytes()] = tap
        if not found:
            carriers = (self._tap_at(name, classes) for name in reversed(self.step) if movable)
            return next((tap for tap in carriers if tap is not None), None)
        *earlier, last = found.values()
        return replace(last, earlier=tuple(earlier))

    def _read_at(self, name: str, classes: np.ndarray) -> Tap | None:
        """The channels in a tensor that is read, or in the one before its spatial axes vanished."""
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
        """The channels in one tensor of the model, where they lie along one axis beside samples."""
        samples = self.samples.get(name)
        if samples is None or name.startswith("%"):
            return None
        for component in self.state.labels[name]:
            if len(component.axes) > 1 or samples in component.axes:
                continue
            here = self.label[component.atoms]
            order = np.argsort(here, kind="stable")
            first = np.searchsorted(here[order], classes)
            count = np.searchsorted(here[order], classes, "right") - first
            if count.min() > 0:
                several = count[0] if (count == count[0]).all() else 1
                index = order[first[:, None] + np.arange(several)]
                index = index if several > 1 else index[:, 0]
                return Tap(name, component.axes[0], index, samples)
        return None

    def _has_extent(self, tap: Tap) -> bool:
        """Whether there are positions, and not flattened into the axis of channels."""
        shape = self.graph.shapes[tap.tensor]
        return any(n > 1 for a, n in enumerate(shape) if a not in (tap.samples, tap.axis))


def _is_producer(places: Places) -> bool:
    return places.kind == "producer" and places.role == "weight"


def _with_unique_names(groups: list[ChannelGroup]) -> list[ChannelGroup]:
    """Groups that share a first producer are told apart by the rows that they own there."""
    counts = Counter(group.name for group in groups)
    named = []
    for group in groups:
        if counts[group.name] > 1:
            weight = group.name.removesuffix(SETS)
            member = next(m for m in group.members if m.weight == weight)
            rows = np.sort(member.positions.ravel())
            step = rows[1] - rows[0] if len(rows) > 1 else 1
            regular = len(rows) < 2 or bool((np.diff(rows) == step).all())
            stride = f":{step}" if step != 1 else ""
            span = f"{rows[0]}:{rows[-1] + 1}{stride}" if regular else f"{rows[0]},...,{rows[-1]}"
            group = replace(group, name=f"{weight}[{span}]{SETS if group.unit == 'set' else ''}")
        named.append(group)
    return named
