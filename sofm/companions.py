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

import numpy as np
from numba import njit
from numpy.typing import NDArray

from .atomic import read, replace, wait, write
from .batch import Threads, add
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
def lead(board, turn, X, weights, nearest, sums, counts, *arguments):
    """Open a turn to all companions, work, and wait for those that joined; the error."""
    at = address(board)
    for place in range(LINE, board.shape[0], LINE):
        write(at, place, 4 * turn + OPEN)
    error = share_of(board, X, weights, nearest, sums, counts, *arguments)
    for place in range(LINE, board.shape[0], LINE):
        if not replace(at, place, 4 * turn + OPEN, 4 * turn + CLOSED):
            while read(at, place) != 4 * turn + DONE:
                wait()
    return error


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
        self.sums = [self._empty() for _ in range(threads.count - 1)]
        self.turn = 0
        self.futures: list[Future] = []
        self._send(range(len(self.sums)))
        threads.at_end.callback(self._dismiss)

    def _empty(self) -> tuple[NDArray, NDArray, NDArray]:
        shape = self.prepared.codebook.shape
        return np.empty(shape), np.empty(shape[0]), np.empty(1)

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
        accompany(self.board, LINE * (1 + i), *self.given, *self.sums[i], *self.rest)

    def _dismiss(self) -> None:
        self.board[LINE::LINE] = LEAVE

    def _take_turn(self, kind: int) -> list:
        """Sums, counts and error of one turn over all rows."""
        self.turn += 1
        self.board[:2] = 0, kind
        gone = [i for i, future in enumerate(self.futures) if future.done()]
        if gone:
            self._send(gone)
        sums, counts, error = self._empty()
        error[0] = lead(self.board, self.turn, *self.given, sums, counts, *self.rest)
        words = self.board[LINE::LINE] == 4 * self.turn + DONE
        joined = [part for part, word in zip(self.sums, words, strict=True) if word]
        sums, counts, error = add([(sums, counts, error), *joined])
        return [sums, counts, float(error[0]) / float(self.prepared.frame.scale)]

    def epoch(self) -> list:
        """Sums and counts of eq. 8 and the error, of the codebook that was filled in last."""
        return self._take_turn(SUMS)

    def nearest(self) -> tuple[NDArray[np.int32], float]:
        """The two nearest nodes (N, 2), and the weighted sum of the distances."""
        error = self._take_turn(NEAREST)[2]
        return self.given[2], error
