"""Threads: how many, and how they share rows.

Threads are Python threads around kernels that release the global interpreter lock: they need no
threading layer (forked processes and other libraries' pools are safe), and the caller works too.
They begin with a fit and end with it.  While they work BLAS has nothing to do, so that its threads
do not spin beside them.

Rows are taken in ranges by whichever thread is free, so that one that the system has put aside
holds up nobody.  A range is half a thread's share of what is left, so that all end at about the
same time (guided self-scheduling, Polychronopoulos and Kuck 1987).  None is longer than ``STEP``
multiply-adds, some hundredths of a second: after Ctrl-C, or an error, all stop at its end.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from threading import Lock
from typing import TypeVar

from joblib import cpu_count
from joblib.parallel import get_active_backend
from threadpoolctl import ThreadpoolController

from .kernels.vectors import JIT

STEP = 2e8  # multiply-adds of a range at most, some 20 ms
LEAST = STEP / 64  # and at least, where threads are left over: a call costs 10 to 20 microseconds
WORTH_THREAD = 1.2e7  # multiply-adds that are worth a thread: to wake it takes some 0.15 ms
T = TypeVar("T")


def n_threads(n_jobs: int | None) -> int:
    """Threads to use, as scikit-learn counts them; without the JIT one.

    None is 1, unless :func:`joblib.parallel_config` says otherwise, and -1 all processors that
    joblib counts: those of the container, and of a worker its share (``OMP_NUM_THREADS``, which
    joblib sets there).

    Examples
    --------
    >>> from joblib import parallel_config
    >>> from rejuvenet.sofm.threads import n_threads
    >>> with parallel_config(n_jobs=3):
    ...     n_threads(None)
    3
    """
    if not JIT:
        return 1
    backend, default = get_active_backend()
    wanted = (default if n_jobs is None else n_jobs) or 1
    if wanted < 0:
        share = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
        available = min(cpu_count(), int(share)) if share.isdigit() else cpu_count()
        wanted = max(1, available + 1 + wanted)
    # Backends of processes know nothing of threads; one of threads may be nested too deeply.
    if getattr(backend, "uses_threads", False):
        return backend.effective_n_jobs(wanted)
    return wanted


@cache
def _libraries() -> ThreadpoolController:
    """The process's thread pools; looked for once, for that takes as long as ten small epochs."""
    return ThreadpoolController()


class _Ranges:
    """Ranges of rows, each given to one of ``count`` threads."""

    def __init__(self, n_rows: int, work_of_row: float, count: int) -> None:
        self.n_rows, self.parts, self.next, self.lock = n_rows, 2 * count, 0, Lock()
        self.most = _rows_of(STEP, work_of_row)
        self.least = _rows_of(LEAST, work_of_row)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        while True:
            with self.lock:
                first = self.next
                rows = max(self.least, min(self.most, (self.n_rows - first) // self.parts))
                self.next = last = min(first + rows, self.n_rows)
            if first >= self.n_rows:
                return
            yield first, last

    def stop(self) -> None:
        self.next = self.n_rows


def _rows_of(work: float, work_of_row: float) -> int:
    return max(1, int(work / max(work_of_row, 1)))


@dataclass(frozen=True)
class Threads:
    """``count`` threads: the caller's and those of a pool."""

    count: int = 1
    pool: ThreadPoolExecutor | None = None

    def share(
        self, n_rows: int, work_of_row: float, memory: Callable[[], T],
        work: Callable[[int, int, T], object],
    ) -> list[T]:  # fmt: skip
        """``work(first, last, memory)`` for ranges of rows.

        Parameters
        ----------
        n_rows : int
        work_of_row : float
            Multiply-adds.
        memory : callable
            Makes what one thread works with, for all of its ranges.
        work : callable

        Returns
        -------
        memories : list
            Of every thread that took part.
        """
        count = min(self.count, int(n_rows * work_of_row / WORTH_THREAD) + 1)
        if self.pool is None or count == 1:
            mine, rows = memory(), _rows_of(STEP, work_of_row)
            for first in range(0, n_rows, rows):
                work(first, min(first + rows, n_rows), mine)
            return [mine]
        ranges = _Ranges(n_rows, work_of_row, count)

        def take() -> T:
            mine = memory()
            for first, last in ranges:
                work(first, last, mine)
            return mine

        others = [self.pool.submit(take) for _ in range(count - 1)]
        try:
            return [take(), *(other.result() for other in others if not other.cancel())]
        finally:  # of an error or an interrupt: the others stop soon, and nothing works on
            ranges.stop()
            for other in others:
                if not other.cancel():
                    other.exception()


ALONE = Threads()


@contextmanager
def threads_for(n_jobs: int | None, samples, n_nodes: int):
    """The :class:`Threads` for epochs over ``samples``, which end with the context.

    BLAS keeps to one thread meanwhile: spinning beside the pool, its threads cost up to 6 times.
    """
    work = samples.n_rows * samples.n_features * n_nodes
    count = min(n_threads(n_jobs), int(work / WORTH_THREAD) + 1)
    with _libraries().limit(limits=1, user_api="blas"):
        if count == 1:
            yield ALONE
            return
        with ThreadPoolExecutor(count - 1, "rejuvenet") as pool:
            yield Threads(count, pool)
