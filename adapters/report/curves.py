"""Curves over time as a picture inside the page (SVG, no script)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

WIDTH, HEIGHT, LEFT, BELOW = 760, 260, 52, 34
COLORS = ("var(--soft)", "var(--new)", "var(--kept)", "var(--accent)")
STYLE = """
.curves { width: 100%; max-width: 760px; height: auto; font-size: 13px; }
.curves text { fill: var(--soft); }
.curves .grid { stroke: var(--line); }
.curves polyline { fill: none; stroke-width: 2.5; stroke-linejoin: round; }
"""


def curves(values: Mapping[str, Sequence[float]], first: str, last: str) -> str:
    """Shares between 0 and 1, one curve a name, as percent.

    Parameters
    ----------
    values : mapping of str to sequence of float
        At most four curves of one length, at least two values each.
    first, last : str
        What the values at both ends are of.

    Examples
    --------
    >>> picture = curves({"plain": [0.8, 0.7], "ours": [0.8, 0.9]}, "task 1", "task 2")
    >>> picture.count("<polyline"), ">80 %<" in picture
    (2, True)
    """
    rows = np.array(list(values.values()))
    step = 0.05 if np.ptp(rows) > 0.1 else 0.02
    low, high = step * np.floor(rows.min() / step), step * np.ceil(rows.max() / step)
    x = np.linspace(LEFT, WIDTH - 8, rows.shape[1])

    def height(share: float) -> float:
        return 24 + (HEIGHT - BELOW - 24) * (high - share) / max(high - low, step)

    parts = [f'<svg class="curves" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">']
    for share in np.arange(low, high + step / 2, step):
        y = height(share)
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - 8}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">'
                     f"{100 * share:.0f} %</text>")  # fmt: skip
    for number, (row, color) in enumerate(zip(rows, COLORS, strict=False)):
        points = " ".join(f"{a:.1f},{height(b):.1f}" for a, b in zip(x, row, strict=True))
        parts.append(f'<polyline points="{points}" style="stroke:{color}"/>')
        name = escape(list(values)[number])
        place = LEFT + number * (WIDTH - LEFT) / len(rows)
        parts.append(f'<text x="{place:.0f}" y="14" style="fill:{color}">&#9644; {name}</text>')
    for end, anchor, said in ((LEFT, "start", first), (WIDTH - 8, "end", last)):
        parts.append(f'<text x="{end}" y="{HEIGHT - 8}" text-anchor="{anchor}">'
                     f"{escape(said)}</text>")  # fmt: skip
    parts.append("</svg>")
    return "".join(parts)
