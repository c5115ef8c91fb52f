"""Pictures of a reorganization for TensorBoard, or any writer with its ``add_image``.

``activations``, before and after, is the paper's Fig. 2: a row is a class, a column a channel, and
a tile the slice of both, brighter where the activation is larger.  ``codebook`` has a column for
each place with a surviving channel, in the order of the map: the mean slice of the channels that
merged there.  Beyond 16 classes or 128 channels, as many are shown.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ....graph.reorganizing import Outcome

CLASSES, CHANNELS = 16, 128


def draw_groups(writer: Any, outcome: Outcome, step: int) -> None:
    """Three pictures for every group that activations describe."""
    plans = [] if outcome.report.plan is None else outcome.report.plan.groups
    for plan in plans:
        if plan.group not in outcome.before or plan.group not in outcome.after:
            continue
        Q = outcome.before[plan.group].Q
        pictures = {"activations before": Q, "activations after": outcome.after[plan.group].Q}
        if plan.A is not None:
            pictures["codebook"] = np.einsum("pj,cjhw->cphw", plan.A[plan.survivors], Q)
        low, high = (float(v) for v in np.percentile(Q, (0.5, 99.5)))
        for name, slices in pictures.items():
            image = tiles(slices, low, high)
            writer.add_image(f"{plan.group}/{name}", image, step, dataformats="HW")


def tiles(Q: np.ndarray, low: float, high: float) -> np.ndarray:
    """Slices as tiles with a gap of one pixel, in grey levels.

    Parameters
    ----------
    Q : ndarray, shape (C, o, h, w)
    low, high : float
        Black and white.

    Returns
    -------
    ndarray of uint8, shape (C * (h + 1), o * (w + 1))

    Examples
    --------
    >>> tiles(np.ones((1, 2, 1, 1)), 0.0, 1.0).tolist()
    [[255, 0, 255, 0], [0, 0, 0, 0]]
    """
    Q = Q[np.unique(np.linspace(0, len(Q) - 1, CLASSES).round().astype(int)), :CHANNELS]
    C, o, h, w = Q.shape
    levels = np.zeros((C, h + 1, o, w + 1), dtype=np.uint8)
    shares = np.clip((Q - low) / max(high - low, 1e-30), 0.0, 1.0)
    levels[:, :h, :, :w] = np.rint(255 * shares).transpose(0, 2, 1, 3)
    return levels.reshape(C * (h + 1), o * (w + 1))
