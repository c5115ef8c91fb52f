"""The page of ``inspect``: which groups leave capacity unused, and where they stand."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from ...graph.find.channels import ChannelGroup, Member
from ...graph.plan.automatic_layers import ENOUGH, least_used, used_share
from .network.colors import ink_on
from .network.layers import by
from .network.marks import num, text
from .network.picture import Picture
from .network.section import add_network
from .page import Page, Step, Tone, percent

if TYPE_CHECKING:
    from ..command_line.invocation import Invocation

STYLE = """
.groups td { vertical-align: top; }
.groups :is(td, th) { padding-right: 12px; }
.row { scroll-margin: 60px; }
.named { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: 2px 8px;
  min-width: 18em; }
.swatch { min-width: 30px; padding: 0 5px; border-radius: 4px; height: 20px; line-height: 20px;
  text-align: center; text-decoration: none; font-weight: 600; font-size: 12px; margin-top: 2px; }
.swatch.frozen { background-image: repeating-linear-gradient(-45deg, #fff8 0 2px, #fff0 2px 6px); }
.groups summary { overflow-wrap: anywhere; color: var(--ink); margin: 0; list-style: none; }
.groups small { color: var(--soft); display: block; overflow-wrap: anywhere; }
.groups ul { margin: 4px 0; padding-left: 16px; color: var(--soft); font-size: 12px;
  overflow-wrap: anywhere; }
.used { display: flex; gap: 10px; align-items: center; justify-content: flex-end; }
.meter { height: 6px; border-radius: 3px; width: 60px; background: var(--line); }
.meter i { display: block; height: 6px; border-radius: 3px; }
.groups tr:is(:hover, :target) td { background: var(--paper); }
@media (max-width: 640px) { .meter { width: 44px; }
  .named { grid-template-columns: 1fr; min-width: 36vw; justify-items: start; } }
"""


def inspection_page(picture: Picture, call: Invocation | None = None) -> str:
    """The page of a network.

    Parameters
    ----------
    picture : Picture
        With the capacity of its groups, where that was measured.
    call : Invocation, optional
        The command that made it.
    """
    groups = picture.groups
    page = Page(f"Channel groups of {picture.title}", picture.summary())
    movable = [group for group in groups if not group.frozen]
    figures = {g.name: picture.figures[g.name] for g in movable if g.name in picture.figures}
    unused = least_used(figures, most=None)
    verdict, tone = _verdict(len(movable), len(groups), figures, unused)
    channels = sum(group.channels for group in groups)
    moving = sum(len(part) for group in movable for part in group.exchangeable)
    cards: list[tuple[str, object, str]] = [
        ("groups", len(groups), f"{len(movable)} can move, {len(groups) - len(movable)} frozen"),
        ("channels", f"{channels:,}", f"{moving:,} of them may move"),
        ("weights", len(picture.shapes), f"in {_layers(picture)} layers"),
    ]
    if figures:
        name = min(figures, key=lambda name: used_share(figures[name]))
        least = percent(used_share(figures[name]), 0)
        cards.insert(0, ("capacity used", least, f"least, by {name}"))
    page.lead(verdict, tone, cards, _steps(call, bool(figures), list(unused)) if call else ())
    _add_table(page, picture)
    add_network(page, picture, linked=True)
    if call is not None:
        page.made_by([("This page:", str(call))], call.settings)
    return str(page)


def _verdict(
    movable: int, groups: int, figures: dict, unused: dict[str, float]
) -> tuple[str, Tone]:
    if not movable:
        return "No channel of this network can be merged or removed; the table says why.", "worse"
    if not figures:
        return (
            f"{movable} of {groups} groups of channels can be merged, rejuvenated or made smaller. "
            "How much of its capacity each uses, only images can tell.",
            "",
        )
    if unused:
        named = ", ".join(list(unused)[:3]) + (" and others" if len(unused) > 3 else "")
        one = len(unused) == 1
        their = "its" if one else "their"
        return (
            f"{len(unused)} of {len(figures)} groups use{'s' if one else ''} at most "
            f"{percent(ENOUGH, 0)} of {their} capacity on these data: {named}.",
            "",
        )
    return f"Every group uses more than {percent(ENOUGH, 0)} of its capacity on these data.", ""


def _steps(call: Invocation, measured: bool, unused: list[str]) -> list[Step]:
    model = str(call.settings["model"])
    stem = model.removesuffix(".onnx")
    if not measured:
        command = f"{call} --data DIR"
        return [("Give images, a folder with one sub-folder a class, to see what is used:",
                 command)]  # fmt: skip
    rejuvenated = call.command(
        "rejuvenate", model, *(word for name in unused[:2] for word in ("--layers", name)),
        "-o", f"{stem}.rejuvenated.onnx", "--html", f"{stem}.rejuvenated.html",
    )  # fmt: skip
    smaller = call.command(
        "shrink", model, "-o", f"{stem}.smaller.onnx", "--html", f"{stem}.smaller.html"
    )
    what = "what is unused" if unused else "the deepest layer, all the same,"
    learn = f"let {what} learn anew, and see what it gives beside plain training:", rejuvenated
    remove = "remove a quarter of the channels, so that the file gets smaller and faster:", smaller
    steps = [learn, remove] if unused else [remove, learn]
    if not call.labelled:  # learning is judged by accuracy
        steps = [remove]
    first, *others = steps
    return [(first[0].capitalize(), first[1]), *((f"Or {said}", how) for said, how in others)]


def _layers(picture: Picture) -> int:
    return sum(bool(unit.operations) for unit in picture.units)


def _add_table(page: Page, picture: Picture) -> None:
    measured = ["capacity used", "occupied nodes", "effective rank", "dormant"]
    header = ["group", "channels", *(measured if picture.figures else [])]
    header += ["may move", "producers", "per channel", "consumers"]
    head = "".join(
        f'<th scope="col"{" class=number" if i else ""}>{page.word(name)}</th>'
        for i, name in enumerate(header)
    )
    rows = "".join(_row(picture, i) for i in range(len(picture.groups)))
    page.add(
        "Groups of channels",
        "A number leads to the picture below. Open a name to see the weights of a group.",
        f'<div class="wide groups" tabindex="0"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>",
        STYLE,
        "full",
    )


def _row(picture: Picture, i: int) -> str:
    group, color = picture.groups[i], picture.colors[i]
    frozen = " frozen" if group.frozen else ""
    number = (
        f'<a class="swatch{frozen}" href="#at-{i + 1}" style="background-color:{color};'
        f'color:{ink_on(color)}" title="show it in the picture">{i + 1}</a>'
    )
    remarks = [f"frozen: {group.frozen}"] if group.frozen else []
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
    name = text(group.name).replace(".", ".<wbr>")
    counts = len(group.producers), len(group.per_channel), len(group.consumers)
    named = f"<details><summary>{name}</summary><ul>{members}</ul></details>{said}"
    cells = [f'<td><div class="named">{number}<div>{named}</div></div></td>']
    cells += [f'<td class="number">{group.channels:,}</td>']
    cells += _capacity(picture, i) if picture.figures else []
    cells += [f'<td class="number">{value}</td>' for value in (_moving(group), *counts)]
    return f'<tr id="group-{i + 1}" class="row pin hot g{i + 1}">{"".join(cells)}</tr>'


KINDS = ("producer", "per_channel", "consumer")
VERBS = {"producer": "producers", "per_channel": "per channel", "consumer": "consumers"}


def _member(picture: Picture, kind: str, members: Sequence[Member]) -> str:
    weights = dict.fromkeys(member.weight for member in members)
    listed = (f"{weight} {by(picture.shapes[weight])}" for weight in weights)
    return f"{VERBS[kind]}: {', '.join(listed)}"


def _moving(group: ChannelGroup) -> str:
    """How many of its channels may be exchanged with each other."""
    sizes = [len(part) for part in group.exchangeable]
    if group.frozen or not sizes:
        return "none"
    if sizes == [group.channels]:
        return "all"
    return f"{sum(sizes):,} in {len(sizes)} set{'s' * (len(sizes) != 1)}"


def _capacity(picture: Picture, i: int) -> list[str]:
    figures = picture.figures.get(picture.groups[i].name)
    if figures is None:
        return ["<td></td>"] * 4
    share = used_share(figures)
    bar = f'<i style="width:{num(100 * share)}%;background:{picture.colors[i]}"></i>'
    return [
        f'<td class="number"><span class="used"><span class="meter">{bar}</span>'
        f"{percent(share, 0)}</span></td>",
        f'<td class="number">{figures.occupied} of {figures.nodes}</td>',
        f'<td class="number">{figures.effective_rank:.1f} of '
        f"{min(figures.channels, figures.features)}</td>",
        f'<td class="number">{percent(figures.dormant, 0)}</td>',
    ]
