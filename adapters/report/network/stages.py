"""Stages of a network: groups whose channels have the same extent, which share a hue.

A picture with one colour for each of 121 groups has 121 colours that nobody can tell apart.  What a
reader looks for is where in the network a group stands, and that is what an extent says: 56 x 56,
then 28 x 28.  Where one extent holds most of the groups, as in a transformer, it is split in the
order of the groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from ....graph.find.nodes import Graph
from .layers import Unit, by

MOST = 8  # hues that can be told apart
WHOLE = 0.6  # an extent with a larger share of the groups is split


def stages_of(n: int, units: Sequence[Unit], graph: Graph) -> tuple[list[int], list[str]]:
    """The stage of each of ``n`` groups, and what each stage is.

    Examples
    --------
    >>> graph = Graph(shapes={"a": (1, 4, 8, 8), "b": (1, 6, 4, 4)})
    >>> first = Unit("layers", "a", [], makes=((0, 4),))
    >>> stages_of(2, [first, Unit("layers", "b", [0], makes=((1, 6),))], graph)
    ([0, 1], ['8×8', '4×4'])
    """
    batch = next((graph.shapes[name][0] for name in graph.inputs if graph.shapes.get(name)), 1)
    extent: dict[int, tuple[int, str]] = {}
    for unit in units:
        shape = graph.shapes.get(unit.tensor)
        rows = sum(n for _, n in unit.makes)
        if not shape or not rows:
            continue
        positions = prod(shape) // (max(batch, 1) * rows)
        named = f"{positions} positions" if positions > 1 else "vectors"
        if positions > 1 and len(shape) == 4 and shape[1] == rows:
            named = by(shape[2:])
        for group, _ in unit.makes:
            extent.setdefault(group, (positions, named))
    known = [extent.get(i) for i in range(n)]
    last = next((found for found in known if found), (0, "unknown extent"))
    names: dict[tuple[int, str, int], int] = {}
    counts: dict[int, int] = {}
    for found in known:
        counts[(found or last)[0]] = counts.get((found or last)[0], 0) + 1
    stages = []
    seen: dict[int, int] = {}
    for found in known:
        last = found or last
        positions, name = last
        many = counts[positions]
        parts = min(MOST - 2, -(-many // 12)) if many > WHOLE * n and many > 12 else 1
        part = seen.get(positions, 0) * parts // many
        seen[positions] = seen.get(positions, 0) + 1
        stages.append(names.setdefault((positions, name, part), len(names)))
    said = [f"{name}, part {part + 1}" if _split(names, p) else name for p, name, part in names]
    if len(names) > MOST:
        together = [stage * MOST // len(names) for stage in range(len(names))]
        names_of: list[dict[str, None]] = [{} for _ in range(MOST)]
        for stage, name in zip(together, said, strict=True):
            names_of[stage][name] = None
        return [together[stage] for stage in stages], [" and ".join(found) for found in names_of]
    return stages, said


def _split(names: dict[tuple[int, str, int], int], positions: int) -> bool:
    return sum(p == positions for p, _, _ in names) > 1
