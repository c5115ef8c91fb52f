"""The page of ``compare``: two files, or the files of two runs, side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..visible import number_of
from .before_after import FASTER, accuracy_card, add_comparison, cost_cards, gain
from .page import Page, Step, Tone, percent
from .reorganization import Pictures, finished

if TYPE_CHECKING:
    from ..command_line.invocation import Invocation
    from .network.picture import Picture

MOST_WEIGHTS = 20


def comparison_page(
    call: Invocation,
    figures: Mapping[str, Any],
    pictures: Pictures,
    network: Picture,
) -> str:
    """The page of two files.

    Parameters
    ----------
    call : Invocation
        The command that made it.
    figures : dict
        Of :class:`rejuvenet.adapters.command_line.comparison.Comparison`.
    pictures : mapping of group name to (panels, classes)
        Of both files.
    network : Picture
        Of the first.
    """
    names = str(call.settings["first"]), str(call.settings["second"])
    page = Page(" and ".join(names), "Two files on the same data")
    images = f"{number_of(figures['images'], call.noun)} of {call.settings['data']}"
    said, tone = gain(figures, images, names)
    cards = [*accuracy_card(figures, f"of {names[0]}"), *cost_cards(figures["files"], "first")]
    if figures["note"]:
        said += f" There is no accuracy: {figures['note'][0].lower()}{figures['note'][1:]}."
    page.lead(said, tone, cards, _steps(call, figures, tone, names))
    add_comparison(page, names, figures, images)
    changed = sorted(figures["changed"].items(), key=lambda item: -item[1])
    first, second = set(figures["only_first"]), set(figures["only_second"])
    note = (
        f"{figures['equal']} weights are equal, {len(changed)} differ, {len(first & second)} are "
        f"of another shape, {len(first ^ second)} of one file only."
    )
    header = ["weight", "differs by at most"]
    listed = page.rows(header, changed[:MOST_WEIGHTS]) if changed else ""
    if changed[MOST_WEIGHTS:]:
        listed += f"<details><summary>{len(changed) - MOST_WEIGHTS} that differ by less</summary>"
        listed += f"{page.rows(header, changed[MOST_WEIGHTS:])}</details>"
    page.add("Weights", note, listed)
    note = f"{names[0]}, with the groups in colour that differ."
    return finished(page, call, "This page:", pictures, network, note)


def _steps(
    call: Invocation, figures: Mapping[str, Any], tone: Tone, names: tuple[str, str]
) -> list[Step]:
    """Which of them to use."""
    first, second = (file["latency"]["milliseconds"] for file in figures["files"])
    stem = names[1].removesuffix(".onnx")
    if tone == "better":
        return [(f"Use {names[1]}.", "")]
    train = call.command(
        "finetune", names[1], "--teacher", names[0], "-o", f"{stem}.finetuned.onnx",
        "--html", f"{stem}.finetuned.html",
    )  # fmt: skip
    others = "better with other images than these, which would tell nothing any more"
    if tone == "worse":
        said = f"Use {names[0]}; or train {names[1]}, with the other as its teacher ({others}):"
        return [(said, train)]
    if figures["accuracy"]:
        if second < FASTER * first:
            saved = percent(1 - second / first, 0)
            return [(f"Use {names[1]}, which takes {saved} less time.", "")]
        return [("Use either; they do equally well, as far as so few can tell.", "")]
    same = figures["top1"]
    if same is not None and same < 1:
        said = f"Bring {names[1]} nearer to {names[0]} by training it to give the same outputs"
        return [(f"{said} ({others}):", train)]
    return []
