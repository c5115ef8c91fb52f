"""The channel groups of a model as rows: for JSON, and for a table in the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...graph import Capacity, ChannelGroup
from .terminal import percent

_MOST_SETS = 4  # sizes of exchangeable sets that a table spells out


def group_rows(
    groups: Sequence[ChannelGroup],
    modules: Mapping[str, str],
    figures: Mapping[str, Capacity],
) -> list[dict[str, Any]]:
    """What there is to say about each group, by name.

    Parameters
    ----------
    groups : sequence of ChannelGroup
    modules : mapping of str to str
        Module of each weight.
    figures : mapping of group name to Capacity
        How much of its capacity each group uses, where that is known.
    """
    rows = []
    for group in groups:
        first = group.producers[0].weight if group.producers else group.name
        row = {
            "group": group.name,
            "layer": modules.get(first, first),
            "channels": group.channels,
            "producers": len(group.producers),
            "per_channel": len(group.per_channel),
            "consumers": len(group.consumers),
            "exchangeable": " + ".join(_counted([len(part) for part in group.exchangeable])),
            "frozen": group.frozen,
            "exact_merge": group.exact_merge,
        }
        rows.append(row | (figures[group.name].to_dict() if group.name in figures else {}))
    return rows


def table_of(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[object]]]:
    """Header and lines of a table; layers and figures only where they say something."""
    layers = any(not str(row["group"]).startswith(row["layer"]) for row in rows)
    figures = any("occupied" in row for row in rows)
    header = ["group", *(["layer"] if layers else []), "channels"]
    header += ["producers +\nper channel +\nconsumers", "exchangeable"]
    header += ["occupied\nnodes", "effective\nrank", "dormant"] if figures else []
    lines: list[list[object]] = []
    for row in rows:
        line = [row["group"], *([row["layer"]] if layers else []), row["channels"]]
        line += [f"{row['producers']} + {row['per_channel']} + {row['consumers']}"]
        sets = row["exchangeable"].split(" + ")
        more = f" + {len(sets) - _MOST_SETS} more" if len(sets) > _MOST_SETS else ""
        line += ["frozen" if row["frozen"] else " + ".join(sets[:_MOST_SETS]) + more]
        if figures:
            rank = row.get("effective_rank")
            line += [row.get("occupied"), rank and round(rank, 1), percent(row.get("dormant"))]
        lines.append(line)
    return header, lines


def frozen_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """One sentence for each reason.

    >>> frozen_lines([{"group": name, "frozen": "reaches an output"} for name in ("a", "b", "c")])
    ['a, b and c are frozen: reaches an output']
    """
    names: dict[str, list[str]] = {}
    for row in rows:
        if row["frozen"]:
            names.setdefault(row["frozen"], []).append(row["group"])
    return [
        f"{' and '.join(filter(None, (', '.join(found[:-1]), found[-1])))} "
        f"{'is' if len(found) == 1 else 'are'} frozen: {reason}"
        for reason, found in names.items()
    ]


def _counted(lengths: list[int]) -> list[str]:
    """Sizes of the exchangeable sets, equal ones counted: ``["4 x 8", "2"]``."""
    return [
        f"{lengths.count(n)} x {n}" if lengths.count(n) > 1 else str(n)
        for n in dict.fromkeys(lengths)
    ]
