"""Colours for many groups: each its own, neighbours far apart, also for the colour-blind.

Candidates lie on circles of equal lightness in OKLab (Ottosson 2020).  In the order of the groups,
each takes the candidate whose least distance to its neighbours is greatest, where the distance of
two colours is the least of what people with normal vision, deuteranopia and protanopia see
(simulated after Machado, Oliveira and Fernandes 2009).
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

LIGHTNESS = (0.50, 0.60, 0.70, 0.79, 0.87)  # visible on white and on a dark page
MOST_CHROMA = 0.17
_RECENT = 10  # groups one after the other stand close in the picture

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


def group_colors(n: int, neighbors: Iterable[tuple[int, int]] = ()) -> list[str]:
    """Colours of ``n`` groups.

    Parameters
    ----------
    n : int
    neighbors : iterable of (int, int)
        Groups that meet in the picture.

    Returns
    -------
    list of str
        ``"#rrggbb"``, all different.

    Examples
    --------
    >>> colors = group_colors(40, [(0, 39)])
    >>> len(set(colors))
    40
    """
    hues = max(24, -(-3 * n // (2 * len(LIGHTNESS))))
    rgb = np.array([_in_gamut(L, 2 * np.pi * k / hues) for k in range(hues) for L in LIGHTNESS])
    codes = ["#" + bytes(c).hex() for c in np.rint(255 * _encoded(rgb)).astype(np.uint8).tolist()]
    first = [i for i, code in enumerate(codes) if codes.index(code) == i]
    codes, rgb = [codes[i] for i in first], rgb[first]
    seen = np.stack([oklab(np.clip(rgb @ matrix.T, 0, 1)) for matrix in _VISION])
    # Distances of all candidates to a chosen one: the least of the three kinds of vision.
    far = np.linalg.norm(seen[:, :, None] - seen[:, None], axis=-1).min(axis=0)
    meets: list[set[int]] = [set() for _ in range(n)]
    for a, b in neighbors:
        if a != b:
            meets[a].add(b)
            meets[b].add(a)
    chosen: list[int] = []
    for i in range(n):
        score = np.full(len(codes), 0.4)
        for j in range(i):
            if j in meets[i]:
                score = np.minimum(score, far[:, chosen[j]])
            elif j >= i - _RECENT:
                score = np.minimum(score, 1.8 * far[:, chosen[j]])
        # Of equally good ones, the one least like all others.
        for j in chosen:
            score -= 0.002 * np.exp(-far[:, j] / 0.05)
        score[chosen] = -np.inf
        chosen.append(int(score.round(9).argmax()))
    return [codes[i] for i in chosen]


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
