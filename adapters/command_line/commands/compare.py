"""``compare``: two ONNX files on the same images."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from .. import terminal
from ..invocation import Invocation
from ..options import (
    DataPath,
    Html,
    Json,
    Model,
    Threads,
    check_outputs,
)
from ..reading import Reading, open_batches, reads
from ..terminal import Listing, guarded, percent, print_json, progress

if TYPE_CHECKING:
    from ..comparison import ClassAccuracy

SHOWN = 20  # classes in the table; --json has them all


@guarded
@reads
def compare(
    context: typer.Context,
    first: Model,
    second: Model,
    data: DataPath,
    *,
    reading: Reading,
    threads: Threads = 1,
    html: Html = None,
    as_json: Json = False,
) -> None:
    """Run two ONNX files on the same images; compare accuracy, size, cost, latency and weights."""
    check_outputs({"--html": html}, first, second, data)
    from .. import comparison

    batches = open_batches(first, data, reading)
    result = comparison.compare(
        str(first), str(second), batches, progress("images", as_json), threads
    )
    if html is not None:
        from ..comparison_page import write_comparison_page

        write_comparison_page(html, Invocation(context, batches.data), result, batches)
    if as_json:
        print_json({"first": str(first), "second": str(second), **result.to_dict()})
        return
    a, b = result.files
    pairs: list[tuple[object, ...]] = [("bytes", f"{a.bytes:,}", f"{b.bytes:,}")]
    for name in ("parameters", "multiply_adds"):
        counts = (getattr(x.cost, name) if x.cost else None for x in (a, b))
        pairs.append((name.replace("_", "-"), *(n and f"{n:,}" for n in counts)))
    pairs.append(("milliseconds", a.latency.milliseconds, b.latency.milliseconds))
    if result.accuracy and result.intervals:
        shares = map(_share, result.accuracy, result.intervals)
        pairs.insert(0, ("accuracy (95 % interval)", *shares))
    terminal.out.print(Listing(f"{first} and {second}", ["", "first", "second"], pairs))
    terminal.say_plainly(f"Milliseconds are of {a.latency.how}.")
    if result.note:
        terminal.say_plainly(f"No accuracy: {result.note[0].lower()}{result.note[1:]}.")
    rows = [
        (batches.data.noun, result.images),
        ("same first class", percent(result.top1)),
        ("first five classes in common", percent(result.top5)),
        ("outputs", len(result.outputs)),
        ("greatest difference of the outputs", result.max_difference),
        ("mean difference of the outputs", result.mean_difference),
        ("relative difference of the outputs", result.relative_difference),
        ("weights that are equal", result.equal),
        ("weights that differ", len(result.changed)),
        ("weights of another shape", result.reshaped),
        ("weights of one file only", result.alone),
    ]
    terminal.out.print(Listing("Agreement", ["figure", "value"], rows))
    if len(result.outputs) > 1:
        names = ["output", "greatest difference", "mean", "relative", "note"]
        listed = [(name, *asdict(found).values()) for name, found in result.outputs.items()]
        terminal.out.print(Listing("Outputs", names, listed))
    _print_classes(result.classes, batches.data.noun)
    if result.changed:
        changed = sorted(result.changed.items(), key=lambda item: -item[1])
        terminal.out.print(Listing("Weights that differ", ["weight", "by at most"], changed))
    if html is not None:
        terminal.say_plainly(*terminal.written(html))


def _share(share: float, interval: tuple[float, float]) -> str:
    low, high = interval
    return f"{percent(share)} ({100 * low:.1f} to {100 * high:.1f})"


def _print_classes(classes: list[ClassAccuracy], noun: str) -> None:
    """All classes, or those whose accuracy differs most."""
    shown = classes
    if len(classes) > SHOWN:
        apart = sorted(classes, key=lambda c: -abs(c.accuracy[1] - c.accuracy[0]))
        shown = [c for c in apart if c.accuracy[1] != c.accuracy[0]][:SHOWN]
    if shown:
        names = ["class", noun, "first (95 % interval)", "second (95 % interval)"]
        rows = [(c.name, c.images, *map(_share, c.accuracy, c.intervals)) for c in shown]
        what = f"{len(shown)} of {len(classes)} classes that differ most"
        title = "Accuracy of each class" if shown is classes else f"Accuracy of the {what}"
        terminal.out.print(Listing(title, names, rows))
