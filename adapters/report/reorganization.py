"""The HTML page of a report: the picture of Fig. 2 for every changed group, and its figures."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ...graph import ClassMeans, GroupReport, Report
from .html import Page, Panel, neighbor_similarity


def report_page(
    title: str,
    report: Report,
    before: Mapping[str, ClassMeans],
    after: Mapping[str, ClassMeans],
    trained: Mapping[str, ClassMeans] | None = None,
    page: Page | None = None,
) -> str:
    """The page of a report.

    Parameters
    ----------
    title : str
        What was changed, below the heading.
    report : Report
        With its plan, which says where the new channels are.
    before, after : mapping of group name to ClassMeans
        Class-representative activations of the model before and after the change.
    trained : mapping of group name to ClassMeans, optional
        The same after fine-tuning.
    page : Page, optional
        Goes on where this one ends.
    """
    page = page or Page("Self-reorganized and rejuvenated", title)
    plans = {plan.group: plan for plan in report.plan.groups} if report.plan else {}
    for line in report.groups:
        if line.group in before:
            new = plans[line.group].new if line.group in plans else np.zeros(0, int)
            finished = (trained or {}).get(line.group)
            _group(page, line.group, new, before[line.group], after[line.group], finished)
    page.table("Groups", *report_rows(report))
    if report.skipped:
        page.table("Left as they were", ["group", "because"], report.skipped.items())
    if report.plan is not None and report.plan.recipe is not None:
        shown = {name: str(value) for name, value in report.plan.recipe.to_dict().items()}
        page.table("Recipe", ["option", "value"], shown.items())
    return str(page)


def report_rows(report: Report) -> tuple[list[str], list[list[object]]]:
    """Header and rows of the groups of a report; columns in which nothing stands are left out."""

    def rejuvenated(line: GroupReport) -> bool:
        return bool(line.nodes) and line.removed is None

    columns: dict[str, list[object]] = {
        "group": [line.group for line in report.groups],
        "channels": [line.channels for line in report.groups],
        "moved": [line.moved or None for line in report.groups],
        "left": [
            None if line.removed is None else line.channels - line.removed
            for line in report.groups
        ],
        "survive": [line.survivors if rejuvenated(line) else None for line in report.groups],
        "merged": [line.merged if line.nodes else None for line in report.groups],
        "new": [line.new if rejuvenated(line) else None for line in report.groups],
        "occupied nodes": [
            f"{line.occupied} of {line.nodes}" if rejuvenated(line) else None
            for line in report.groups
        ],
        "effective rank": [
            line.before and round(line.before.effective_rank, 1) for line in report.groups
        ],
        "after": [line.after and round(line.after.effective_rank, 1) for line in report.groups],
        "consumers miss": [
            None if line.missed is None else f"{line.missed:.1%}" for line in report.groups
        ],
        "note": [line.note or None for line in report.groups],
    }
    kept = {name: c for name, c in columns.items() if any(v is not None for v in c)}
    return list(kept), [list(row) for row in zip(*kept.values(), strict=True)]


def _group(
    page: Page,
    group: str,
    new: np.ndarray,
    before: ClassMeans,
    after: ClassMeans,
    trained: ClassMeans | None,
) -> None:
    """The picture of Fig. 2 of one group, and its new channels close up."""
    states = [("Before", "as trained", before.Q), ("Reorganized", "before training", after.Q)]
    panels = []
    for name, said, Q in states:
        kept = Q if name == "Before" else np.delete(Q, new, axis=1)
        said += f"; neighbouring channels correlate by {neighbor_similarity(kept):.2f}"
        panels.append(Panel(name, said, Q, new if name != "Before" else np.zeros(0, int)))
    if trained is not None:
        panels.append(Panel("Rejuvenated", "after fine-tuning", trained.Q, new))
    page.activations(
        f"Class-representative activations: {group}",
        panels,
        before.classes,
        "A row is a class, a column a channel: the mean response of this channel to the images "
        "of this class (eq. 1, Fig. 2).",
    )
    last = trained if trained is not None else after
    if len(new):
        activity = np.abs(last.Q[:, new]).mean(axis=(0, 2, 3))
        shown = np.sort(new[np.argsort(-activity, kind="stable")[:6]])
        page.close_up(
            "New channels, close up",
            last.Q,
            shown.tolist(),
            [str(name) for name in last.classes],
            "The most active of the new channels, one a row, each on its own color scale.",
        )
