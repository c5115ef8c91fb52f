"""Two files on the same images, side by side: accuracy, cost, latency, agreement of outputs.

What is shown is the dictionary of :class:`rejuvenet.adapters.command_line.comparison.Comparison`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..images.accuracy import Gain
from .page import Page, Tone, percent
from .shares import Share, add_classes, add_shares

Figures = Mapping[str, Any]
FASTER = 0.95  # of the time; what is nearer may be the clock


def add_comparison(
    page: Page,
    names: Sequence[str],
    figures: Figures,
    images: str,
    reorganized: bool = True,
    others: Sequence[tuple[str, Share, str]] = (),
) -> None:
    """Add every section that there are figures for.

    Parameters
    ----------
    page : Page
    names : sequence of two str
        Of the files.
    figures : dict
        Of a comparison.
    images : str
        Which images these are, as ``"540 images of test.npz"``.
    reorganized : bool
        Whether channels may have changed, so that the cost is worth a table.
    others : sequence of (name, share, remark)
        Accuracies of other files, to be shown beside.
    """
    if figures["accuracy"]:
        pairs = zip(names, figures["accuracy"], figures["intervals"], strict=True)
        rows = [(name, Share(value, ends), "") for name, value, ends in pairs]
        add_shares(page, [*others, *rows], f"On {images}.")
        add_classes(page, names, figures["classes"])
    if reorganized:
        add_cost(page, names, figures["files"])
    add_outputs(page, figures, images)


def add_outputs(page: Page, figures: Figures, images: str) -> None:
    """Add a table of what the outputs of both files have in common."""
    rows = [
        ("same first class", percent(figures["top1"])),
        ("first five classes in common", percent(figures["top5"])),
        ("difference of the outputs, relative", figures["relative_difference"]),
        ("difference of the outputs, at most", figures["max_difference"]),
    ]
    shown = [(name, value) for name, value in rows if value not in ("", None)]
    page.table("Outputs beside each other", ["figure", "value"], shown, f"On {images}.")


def add_cost(page: Page, names: Sequence[str], files: Sequence[Figures]) -> None:
    """Add a table of what both files cost: parameters, multiply-adds, size, latency."""
    first, second = files
    rows: list[list[object]] = []
    for name, key in (("parameters", "parameters"), ("multiply-adds", "multiply_adds")):
        if first["cost"] and second["cost"]:
            rows.append(_row(name, first["cost"][key], second["cost"][key], "{:,}"))
    rows.append(_row("bytes on disk", first["bytes"], second["bytes"], "{:,}"))
    times = [file["latency"] for file in files]
    a, b = (time["milliseconds"] for time in times)
    rows.append(_row("latency, ms", a, b, "{:.3g}"))
    note = (
        f"Latency of batches of {times[0]['batch']} on {times[0]['threads']} thread"
        f"{'s' * (times[0]['threads'] > 1)} of the {_provider(times[0])}, median of "
        f"{times[0]['runs']} runs."
    )
    page.table("Size and speed", ["", *names, "change"], rows, note)


def cost_cards(files: Sequence[Figures], before: str = "before") -> list[tuple[str, str, str]]:
    """Parameters, multiply-adds and latency of the second file, beside the first."""
    first, second = files
    cards = []
    for name, key in (("parameters", "parameters"), ("multiply-adds", "multiply_adds")):
        if first["cost"] and second["cost"] and first["cost"][key]:
            left = second["cost"][key] / first["cost"][key]
            cards.append((name, f"{100 * left:.0f} %", f"{_short(second['cost'][key])} of "
                          f"{_short(first['cost'][key])}"))  # fmt: skip
    a, b = (file["latency"]["milliseconds"] for file in files)
    cards.append(("latency", f"{b:.3g} ms", f"{a:.3g} ms {before}"))
    return cards


def accuracy_card(figures: Figures, before: str = "before") -> list[tuple[str, str, str]]:
    """Accuracy of the second file beside the first; without labels, what their outputs share."""
    if figures["accuracy"]:
        a, b = figures["accuracy"]
        return [("accuracy", percent(b), f"{percent(a)} {before}")]
    if figures["top1"] is not None:
        return [("same first class", percent(figures["top1"]), "as the original")]
    return [("outputs", f"{figures['relative_difference']:.2g}", "relative difference")]


def gain(figures: Figures, images: str, names: tuple[str, str] | None = None) -> tuple[str, Tone]:
    """What the second file gained in accuracy over the first, in a sentence.

    Without ``names`` the files are one before and after a change.
    """
    if not figures["accuracy"]:
        same = figures["top1"]
        if same is None:
            change = figures["relative_difference"]
            return f"On {images} the outputs differ by {change:.2g} of their size.", ""
        return f"On {images} both files name the same class first for {percent(same)}.", ""
    a, b = (percent(share) for share in figures["accuracy"])
    found = Gain(**figures["gain"])
    said, clear, rose = f"({found})", found.clear, found.difference > 0
    tone: Tone = "same" if not clear else "better" if rose else "worse"
    if names is not None:
        line = f"On {images} {names[1]} is right for {b}, {names[0]} for {a} {said}"
        return f"{line}." if clear else f"{line}: too few to tell them apart.", tone
    if not clear:
        line = f"On {images} the accuracy is {b}, {a} before {said}"
        return f"{line}: no difference that so few can tell.", tone
    return f"On {images} the accuracy {'rose' if rose else 'fell'} from {a} to {b} {said}.", tone


def _row(name: str, a: float, b: float, form: str) -> list[object]:
    change = f"{100 * (b - a) / a:+.1f} %" if a else ""
    return [name, form.format(a), form.format(b), change.replace("-", "\N{MINUS SIGN}")]


def _provider(latency: Figures) -> str:
    return str(latency["provider"]).removesuffix("ExecutionProvider")


def _short(n: float) -> str:
    """A large number as people say it.

    >>> _short(4_650_000), _short(6282)
    ('4.65 million', '6,282')
    """
    for name, size in (("billion", 1e9), ("million", 1e6)):
        if n >= size:
            return f"{n / size:.3g} {name}"
    return f"{n:,.0f}"
