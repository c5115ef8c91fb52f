"""One self-contained HTML page that shows what happened to a model.

No script, no font, no address: pictures are inside the page, so that it can be mailed or kept.
The main picture follows Fig. 2 of the paper: class-representative activations before, after
reorganization, and after rejuvenation.
"""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape

import numpy as np

from ..command_line.visible import visible
from .style import STYLE

# Viridis at nine even steps (matplotlib's table); the colors between are interpolated.
_VIRIDIS = np.array(
    [
        (68, 1, 84),
        (71, 44, 122),
        (59, 81, 139),
        (44, 113, 142),
        (33, 144, 141),
        (39, 173, 129),
        (92, 200, 99),
        (170, 220, 50),
        (253, 231, 37),
    ]
)
_GAP = 255  # palette entry between tiles: transparent
_WIDEST_TILED = 128  # beyond this many channels the tiles would be smaller than a pixel
_MOST_CLASSES = 20


@dataclass
class Panel:
    """One state of a group in the picture of Fig. 2.

    Attributes
    ----------
    title, caption : str
        What the reader sees.
    Q : ndarray, shape (C, o, h, w)
        Class-representative activations, channels in their present order.
    new : ndarray of int
        Positions of new channels.
    """

    title: str
    caption: str
    Q: np.ndarray
    new: np.ndarray = field(default_factory=lambda: np.zeros(0, int))


class Page:
    """Sections of a page in the order in which they were added; ``str()`` gives the HTML.

    Examples
    --------
    >>> page = Page("Reorganized", "digits.onnx")
    >>> page.table("Groups", ["group", "channels"], [["conv4.weight", 64]])
    >>> "<td>conv4.weight</td>" in str(page)
    True
    """

    def __init__(self, title: str, subtitle: str = "") -> None:
        self.title = title
        self.subtitle = subtitle
        self.sections: list[str] = []
        self.styles = [STYLE]

    def add(self, title: str, note: str, body: str, style: str = "", kind: str = "") -> None:
        """Add a section of HTML as it is, with the style that it needs.

        A section of the kind ``"full"`` is as wide as the window.
        """
        self.styles += [style] if style else []
        self._section(title, note, body, kind)

    def figures(self, cards: Iterable[tuple[str, object, str]]) -> None:
        """Add cards of ``(name, value, remark)``: the few figures that matter most."""
        body = "".join(
            f'<div class="card"><span class="name">{_text(name)}</span>'
            f'<span class="value">{_text(value)}</span>'
            f'<span class="remark">{_text(remark)}</span></div>'
            for name, value, remark in cards
        )
        self.sections.append(f'<section class="cards">{body}</section>')

    def table(
        self, title: str, header: Sequence[str], rows: Iterable[Sequence[object]], note: str = ""
    ) -> None:
        """Add a table; numbers are set to the right."""
        rows = [list(row) for row in rows]
        right = [any(isinstance(row[i], (int, float)) for row in rows) for i in range(len(header))]
        head = "".join(
            f'<th scope="col"{" class=number" if number else ""}>{_text(name)}</th>'
            for name, number in zip(header, right, strict=True)
        )
        body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
        self._section(
            title,
            note,
            f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody>'
            "</table></div>",
        )

    def bars(
        self, title: str, rows: Iterable[tuple[str, float | None, str]], note: str = ""
    ) -> None:
        """Add one bar a row: ``(name, share between 0 and 1, remark)``."""
        body = "".join(
            f'<tr><th scope="row">{_text(name)}</th><td class="number">{_percent(share)}</td>'
            f'<td class="bar"><i style="width:{100 * (share or 0):.2f}%"></i></td>'
            f'<td class="remark">{_text(remark)}</td></tr>'
            for name, share, remark in rows
        )
        self._section(title, note, f'<div class="wide"><table class="bars">{body}</table></div>')

    def activations(
        self, title: str, panels: Sequence[Panel], classes: Sequence, note: str = ""
    ) -> None:
        """Add the picture of Fig. 2: one panel under the other, on one color scale.

        Up to 128 channels, a row is a class, a column a channel, and a tile the slice of both.
        Above, as in the paper, each channel is one column of pixels, its slices flattened.
        """
        shown = np.unique(np.linspace(0, len(classes) - 1, _MOST_CLASSES).round().astype(int))
        names = [str(classes[c]) for c in shown]
        finite = np.concatenate([panel.Q[shown].ravel() for panel in panels])
        low, high = (float(v) for v in np.percentile(finite, (0.5, 99.5)))
        parts = [_panel(panel, panel.Q[shown], names, low, high) for panel in panels]
        scale = _png(np.arange(255, dtype=np.uint8)[None])
        parts.append(
            f'<p class="scale">{low:.3g} <img src="{scale}" alt="color scale"> {high:.3g}'
            '<span class="survivor"></span> surviving channel'
            '<span class="newcomer"></span> new channel</p>'
        )
        if len(shown) < len(classes):
            note += f" {len(shown)} of the {len(classes)} classes are shown."
        self._section(title, note, "".join(parts))

    def close_up(
        self, title: str, Q: np.ndarray, channels: Sequence[int], classes: Sequence, note: str = ""
    ) -> None:
        """Add large tiles of a few channels: a row is a channel, on a color scale of its own."""
        Q = Q[:_MOST_CLASSES]
        rows = [
            _levels(_tiles(q[None]), float(q.min()), float(q.max()))
            for q in Q.swapaxes(0, 1)[channels]
        ]
        head = "".join(f"<span>{_text(name)}</span>" for name in classes[:_MOST_CLASSES])
        side = "".join(f"<span>{int(j)}</span>" for j in channels)
        self._section(
            title,
            note,
            f'<div class="closeup"><div></div><div class="heads">{head}</div>'
            f'<div class="classes">{side}</div>'
            f'<img class="pixels" src="{_png(np.concatenate(rows))}" alt="{_text(title)}"></div>',
        )

    def text(self, title: str, lines: str) -> None:
        """Add preformatted text."""
        shown = "\n".join(map(_text, lines.split("\n")))
        self._section(title, "", f"<pre>{shown}</pre>")

    def _section(self, title: str, note: str, body: str, kind: str = "") -> None:
        said = f"<p>{_text(note.strip())}</p>" if note else ""
        opened = f'<section class="{kind}">' if kind else "<section>"
        self.sections.append(f"{opened}<h2>{_text(title)}</h2>{said}{body}</section>")

    def __str__(self) -> str:
        return (
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
            "style-src 'unsafe-inline'; img-src data:\">\n"
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{_text(self.title)}</title>\n<style>{''.join(self.styles)}</style>\n</head>\n<body>\n"
            f"<header><h1>{_text(self.title)}</h1><p>{_text(self.subtitle)}</p></header>\n<main>\n"
            + "\n".join(self.sections)
            + "\n</main>\n</body>\n</html>\n"
        )


def neighbor_similarity(Q: np.ndarray) -> float:
    """Mean correlation of the slices of neighboring channels; shows how ordered a group is.

    Parameters
    ----------
    Q : ndarray, shape (C, o, h, w)
        Class-representative activations; channels without any variation are passed over.

    Examples
    --------
    >>> ramp = np.arange(12.0).reshape(3, 1, 2, 2)
    >>> round(neighbor_similarity(np.concatenate([ramp, 2 * ramp, -ramp], axis=1)), 6)
    0.0
    """
    channels = np.moveaxis(Q, 1, 0).reshape(Q.shape[1], -1).astype(np.float64)
    channels = channels - channels.mean(axis=1, keepdims=True)
    norm = np.linalg.norm(channels, axis=1)
    alive = norm > 1e-12
    channels = channels[alive] / norm[alive, None]
    if len(channels) < 2:
        return 0.0
    return float((channels[1:] * channels[:-1]).sum(axis=1).mean())


def _panel(panel: Panel, Q: np.ndarray, names: list[str], low: float, high: float) -> str:
    o = Q.shape[1]
    tiled = o <= _WIDEST_TILED
    pixels = _tiles(Q) if tiled else np.moveaxis(Q, 1, -1).reshape(-1, o)
    picture = _png(_levels(pixels, low, high))
    new = set(panel.new.tolist())
    # One gradient stop at every change from surviving to new, so that the strip needs no script.
    stops: list[tuple[str, int]] = []  # color, first position
    for j in range(o):
        color = "var(--new)" if j in new else "var(--kept)"
        if not stops or stops[-1][0] != color:
            stops.append((color, j))
    ends = [j for _, j in stops[1:]] + [o]
    strip = ",".join(
        f"{color} {100 * j / o:.4g}% {100 * end / o:.4g}%"
        for (color, j), end in zip(stops, ends, strict=True)
    )
    labels = "".join(f"<span>{_text(name)}</span>" for name in names)
    return (
        f'<figure class="panel"><figcaption><b>{_text(panel.title)}</b> {_text(panel.caption)}'
        f'</figcaption><div class="picture"><div class="classes">{labels}</div><div>'
        f'<img class="pixels" src="{picture}" alt="{_text(panel.title)}">'
        f'<div class="strip" style="background:linear-gradient(90deg,{strip})"></div>'
        "</div></div></figure>"
    )


def _tiles(Q: np.ndarray) -> np.ndarray:
    """Slices as tiles with a gap of one pixel (NaN): ``(C (h + 1), o (w + 1))``."""
    C, o, h, w = Q.shape
    tiles = np.full((C, h + 1, o, w + 1), np.nan)
    tiles[:, :h, :, :w] = Q.transpose(0, 2, 1, 3)
    return tiles.reshape(C * (h + 1), o * (w + 1))


def _levels(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Palette entries 0..254 for values between ``low`` and ``high``; NaN is the gap."""
    spread = (np.nan_to_num(values) - low) / max(high - low, 1e-30)
    levels = np.clip(np.rint(254 * spread), 0, 254).astype(np.uint8)
    return np.where(np.isnan(values), np.uint8(_GAP), levels)


def _png(levels: np.ndarray) -> str:
    """A data address with a palette PNG of ``levels`` (PNG specification, color type 3)."""
    steps = np.linspace(0, len(_VIRIDIS) - 1, 255)
    colors = [np.interp(steps, np.arange(len(_VIRIDIS)), channel) for channel in _VIRIDIS.T]
    palette = np.vstack([np.rint(np.stack(colors, axis=1)), [(128, 128, 128)]]).astype(np.uint8)
    height, width = levels.shape
    rows = np.insert(levels.astype(np.uint8), 0, 0, axis=1)  # filter 0 before each row
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
        (b"PLTE", palette.tobytes()),
        (b"tRNS", bytes([255] * 255 + [0])),
        (b"IDAT", zlib.compress(rows.tobytes(), 9)),
        (b"IEND", b""),
    )
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )
    return "data:image/png;base64," + base64.b64encode(data).decode()


def _text(value: object) -> str:
    return escape(visible(value))


def _cell(value: object) -> str:
    kind = ' class="number"' if isinstance(value, (int, float)) else ""
    if isinstance(value, float):
        value = f"{value:.4g}"
    return f"<td{kind}>{_text('' if value is None else value)}</td>"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.2f} %"
