"""Curves over time as a picture inside the page (SVG, no script), as wide as there is room."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from .page import text

COLORS = ("var(--old)", "var(--new)", "var(--kept)", "var(--accent)")
STYLE = """
.curves { position: relative; height: 250px; margin: 8px 0 0 52px; max-width: 820px; }
.curves svg { position: absolute; inset: 0; width: 100%; height: 100%; overflow: visible; }
.curves .grid { stroke: var(--line); vector-effect: non-scaling-stroke; }
.curves polyline { fill: none; stroke-width: 2.5; stroke-linejoin: round;
  vector-effect: non-scaling-stroke; }
.curves span { position: absolute; right: calc(100% + 8px); transform: translateY(-50%);
  font-size: 13px; color: var(--soft); white-space: nowrap; }
.curve-ends { display: flex; justify-content: space-between; margin: 6px 0 0 52px;
  max-width: 820px; font-size: 13px; color: var(--soft); }
"""


def curves(values: Mapping[str, Sequence[float | None]], first: str, last: str) -> str:
    """Shares between 0 and 1, one curve a name, as percent.

    Parameters
    ----------
    values : mapping of str to sequence of float or None
        At most four curves, of two values or more; None where there is none.
    first, last : str
        What the values at both ends are of.

    Examples
    --------
    >>> picture = curves({"plain": [0.8, 0.7], "ours": [0.8, 0.9]}, "task 1", "task 2")
    >>> picture.count("<polyline"), ">80 %<" in picture
    (2, True)
    """
    known = [value for row in values.values() for value in row if value is not None]
    spread = np.ptp(known)
    step = next((s for s in (0.005, 0.01, 0.02, 0.05, 0.1) if spread <= 6 * s), 0.2)
    low, high = step * np.floor(min(known) / step), step * np.ceil(max(known) / step)
    low = min(low, high - step)
    longest = max(map(len, values.values()))

    def height(share: float) -> float:
        return 100 * (high - share) / (high - low)

    shares = np.arange(low, high + step / 2, step)
    grid = "".join(f'<path class="grid" d="M0 {height(s):.2f}H100"/>' for s in shares)
    said = [f"{100 * share:.{int(step < 0.01)}f} %" for share in shares]
    labels = "".join(
        f'<span style="top:{height(share):.2f}%">{name}</span>'
        for share, name in zip(shares, said, strict=True)
    )
    lines, key = "", ""
    for (name, row), color in zip(values.items(), COLORS, strict=False):
        x = np.arange(len(row)) * 100 / max(longest - 1, 1)
        points = " ".join(
            f"{a:.2f},{height(b):.2f}" for a, b in zip(x, row, strict=True) if b is not None
        )
        lines += f'<polyline points="{points}" style="stroke:{color}"/>'
        key += f'<span><i style="background:{color};border:0"></i>{text(name)}</span>'
    alt = f"curves of {', '.join(values)}, from {first} to {last}"
    return (
        f'<div class="key">{key}</div><div class="curves">{labels}<svg viewBox="0 0 100 100" '
        f'preserveAspectRatio="none" role="img" aria-label="{text(alt)}">{grid}{lines}</svg></div>'
        f'<div class="curve-ends"><span>{text(first)}</span><span>{text(last)}</span></div>'
    )
