"""One pass over samples in memory: nearest nodes, or sums and counts of eq. 8."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from .kernels.prepared import NO_GRIDS, NO_NODES, NO_SUMS, Prepared
from .rounding import WORDS, error_of, total
from .threads import Threads

Grids = tuple[NDArray[np.float64], NDArray[np.float64]]


def add(parts: list) -> list:
    """Sum, item by item, of sequences of arrays and numbers; the first one's arrays are reused."""
    total = list(parts[0])
    for part in parts[1:]:
        for j, value in enumerate(part):
            total[j] += value
    return total


def batch_sums(
    X: NDArray, weights: NDArray | None, prepared: Prepared, grids: Grids, threads: Threads,
    nearest: NDArray[np.int32] = NO_NODES, before: NDArray[np.int32] = NO_NODES,
) -> list:  # fmt: skip
    """What rows add up to: parts that :func:`add` puts together and :func:`totals` rounds.

    Parameters
    ----------
    X : float32 or float64 array of shape (N, D), C-contiguous, finite
    weights : float64 array of shape (N,), or None
    prepared : Prepared
    grids : arrays of shapes (F - 1, D) and (F' - 1, 1)
        Of sums and counts, from :func:`.rounding.grids`.
    threads : Threads
    nearest : int32 array of shape (N, 1) or (0, 1)
        Where the winners go, if they are wanted.
    before : int32 array of shape (N, 1) or (0, 1)
        Earlier winners; the sums and counts are then what has changed since.

    Returns
    -------
    sums, counts : float64 arrays of shapes (K, F, D) and (K, F', 1)
    error : int64 array of shape WORDS
        See :mod:`.rounding`.
    """
    K, D = prepared.codebook.shape
    n, m = (len(bigs) + 1 for bigs in grids)
    return add(
        threads.share(
            len(X), prepared.work,
            lambda: (np.zeros((K, n, D)), np.zeros((K, m, 1)), np.zeros(WORDS, np.int64)),
            lambda i, j, mine: prepared.search(X, i, j, weights, grids, before, nearest, *mine),
        )
    )  # fmt: skip


def totals(parts: Iterable[NDArray], prepared: Prepared) -> list:
    """Sums (K, D) and counts (K,) of eq. 8, and the weighted sum of distances to the winners."""
    sums, counts, error = parts
    return [total(sums), total(counts)[:, 0], error_of(error, prepared.frame.distance_scale)]


def nearest_nodes(
    X: NDArray, weights: NDArray | None, prepared: Prepared, threads: Threads, n: int
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """The ``n`` (1 or 2) nearest nodes of every row, and the error (see :func:`batch_sums`)."""
    nearest = np.empty((len(X), n), np.int32)
    errors = threads.share(
        len(X), prepared.work, lambda: np.zeros(WORDS, np.int64),
        lambda i, j, mine: prepared.search(
            X, i, j, weights, NO_GRIDS, NO_NODES, nearest, *NO_SUMS, mine
        ),
    )  # fmt: skip
    return nearest, np.sum(errors, axis=0)
