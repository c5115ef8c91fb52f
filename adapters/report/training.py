"""The page of ``finetune``, and what the pages of trainings show of their epochs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .before_after import accuracy_card, add_comparison, gain
from .curves import STYLE, curves
from .page import Page, Step, Tone, percent
from .reorganization import Pictures, finished
from .shares import Share

if TYPE_CHECKING:
    from ..command_line.invocation import Invocation
    from .network.picture import Picture


def finetuning_page(
    call: Invocation,
    result: Mapping[str, Any],
    comparison: Mapping[str, Any],
    beside: Sequence[Mapping[str, Any]],
    images: str,
    pictures: Pictures,
    network: Picture,
) -> str:
    """The page of a training.

    Parameters
    ----------
    call : Invocation
        The command that made it.
    result : dict
        Of :class:`rejuvenet.adapters.finetune.finetuning.Result`.
    comparison : dict
        Of the files before and after.
    beside : sequence of dict
        The teacher compared with both; empty where there was none.
    images : str
        Which images those figures are of.
    pictures, network
        As for :func:`.reorganization.finished`.
    """
    model, output = str(call.settings["model"]), str(call.settings["output"])
    page = Page(f"Fine-tuned: {output}", f"from {model}")
    verdict, tone = gain(comparison, images)
    agreed = [figures["top1"] for figures in beside if figures["top1"] is not None]
    if len(agreed) == 2 and not comparison["accuracy"]:
        before, after = agreed
        verdict = (
            f"On {images} it names the same class first as its teacher for {percent(after)}, "
            f"{percent(before)} before."
        )
        tone = "better" if after > before else "same"
    best = result["trained"]["best"]
    counts = result["images"]
    cards: list[tuple[str, object, str]] = [
        *accuracy_card(comparison),
        ("epoch kept", best, f"of {len(result['trained']['epochs']) - 1}"),
        (call.noun, counts["training"], f"trained on, {counts['held-out']} held out"),
    ]
    page.lead(f"{verdict} {result['verdict']}", tone, cards, _steps(call, tone, best))
    others = []
    if beside and beside[0]["accuracy"]:
        share = Share(beside[0]["accuracy"][0], beside[0]["intervals"][0])
        others = [(str(call.settings["teacher"]), share, "teacher")]
    add_comparison(page, (model, output), comparison, images, False, others)
    if len(agreed) == 2:
        rows = [(name, percent(s)) for name, s in zip((model, output), agreed, strict=True)]
        page.table("Beside the teacher", ["file", "same first class"], rows, f"On {images}.")
    add_epochs(page, {"training": result["trained"]})
    return finished(page, call, "This page and the file:", pictures, network)


def add_epochs(page: Page, trained: Mapping[str, Mapping[str, Any]]) -> None:
    """Add the epochs of one or more trainings: held-out accuracy as curves, and all figures."""
    epochs = {name: run["epochs"] for name, run in trained.items()}
    longest = max(map(len, epochs.values()))
    accuracy = {name: [e["held_out_accuracy"] for e in run] for name, run in epochs.items()}
    accuracy = {k: v for k, v in accuracy.items() if sum(share is not None for share in v) > 1}
    header = ["epoch"]
    for name in epochs:
        header += [f"{name}: loss", "held-out loss", "held-out accuracy"]
    rows = []
    for number in range(longest):
        row: list[object] = [number]
        for run in epochs.values():
            epoch = run[number] if number < len(run) else None
            row += [epoch and epoch["loss"], epoch and epoch["held_out_loss"],
                    epoch and percent(epoch["held_out_accuracy"])]  # fmt: skip
        rows.append(row)
    kept = ", ".join(f"{name}: epoch {run['best']}" for name, run in trained.items())
    drawn = curves(accuracy, "epoch 0", f"epoch {longest - 1}") if accuracy else ""
    body = f"{drawn}<details><summary>Every epoch</summary>{page.rows(header, rows)}</details>"
    note = "Accuracy on what is held out, which chooses the epoch that is kept"
    page.add("Training", f"{note} ({kept}).", body, STYLE)


def _steps(call: Invocation, tone: Tone, best: int) -> list[Step]:
    model, output = str(call.settings["model"]), str(call.settings["output"])
    stem = output.removesuffix(".onnx")
    if tone == "worse" or best == 0:
        lower = (call.settings.get("lr") or 1e-3) / 5
        again = call.command(
            "finetune", model, "-o", f"{stem}.slower.onnx", "--lr", f"{lower:g}",
            "--epochs", str(2 * call.settings["epochs"]), "--html", f"{stem}.slower.html",
        )  # fmt: skip
        return [("Nothing was gained: keep the original; or train more gently:", again)]
    smaller = call.command(
        "shrink", output, "-o", f"{stem}.smaller.onnx", "--html", f"{stem}.smaller.html"
    )
    return [(f"Use {output}.", ""), ("Or make it smaller and faster:", smaller)]
