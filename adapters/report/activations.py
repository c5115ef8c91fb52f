"""The picture of Fig. 2: what each channel of a group makes of each class, before and after.

A row is a class, a column a channel, and a tile the mean response of both.  More channels than can
be seen side by side are thinned out evenly, old and new ones by their share, and large tiles are
pooled.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ...graph import ClassMeans
from .page import Page, text
from .png import levels, png, scale

MOST_CHANNELS = 64
MOST_CLASSES = 20
MOST_CLOSE_UP = 6
LEAST_TILE, MOST_TILE = 6, 12  # pixels of the picture; a tile of one value is still a square

STYLE = """
.panel { margin: 0 0 22px; }
.panel figcaption { margin-bottom: 6px; color: var(--soft); font-size: 14px; }
.panel b { color: var(--ink); margin-right: 6px; }
.picture { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: 8px; }
.tiles { overflow-x: auto; padding-bottom: 4px; }
.classes { display: flex; flex-direction: column; justify-content: space-around; color: var(--soft);
  font-size: 11px; line-height: 1; text-align: right; padding-bottom: 13px; max-width: 11em; }
.classes span, .heads span { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.pixels { display: block; width: 100%; image-rendering: pixelated; }
.strip { height: 6px; border-radius: 3px; margin-top: 3px; }
.scale { display: flex; flex-wrap: wrap; align-items: center; gap: 6px 10px; font-size: 13px;
  color: var(--soft); margin: 0 0 18px; font-variant-numeric: tabular-nums; }
.scale img { width: 140px; height: 10px; border-radius: 3px; }
.survivor, .newcomer { display: inline-block; width: 22px; height: 6px; border-radius: 3px;
  margin: 0 6px 2px 0; }
.survivor { background: var(--kept); }
.newcomer { background: var(--new); }
.closeup { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: 4px 8px; }
.closeup .classes { padding: 0; }
.heads { display: flex; font-size: 11px; color: var(--soft); text-align: center; }
.heads span { flex: 1 1 0; min-width: 0; }
h3 { font-size: 15px; margin: 26px 0 2px; }
"""


@dataclass
class Panel:
    """One state of a group in the picture.

    Attributes
    ----------
    title, caption : str
        What the reader sees.
    Q : ndarray, shape (C, o, h, w)
        Class-representative activations, channels in their present order.
    new : ndarray of int
        Positions of channels that are marked: the new ones, or those that go.
    mark : str
        What the marked channels are.
    """

    title: str
    caption: str
    Q: np.ndarray
    new: np.ndarray = field(default_factory=lambda: np.zeros(0, int))
    mark: str = "new channel"


def add_activations(page: Page, group: str, panels: Sequence[Panel], classes: Sequence) -> None:
    """Add the panels of one group, one below the other on one colour scale.

    Of the last panel's new channels, the most active are shown close up as well.
    """
    rows = np.unique(np.linspace(0, len(classes) - 1, MOST_CLASSES).round().astype(int))
    names = [str(classes[c]) for c in rows]
    shown = [chosen(panel.Q.shape[1], panel.new) for panel in panels]
    tiles = [
        _pooled(panel.Q[np.ix_(rows, kept)]) for panel, kept in zip(panels, shown, strict=True)
    ]
    low, high = np.percentile(np.concatenate([t.ravel() for t in tiles]), (0.5, 99.5))
    what = f"class-representative activations of {group}"
    parts = [
        _panel(panel, kept, levels(_tiled(tile), low, high), names, f"{panel.title}: {what}")
        for panel, kept, tile in zip(panels, shown, tiles, strict=True)
    ]
    marked = next((panel.mark for panel in panels if len(panel.new)), "")
    marks = '<span><i class="survivor"></i>channel that stays</span>'
    marks += f'<span><i class="newcomer"></i>{text(marked)}</span>'
    parts.append(
        f'<p class="scale">{low:.3g} <img src="{scale()}" alt="colour scale"> {high:.3g}'
        f"{marks if marked else ''}</p>"
    )
    note = (
        "What the layer responds to (the paper's Fig. 2). A row is a class, a column a channel, a "
        "tile the mean response of this channel to the samples of this class (eq. 1)."
    )
    most = max(panel.Q.shape[1] for panel in panels)
    if most > MOST_CHANNELS:
        note += f" {MOST_CHANNELS} of the {most} channels are shown, at even distances."
    if len(rows) < len(classes):
        note += f" {len(rows)} of the {len(classes)} classes are shown."
    parts += _close_up(panels[-1], rows, names, group)
    page.add(f"Activations of {group}", note, "".join(parts), STYLE)


def group_panels(
    before: ClassMeans, after: ClassMeans, new: np.ndarray, trained: ClassMeans | None = None
) -> list[Panel]:
    """Panels of a reorganized group: as it was, with new channels, and after training."""
    order = "neighbouring channels correlate by {:.2f}".format
    kept = np.delete(after.Q, new, axis=1)
    panels = [
        Panel("Before", order(neighbor_similarity(before.Q)), before.Q),
        Panel("Reorganized", f"not trained; {order(neighbor_similarity(kept))}", after.Q, new),
    ]
    if trained is not None:
        panels.append(Panel("Rejuvenated", "after training", trained.Q, new))
    return panels


def chosen(o: int, new: np.ndarray) -> np.ndarray:
    """Channels that are shown of ``o``: all, or old and new ones evenly, by their share.

    >>> chosen(4, np.array([1]))
    array([0, 1, 2, 3])
    >>> len(chosen(1000, np.arange(500, 1000)))
    64
    """
    if o <= MOST_CHANNELS:
        return np.arange(o)
    old = np.setdiff1d(np.arange(o), new)
    n = round(MOST_CHANNELS * len(new) / o)
    parts = [_evenly(old, MOST_CHANNELS - n), _evenly(np.sort(new), n)]
    return np.sort(np.concatenate(parts))


def neighbor_similarity(Q: np.ndarray) -> float:
    """Mean correlation of the slices of neighbouring channels; shows how ordered a group is.

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


def _evenly(places: np.ndarray, n: int) -> np.ndarray:
    return places[np.linspace(0, len(places) - 1, n).round().astype(int)] if n else places[:0]


def _pooled(Q: np.ndarray) -> np.ndarray:
    """Slices of at most ``MOST_TILE`` a side, by means over blocks."""
    for axis in (2, 3):
        n = Q.shape[axis]
        if n > MOST_TILE:
            edges = np.linspace(0, n, MOST_TILE + 1).astype(int)
            lengths = np.diff(edges).reshape([-1 if a == axis else 1 for a in range(4)])
            Q = np.add.reduceat(Q, edges[:-1], axis=axis) / lengths
    return Q


def _tiled(Q: np.ndarray) -> np.ndarray:
    """Slices as tiles with a gap of one pixel (NaN): ``(C (h + 1), o (w + 1))``."""
    for axis in (2, 3):
        Q = Q.repeat(-(-LEAST_TILE // Q.shape[axis]), axis=axis)
    C, o, h, w = Q.shape
    tiles = np.full((C, h + 1, o, w + 1), np.nan)
    tiles[:, :h, :, :w] = Q.transpose(0, 2, 1, 3)
    return tiles.reshape(C * (h + 1), o * (w + 1))


def _panel(
    panel: Panel, kept: np.ndarray, pixels: np.ndarray, names: Sequence[str], alt: str
) -> str:
    o = len(kept)
    new = np.isin(kept, panel.new)
    # One gradient stop at every change from old to new, so that the strip needs no script.
    starts = [0, *(np.flatnonzero(new[1:] != new[:-1]) + 1).tolist(), o]
    strip = ",".join(
        f"var(--{'new' if new[a] else 'kept'}) {100 * a / o:.4g}% {100 * b / o:.4g}%"
        for a, b in itertools.pairwise(starts)
    )
    labels = "".join(f'<span title="{text(name)}">{text(name)}</span>' for name in names)
    size = f"min-width:{12 * o}px;max-width:{36 * o}px"
    return (
        f'<figure class="panel"><figcaption><b>{text(panel.title)}</b> {text(panel.caption)}'
        f'</figcaption><div class="picture"><div class="classes">{labels}</div>'
        f'<div class="tiles" tabindex="0"><div style="{size}">'
        f'<img class="pixels" src="{png(pixels)}" alt="{text(alt)}">'
        f'<div class="strip" style="background:linear-gradient(90deg,{strip})"></div>'
        "</div></div></div></figure>"
    )


def _close_up(panel: Panel, rows: np.ndarray, names: Sequence[str], group: str) -> list[str]:
    """Large tiles of the most active new channels: a row is a channel, on a scale of its own."""
    if not len(panel.new):
        return []
    activity = np.abs(panel.Q[:, panel.new]).mean(axis=(0, 2, 3))
    channels = np.sort(panel.new[np.argsort(-activity, kind="stable")[:MOST_CLOSE_UP]])
    Q = _pooled(panel.Q[np.ix_(rows, channels)])
    pixels = [levels(_tiled(q[None]), float(q.min()), float(q.max())) for q in Q.swapaxes(0, 1)]
    head = "".join(f'<span title="{text(name)}">{text(name)}</span>' for name in names)
    side = "".join(f"<span>{int(j)}</span>" for j in channels)
    alt = f"the most active new channels of {group}, class by class"
    return [
        "<h3>New channels, close up</h3>"
        "<p>The most active of the new channels, one a row with its number, each on a colour scale "
        "of its own.</p>"
        f'<div class="closeup"><div></div><div class="heads" style="max-width:{64 * len(names)}px">'
        f'{head}</div><div class="classes">{side}</div><div style="max-width:{64 * len(names)}px">'
        f'<img class="pixels" src="{png(np.concatenate(pixels))}" alt="{text(alt)}"></div></div>'
    ]
