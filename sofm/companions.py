"""Threads that wait for the next epoch without sleeping.

To wake a thread takes about as long as an epoch over a thousand samples.  A companion therefore
stays in machine code, without Python's global lock, and watches a word of a board: the turn that
is open.  It joins a turn if it comes in time, and takes blocks of rows from the same list as the
caller, who never waits for one that has not joined: where a processor is busy with something
else, the caller does all the work.  After ``PATIENCE`` looks without a turn (some milliseconds, as
of a slow callback) a companion goes back to the pool, and is sent for again.
"""

from __future__ import annotations

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
LEAVE = -1
SUMS, NEAREST = range(2)  # kinds of turns
LINE = 8  # words of a companion on the board: a cache line
PATIENCE = 50_000


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


class Companions:
    """The companions of the caller's thread in one fit.

    Parameters
    ----------
    X : array of shape (N, D)
    weights : float64 array of shape (N,), or None
    prepared : Prepared
        Filled with one codebook after the other, to be searched in all features.
    threads : Threads
        Its pool lends the threads, until it ends.
    """

    def __init__(
        self, X: NDArray, weights: NDArray | None, prepared: Prepared, threads: Threads
    ) -> None:
        self.prepared, self.threads = prepared, threads
        self.given = X, np.empty(0) if weights is None else weights, np.empty((len(X), 2), np.int32)
        self.rest = prepared.arguments()
        self.board = np.full(LINE * threads.count, CLOSED, np.int64)
        self.sums = [self._empty() for _ in range(threads.count - 1)]
        self.turn = 0
        self.futures = [self._send(i) for i in range(len(self.sums))]
        threads.at_end.callback(self._dismiss)

    def _empty(self) -> tuple[NDArray, NDArray, NDArray]:
        shape = self.prepared.codebook.shape
        return np.empty(shape), np.empty(shape[0]), np.empty(1)

    def _send(self, i: int) -> Future:
        assert self.threads.pool is not None
        place = LINE * (1 + i)
        return self.threads.pool.submit(
            accompany, self.board, place, *self.given, *self.sums[i], *self.rest
        )

    def _dismiss(self) -> None:
        self.board[LINE::LINE] = LEAVE

    def _take_turn(self, kind: int) -> list:
        """Sums, counts and error of one turn over all rows."""
        self.turn += 1
        self.board[:2] = 0, kind
        for i, future in enumerate(self.futures):
            if future.done():
                future.result()
                self.futures[i] = self._send(i)
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
