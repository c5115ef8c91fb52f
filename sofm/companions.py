"""Threads that wait for the next epoch without sleeping.

To wake a thread takes about as long as an epoch over a thousand samples.  A companion therefore
stays in machine code, without Python's global lock, and watches a word of a board: the turn that
is open.  It joins a turn if it comes in time, and takes blocks of rows from the same list as the
caller, who never waits for one that has not joined: where a processor is busy with something
else, the caller does all the work.  After ``PATIENCE`` looks without a turn (some milliseconds, as
of a slow callback) a companion goes back to the pool, and is sent for again.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterable
from concurrent.futures import Future
from contextlib import suppress

import numpy as np
from numba import njit
from numpy.typing import NDArray

from .atomic import read, replace, wait, write
from .batch import Threads
from .prepared import Prepared
from .search import search_rows
from .vectors import address

OPEN, JOINED, DONE, CLOSED = range(4)  # of turn t, as the word 4 t + state
LEAVE, ABSENT = -1, -2
SUMS, NEAREST = range(2)  # kinds of turns
LINE = 8  # words of a companion on the board: a cache line
PATIENCE = 500_000  # looks; 1 to 2 ms
WELCOME = 100_000  # looks at who is there before the first turn


@njit(nogil=True, cache=True)
def share_of(board, X, weights, nearest, sums, counts, *arguments):
    """Take part in the turn that is open: one of the two kinds of search; the error."""
    if board[1] == NEAREST:
        return search_rows(  # type: ignore[call-arg]  # of the star
            board, X, weights, *arguments, nearest, sums[:0, :0], counts[:0]
        )[0]
    sums[:] = 0.0
    counts[:] = 0.0
    return search_rows(  # type: ignore[call-arg]  # of the star
        board, X, weights, *arguments, nearest[:0, :1], sums, counts
    )[0]


@njit(nogil=True, cache=True)
def accompany(board, place, X, weights, nearest, sums, counts, error, *arguments):
    """Join turns until told to leave, or until none has been opened for a while.

    Parameters
    ----------
    board : int64 array
        Its first word is ``todo`` of :func:`.search.search_rows`, its second ``SUMS`` or
        ``NEAREST``.
    place : int
        Of this companion's word.
    nearest : int32 array of shape (N, 2)
    sums, counts, error : float64 arrays of shapes (K, D), (K,) and (1,)
        What the turn's rows of this companion add up to.
    arguments
        The others of :func:`.search.search_rows`, whose arrays change between turns.
    """
    at = address(board)
    replace(at, place, ABSENT, CLOSED)
    looks = 0
    while looks < PATIENCE:
        word = read(at, place)
        if word == LEAVE:
            break
        if word % 4 == OPEN and replace(at, place, word, word + JOINED):
            error[0] = share_of(board, X, weights, nearest, sums, counts, *arguments)
            write(at, place, word + DONE)
            looks = 0
        else:
            wait()
            looks += 1


@njit(nogil=True, cache=True)
def lead(board, kind, turn, X, weights, nearest, sums, counts, errors, *arguments):
    """Open a turn to all companions, work, and wait for those that joined.

    Parameters
    ----------
    sums, counts, errors : float64 arrays of shapes (n, K, D), (n, K) and (n, 1)
        Of the caller and each companion; the first are then the sums of all.
    """
    at = address(board)
    board[0], board[1] = 0, kind
    for place in range(LINE, board.shape[0], LINE):
        write(at, place, 4 * turn + OPEN)
    errors[0, 0] = share_of(board, X, weights, nearest, sums[0], counts[0], *arguments)
    for i in range(1, sums.shape[0]):
        if not replace(at, LINE * i, 4 * turn + OPEN, 4 * turn + CLOSED):
            while read(at, LINE * i) != 4 * turn + DONE:
                wait()
            errors[0] += errors[i]
            if kind == SUMS:
                sums[0] += sums[i]
                counts[0] += counts[i]


def processor() -> int:
    """Number of the processor that this thread is on; -1 where the system does not tell."""
    return ctypes.CDLL(None).sched_getcpu() if sys.platform == "linux" else -1


def step_aside(caller: int) -> None:
    """Go to another processor than the caller's, and then wherever the scheduler likes.

    A thread is often woken on the processor of the one that wakes it, and there they take turns
    until the scheduler looks at the others, 4 ms later.
    """
    if caller < 0:
        return
    allowed = os.sched_getaffinity(0)
    others = allowed - {caller}
    if others:
        with suppress(OSError):  # not permitted: then it has to wait
            os.sched_setaffinity(0, others)
            os.sched_setaffinity(0, allowed)


@njit(nogil=True, cache=True)
def welcome(board):
    """Wait until all companions are there, but not long."""
    at = address(board)
    for _ in range(WELCOME):
        absent = 0
        for place in range(LINE, board.shape[0], LINE):
            absent += read(at, place) == ABSENT
        if absent == 0:
            break
        wait()


class Companions:
    """The companions of the caller's thread in one fit.

    Parameters
    ----------
    X : array of shape (N, D)
    weights : float64 array of shape (N,), or None
    prepared : Prepared
        Filled with one codebook after the other, to be searched in all features.
    threads : Threads
        Its pool lends the threads, until the work is over.
    """

    def __init__(
        self, X: NDArray, weights: NDArray | None, prepared: Prepared, threads: Threads
    ) -> None:
        self.prepared, self.threads = prepared, threads
        self.given = X, np.empty(0) if weights is None else weights, np.empty((len(X), 2), np.int32)
        self.rest = prepared.arguments()
        self.board = np.zeros(LINE * threads.count, np.int64)
        n, (K, D) = threads.count, prepared.codebook.shape
        self.sums = np.empty((n, K, D)), np.empty((n, K)), np.empty((n, 1))
        self.turn = 0
        self.futures: list[Future] = []
        self._send(range(n - 1))
        threads.at_end.callback(self._dismiss)

    def _send(self, some: Iterable[int]) -> None:
        """Ask the pool for companions, and see them in: until then they need Python's lock."""
        assert self.threads.pool is not None
        here = processor()
        for i in some:
            self.board[LINE * (1 + i)] = ABSENT
            self.futures[i : i + 1] = [self.threads.pool.submit(self._accompany, i, here)]
        welcome(self.board)

    def _accompany(self, i: int, caller: int) -> None:
        step_aside(caller)
        mine = [array[1 + i] for array in self.sums]
        accompany(self.board, LINE * (1 + i), *self.given, *mine, *self.rest)

    def _dismiss(self) -> None:
        self.board[LINE::LINE] = LEAVE

    def _take_turn(self, kind: int) -> list:
        """Sums, counts and error of one turn over all rows; good until the next turn."""
        self.turn += 1
        gone = [i for i, future in enumerate(self.futures) if future.done()]
        if gone:
            for i in gone:
                self.futures[i].result()  # an error, if there was one
            self._send(gone)
        lead(self.board, kind, self.turn, *self.given, *self.sums, *self.rest)
        sums, counts, errors = (array[0] for array in self.sums)
        return [sums, counts, float(errors[0]) / float(self.prepared.frame.scale)]

    def epoch(self) -> list:
        """Sums and counts of eq. 8 and the error, of the codebook that was filled in last."""
        return self._take_turn(SUMS)

    def nearest(self) -> tuple[NDArray[np.int32], float]:
        """The two nearest nodes (N, 2), and the weighted sum of the distances."""
        error = self._take_turn(NEAREST)[2]
        return self.given[2], error
