r"""Exact winner search, fused with the sums of the batch rule.

The micro-kernel of :mod:`.tile` computes for a block of samples scores ``s^-_k`` in float32 that
are never above ``s_k`` by more than a margin of the sample's (:mod:`.prepared`), in all ``D``
features or on a few directions.  Let ``b`` be the node with the smallest of them.  The distance to
``b``, computed in float64, bounds how good the winner is: it is one of the nodes with

.. math::  s^-_k \le T = (|x - w_b|^2 - |x|^2) / 2 + margin |x|^2 ,

mostly ``b`` alone.  The others' scores are computed in all features, and of those that are still
not above the same ``T`` with the smaller margin of such scores, float64 distances decide, the
lowest index on ties.  So the winner is that of a float64 search over all nodes.  For the two
nearest nodes ``T`` comes from the second smallest.  What a sample adds to the sums ``S_b``, the
counts ``n_b`` and the error is added block by block; scores are never kept.

:func:`search_rows` goes from block to block: :func:`load_block` and :func:`project` read its rows,
or :func:`exchange` knows them, :func:`score` computes what they need,
:func:`find_nearest` finds the rows' nodes, :mod:`..rounding` adds up.
"""

from __future__ import annotations

import numpy as np

from ..compiled import compiled
from ..rounding import TINY, add_errors, add_rows
from .balls import ROW, choose_panels, score_pairs
from .block import memory_for
from .tile import GROUP, score_block
from .vectors import (
    ANY_ORDER,
    GROUP_NODES,
    PANEL,
    WIDTH,
    address,
    lanes_under,
    lowest,
    nodes_under,
    smallest,
)


@compiled(fastmath=ANY_ORDER, inner=True)
def _squared_distance(X, i, codebook, k, scale):
    """``|x_i - w_k|^2`` in float64; ``scale``, of :func:`lifted`, keeps squares within range."""
    total = 0.0
    for d in range(X.shape[1]):
        difference = (np.float64(X[i, d]) - np.float64(codebook[k, d])) * scale
        total += difference * difference
    return total


@compiled(fastmath=ANY_ORDER, inner=True)
def _score(X, i, centre, scale, half, w, k):
    """The score of one node in float32."""
    total = np.float32(0)
    for d in range(X.shape[1]):
        total += np.float32(X[i, d] * scale - centre[d]) * w[k, d]
    return half[k] - total


@compiled(fastmath=ANY_ORDER, inner=True)
def _squared_norm(x, r, n):
    total = 0.0
    for d in range(n):
        total += np.float64(x[r, d]) * np.float64(x[r, d])
    return total


@compiled(inner=True)
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


@compiled(inner=True)
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


@compiled(inner=True)
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


@compiled(inner=True)
def load_block(X, first, n, centre, scale, rows, squares):
    """``x * scale - centre`` of ``n`` rows, and ``|x|^2``; a power of two rounds nothing."""
    for r in range(n):
        for d in range(X.shape[1]):
            rows[r, d] = X[first + r, d] * scale - centre[d]
        squares[r] = _squared_norm(rows, r, X.shape[1])


@compiled(inner=True)
def project(nodes, n, block):
    """Coordinates of ``n`` loaded rows on the directions, and the norm of what these leave."""
    q = nodes.q
    n_features = nodes.codebook.shape[1]
    score_block(block.rows, n, nodes.directions, n_features, block.coordinates, block.lanes)
    for r in range(n):
        rest = block.squares[r] - _squared_norm(block.coordinates, r, q)
        slack = nodes.bounds[0] * block.squares[r]
        block.coordinates[r, q] = np.sqrt(max(rest, 0.0) + slack)


@compiled(inner=True)
def exchange(kept, first, n, block):
    """What is known of ``n`` rows into the block, or from it."""
    for r in range(n):
        i = first + r
        if kept.known:
            block.squares[r] = kept.squares[i]
            for d in range(kept.coordinates.shape[1]):
                block.coordinates[r, d] = kept.coordinates[i, d]
        else:
            kept.squares[i] = block.squares[r]
            for d in range(kept.coordinates.shape[1]):
                kept.coordinates[i, d] = block.coordinates[r, d]


@compiled(inner=True)
def score(nodes, wanted, n, block):
    """Scores of ``n`` rows: of all panels, or of those that can hold a nearest node.

    Returns
    -------
    scored : int
        Number of pairs of a row and a panel whose scores were computed.
    """
    q, searched, n_numbers = nodes.q, block.rows, nodes.codebook.shape[1]
    if q > 0:
        searched, n_numbers = block.coordinates, q + 1
    if nodes.means.shape[0] == 0:
        score_block(searched, n, nodes.panels, n_numbers, block.scores, block.minima)
        return n * nodes.panels.shape[0]
    score_block(searched, n, nodes.means, n_numbers, block.ball_scores, block.lanes)
    choose_panels(
        n, block.ball_scores, nodes.balls, wanted, nodes.bounds[3], block.squares, searched, q,
        block.reaches, block.limits, block.pairs, block.firsts,
    )  # fmt: skip
    some = block.firsts[n]
    score_pairs(
        searched, block.pairs, some, nodes.panels, n_numbers, block.flat,
        block.minima, block.listed[0], block.listed[1], block.n_listed,
    )  # fmt: skip
    return some


@compiled(inner=True)
def find_nearest(nodes, wanted, X, start, n, block, nearest):
    """The nearest node of the ``n`` rows from ``start`` on, whose scores are known, or the two.

    Winners and their squared distances (in units of :func:`lifted`) are left in the block; for
    ``nearest`` see :func:`search_rows`.
    """
    # A named tuple's array is counted as used whenever it is looked up: once, not for every row.
    codebook, halves, centred, pairs, firsts = (
        nodes.codebook, nodes.halves, nodes.centred, block.pairs, block.firsts
    )  # fmt: skip
    squares, flat, found, places = block.squares, block.flat, block.found, block.places
    centre, shift = nodes.centre, nodes.scale
    scores_at, minima_at = address(block.scores), address(block.minima)
    width, n_lanes = block.scores.shape[1], block.minima.shape[1]
    winners, distances = block.winners, block.distances
    margin, full_margin = nodes.bounds[1], nodes.bounds[2]
    choosing = nodes.means.shape[0] > 0
    scale = lifted(nodes.scale)
    lowered = (np.float64(nodes.scale) / scale) ** 2
    wider = 8 * margin if nodes.q == 0 else 0.0  # then T is mostly not above what is seen first
    n_vectors = 1 if choosing else n_lanes // WIDTH

    for r in range(n):
        i = start + r
        row, low, square = r * width, r * n_lanes, squares[r]
        first, last = firsts[r], firsts[r + 1]

        # The best by their scores.
        least = smallest(minima_at, low, n_vectors)
        seen = np.float32(least + wider * square)
        if choosing:
            n_found = _under_chosen(scores_at, pairs, first, last, seen, found, places)
        else:
            n_found = _under(scores_at, row, n_lanes // WIDTH, minima_at, low, seen, found, places)
        if n_found == 0:  # scores that are no numbers
            found[0], places[0] = 0, row
        best = 0
        for j in range(1, n_found):
            if flat[places[j]] < flat[places[best]]:
                best = j
        one, other = found[best], np.int64(-1)
        if wanted == 2:
            if choosing:
                count = (last - first) * PANEL
                seen = _smallest_but(flat, first * PANEL, count, places[best])
                n_found = _under_chosen(scores_at, pairs, first, last, seen, found, places)
            else:
                seen = _smallest_but(flat, row, nodes.panels.shape[0] * PANEL, places[best])
                n_found = _under(
                    scores_at, row, n_lanes // WIDTH, minima_at, low, seen, found, places
                )
            for j in range(n_found):
                if found[j] != one:
                    other = found[j]

        # The distances to them, and what these leave of the others.
        winner, second = one, other
        d_winner, d_second = _squared_distance(X, i, codebook, one, scale), np.inf
        if wanted == 2:
            d_second = _squared_distance(X, i, codebook, other, scale)
            if d_second < d_winner or (d_second == d_winner and other < one):
                winner, d_winner, second, d_second = other, d_second, one, d_winner
        half = ((d_winner if wanted == 1 else d_second) * lowered - square) / 2
        threshold = np.float32(half + margin * square) + TINY
        if threshold > seen:
            if choosing:
                n_found = _under_chosen(scores_at, pairs, first, last, threshold, found, places)
            else:
                n_found = _under(
                    scores_at, row, n_lanes // WIDTH, minima_at, low, threshold, found, places
                )
        for j in range(n_found):
            k = found[j]
            if k in (one, other) or flat[places[j]] > threshold:
                continue
            half = ((d_winner if wanted == 1 else d_second) * lowered - square) / 2
            if _score(X, i, centre, shift, halves, centred, k) > (
                np.float32(half + full_margin * square) + TINY
            ):
                continue
            d = _squared_distance(X, i, codebook, k, scale)
            if d < d_winner or (d == d_winner and k < winner):
                second, d_second = winner, d_winner
                winner, d_winner = k, d
            elif d < d_second or (d == d_second and k < second):
                second, d_second = k, d
        winners[r], distances[r] = winner, d_winner
        if nearest.shape[0] > 0:
            nearest[i, 0] = winner
            if nearest.shape[1] == 2:
                nearest[i, 1] = second


@compiled(inner=True)
def stay(before, first, n, winners, left):
    """Winners that are the same as before, of ``n`` rows, become -1: none; the others are left."""
    for r in range(n):
        left[r] = before[first + r, 0]
        if left[r] == winners[r]:
            left[r] = winners[r] = -1


@compiled
def search_rows(
    nodes, kept, X, first, last, weights, before, bigs, big_weights, nearest, sums, counts, error
):
    """Nearest nodes of some rows, or what these add to sums and counts.

    Parameters
    ----------
    nodes : Nodes
    kept : Kept
        Of all rows, where the search is on directions.
    X : array of shape (N, D), float32 or float64
    first, last : int
        Which rows.
    weights : float64 array of shape (N,) or (0,)
        Sample weights; empty means one each.
    before : int32 array of shape (N, 1) or (0, 1)
        Winners whose rows the sums hold already; empty: they hold none.
    bigs, big_weights : float64 arrays of shapes (F - 1, D) and (F' - 1, 1)
        From :func:`..rounding.grids` for sums and counts.
    nearest : int32 array of shape (N, 1) or (N, 2), or (0, 1)
        The nearest node of every row, and the second nearest (-1: there is none); empty: not
        wanted.
    sums, counts : float64 arrays of shapes (K, F, D) and (K, F', 1), or empty
        To which is added.
    error : int64 array of shape WORDS
        To which the distances to the winners are added, in units of :func:`lifted`.

    Returns
    -------
    scored : int
        Number of pairs of a row and a panel whose scores were computed.
    """
    block = memory_for(nodes)
    wanted = min(nearest.shape[1], nodes.codebook.shape[0])
    scored = 0
    for start in range(first, last, nodes.block_rows):
        n = min(nodes.block_rows, last - start)
        if not kept.known:
            load_block(X, start, n, nodes.centre, nodes.scale, block.rows, block.squares)
            if nodes.q > 0:
                project(nodes, n, block)
        if kept.coordinates.shape[0] > 0:
            exchange(kept, start, n, block)
        scored += score(nodes, wanted, n, block)
        find_nearest(nodes, wanted, X, start, n, block, nearest)
        add_errors(block.distances, start, n, weights, error)
        if sums.shape[0] > 0:
            rest = bigs, big_weights, sums, counts
            if before.shape[0] > 0:
                stay(before, start, n, block.winners, block.before)
                add_rows(X, start, n, weights, -1.0, block.before, *rest)
            add_rows(X, start, n, weights, 1.0, block.winners, *rest)
    return scored
