"""Colours of groups: a hue for each stage, and in it tones that tell neighbours apart.

Tones lie at equal lightness in OKLab (Ottosson 2020).  In the order of the groups, each takes the
tone of its stage whose least distance to its neighbours is greatest, where the distance of two
colours is the least of what people with normal vision, deuteranopia and protanopia see (simulated
after Machado, Oliveira and Fernandes 2009).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

LIGHTNESS = (0.48, 0.60, 0.72, 0.84)  # visible on white and on a dark page
MOST_CHROMA = 0.15
FIRST_HUE, LAST_HUE = 4.5, -0.55  # radians, from blue at the input through green to red

_TO_LMS = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_TO_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)
_VISION = np.array(
    [
        np.eye(3),
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
         [-0.011820, 0.042940, 0.968881]],
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
         [-0.003882, -0.048116, 1.051998]],
    ]
)  # fmt: skip


def group_colors(stages: Sequence[int], neighbors: Iterable[tuple[int, int]] = ()) -> list[str]:
    """Colours of groups.

    Parameters
    ----------
    stages : sequence of int
        Of each group, counted from 0.
    neighbors : iterable of (int, int)
        Groups that meet in the picture.

    Returns
    -------
    list of str
        ``"#rrggbb"`` for each group.

    Examples
    --------
    >>> colors = group_colors([0, 0, 0, 1], [(0, 1), (1, 2), (0, 2)])
    >>> len(set(colors))
    4
    """
    n = max(stages, default=0) + 1
    hues = np.linspace(FIRST_HUE, LAST_HUE, n) if n > 2 else np.array([FIRST_HUE, 0.9])[:n]
    rgb = np.array([[_in_gamut(L, hue) for L in LIGHTNESS] for hue in hues])
    codes = np.rint(255 * _encoded(rgb)).astype(np.uint8)
    seen = np.stack([oklab(np.clip(rgb @ matrix.T, 0, 1)) for matrix in _VISION])
    meets: list[set[int]] = [set() for _ in stages]
    for a, b in neighbors:
        if a != b:
            meets[max(a, b)].add(min(a, b))
    chosen: list[tuple[int, int]] = []
    for i, stage in enumerate(stages):
        tones = list(range(len(LIGHTNESS)))
        if meets[i]:
            others = np.stack([seen[:, s, t] for s, t in (chosen[j] for j in meets[i])], axis=1)
            gaps = np.linalg.norm(seen[:, stage, :, None] - others[:, None], axis=-1)
            apart = gaps.min(axis=(0, 2))
            tones.sort(key=lambda tone: -round(float(apart[tone]), 6))
        chosen.append((stage, tones[0]))
    return ["#" + bytes(codes[stage, tone]).hex() for stage, tone in chosen]


def oklab(rgb: np.ndarray) -> np.ndarray:
    """OKLab of linear RGB, shape (..., 3)."""
    return np.cbrt(rgb @ _TO_LMS.T) @ _TO_LAB.T


def ink_on(color: str) -> str:
    """Black or white, whichever reads better on a colour.

    >>> ink_on("#ffee00"), ink_on("#223366")
    ('#000000', '#ffffff')
    """
    channels = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(channels > 0.04045, ((channels + 0.055) / 1.055) ** 2.4, channels / 12.92)
    luminance = float(linear @ [0.2126, 0.7152, 0.0722])
    return "#000000" if luminance > 0.179 else "#ffffff"  # WCAG: equal contrast to both


def _in_gamut(lightness: float, hue: float) -> np.ndarray:
    """Linear RGB of a lightness and hue, as colourful as a screen can show it."""
    chroma = MOST_CHROMA
    while True:
        lab = np.array([lightness, chroma * np.cos(hue), chroma * np.sin(hue)])
        rgb = np.linalg.inv(_TO_LMS) @ (np.linalg.inv(_TO_LAB) @ lab) ** 3
        if ((rgb >= 0) & (rgb <= 1)).all():
            return rgb
        chroma -= 0.004


def _encoded(linear: np.ndarray) -> np.ndarray:
    return np.where(linear > 0.0031308, 1.055 * linear ** (1 / 2.4) - 0.055, 12.92 * linear)
