"""A report as numbers for a logger."""

from __future__ import annotations

from ...graph.report import Report

__all__ = ["metrics"]


def metrics(report: Report, prefix: str = "reorganizer") -> dict[str, float]:
    """Figures of an event by name, ``prefix/group/figure`` and ``prefix/figure``.

    Parameters
    ----------
    report : Report
    prefix : str

    Returns
    -------
    dict of str to float

    Examples
    --------
    >>> from rejuvenet.graph.report import GroupReport
    >>> event = Report([GroupReport("conv1.weight", "reorganize", 8, survivors=3, new=5)])
    >>> metrics(event)["reorganizer/conv1.weight/new"]
    5.0
    """
    named: dict[str, float | None] = {
        f"{prefix}/output_change": report.output_change,
        f"{prefix}/seconds": report.seconds,
    }
    for group in report.groups:
        for figure in ("channels", "survivors", "merged", "new", "occupied"):
            named[f"{prefix}/{group.group}/{figure}"] = getattr(group, figure)
        for when, use in (("before", group.before), ("after", group.after)):
            if use is not None:
                named[f"{prefix}/{group.group}/effective_rank_{when}"] = use.effective_rank
                named[f"{prefix}/{group.group}/dormant_{when}"] = use.dormant
    return {name: float(value) for name, value in named.items() if value is not None}
