"""A board on which threads see what is to be done.

=================  ================================================================================
word 0             the first row that nobody has taken
word 1             what is wanted: ``SUMS``, or the number (1 or 2) of nearest nodes
word ``LINE * i``  of worker ``i``: ``4 t + state`` for the turn ``t``, ``LEAVE`` or ``ABSENT``
=================  ================================================================================

A turn is one search of all rows, shared by fork and join: the caller opens it, works, and closes
it.  A worker that comes in time joins, and says when it is done; the caller waits for those only.
(:mod:`.workers` has the why.)
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .atomic import compare_exchange, fence, load, store
from .compiled import compiled
from .vectors import address

SUMS = 0
OPEN, JOINED, DONE, CLOSED = range(4)
LEAVE, ABSENT = -1, -2
LINE = 8  # words: a cache line for each
PATIENCE = 500_000  # looks without a turn, 1 to 2 ms, after which a worker goes
ARRIVAL = 100_000  # looks at who is there before the first turn


def board_of(wanted: int) -> NDArray[np.int64]:
    """A board for one turn without workers."""
    return np.array([0, wanted], np.int64)


@compiled
def join(board, place):
    """Whether there is a turn to work at: for the caller (place 0) at once, else after a wait.

    False: the worker is told to leave, or no turn has been opened for a while.
    """
    if place == 0:
        return True
    at = address(board)
    compare_exchange(at, place, ABSENT, CLOSED)
    for _ in range(PATIENCE):
        word = load(at, place)
        if word == LEAVE:
            break
        if word % 4 == OPEN and compare_exchange(at, place, word, word + JOINED):
            return True
        fence()
    return False


@compiled
def finish(board, place):
    """A worker's work at its turn is done."""
    at = address(board)
    store(at, place, load(at, place) + DONE - JOINED)


@compiled
def open_turn(board, turn, wanted):
    board[0], board[1] = 0, wanted
    at = address(board)
    for place in range(LINE, board.shape[0], LINE):
        store(at, place, 4 * turn + OPEN)


@compiled
def close_turn(board, turn, sums, counts, errors):
    """Wait for those that joined, and add what they have to what the caller has.

    Parameters
    ----------
    sums, counts, errors : arrays of shapes (n, K * F * D), (n, K * F') and (n, WORDS)
        Of the caller and of each worker; the first are then the sums of all.
    """
    at = address(board)
    for i in range(1, sums.shape[0]):
        if not compare_exchange(at, LINE * i, 4 * turn + OPEN, 4 * turn + CLOSED):
            while load(at, LINE * i) != 4 * turn + DONE:
                fence()
            errors[0] += errors[i]
            if board[1] == SUMS:
                sums[0] += sums[i]
                counts[0] += counts[i]


@compiled
def await_arrival(board):
    """Wait until all workers are there, but not long."""
    at = address(board)
    for _ in range(ARRIVAL):
        absent = 0
        for place in range(LINE, board.shape[0], LINE):
            absent += load(at, place) == ABSENT
        if absent == 0:
            break
        fence()
