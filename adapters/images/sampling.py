"""Some of many images: as many of every class, drawn at random."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .image_data import Batches


def sampled(batches: Batches, n: int, seed: int) -> tuple[Batches, Batches | None]:
    """At most ``n`` images, and as many others; None in their place where all were taken.

    Every class has as many as the others, as far as it goes, and every batch is a mixture of them:
    normalizations are fitted to the statistics of batches.

    Parameters
    ----------
    batches : Batches
    n : int
        At least 1.
    seed : int

    Examples
    --------
    >>> from rejuvenet.adapters.images.image_data import ArrayFile
    >>> data = ArrayFile.of(np.zeros((90, 1, 2, 2)), np.repeat([0, 1, 2], [60, 20, 10]))
    >>> taken, others = sampled(Batches(data), 36, 0)
    >>> np.bincount(data.labels[taken.rows]), len(others.rows)
    (array([13, 13, 10]), 36)
    """
    rows = np.random.default_rng(seed).permutation(batches.rows)
    turns = np.zeros(len(rows), int)  # of each image, how many of its class come before it
    labels = batches.data.labels[rows]
    for label in np.unique(labels):
        own = labels == label
        turns[own] = np.arange(own.sum())
    rows = rows[np.argsort(turns, kind="stable")]
    others = rows[n : 2 * n]
    return replace(batches, order=rows[:n]), replace(batches, order=others) if len(others) else None
