r"""Exact winner search, fused with the sums of the batch rule.

The best matching unit of ``x`` (eq. 5) is the nearest node, and the nearest node has the smallest
score ``s_k = |w_k|^2/2 - x.w_k``.  The micro-kernel of :mod:`.tile` computes for a block of samples
scores ``s^-_k`` in float32 that are never above ``s_k`` by more than a margin of the sample's
(:mod:`.prepared`), in all ``D`` features or on a few directions.  Let ``b`` be the node with the
smallest of them.  The distance to ``b``, computed in float64, bounds how good the winner is: it is
one of the nodes with

.. math::  s^-_k \le T = (|x - w_b|^2 - |x|^2) / 2 + margin |x|^2 ,

mostly ``b`` alone.  The others' scores are computed in all features, and of those that are still
not above the same ``T`` with the smaller margin of such scores, float64 distances decide, the
lowest index on ties.  So the winner is that of a float64 search over all nodes.  For the two
nearest nodes ``T`` comes from the second smallest.  What a sample adds to the sums ``S_b``, the
counts ``n_b`` and the error is added at once; scores are never kept.

Where neighbours on the map are alike, most scores need not be computed: panels that :mod:`.balls`
rules out are left out.  Each turn begins so, and goes on with all panels if that leaves too many.
"""

from __future__ import annotations

import numpy as np

from .atomic import fetch_add
from .balls import ROW, choose_panels, score_pairs
from .compiled import compiled
from .rounding import TINY, add_errors, add_rows
from .tile import GROUP, n_groups, score_block
from .turns import SUMS, finish, join
from .vectors import (
    ANY_ORDER,
    GROUP_NODES,
    PANEL,
    TILE_ROWS,
    WIDTH,
    address,
    lanes_under,
    lowest,
    nodes_under,
    smallest,
)

LANES = 16  # rows are padded to a multiple of the widest vector
WORTH_CHOOSING = 0.5  # share of panels up to which it pays to choose them for every row
CHOSEN_ROWS = 96  # of a block then, a multiple of TILE_ROWS: several go to every panel


@compiled(fastmath=ANY_ORDER)
def _squared_distance(X, i, codebook, k, scale):
    """``|x_i - w_k|^2`` in float64; ``scale``, of :func:`lifted`, keeps squares within range."""
    total = 0.0
    for d in range(X.shape[1]):
        difference = (np.float64(X[i, d]) - np.float64(codebook[k, d])) * scale
        total += difference * difference
    return total


@compiled(fastmath=ANY_ORDER)
def _score(half, x, r, w, k):
    """The score of one node in float32."""
    total = np.float32(0)
    for d in range(x.shape[1]):
        total += x[r, d] * w[k, d]
    return half[k] - total


@compiled(fastmath=ANY_ORDER)
def _squared_norm(x, r, n):
    total = 0.0
    for d in range(n):
        total += np.float64(x[r, d]) * np.float64(x[r, d])
    return total


@compiled
def _under(scores, row, n_groups, low, low_row, limit, found, places):
    """Nodes whose score is at most ``limit``, into ``found``; how many.

    ``places`` tells where their scores are.

    Parameters
    ----------
    scores, low : addresses
        Of scores and minima.
    row, low_row : int
        Where the sample's begin.
    """
    n = 0
    for first in range(0, n_groups, 64):
        # Which groups, as bits of a word: a branch for each would often be predicted wrongly.
        groups = 0
        for group in range(first, min(first + 64, n_groups)):
            some = lanes_under(low, low_row + group * WIDTH, limit) != 0
            groups |= int(some) << (group - first)
        while groups != 0:
            node = (first + lowest(groups)) * GROUP_NODES
            groups &= groups - 1
            nodes = nodes_under(scores, row + node, limit)
            while nodes != 0:
                found[n] = node + lowest(nodes)
                places[n] = row + found[n]
                n += 1
                nodes &= nodes - 1
    return n


@compiled
def _under_chosen(scores, pairs, first, last, limit, found, places):
    """As :func:`_under`, of the panels of the pairs from ``first`` to ``last``."""
    n = 0
    for pair in range(first, last, GROUP):
        nodes = nodes_under(scores, pair * PANEL, limit)
        if last - pair < GROUP:  # what is beyond are scores of other rows
            nodes &= (1 << int(last - pair) * PANEL) - 1
        while nodes != 0:
            place = pair * PANEL + lowest(nodes)
            found[n] = (pairs[place // PANEL] & (ROW - 1)) * PANEL + place % PANEL
            places[n] = place
            n += 1
            nodes &= nodes - 1
    return n


@compiled
def _smallest_but(flat, begin, count, place):
    """The smallest of ``count`` scores from ``begin`` on, but for the one at ``place``."""
    score = flat[place]
    flat[place] = np.inf
    second = smallest(address(flat), begin, count // WIDTH)
    flat[place] = score
    return second


@compiled
def lifted(scale):
    """The power of two that scales float64 distances, beside that of float32 scores.

    Far above 1, so that those between near nodes do not vanish where another node is far away.
    """
    return np.float64(scale) * (2.0**400 if scale < 2.0**600 else 1.0)


@compiled
def load_block(X, first, n, centre, scale, block):
    """``x * scale - centre`` of ``n`` rows in float32; a power of two rounds nothing."""
    for r in range(n):
        for d in range(X.shape[1]):
            block[r, d] = X[first + r, d] * scale - centre[d]


@compiled
def search_rows(
    board, place, X, weights, centre, scale, codebook, nodes, halves, panels, means, balls,
    directions, q, bounds, block_rows, bigs, big_weights, nearest, sums, counts, error,
):  # fmt: skip
    """Nearest nodes of rows that nobody has looked at, or what these add to sums and counts.

    Threads with the same board share the rows, a block at a time.

    Parameters
    ----------
    board : int64 array
        See :mod:`.turns`.
    place : int
        Of a worker on the board, which stays for all turns; 0 for the caller and one turn.
    X : array of shape (N, D), float32 or float64
    weights : float64 array of shape (N,) or (0,)
        Sample weights; empty means one each.
    centre, scale
        As in :func:`load_block`.
    codebook : array of shape (K, D), of X's type
    nodes : float32 array of shape (K, D padded to a multiple of LANES)
        The codebook, centred and scaled.
    halves : float32 array of shape (K,)
        Its lowered biases, of scores in all features.
    panels : float32 array of shape (n_panels, 1 + D or 2 + q, PANEL)
        Packed nodes with lowered biases, of all features or on the directions.
    means : float32 array of shape (n_words, 1 + D or 2 + q, PANEL)
        The middles of the panels' balls, packed as nodes are; none (0 words): all panels count.
    balls : float32 array of shape (5, n_words * PANEL)
        See :mod:`.balls`.
    directions : float32 array of shape (n, 1 + D, PANEL)
        Packed and negated; empty with ``q`` = 0.
    q : int
        Directions to search in; 0 searches in all features.
    bounds : float64 array of shape (4,)
        ``slack``, ``margin``, the margin in all features and ``G``, of
        :class:`.prepared.Prepared`.
    block_rows : int
        Rows of a block where all panels count, a multiple of ``TILE_ROWS``.
    bigs, big_weights : float64 arrays of shapes (F - 1, D) and (F' - 1, 1)
        From :func:`.rounding.grids` for sums and counts.
    nearest : int32 array of shape (N, 1) or (N, 2)
        The nearest node of every row, and the second nearest (-1: there is none), where the board
        wants one or two.
    sums, counts : float64 arrays of shapes (K, F, D) and (K, F', 1)
        Where the board wants sums: what this thread's rows add up to.
    error : int64 array of shape WORDS
        Weighted sum of the distances to the winners, in units of :func:`lifted`; see
        :mod:`.rounding`.

    Returns
    -------
    scored : int
        Number of panels whose scores were computed.
    evaluated : int
        Number of nodes whose score or distance was computed in all features.
    """
    n_features = X.shape[1]
    n_nodes = codebook.shape[0]
    n_panels = panels.shape[0]
    groups = n_groups(n_panels)
    scale64 = lifted(scale)
    lowered = (np.float64(scale) / scale64) ** 2
    most_rows = max(block_rows, CHOSEN_ROWS) if means.shape[0] > 0 else block_rows

    block = np.zeros((most_rows, -(-n_features // LANES) * LANES), np.float32)
    # One panel more than needed keeps rows off a multiple of 4096 bytes, where stores collide.
    scores = np.full((most_rows, groups * GROUP_NODES + PANEL), np.float32(np.inf))
    minima = np.empty((most_rows, groups * WIDTH), np.float32)
    squares, distances = np.empty(most_rows), np.empty(most_rows)
    winners = np.empty(most_rows, np.int64)
    coordinates = np.empty((most_rows, directions.shape[0] * PANEL), np.float32)
    unused = np.empty((most_rows, n_groups(directions.shape[0]) * WIDTH), np.float32)
    ball_scores = np.empty((most_rows, means.shape[0] * PANEL), np.float32)
    ball_minima = np.empty((most_rows, n_groups(means.shape[0]) * WIDTH), np.float32)
    listed = most_rows + TILE_ROWS if means.shape[0] > 0 else 0
    rows, places = np.empty((n_panels, listed), np.int64), np.empty((n_panels, listed), np.int64)
    n_listed, firsts = np.empty(n_panels, np.int64), np.empty(most_rows + 1, np.int64)
    pairs = np.empty(most_rows * n_panels + 8, np.int64)
    reaches, limits = np.empty(most_rows, np.float32), np.empty(most_rows, np.float32)
    under, spots = np.empty(n_panels * PANEL, np.int64), np.empty(n_panels * PANEL, np.int64)
    flat = scores.reshape(-1)
    at, low, n_vectors = address(scores), address(minima), minima.shape[1] // WIDTH
    scored, evaluated = 0, 0
    while join(board, place):
        kept = board[1]
        wanted = min(max(kept, 1), n_nodes)
        slack, margin, full_margin, G = bounds[0], bounds[1], bounds[2], bounds[3]
        choosing = means.shape[0] > 0
        wider = 8 * margin if q == 0 else 0.0  # then T is mostly not above what is seen first
        error[:] = 0
        if kept == SUMS:
            sums[:] = 0.0
            counts[:] = 0.0
        while True:
            size = CHOSEN_ROWS if choosing else block_rows
            start = fetch_add(address(board), 0, size)
            if start >= X.shape[0]:
                break
            n = min(size, X.shape[0] - start)
            load_block(X, start, n, centre, scale, block)
            for r in range(n):
                squares[r] = _squared_norm(block, r, n_features)
            searched, n_numbers = block, n_features
            if q > 0:
                score_block(block, n, directions, n_features, coordinates, unused)
                for r in range(n):
                    rest = squares[r] - _squared_norm(coordinates, r, q)
                    coordinates[r, q] = np.sqrt(max(rest, 0.0) + slack * squares[r])
                searched, n_numbers = coordinates, q + 1
            # Scores: of the panels that each row is left with, or of all.
            if choosing:
                score_block(searched, n, means, n_numbers, ball_scores, ball_minima)
                choose_panels(
                    n, ball_scores, balls, wanted, G, squares, searched, q, reaches, limits, pairs,
                    firsts,
                )  # fmt: skip
                some = firsts[n]
                score_pairs(
                    searched, pairs, some, panels, n_numbers, flat, minima, rows, places, n_listed
                )
            else:
                score_block(searched, n, panels, n_numbers, scores, minima)
                some = n * n_panels
            scored += some

            for r in range(n):
                i, row, low_row = start + r, r * scores.shape[1], r * minima.shape[1]
                first, last = (firsts[r], firsts[r + 1]) if choosing else (0, 0)

                # The best by their scores.
                least = smallest(low, low_row, 1 if choosing else n_vectors)
                seen = np.float32(least + wider * squares[r])
                if choosing:
                    n_under = _under_chosen(at, pairs, first, last, seen, under, spots)
                else:
                    n_under = _under(at, row, groups, low, low_row, seen, under, spots)
                best = 0
                for j in range(1, n_under):
                    if flat[spots[j]] < flat[spots[best]]:
                        best = j
                one, other = under[best], np.int64(-1)
                if wanted == 2:
                    if choosing:
                        begin, count = first * PANEL, (last - first) * PANEL
                        seen = _smallest_but(flat, begin, count, spots[best])
                        n_under = _under_chosen(at, pairs, first, last, seen, under, spots)
                    else:
                        seen = _smallest_but(flat, row, n_panels * PANEL, spots[best])
                        n_under = _under(at, row, groups, low, low_row, seen, under, spots)
                    for j in range(n_under):
                        if under[j] != one:
                            other = under[j]

                # The distances to them, and what these leave of the others.
                winner, second = one, other
                d_winner, d_second = _squared_distance(X, i, codebook, one, scale64), np.inf
                if wanted == 2:
                    d_second = _squared_distance(X, i, codebook, other, scale64)
                    if d_second < d_winner or (d_second == d_winner and other < one):
                        winner, d_winner, second, d_second = other, d_second, one, d_winner
                half = ((d_winner if wanted == 1 else d_second) * lowered - squares[r]) / 2
                threshold = np.float32(half + margin * squares[r]) + TINY
                if threshold > seen:
                    if choosing:
                        n_under = _under_chosen(at, pairs, first, last, threshold, under, spots)
                    else:
                        n_under = _under(at, row, groups, low, low_row, threshold, under, spots)
                evaluated += wanted
                for j in range(n_under):
                    k = under[j]
                    if k in (one, other) or flat[spots[j]] > threshold:
                        continue
                    evaluated += 1
                    half = ((d_winner if wanted == 1 else d_second) * lowered - squares[r]) / 2
                    if _score(halves, block, r, nodes, k) > (
                        np.float32(half + full_margin * squares[r]) + TINY
                    ):
                        continue
                    total = _squared_distance(X, i, codebook, k, scale64)
                    if total < d_winner or (total == d_winner and k < winner):
                        second, d_second = winner, d_winner
                        winner, d_winner = k, total
                    elif total < d_second or (total == d_second and k < second):
                        second, d_second = k, total
                if kept > 0:
                    nearest[i, 0] = winner
                if kept == 2:
                    nearest[i, 1] = second

                winners[r], distances[r] = winner, d_winner

            # What the rows add.
            add_errors(distances, start, n, weights, error)
            if kept == SUMS:
                add_rows(X, start, n, weights, winners, bigs, big_weights, sums, counts)
            if choosing and some > WORTH_CHOOSING * n * n_panels:
                choosing = False
                scores[:] = np.inf  # also beyond the last panel
        if place == 0:
            break
        finish(board, place)
    return scored, evaluated
