r"""Panels of nodes that are too far from a sample to hold its winner.

The nodes of a panel follow one another on the map, and neighbours on the map are alike.  All lie
in a ball of radius ``rho`` around their mean ``c``, so that none is nearer to ``x`` than
``|x - c| - rho``, and one is as near as ``|x - c| + delta``, with ``delta`` from the mean to the
node that is nearest to it (the bounds of a ball tree; Omohundro, "Five balltree construction
algorithms", 1989).  With ``V``, the least of the latter of all panels, a panel can hold the winner
only if ``|x - c| - rho <= V``, or in scores (:mod:`.tile`)

.. math::  s_c(x) - \rho^2 / 2 \le (V^2 - |x|^2) / 2 + V \rho .

The left side comes from the micro-kernel, which takes means for nodes and ``|c|^2/2 - rho^2/2``
for the bias: one score for ``PANEL`` nodes.  On a line few panels are left for a sample; on a
sheet, where a panel is a strip of one row, most of them.

On ``q`` directions (:mod:`.prepared`) scores are half of squared distances as well, of
``(p, r)``.  They bound true distances from below, and with the sign of one ``r`` turned from above:
``|x - c|^2 <= |x|^2 + 2 s_c(x) + 4 r(x) r(c)``.

As nodes are packed in panels, balls are packed in words of ``PANEL``; which of them are near is
then a word of bits.  What is known of balls is a float32 array of five rows, a column each: radii;
what twice a score lacks, ``rho^2`` and its rounding; ``4 r(c)``; and ``delta`` for the nearest and
the second nearest node (infinite: there is none).  Columns after the last panel are zero, and their
scores infinite.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..compiled import compiled
from ..rounding import TINY
from .tile import pack_panels, score_gathered
from .vectors import (
    ANY_ORDER,
    N_BITS,
    PANEL,
    POSITIONS,
    TILE_ROWS,
    WIDTH,
    address,
    positions,
    reach,
    within,
)

FEW_PANELS = 8  # under which they are all computed
ROUNDED = 2.0**-20  # relative; more than all rounding of a comparison
RADIUS, RAISED, SPREAD, CORE = range(4)  # rows; the second nearest is the one after CORE
ROW_BITS = 32
ROW = 1 << ROW_BITS


@compiled(fastmath=ANY_ORDER)
def enclose(nodes, means, extents):
    """The means of every ``PANEL`` of ``nodes`` (K, n) in float64, and how far nodes are from them.

    ``extents`` (n_panels, 4): the square of the mean, and the largest, the smallest and the second
    smallest distance (infinite: there is none).
    """
    for p in range(means.shape[0]):
        first, last = p * PANEL, min((p + 1) * PANEL, nodes.shape[0])
        mean = means[p]
        mean[:] = 0.0
        for k in range(first, last):
            for d in range(nodes.shape[1]):
                mean[d] += nodes[k, d]
        square, farthest, nearest, second = 0.0, 0.0, np.inf, np.inf
        for d in range(nodes.shape[1]):
            mean[d] /= last - first
            square += mean[d] * mean[d]
        for k in range(first, last):
            distance = 0.0
            for d in range(nodes.shape[1]):
                distance += (nodes[k, d] - mean[d]) * (nodes[k, d] - mean[d])
            farthest = max(farthest, distance)
            if distance < nearest:
                second, nearest = nearest, distance
            elif distance < second:
                second = distance
        extents[p, 0], extents[p, 1] = square, np.sqrt(farthest)
        extents[p, 2], extents[p, 3] = np.sqrt(nearest), np.sqrt(second)


@compiled
def describe(means, extents, extents_of_all, q, G, biases, balls):
    """What a search needs to know of balls.

    Parameters
    ----------
    means, extents : float64 arrays of shapes (n_panels, n) and (n_panels, 4)
        From :func:`enclose`, of what is searched: of nodes, or with ``q`` > 0 of their ``q + 1``
        numbers on directions.
    extents_of_all : float64 array of shape (n_panels, 4)
        Those of nodes.
    q : int
    G : float
        Of the rounding of a score, see :mod:`.prepared`.
    biases : float64 array of shape (n_panels,)
        Filled in: lowered, for :func:`.tile.pack_panels`.
    balls : float32 array of shape (5, n_words * PANEL)
        Filled in: see the top of this module.
    """
    for p in range(means.shape[0]):
        square, radius = extents[p, 0], extents[p, 1] * (1 + ROUNDED)
        balls[RADIUS, p] = radius
        balls[RAISED, p] = radius * radius * (1 + 4 * ROUNDED) + 4 * G * square
        balls[SPREAD, p] = 4 * means[p, q] * (1 + ROUNDED) if q > 0 else 0.0
        balls[CORE, p] = extents_of_all[p, 2] * (1 + ROUNDED)
        balls[CORE + 1, p] = extents_of_all[p, 3] * (1 + ROUNDED)
        biases[p] = square * (0.5 - G) - radius * radius * (0.5 + ROUNDED)


@compiled
def choose_panels(
    n, ball_scores, balls, wanted, G, squares, rests, rests_at, reaches, limits, pairs, firsts
):
    """Panels that can hold the ``wanted`` nearest nodes, for each of ``n`` rows.

    Parameters
    ----------
    ball_scores : float32 array of shape (m, n_words * PANEL)
    balls : float32 array of shape (5, n_words * PANEL)
    wanted : int
        1 or 2.
    G : float
    squares : float64 array of shape (m,)
        ``|x|^2``.
    rests : float32 array of shape (m, > rests_at)
        Whose column ``rests_at`` is ``r(x)``, where the search is on directions.
    reaches, limits : float32 arrays of shape (m,)
        Memory for ``V`` and ``(V^2 - |x|^2) / 2``.
    pairs : int64 array of shape (>= m * n_panels + 8,)
        Rows and panels, ``ROW * r + p``, filled in row after row, as are
    firsts : int64 array of shape (>= m + 1,)
        Where each row's begin, and where the last one's end.
    """
    at, balls_at, width = address(ball_scores), address(balls), balls.shape[1]
    # Loop after loop: within one, each row would wait for all of its own steps.
    for r in range(n):
        rounded = np.float32(squares[r] * (1 + 2 * G + ROUNDED))
        reaches[r] = np.inf
        for word in range(0, width, PANEL):
            reaches[r] = min(reaches[r], reach(
                at, r * width + word, balls_at, word, width, CORE + wanted - 1, rounded,
                rests[r, rests_at],
            ))  # fmt: skip
    for r in range(n):
        V = np.float64(reaches[r]) * (1 + ROUNDED) + np.sqrt(TINY)
        T = (V * V - squares[r]) / 2
        reaches[r], limits[r] = V, T + ROUNDED * abs(T) + (G + ROUNDED) * squares[r] + TINY
    count, pairs_at, table = 0, address(pairs), address(POSITIONS)
    for r in range(n):
        firsts[r] = count
        for word in range(0, width, PANEL):
            bits = within(at, r * width + word, balls_at, word, limits[r], reaches[r])
            for half in range(0, PANEL, 8):
                # Eight are written, and those count that the bits name: a branch for each would
                # often be predicted wrongly.
                byte = bits >> half & 255
                positions(pairs_at, count, ROW * r + word + half, byte, table)
                count += N_BITS[byte]
    firsts[n] = count


@compiled(inner=True)
def score_pairs(x, pairs, n_pairs, panels, n_features, scores, minima, rows, places, n_listed):
    """Scores of pairs of a row and a panel, panel by panel, and the minima of rows.

    Parameters
    ----------
    x : float32 array of shape (m, >= n_features)
    pairs : int64 array
        Of which ``n_pairs`` count.
    panels : float32 array of shape (n_panels, 1 + n_features, PANEL)
    scores : float32 array of at least ``n_pairs * PANEL`` numbers
        In the order of the pairs.
    minima : float32 array of shape (m, >= WIDTH)
        Of a row, in the first ``WIDTH``.
    rows, places : int64 arrays of shape (n_panels, >= m + TILE_ROWS)
    n_listed : int64 array of shape (n_panels,)
        For the rows of each panel.
    """
    n_listed[:] = 0
    minima[:, :WIDTH] = np.inf
    for i in range(n_pairs):
        r, p = pairs[i] >> ROW_BITS, pairs[i] & (ROW - 1)
        j = n_listed[p]
        rows[p, j], places[p, j] = r, i * PANEL
        n_listed[p] = j + 1
    rows_at, places_at = address(rows), address(places)
    x_at, panels_at = address(x), address(panels)
    out, low = address(scores), address(minima)
    for p in range(panels.shape[0]):
        n = n_listed[p]
        if n == 0:
            continue
        for j in range(n, n + TILE_ROWS - 1):  # the last one fills up the last tile
            rows[p, j], places[p, j] = rows[p, n - 1], places[p, n - 1]
        for j in range(0, n, TILE_ROWS):
            score_gathered(
                rows_at, places_at, p * rows.shape[1] + j, x_at, x.shape[1],
                panels_at, p * panels.shape[1] * PANEL, n_features,
                out, low, minima.shape[1],
            )  # fmt: skip


def has_balls(n_nodes: int) -> bool:
    """Whether there are so many panels that leaving some out can pay."""
    return n_nodes > (FEW_PANELS - 1) * PANEL


class Balls:
    """A ball around every panel of nodes; none where there are few.

    Parameters
    ----------
    n_nodes, n : int
        Nodes, and numbers of each.

    Attributes
    ----------
    panels : float32 array of shape (n_words, 1 + n, PANEL)
        Means, packed as nodes are (:func:`.tile.pack_panels`).
    known : float32 array of shape (5, n_words * PANEL)
        See the top of this module.
    extents : float64 array of shape (n_panels, 4)
        See :func:`enclose`.
    """

    def __init__(self, n_nodes: int, n: int) -> None:
        count = -(-n_nodes // PANEL)
        n_words = -(-count // PANEL) if has_balls(n_nodes) else 0
        self.means, self.extents = np.empty((count, n)), np.empty((count, 4))
        self.panels = np.empty((n_words, 1 + n, PANEL), np.float32)
        self.known = np.zeros((5, n_words * PANEL), np.float32)

    def enclose(self, nodes: NDArray) -> None:
        """Other nodes (K, n) in float64."""
        if len(self.panels):
            enclose(nodes, self.means, self.extents)

    def prepare(self, of_all: NDArray, q: int, G: float) -> None:
        """Be ready for a search; arguments as for :func:`describe`."""
        if len(self.panels):
            biases = np.empty(len(self.means))
            describe(self.means, self.extents, of_all, q, G, biases, self.known)
            pack_panels(self.means, biases, self.panels)
