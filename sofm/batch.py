"""Threads, and one pass over samples in memory: nearest nodes, or sums and counts of eq. 8.

Threads are Python threads around kernels that release the global interpreter lock: they need no
threading layer (forked processes and other libraries' thread pools are safe), and the caller works
too.  They stay when a fit ends, asleep: a new thread begins its life on its parent's processor, and
may have to wait there while the parent works.  While they work, BLAS has nothing to do, so that its
threads do not spin beside them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from .prepared import NO_GRIDS, NO_SUMS, Prepared
from .rounding import WORDS, error_of, total
from .turns import SUMS, board_of
from .vectors import JIT

WORTH_WAKING = 2e7  # multiply-adds under which waking a thread costs more than it brings
WORTH_THREAD = 2e6  # multiply-adds that a thread should have to do in an epoch
Grids = tuple[NDArray[np.float64], NDArray[np.float64]]


def n_threads(n_jobs: int | None) -> int:
    """Threads to use: all that the process may run on for ``None`` or -1; without the JIT one."""
    if not JIT:
        return 1
    try:
        available = len(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        available = os.cpu_count() or 1
    if n_jobs is None:
        return available
    return max(1, n_jobs if n_jobs > 0 else available + 1 + n_jobs)


@cache
def _libraries() -> ThreadpoolController:
    """The process's thread pools; looked for once, for that takes as long as ten small epochs."""
    return ThreadpoolController()


@cache
def _pool(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, "rejuvenet")


if hasattr(os, "register_at_fork"):  # a forked process has none of its parent's threads
    os.register_at_fork(after_in_child=_pool.cache_clear)


@dataclass(frozen=True)
class Threads:
    """``count`` threads: the caller's and those of a pool.

    What is put on the stack ``at_end`` is called when the work is over.
    """

    count: int = 1
    pool: ThreadPoolExecutor | None = None
    at_end: ExitStack = field(default_factory=ExitStack)

    def together(self, work: Callable[[], object]) -> list:
        """``work()`` in every thread that is free: it takes what is left to do."""
        others = [self.pool.submit(work) for _ in range(self.count - 1)] if self.pool else []
        return [work(), *(other.result() for other in others if not other.cancel())]

    def share(self, n_rows: int, work: Callable[[int, int], object]) -> list:
        """``work(first, last)`` for one range of rows per thread, the first in the caller's."""
        if self.pool is None:
            return [work(0, n_rows)]
        first, *rest = pairwise(np.linspace(0, n_rows, self.count + 1).astype(int).tolist())
        others = [(self.pool.submit(work, *ends), ends) for ends in rest]
        results = [work(*first)]
        for other, ends in others:  # one that nobody has begun is cancelled, and done here
            results.append(work(*ends) if other.cancel() else other.result())
        return results


ALONE = Threads()


@contextmanager
def threads_for(n_jobs: int | None, samples, n_nodes: int):
    """The :class:`Threads` for epochs over ``samples``.

    BLAS keeps to one thread meanwhile: spinning beside the pool, its threads cost up to 6 times.
    """
    work = samples.n_rows * samples.n_features * n_nodes
    count = min(n_threads(n_jobs), int(work / WORTH_THREAD) + 1)
    with _libraries().limit(limits=1, user_api="blas"):
        if count == 1:
            yield ALONE
            return
        with ExitStack() as at_end:
            yield Threads(count, _pool(count - 1), at_end)


def add(parts: list) -> list:
    """Sum, item by item, of sequences of arrays and numbers; the first one's arrays are reused."""
    total = list(parts[0])
    for part in parts[1:]:
        for j, value in enumerate(part):
            total[j] += value
    return total


def _worth(threads: Threads, X: NDArray, prepared: Prepared) -> Threads:
    """The threads, if there is enough to do for them to be woken."""
    return threads if len(X) * prepared.codebook.size >= WORTH_WAKING else ALONE


def batch_sums(
    X: NDArray, weights: NDArray | None, prepared: Prepared, grids: Grids, threads: Threads
) -> list:
    """What rows add up to: parts that :func:`add` puts together and :func:`totals` rounds.

    Parameters
    ----------
    X : float32 or float64 array of shape (N, D), C-contiguous, finite
    weights : float64 array of shape (N,), or None
    prepared : Prepared
    grids : arrays of shapes (F - 1, D) and (F' - 1, 1)
        Of sums and counts, from :func:`.rounding.grids`.
    threads : Threads

    Returns
    -------
    sums, counts : float64 arrays of shapes (K, F, D) and (K, F', 1)
    error : int64 array of shape WORDS
        See :mod:`.rounding`.
    """
    nearest = np.empty((0, 1), np.int32)
    board = board_of(SUMS)

    def work():
        mine = memory(prepared, grids)
        prepared.search(board, 0, X, weights, grids, nearest, *mine)
        return mine

    return add(_worth(threads, X, prepared).together(work))


def memory(prepared: Prepared, grids: Grids) -> tuple[NDArray, NDArray, NDArray]:
    """Arrays for the parts of a thread."""
    K, D = prepared.codebook.shape
    n, m = (len(bigs) + 1 for bigs in grids)
    return np.empty((K, n, D)), np.empty((K, m, 1)), np.empty(WORDS, np.int64)


def totals(parts: Iterable[NDArray], prepared: Prepared) -> list:
    """Sums (K, D) and counts (K,) of eq. 8, and the weighted sum of distances to the winners."""
    sums, counts, error = parts
    return [total(sums), total(counts)[:, 0], error_of(error, prepared.frame.distance_scale)]


def nearest_nodes(
    X: NDArray, weights: NDArray | None, prepared: Prepared, threads: Threads, n: int
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """The ``n`` (1 or 2) nearest nodes of every row, and the error (see :func:`batch_sums`)."""
    nearest = np.empty((len(X), n), np.int32)
    board = board_of(n)

    def work():
        error = np.empty(WORDS, np.int64)
        prepared.search(board, 0, X, weights, NO_GRIDS, nearest, *NO_SUMS, error)
        return [error]

    [error] = add(_worth(threads, X, prepared).together(work))
    return nearest, error
