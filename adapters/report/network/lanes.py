"""Rows and lanes of a picture of a network, and the frames of its modules.

- A unit's *row* is the length of the longest path that leads to it, so that all lines run down.
- *Lanes* come from the dominator tree (Lengauer and Tarjan 1979; here by common ancestors, in
  one pass over the topological order).  The branches between a split and the join that it
  dominates are packed side by side, each as narrow as it is, row by row; the join goes back to the
  lane of the split.  A line keeps the lane of its source until the row above its target, and that
  run is reserved: no line ever crosses a box, in any acyclic network.
- A skip connection is such a run, straight in the lane of the split; its block stands beside it.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from .layers import Unit

_WHOLE = 0.75  # a module with more of the layers than this says nothing about where they are


@dataclass(frozen=True)
class Frame:
    """A module around its layers.

    Attributes
    ----------
    name : str
        Dotted name of the module.
    depth : int
        0 for a stage, 1 for a block in a stage.
    rows, lanes : tuple of int
        First and last.
    """

    name: str
    depth: int
    rows: tuple[int, int]
    lanes: tuple[int, int]


def rows_of(units: Sequence[Unit]) -> list[int]:
    """Row of each unit; units are in topological order."""
    row: list[int] = []
    for unit in units:
        row.append(1 + max((row[i] for i in unit.sources), default=-1))
    return row


def dominators(units: Sequence[Unit]) -> list[int]:
    """The last unit that every path to each unit passes; -1 for none.

    Examples
    --------
    >>> split, left, right = (Unit("join", "t", sources) for sources in ([], [0], [0]))
    >>> dominators([split, left, right, Unit("sum", "t", [1, 2])])
    [-1, 0, 0, 0]
    """
    dominator: list[int] = []
    depth = {-1: 0}
    for i, unit in enumerate(units):
        common = unit.sources[0] if unit.sources else -1
        for other in unit.sources[1:]:
            while common != other:
                if depth[common] >= depth[other]:
                    common = dominator[common]
                else:
                    other = dominator[other]
        dominator.append(common)
        depth[i] = depth[common] + 1
    return dominator


def lanes_of(units: Sequence[Unit], row: Sequence[int]) -> list[int]:
    """Lane of each unit, 0 at the left."""
    n = len(units)
    dominator = dominators(units)
    kids: dict[int, list[int]] = {i: [] for i in range(-1, n)}
    for i in range(n):
        kids[dominator[i]].append(i)
    end = list(row)  # last row of the run below each unit
    for i, unit in enumerate(units):
        for j in unit.sources:
            end[j] = max(end[j], row[i] - 1)
    offset = [0] * n
    deepest = list(row)  # last row of what a unit dominates
    # Lanes (first, last) that a unit and all that it dominates take in each row, by its own.
    extent: dict[int, dict[int, tuple[int, int]]] = {}
    for i in reversed(range(-1, n)):
        own = range(row[i], end[i] + 1) if i >= 0 else range(0)
        taken = dict.fromkeys(own, (0, 0))
        lanes = dict.fromkeys(own, 1)  # the same as bits, with the gaps between the branches
        order = _packing_order(kids[i], units, deepest)
        for kid in order:
            theirs = extent.pop(kid)
            offset[kid] = shift = _first_fit(theirs, lanes)
            if kid != order[-1]:
                for r, (first, last) in theirs.items():
                    lanes[r] = lanes.get(r, 0) | _bits(first, last) << shift
            if shift == 0 and len(theirs) > len(taken):
                taken, theirs = theirs, taken
            for r, (first, last) in theirs.items():
                a, b = taken.get(r, (first + shift, last + shift))
                taken[r] = min(a, first + shift), max(b, last + shift)
        extent[i] = taken
        if i >= 0 and dominator[i] >= 0:
            deepest[dominator[i]] = max(deepest[dominator[i]], deepest[i])
    lane: list[int] = []
    for i in range(n):
        lane.append(offset[i] + (lane[dominator[i]] if dominator[i] >= 0 else 0))
    return lane


def _first_fit(extent: dict[int, tuple[int, int]], lanes: dict[int, int]) -> int:
    """The least shift to the right that brings an extent into lanes that are free."""
    shared = [(_bits(*extent[r]), taken) for r, taken in lanes.items() if r in extent]
    return next(
        s for s in itertools.count() if not any(bits << s & taken for bits, taken in shared)
    )


def _bits(first: int, last: int) -> int:
    return (2 << last) - (1 << first)


def _packing_order(kids: list[int], units: Sequence[Unit], deepest: Sequence[int]) -> list[int]:
    """The shortest branch first, and the others in order; where none is joined, the longest."""
    branches = [kid for kid in kids if len(units[kid].sources) <= 1]
    joins = [kid for kid in kids if len(units[kid].sources) > 1]
    if branches:
        heir = (min if joins else max)(branches, key=deepest.__getitem__)
        branches = [heir, *(kid for kid in branches if kid != heir)]
    return branches + joins


def frames_of(units: Sequence[Unit], row: Sequence[int], lane: Sequence[int]) -> list[Frame]:
    """Stages and blocks: modules with several layers that stand together, at most two deep."""
    inside = _by_module(units)
    layers = [i for i, unit in enumerate(units) if unit.kind == "layers"]
    kept: dict[str, tuple[Frame, list[int]]] = {}
    for name in sorted(inside, key=lambda name: (name.count("."), inside[name])):
        mine = [i for i in inside[name] if units[i].kind == "layers"]
        if not 2 <= len(mine) <= _WHOLE * len(layers):
            continue
        around = [(frame, of) for frame, of in kept.values() if name.startswith(f"{frame.name}.")]
        if len(around) > 1 or any(of == mine for _, of in around):
            continue
        rows = [row[i] for i in inside[name]]
        lanes = [lane[i] for i in inside[name]]
        frame = Frame(name, len(around), (min(rows), max(rows)), (min(lanes), max(lanes)))
        members = set(mine)
        if not any(contains(frame, row[i], lane[i]) for i in layers if i not in members):
            kept[name] = frame, mine
    return [frame for frame, _ in kept.values()]


def whole_module(units: Sequence[Unit]) -> str:
    """The innermost module that holds nearly all layers, which names need not repeat."""
    inside = _by_module(units)
    layers = {i for i, unit in enumerate(units) if unit.kind == "layers"}
    whole = [
        name for name in inside if len(layers.intersection(inside[name])) > _WHOLE * len(layers)
    ]
    return max(whole, key=len, default="")


def _by_module(units: Sequence[Unit]) -> dict[str, list[int]]:
    """Units of each module; a join belongs to the module whose branches it joins."""
    dominator = dominators(units)
    inside: dict[str, list[int]] = {}
    for i, unit in enumerate(units):
        if unit.kind in ("input", "output"):
            continue
        module = unit.module.rpartition(".")[0]
        if unit.kind != "layers":
            joined = [units[j].module for j in unit.sources if units[j].kind == "layers"]
            branches = [
                units[j].module
                for j in unit.sources
                if j != dominator[i] and units[j].kind == "layers"
            ]
            module = common_module(branches or joined)
        parts = module.split(".")
        for n in range(1, len(parts) + 1):
            inside.setdefault(".".join(parts[:n]), []).append(i)
    inside.pop("", None)
    return inside


def common_module(modules: Sequence[str]) -> str:
    """The innermost module that holds all of several modules, and is none of them.

    >>> common_module(["layer1.0.conv3", "layer1.0.downsample.0"])
    'layer1.0'
    """
    parts = [module.split(".")[:-1] for module in modules]
    shared = itertools.takewhile(lambda level: len(set(level)) == 1, zip(*parts, strict=False))
    return ".".join(level[0] for level in shared)


def contains(frame: Frame, row: int, lane: int) -> bool:
    """Whether a place is inside a frame."""
    (top, bottom), (left, right) = frame.rows, frame.lanes
    return top <= row <= bottom and left <= lane <= right
