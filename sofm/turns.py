"""A board on which threads see what is to be done.

=================  ================================================================================
word 0             the first row that nobody has taken
word 1             what is wanted: ``SUMS``, or the number (1 or 2) of nearest nodes
word ``LINE * i``  of companion ``i``: ``4 t + state`` for the turn ``t``, ``LEAVE`` or ``ABSENT``
=================  ================================================================================

The caller opens a turn, works, and closes it.  A companion that comes in time joins, and says when
it is done; the caller waits for those only.  (:mod:`.companions` has the why.)
"""

from __future__ import annotations

from numba import njit

from .atomic import read, replace, wait, write
from .vectors import address

SUMS = 0
OPEN, JOINED, DONE, CLOSED = range(4)
LEAVE, ABSENT = -1, -2
LINE = 8  # words: a cache line for each
PATIENCE = 500_000  # looks without a turn, 1 to 2 ms, after which a companion goes
WELCOME = 100_000  # looks at who is there before the first turn


@njit(nogil=True, cache=True)
def join(board, place):
    """Whether there is a turn to work at: for the caller (place 0) at once, else after a wait.

    False: the companion is told to leave, or no turn has been opened for a while.
    """
    if place == 0:
        return True
    at = address(board)
    replace(at, place, ABSENT, CLOSED)
    for _ in range(PATIENCE):
        word = read(at, place)
        if word == LEAVE:
            break
        if word % 4 == OPEN and replace(at, place, word, word + JOINED):
            return True
        wait()
    return False


@njit(nogil=True, cache=True)
def done(board, place):
    """A companion's work at its turn is done."""
    at = address(board)
    write(at, place, read(at, place) + DONE - JOINED)


@njit(nogil=True, cache=True)
def open_turn(board, turn, wanted):
    board[0], board[1] = 0, wanted
    at = address(board)
    for place in range(LINE, board.shape[0], LINE):
        write(at, place, 4 * turn + OPEN)


@njit(nogil=True, cache=True)
def close_turn(board, turn, sums, counts, errors):
    """Wait for those that joined, and add what they have to what the caller has.

    Parameters
    ----------
    sums, counts, errors : float64 arrays of shapes (n, K, D), (n, K) and (n, 1)
        Of the caller and of each companion; the first are then the sums of all.
    """
    at = address(board)
    for i in range(1, sums.shape[0]):
        if not replace(at, LINE * i, 4 * turn + OPEN, 4 * turn + CLOSED):
            while read(at, LINE * i) != 4 * turn + DONE:
                wait()
            errors[0, 0] += errors[i, 0]
            if board[1] != SUMS:
                continue
            for k in range(sums.shape[1]):
                counts[0, k] += counts[i, k]
                for d in range(sums.shape[2]):
                    sums[0, k, d] += sums[i, k, d]


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
