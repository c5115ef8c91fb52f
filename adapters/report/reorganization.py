"""The page of ``reorganize`` and ``shrink``: what it saved or cost, and what became of groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...graph.plan.plan import by_reason
from .activations import Panel, add_activations
from .before_after import FASTER, accuracy_card, add_comparison, cost_cards, gain
from .network.section import add_network
from .page import Page, Step, Tone, percent

if TYPE_CHECKING:
    from ..command_line.invocation import Invocation
    from .network.picture import Picture

Groups = Sequence[Mapping[str, Any]]
Pictures = Mapping[str, tuple[Sequence[Panel], Sequence]]  # panels and classes, by group
MOST_PICTURES = 3
CHANGED = "Groups that were changed are in colour."


def reorganization_page(
    call: Invocation,
    report: Mapping[str, Any],
    comparison: Mapping[str, Any],
    images: str,
    recipe: Mapping[str, Any],
    pictures: Pictures,
    network: Picture,
) -> str:
    """The page of a change.

    Parameters
    ----------
    call : Invocation
        The command that made it.
    report : dict
        Of :class:`.Report`.
    comparison : dict
        Of the files before and after.
    images : str
        Which images those figures are of.
    recipe : dict
        Options of the method.
    pictures, network
        As for :func:`finished`.
    """
    model, output = str(call.settings["model"]), str(call.settings["output"])
    kind = _kind(report)
    page = Page(f"{kind}: {output}", f"from {model}")
    verdict, tone = _verdict(kind, report, comparison, images)
    cards = _cards(kind, report, comparison)
    page.lead(verdict, tone, cards, _steps(kind, call, comparison, tone))
    add_comparison(page, (model, output), comparison, images, kind == "Shrunk")
    add_groups(page, report, kind)
    made = "This page and the file:"
    return finished(page, call, made, pictures, network, CHANGED, report["groups"], recipe)


def finished(
    page: Page,
    call: Invocation,
    made: str,
    pictures: Pictures,
    network: Picture,
    note: str = "",
    groups: Groups = (),
    recipe: Mapping[str, Any] | None = None,
) -> str:
    """A page with what all of them end with: pictures, the network, how to make it again.

    Parameters
    ----------
    page : Page
    call : Invocation
        The command that made it.
    made : str
        What that made.
    pictures : mapping of group name to (panels, classes)
    network : Picture
    note : str
        What its colours say.
    groups : sequence of dict
        Of a report, for the order of the pictures.
    recipe : dict, optional
        Settings beside those of the command.
    """
    add_pictures(page, pictures, groups)
    add_network(page, network, note=note)
    # Epochs are those of a training where the command has one.
    named = {"epochs": "epochs of the map"} if "epochs" in call.settings else {}
    options = {named.get(name, name): value for name, value in (recipe or {}).items()}
    page.made_by([(made, str(call))], {**call.settings, **options})
    return str(page)


def add_groups(page: Page, report: Mapping[str, Any], kind: str = "Reorganized") -> None:
    """Add what became of each group, and which were left as they were."""
    said = {
        "Arranged": "Channels that respond alike stand side by side now.",
        "Shrunk": "Channels that others tell were removed; what read them was refitted.",
    }.get(kind, "Channels that respond alike share a place; the places left free start anew.")
    if report["groups"]:
        page.table("What was done", *report_rows(report["groups"]), said)
    if report["skipped"]:
        reasons = by_reason(report["skipped"]).items()
        rows = [(reason, ", ".join(names)) for reason, names in reasons]
        page.table("Left as they were", ["because", "groups"], rows)


def add_pictures(page: Page, pictures: Pictures, groups: Groups = ()) -> None:
    """Add the picture of Fig. 2 for the groups whose consumers miss most."""
    missed = {line["group"]: line["missed"] or 0.0 for line in groups}
    names = sorted(pictures, key=lambda name: -missed.get(name, 0.0))
    for name in names[:MOST_PICTURES]:
        add_activations(page, name, *pictures[name])


def report_rows(groups: Groups) -> tuple[list[str], list[list[object]]]:
    """Header and rows of the groups of a report; columns in which nothing stands are left out."""

    def rejuvenated(line: Mapping) -> bool:
        return bool(line["nodes"]) and line["removed"] is None

    def rank(line: Mapping) -> str | None:
        figures = [line[when] for when in ("before", "after") if line[when]]
        return " → ".join(f"{found['effective_rank']:.1f}" for found in figures) or None

    columns: dict[str, list[object]] = {
        "group": [line["group"] for line in groups],
        "channels": [line["channels"] for line in groups],
        "moved": [line["moved"] or None for line in groups],
        "left": [
            None if line["removed"] is None else line["channels"] - line["removed"]
            for line in groups
        ],
        "survive": [line["survivors"] if rejuvenated(line) else None for line in groups],
        "merged": [
            line["merged"] if rejuvenated(line) or line["merged"] else None for line in groups
        ],
        "new": [line["new"] if rejuvenated(line) else None for line in groups],
        "occupied nodes": [
            f"{line['occupied']} of {line['nodes']}" if rejuvenated(line) else None
            for line in groups
        ],
        "effective rank": [rank(line) for line in groups],
        "consumers miss": [
            None if line["missed"] is None else percent(line["missed"], 1) for line in groups
        ],
        "note": [line["note"] or None for line in groups],
    }
    kept = {name: c for name, c in columns.items() if any(v is not None for v in c)}
    return list(kept), [list(row) for row in zip(*kept.values(), strict=True)]


def _kind(report: Mapping[str, Any]) -> str:
    if any(line["kind"] == "arrange" for line in report["groups"]):
        return "Arranged"
    return "Reorganized" if report["cost"] is None else "Shrunk"


def _verdict(
    kind: str, report: Mapping[str, Any], comparison: Mapping[str, Any], images: str
) -> tuple[str, Tone]:
    """What was gained, in a sentence or two."""
    said, tone = gain(comparison, images)
    if kind == "Arranged":
        moved = sum(line["moved"] for line in report["groups"])
        change = report["output_change"]
        same = "" if change is None else f" The outputs are the same up to rounding, {change:.1e}."
        return f"{moved:,} channels were put in order.{same}", "same"
    if kind == "Shrunk":
        before, after = report["cost_before"], report["cost"]
        parts = [
            f"{100 * after[key] / max(before[key], 1):.0f} % of the {name}"
            for name, key in (("parameters", "parameters"), ("multiply-adds", "multiply_adds"))
        ]
        return f"{' and '.join(parts)} are left. {said}", "better" if tone != "worse" else tone
    new = sum(line["new"] for line in report["groups"])
    channels = sum(line["channels"] for line in report["groups"])
    if not new:
        return f"No channel was freed: none responds as another one does. {said}", "same"
    return (
        f"{new:,} of {channels:,} channels are free to learn something new. Nothing is gained yet: "
        f"they have to be trained. {said}",
        "same" if tone == "better" else tone,
    )


def _cards(
    kind: str, report: Mapping[str, Any], comparison: Mapping[str, Any]
) -> list[tuple[str, object, str]]:
    groups = report["groups"]
    cards: list[tuple[str, object, str]] = []
    if kind == "Shrunk":
        cards += cost_cards(comparison["files"])
    elif kind == "Reorganized":
        channels = sum(line["channels"] for line in groups)
        cards += [
            ("channels", channels, f"of {len(groups)} group{'s' * (len(groups) != 1)}"),
            ("new", sum(line["new"] for line in groups), "start anew"),
        ]
    return cards + accuracy_card(comparison)


def _steps(kind: str, call: Invocation, comparison: Mapping[str, Any], tone: Tone) -> list[Step]:
    """What to do next."""
    model, output = str(call.settings["model"]), str(call.settings["output"])
    stem = output.removesuffix(".onnx")
    if kind == "Arranged":
        html = f"{stem}.groups.html"
        return [
            (
                "See how much of its capacity each group uses:",
                call.command("inspect", output, "--html", html),
            )
        ]
    train = call.command(
        "finetune", output, "--teacher", model, "-o", f"{stem}.finetuned.onnx",
        "--html", f"{stem}.finetuned.html",
    )  # fmt: skip
    if kind == "Shrunk":
        unsure = not comparison["accuracy"] and comparison["top1"] != 1
        lost = tone == "worse" or unsure
        first = "Win back what was lost: train it, with the original as its teacher."
        if not lost:
            first = "Use it as it is; or train it, with the original as its teacher."
        more = call.command("shrink", output, "-o", f"{stem}.smaller.onnx", "--html",
                            f"{stem}.smaller.html")  # fmt: skip
        steps = [(first, train), ("Remove more, after training or at once:", more)]
        if comparison is not None:
            a, b = (file["latency"]["milliseconds"] for file in comparison["files"])
            timed = call.command(
                "shrink", model, "--target-latency", "0.7", "-o", f"{stem}.faster.onnx",
                "--html", f"{stem}.faster.html",
            )  # fmt: skip
            said = "It is hardly faster on this machine. Let the clock choose the channels:"
            steps += [(said, timed)] if b > FASTER * a else []
        return steps
    steps = [("Train the new channels, with the original as the teacher:", train)]
    if call.labelled:
        said = "Or let one command do both, and say what it gives beside plain fine-tuning:"
        html = f"{stem}.rejuvenated.html"
        more = call.command("rejuvenate", model, "-o", f"{stem}.rejuvenated.onnx", "--html", html)
        steps.append((said, more))
    return steps
