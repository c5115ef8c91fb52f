"""Threads that wait for the next epoch without sleeping.

To wake a thread can take as long as an epoch over a thousand samples.  A worker therefore stays in
machine code, without Python's global lock, and watches a board (:mod:`.turns`).  It joins a turn if
it comes in time, and takes blocks of rows from the same list as the caller, who never waits for one
that has not joined: where a processor is busy with something else, the caller does all the work.
After some milliseconds without a turn, as of a slow callback, a worker goes back to the pool, and
is sent for again.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterable
from concurrent.futures import Future
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from .batch import Grids, Threads, memory, totals
from .prepared import Prepared
from .rounding import error_of
from .turns import ABSENT, CLOSED, LEAVE, LINE, SUMS, await_arrival, close_turn, open_turn


def processor() -> int:
    """Number of the processor that this thread is on; -1 where the system does not tell."""
    return ctypes.CDLL(None).sched_getcpu() if sys.platform == "linux" else -1


def step_aside(caller: int) -> None:
    """Go to another processor than the caller's, and then wherever the scheduler likes.

    A thread is often woken on the processor of the one that wakes it, and there both take turns
    until the scheduler next looks for a free one.
    """
    if caller < 0:
        return
    allowed = os.sched_getaffinity(0)
    others = allowed - {caller}
    if others:
        with suppress(OSError):  # not permitted: then it has to wait
            os.sched_setaffinity(0, others)
            os.sched_setaffinity(0, allowed)


class Workers:
    """The workers of the caller's thread in one fit.

    Parameters
    ----------
    X : array of shape (N, D)
    weights : float64 array of shape (N,), or None
    prepared : Prepared
        Filled with one codebook after the other, to be searched in all features.
    grids : arrays
        As for :func:`.batch.batch_sums`.
    threads : Threads
        Its pool lends the threads, until the work is over.
    """

    def __init__(
        self, X: NDArray, weights: NDArray | None, prepared: Prepared, grids: Grids,
        threads: Threads,
    ) -> None:  # fmt: skip
        self.prepared, self.grids, self.threads = prepared, grids, threads
        self.X, self.weights = X, weights
        self.nearest_two = np.empty((len(X), 2), np.int32)
        n = threads.count
        self.parts = [np.stack([part] * n) for part in memory(prepared, grids)]
        self.board = np.full(LINE * n, CLOSED, np.int64)
        self.turn = 0
        self.futures: list[Future] = []
        self._send(range(n - 1))
        threads.at_end.callback(self._dismiss)

    def _send(self, some: Iterable[int]) -> None:
        """Ask the pool for workers, and see them in: until then they need Python's lock."""
        assert self.threads.pool is not None
        here = processor()
        for i in some:
            self.board[LINE * (1 + i)] = ABSENT
            self.futures[i : i + 1] = [self.threads.pool.submit(self._serve, 1 + i, here)]
        await_arrival(self.board)

    def _serve(self, i: int, caller: int) -> None:
        step_aside(caller)
        self._work(i)

    def _work(self, i: int) -> None:
        """What is left of the caller's turn (0), or all turns until a worker leaves."""
        mine = [array[i] for array in self.parts]
        self.prepared.search(
            self.board, LINE * i, self.X, self.weights, self.grids, self.nearest_two, *mine
        )

    def _dismiss(self) -> None:
        self.board[LINE::LINE] = LEAVE

    def _take_turn(self, wanted: int) -> list:
        """One turn over all rows; what they add up to (:func:`.batch.totals`)."""
        self.turn += 1
        gone = [i for i, future in enumerate(self.futures) if future.done()]
        if gone:
            for i in gone:
                self.futures[i].result()  # an error, if there was one
            self._send(gone)
        open_turn(self.board, self.turn, wanted)
        self._work(0)
        close_turn(self.board, self.turn, *(a.reshape(len(a), -1) for a in self.parts))
        return [array[0] for array in self.parts]

    def epoch(self) -> list:
        """Sums and counts of eq. 8 and the error, of the codebook that was filled in last."""
        return totals(self._take_turn(SUMS), self.prepared)

    def nearest(self) -> tuple[NDArray[np.int32], float]:
        """The two nearest nodes (N, 2), and the weighted sum of the distances."""
        error = self._take_turn(2)[2]
        return self.nearest_two, error_of(error, self.prepared.frame.distance_scale)
