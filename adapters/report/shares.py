"""Accuracies as dots with their intervals, on a scale that tells 99.4 % from 99.8.

The scale is logarithmic in the errors: the way from 98 to 99 % is as long as that from 99 to 99.5,
since both halve them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import log
from typing import Any

from .page import Page, percent, text

MOST_CLASSES = 12  # of the classes, those that changed most; the others are folded away
NOTE = (
    "A line is the interval of 95 %: what so many leave open. The scale is logarithmic in "
    "the errors, so that near 100 % differences can be seen."
)
_ERRORS = (0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002,
           0.001, 0.0005, 0.0002, 0.0001)  # fmt: skip

STYLE = """
.shares { display: grid; grid-template-columns: max-content max-content minmax(120px, 1fr)
  max-content; gap: 0 16px; align-items: center; font-size: 15px; }
.shares > .row { display: grid; grid-column: 1 / -1; grid-template-columns: subgrid;
  align-items: center; border-top: 1px solid var(--line); }
.shares > .row:first-child { border-top: 0; }
.shares .name { font-weight: 600; padding: 7px 0; overflow-wrap: anywhere; max-width: 24em; }
.shares .value { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.shares .remark { color: var(--soft); font-size: 13px; }
.track { position: relative; height: 100%; min-height: 30px; margin: 0 10px; }
.track i { position: absolute; top: 50%; }
.track .tick { top: 0; bottom: 0; border-left: 1px solid var(--line); }
.track .span { height: 3px; margin-top: -1.5px; border-radius: 2px; background: var(--accent);
  opacity: 0.45; }
.track .dot { width: 12px; height: 12px; margin: -6px 0 0 -6px; border-radius: 50%;
  background: var(--accent); }
.track .old.span { background: var(--old); }
.track .old.dot { background: var(--sheet); border: 2.5px solid var(--old); }
.track .two.span { transform: translateY(4px); }
.track .old.two.span { transform: translateY(-4px); }
.axis .track { min-height: 22px; color: var(--soft); font-size: 12px; }
.axis .track b { position: absolute; transform: translateX(-50%); font-weight: 400; top: 2px;
  white-space: nowrap; }
@media (max-width: 640px) {
  .shares { grid-template-columns: fit-content(55vw) minmax(0, 1fr) max-content; gap: 0 10px; }
  .shares > .row { padding: 6px 0; }
  .shares .name { padding: 2px 0; }
  .shares .track { grid-column: 1 / -1; grid-row: 2; height: 26px; }
  .shares .value { order: 1; }
  .axis .track { grid-row: auto; }
}
"""


@dataclass(frozen=True)
class Share:
    """A share between 0 and 1, and the ends of its interval where that is known."""

    value: float
    interval: tuple[float, float] | None = None

    @property
    def ends(self) -> tuple[float, float]:
        """Of the interval, or the value twice."""
        return self.interval or (self.value, self.value)


def add_shares(page: Page, rows: Iterable[tuple[str, Share | None, str]], note: str) -> None:
    """Add accuracies, one a row: ``(name, share, remark)``."""
    listed = [(name, [] if share is None else [share], remark) for name, share, remark in rows]
    if listed:
        page.add("Accuracy", f"{note} {NOTE}", _rows(listed), STYLE)


def add_classes(page: Page, names: Sequence[str], classes: Sequence[Mapping[str, Any]]) -> None:
    """Add the accuracy of each class in two files.

    Parameters
    ----------
    page : Page
    names : sequence of two str
        Of the files.
    classes : sequence of dict
        ``name``, ``images``, ``accuracy`` of both files and their ``intervals``.
    """
    if not classes:
        return
    apart = sorted(classes, key=lambda c: -abs(c["accuracy"][1] - c["accuracy"][0]))
    rows = [
        (
            str(c["name"]),
            [Share(*of) for of in zip(c["accuracy"], c["intervals"], strict=True)],
            f"of {c['images']}",
        )
        for c in apart
    ]
    key = "".join(
        f'<span><i class="{kind}"></i>{text(name)}</span>'
        for name, kind in zip(names, ("old", ""), strict=True)
    )
    ends = [end for _, shares, _ in rows for share in shares for end in share.ends]
    body = f'<div class="key">{key}</div>' + _rows(rows[:MOST_CLASSES], ends)
    if rows[MOST_CLASSES:]:
        n = len(rows) - MOST_CLASSES
        body += f"<details><summary>The other {n} classes</summary>"
        body += f"{_rows(rows[MOST_CLASSES:], ends)}</details>"
    note = "The classes that changed most come first. " + NOTE
    page.add("Accuracy of each class", note, body, STYLE)


def _rows(
    rows: Sequence[tuple[str, Sequence[Share], str]], ends: Sequence[float] | None = None
) -> str:
    scale = _Scale(ends or [e for _, shares, _ in rows for share in shares for e in share.ends])
    parts = []
    for name, shares, remark in rows:
        marks = "".join(f'<i class="tick" style="left:{x:.2f}%"></i>' for x, _ in scale.ticks)
        for number, share in enumerate(shares):
            kind = "old " if len(shares) == 2 and number == 0 else ""
            kind += "two " if len(shares) == 2 else ""
            low, high = (scale.place(end) for end in share.ends)
            said = f"{percent(share.ends[0], 1)} to {percent(share.ends[1], 1)}"
            marks += (
                f'<i class="{kind}span" style="left:{low:.2f}%;width:{high - low:.2f}%"></i>'
                f'<i class="{kind}dot" style="left:{scale.place(share.value):.2f}%" '
                f'title="{said}"></i>'
            )
        value = " → ".join(percent(share.value) for share in shares)
        parts.append(
            f'<div class="row"><span class="name">{text(name)}</span>'
            f'<span class="value">{value}</span><span class="track">{marks}</span>'
            f'<span class="remark">{text(remark)}</span></div>'
        )
    ticks = "".join(f'<b style="left:{x:.2f}%">{said}</b>' for x, said in scale.ticks)
    parts.append(
        '<div class="row axis" aria-hidden="true"><span></span><span></span>'
        f'<span class="track">{ticks}</span><span></span></div>'
    )
    return f'<div class="shares">{"".join(parts)}</div>'


class _Scale:
    """Places in percent of a track, from the greatest error at the left to the least.

    >>> scale = _Scale([0.5, 0.98])
    >>> [round(scale.place(share)) for share in (0.5, 0.9, 0.98)]
    [0, 50, 100]
    """

    def __init__(self, shares: Sequence[float]) -> None:
        errors = [1 - share for share in shares if share < 1]
        self.most = max(errors, default=0.5)
        self.least = min(errors, default=0.01) / (2 if 1 in shares or len(errors) < 2 else 1)
        self.ticks: list[tuple[float, str]] = []
        for error in _ERRORS:
            x = self.place(1 - error)
            inside = self.least * 0.999 <= error <= self.most * 1.001
            if inside and all(x - other > 9 for other, _ in self.ticks):
                self.ticks.append((x, f"{100 * (1 - error):.4g} %"))
        if 1 in shares:
            self.ticks = [(x, said) for x, said in self.ticks if x < 91] + [(100.0, "100 %")]

    def place(self, share: float) -> float:
        error = min(max(1 - share, self.least), self.most)
        return 100 * log(self.most / error) / max(log(self.most / self.least), 1e-9)
