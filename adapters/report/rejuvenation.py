"""The HTML page of a rejuvenation: what was gained, both trainings, what became of the layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .html import Page
from .reorganization import report_page

if TYPE_CHECKING:
    from ..finetune.rejuvenating import Rejuvenation


def rejuvenation_page(title: str, result: Rejuvenation) -> str:
    """The page of a result of :func:`rejuvenet.adapters.finetune.rejuvenating.rejuvenate_file`.

    Parameters
    ----------
    title : str
        What was changed, below the heading.
    result : Rejuvenation
    """
    page = Page("Rejuvenated", title)
    shares = result.accuracy
    cards = [
        ("accuracy", _percent(shares["rejuvenated"]), f"of {result.evaluated} images set apart"),
        ("original", _percent(shares["original"]), "before anything was done"),
    ]
    if "plain fine-tuning" in shares:
        cards.append(
            ("plain fine-tuning", _percent(shares["plain fine-tuning"]), "for as many epochs")
        )
    page.figures(cards)
    page.bars(
        "Accuracy", [(name, share, "") for name, share in shares.items()], result.verdict
    )
    names = list(result.trained)
    epochs = [result.trained[name].trained.epochs for name in names]
    rows = []
    for number in range(max(map(len, epochs))):
        row: list[object] = [number]
        for run in epochs:
            epoch = run[number] if number < len(run) else None
            row += [
                None if epoch is None else value
                for value in (epoch and epoch.loss, epoch and epoch.held_out_accuracy)
            ]
        rows.append(row)
    header = ["epoch"]
    for name in names:
        header += [f"{name}: loss", f"{name}: held-out accuracy"]
    kept = ", ".join(f"{name}: epoch {result.trained[name].trained.best}" for name in names)
    page.table("Training", header, rows, f"{result.note} Kept by held-out images: {kept}.")
    before, after, trained = result.means
    return report_page(title, result.report, before, after, trained, page)


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"
