"""The page of a network: its picture, and beside it every channel group with what belongs to it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from ....graph.find.channels import ChannelGroup, Member
from ..html import Page
from .colors import ink_on
from .layers import by
from .marks import num, text
from .picture import STYLE, Picture

PAGE_STYLE = """
.network { display: grid; grid-template-columns: minmax(0, 1fr) 500px; gap: 0 22px;
  align-items: start; }
.views { grid-column: 1 / -1; display: flex; flex-wrap: wrap; gap: 18px; font-size: 13px;
  color: var(--soft); padding: 0 0 10px; }
.views label { cursor: pointer; }
.views a { color: inherit; display: none; }
:root:has(.pin:target) .views a { display: inline; }
.sheet-of, .groups { overflow: auto; max-height: calc(100vh - 70px); border-radius: 8px;
  border: 1px solid var(--line); }
.sheet-of svg { display: block; }
.network:has(#whole:checked) .sheet-of svg { width: 100%; height: calc(100vh - 74px); }
.groups table { font-size: 13px; border-collapse: separate; border-spacing: 0; }
.groups thead th { position: sticky; top: 0; background: var(--sheet); z-index: 2;
  padding-top: 7px; }
.groups td, .groups th { padding: 5px 10px 5px 0; vertical-align: top; }
.groups tbody tr + tr td { border-top: 1px solid var(--line); }
.groups td:first-child, .groups th:first-child { padding-left: 8px; }
.groups td { background: var(--sheet); }
.row { scroll-margin: 60px; }
.groups .number { font-size: 12.5px; }
.swatch { display: inline-block; min-width: 30px; padding: 0 5px; border-radius: 4px; height: 19px;
  line-height: 19px; text-align: center; text-decoration: none; font-weight: 600;
  font-size: 12px; }
.swatch.frozen { background-image: repeating-linear-gradient(-45deg, #fff8 0 2px, #fff0 2px 6px); }
.groups summary { cursor: pointer; overflow-wrap: anywhere; min-width: 150px; }
.full > p { font-size: 14px; max-width: none; }
.groups small { color: var(--soft); display: block; overflow-wrap: anywhere; }
.groups ul { margin: 4px 0 4px; padding-left: 16px; color: var(--soft); font-size: 12px;
  overflow-wrap: anywhere; }
.meter { display: block; height: 4px; border-radius: 2px; margin-top: 3px; min-width: 56px;
  background: var(--line); }
.meter i { display: block; height: 4px; border-radius: 2px; }
.groups tr:is(:hover, :target) td { background: var(--paper); }
.net a { cursor: pointer; }
@media (max-width: 1150px) { .network { grid-template-columns: minmax(0, 1fr); }
  .groups { margin-top: 20px; } }
@media print { .network { display: block; } .views { display: none; }
  .sheet-of, .groups { overflow: visible; max-height: none; border: 0; }
  .sheet-of svg { width: 100% !important; height: auto !important; }
  .full { margin: 20px 0; padding: 0; border: 0; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""


def network_page(picture: Picture) -> str:
    """A page that needs nothing else: the picture, and a table of the groups.

    To point at a group, in the picture or in the table, is to see it in both; its number leads
    from one to the other, and keeps it lit.
    """
    groups = picture.groups
    page = Page("Channel groups", picture.title)
    movable = [group for group in groups if not group.frozen]
    channels = sum(group.channels for group in groups)
    moving = sum(len(part) for group in movable for part in group.exchangeable)
    page.figures(
        [
            ("groups", len(groups), "channels that change together"),
            ("can move", len(movable), f"{moving} of {channels} channels"),
            ("frozen", len(groups) - len(movable), "hatched; the table says why"),
            ("layers", sum(bool(unit.operations) for unit in picture.units), "boxes"),
            ("weights", len(picture.shapes), "in the model"),
        ]
    )
    views = (
        '<div class="views"><label><input type="radio" name="view" id="whole" checked> '
        'the whole picture</label><label><input type="radio" name="view" id="large"> '
        'large enough to read</label><a href="#network">show all groups again</a></div>'
    )
    page.add(
        "The network",
        picture.legend(),
        f'<div class="network" id="network">{views}'
        f'<div class="sheet-of" tabindex="0">{picture.inline()}</div>'
        f'<div class="groups" tabindex="0">{_table(picture)}</div></div>',
        STYLE + picture.highlights() + _kept_in_sight(len(groups)) + PAGE_STYLE,
        "full",
    )
    if picture.network.unused:
        page.add(
            "Weights that no input meets",
            "",
            f"<p>{text(', '.join(picture.network.unused))}</p>",
        )
    return str(page)


def _breakable(name: str) -> str:
    """A dotted name that may go on in the next line behind a dot."""
    return text(name).replace(".", ".<wbr>")


def _kept_in_sight(n: int) -> str:
    """CSS that holds the row of a group at the edge of the table while its colour is pointed at."""
    rows = (f":root:has(.net .g{i}:hover) .row.g{i}>td" for i in range(1, n + 1))
    return (
        ",\n".join(rows)
        + "{position:sticky;top:28px;bottom:0;z-index:1;background:var(--paper)!important}\n"
        if n
        else ""
    )


def _table(picture: Picture) -> str:
    figures = bool(picture.figures)
    header = ["", "group", "channels", "made + scaled + read by"]
    header += ["capacity used"] if figures else []
    head = "".join(f'<th scope="col">{text(name)}</th>' for name in header)
    rows = "".join(_row(picture, i) for i in range(len(picture.groups)))
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _row(picture: Picture, i: int) -> str:
    group, color = picture.groups[i], picture.colors[i]
    frozen = " frozen" if group.frozen else ""
    number = (
        f'<a class="swatch{frozen}" href="#at-{i + 1}" style="background-color:{color};'
        f'color:{ink_on(color)}" title="show it in the picture">{i + 1}</a>'
    )
    remarks = [f"frozen: {group.frozen}"] if group.frozen else _sets(group)
    if group.exact_merge and not group.frozen:
        remarks.append(f"merging is approximate: {group.exact_merge}")
    module = picture.module(group)
    if not group.name.startswith(module):
        remarks.insert(0, module)
    said = "".join(f"<small>{text(remark)}</small>" for remark in remarks)
    members = "".join(
        f"<li>{text(_member(picture, kind, list(found)))}</li>"
        for kind, found in groupby(
            sorted(group.members, key=lambda member: KINDS.index(member.kind)),
            key=lambda member: member.kind,
        )
    )
    counts = len(group.producers), len(group.per_channel), len(group.consumers)
    cells = [
        f"<td>{number}</td>",
        f"<td><details><summary>{_breakable(group.name)}</summary><ul>{members}</ul></details>"
        f"{said}</td>",
        f'<td class="number">{group.channels}</td>',
        f'<td class="number">{" + ".join(map(str, counts))}</td>',
    ]
    if picture.figures:
        cells.append(_capacity(picture, i))
    return f'<tr id="group-{i + 1}" class="row pin hot g{i + 1}">{"".join(cells)}</tr>'


KINDS = ("producer", "per_channel", "consumer")
VERBS = {"producer": "made by", "per_channel": "scaled by", "consumer": "read by"}


def _member(picture: Picture, kind: str, members: Sequence[Member]) -> str:
    weights = dict.fromkeys(member.weight for member in members)
    listed = (f"{weight} {by(picture.shapes[weight])}" for weight in weights)
    return f"{VERBS[kind]} {', '.join(listed)}"


def _sets(group: ChannelGroup) -> list[str]:
    """Which of its channels may be exchanged, where that is not all of them."""
    sizes = [len(part) for part in group.exchangeable]
    if sizes == [group.channels]:
        return []
    return [f"{sum(sizes)} channels may move, in {len(sizes)} set{'s' * (len(sizes) != 1)}"]


def _capacity(picture: Picture, i: int) -> str:
    figures = picture.figures.get(picture.groups[i].name)
    if figures is None:
        return "<td></td>"
    share = 100 * figures.effective_rank / max(figures.channels, 1)
    return (
        f'<td class="number" title="{text(figures)}">rank {figures.effective_rank:.1f}'
        f'<span class="meter"><i style="width:{num(share)}%;background:{picture.colors[i]}"></i>'
        f"</span><small>{figures.occupied} of {figures.nodes} nodes</small>"
        f"<small>{figures.dormant:.0%} dormant</small></td>"
    )
