r"""Exact winner search, fused with the sums of the batch rule.

The best matching unit of ``x`` (eq. 5) minimizes the score ``s_k = |w_k|^2/2 - x.w_k`` of
:mod:`.tile`.  Scores are computed in float32 on centred, scaled data, block after block, and never
kept; what a sample adds to ``S_k`` (sums), ``n_k`` (counts) and the error is added at once.

**Exact.**  The winner is the one a float64 search over all nodes finds, the lowest index on ties.
With ``u = 2^-24``, a float32 score is off by at most

.. math::  \gamma (|w_k|^2 + |x|^2/2), \qquad \gamma = (D + 8) u ,

(``D`` multiply-adds, rounded input and thresholds, ``|x||w| <= (|x|^2 + |w|^2)/2``).  The bias of
every node is lowered by ``gamma |w_k|^2``, so that ``s^-_k - gamma |x|^2/2`` never exceeds the true
score, and every node below

.. math::  T = s^-_b + 2 \gamma |w_b|^2 + \gamma |x|^2, \qquad b = \arg\min_k s^-_k

(and a ``TINY`` against underflow) is a candidate.  One candidate is the winner; among several,
float64 distances decide.

**Pruned.**  Let ``p(x)`` be the coordinates of ``x`` on ``q`` orthonormal directions and ``r(x)``
the norm of what they leave.  By Cauchy and Schwarz ``x.w <= p(x).p(w) + r(x) r(w)``, hence the
score of the ``q + 1`` numbers ``(p, r)`` with the same bias never exceeds the true one: a search
``(q + 1)/D`` as costly.  ``T`` comes from true scores, of the winner of the projection and of the
winner of the epoch before; only nodes still below it are scored in full.  Rounding of the
projection, at most ``eps = sqrt(q) (D + 8) u``, is met by a larger ``r``: ``r^2 + 3 eps |x|^2``.
Bounds from the movement of the nodes (Elkan 2003, Hamerly 2010) do not help here: every node moves
every epoch.

**The same bits in any order.**  Every term is rounded to a grid coarse enough that float64 sums of
all terms are exact (add and subtract ``big``: Demmel & Nguyen, "Fast reproducible floating-point
summation", 2013), so threads, chunks and blocks can be added in any order.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from .tile import GROUP, PANEL, TILE_ROWS, WIDTH, n_minima, pack_panels, score_block

ROUNDING = 2.0**-24
TINY = np.float32(1e-30)  # coordinates are at most 1: what is below comes from underflow
LANES = 16  # rows are padded to a multiple of the widest vector


def gamma_full(n_features: int) -> float:
    """Bound of the relative error of a float32 score of ``n_features`` products."""
    return 1.01 * (n_features + 8) * ROUNDING


def epsilon_projection(n_features: int, q: int) -> float:
    """Bound of the relative error of ``q`` float32 projections of ``n_features`` products."""
    return 1.01 * np.sqrt(q) * (n_features + 4) * ROUNDING


def gamma_projected(n_features: int, q: int) -> float:
    """Bound of the relative error of a score of ``q`` projections and the residual's norm."""
    return 2.1 * epsilon_projection(n_features, q) + 1.01 * (q + 8) * ROUNDING


def grid_constant(largest: float, n_terms: int) -> float:
    """The ``big`` whose addition and subtraction rounds terms so that their sums are exact.

    Parameters
    ----------
    largest : float
        Largest magnitude of a term.
    n_terms : int

    Returns
    -------
    float
        ``1.5 * 2**52`` times the grid's spacing.
    """
    if largest == 0 or not np.isfinite(largest):
        return 0.0
    exponent = np.frexp(largest)[1] + int(np.ceil(np.log2(max(n_terms, 1)))) + 2
    return float(np.ldexp(1.5, int(exponent) - 53 + 52))


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "nsz"})
def _dot(x, i, w, k, n):
    """Inner product of two float32 rows; any order of summation is within ``gamma``."""
    total = np.float32(0)
    for d in range(n):
        total += x[i, d] * w[k, d]
    return total


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "nsz"})
def _squared_distance(x, i, w, k, n):
    """Squared distance of two float32 rows (reported errors only, never a comparison)."""
    total = np.float32(0)
    for d in range(n):
        difference = x[i, d] - w[k, d]
        total += difference * difference
    return total


@njit(nogil=True, cache=True, fastmath={"nnan", "nsz"})
def _smallest(minima, r):
    """Smallest of a row.

    The flags say that scores are never NaN (input is finite, padding is infinite), which lets LLVM
    use vector minima; the minimum itself is the same.
    """
    smallest = np.float32(np.inf)
    for j in range(minima.shape[1]):
        v = minima[r, j]
        smallest = v if v < smallest else smallest
    return smallest


@njit(nogil=True, cache=True)
def _under(scores, r, entry, n_panels, limit, found):
    """Nodes under one of the minima whose score is at most ``limit``, into ``found``; how many."""
    group, lane = entry // WIDTH, entry % WIDTH
    n = 0
    for p in range(group * GROUP, min((group + 1) * GROUP, n_panels)):
        for j in range(p * PANEL + lane, (p + 1) * PANEL, WIDTH):
            if scores[r, j] <= limit:
                found[n] = j
                n += 1
    return n


@njit(nogil=True, cache=True)
def _count_under(minima, r, first, limit):
    """How many of ``WIDTH`` minima are at most ``limit``: one vector comparison."""
    n = 0
    for lane in range(WIDTH):
        n += minima[r, first + lane] <= limit
    return n


@njit(nogil=True, cache=True)
def _node_at(scores, minima, r, n_panels, value, found):
    """A node with that score, which is the smallest of the minima."""
    entry = 0
    while _count_under(minima, r, entry, value) == 0:
        entry += WIDTH
    while minima[r, entry] != value:
        entry += 1
    _under(scores, r, entry, n_panels, value, found)
    return found[0]


@njit(nogil=True, cache=True)
def exact_winner(X, i, codebook, candidates, n_candidates):
    """Nearest of some nodes in float64 (ascending candidates: lowest index on ties)."""
    winner, nearest = -1, np.inf
    for c in range(n_candidates):
        k = candidates[c]
        total = 0.0
        for d in range(codebook.shape[1]):
            difference = np.float64(X[i, d]) - np.float64(codebook[k, d])
            total += difference * difference
        if total < nearest or (total == nearest and k < winner):
            winner, nearest = k, total
    return winner


@njit(nogil=True, cache=True)
def load_block(X, first, n, centre, scale, block, squares):
    """``(x - centre) * scale`` of ``n`` rows in float32, and their squared norms.

    ``scale`` is a power of two: it keeps squares within the range of float32 and rounds nothing.
    """
    n_features = X.shape[1]
    for r in range(n):
        for d in range(n_features):
            block[r, d] = (X[first + r, d] - centre[d]) * scale
        squares[r] = _dot(block, r, block, r, block.shape[1])


@njit(nogil=True, cache=True)
def prepare_nodes(codebook, centre, scale, gamma, nodes, halves):
    """Centred nodes (K, padded D) in float32 and half their squared norms.

    ``halves`` has three rows: ``|w|^2/2``, the same less ``gamma |w|^2`` and the largest error
    of a node's score, ``gamma |w|^2``.
    """
    for k in range(codebook.shape[0]):
        total = 0.0
        for d in range(codebook.shape[1]):
            w = (np.float64(codebook[k, d]) - np.float64(centre[d])) * scale
            nodes[k, d] = w
            total += w * w
        halves[0, k] = total / 2
        halves[1, k] = total * (0.5 - gamma)
        halves[2, k] = gamma * total


@njit(nogil=True, cache=True)
def project(X, first, last, centre, scale, directions, levels, slack, out):
    """Coordinates on the directions, and what remains at every level.

    Parameters
    ----------
    directions : float32 array of shape (n_panels, 1 + D, PANEL)
        Packed panels (:func:`.tile.pack_panels`) of the negated directions, zero bias.
    levels : int64 array of shape (n_levels,)
        Ascending numbers of directions; the last is all of them.
    slack : float64 array of shape (n_levels,)
        ``3 eps`` of each level.
    out : float32 array of shape (last - first, levels[-1] + n_levels)
    """
    n_features = X.shape[1]
    q = levels[-1]
    rows = 16 * TILE_ROWS
    block = np.zeros((rows, -(-n_features // LANES) * LANES), np.float32)
    squares = np.empty(rows, np.float32)
    scores = np.empty((rows, directions.shape[0] * PANEL), np.float32)
    minima = np.empty((rows, n_minima(directions.shape[0])), np.float32)
    for start in range(first, last, rows):
        n = min(rows, last - start)
        load_block(X, start, n, centre, scale, block, squares)
        score_block(block, n, directions, n_features, scores, minima)
        for r in range(n):
            i = start - first + r
            total = 0.0
            for d in range(n_features):
                total += np.float64(block[r, d]) * block[r, d]
            rest = total
            d = 0
            for level in range(levels.shape[0]):
                while d < levels[level]:
                    out[i, d] = scores[r, d]
                    rest -= np.float64(scores[r, d]) * scores[r, d]
                    d += 1
                out[i, q + level] = np.sqrt(max(rest, 0.0) + slack[level] * total)


@njit(nogil=True, cache=True)
def pack_projected(projected, n_directions, column, bias, panels):
    """Panels of ``n_directions`` coordinates and the residual norm in ``column``."""
    rows = np.empty((projected.shape[0], n_directions + 1), np.float32)
    rows[:, :n_directions] = projected[:, :n_directions]
    rows[:, n_directions] = projected[:, column]
    pack_panels(rows, bias, panels)


@njit(nogil=True, cache=True)
def accumulate(
    X, weights, first, last, centre, scale, codebook, nodes, halves, gamma,
    panels, projected, offset, q, column, gamma_q, block_rows,
    labels, big, big_weight, big_error, sums, counts,
):  # fmt: skip
    """Winners of rows ``first .. last``, added to sums and counts.

    Parameters
    ----------
    X : array of shape (N, D), float32 or float64
    weights : float64 array of shape (N,) or (0,)
        Sample weights; empty means one each.
    centre, scale
        As in :func:`load_block`.
    codebook : array of shape (K, D), of X's type
    nodes, halves
        From :func:`prepare_nodes`.
    panels : float32 array of shape (n_panels, 1 + D or 2 + q, PANEL)
        Packed nodes with lowered biases, of the full space or of the projection.
    projected : float32 array of shape (>= last - offset, ...)
        From :func:`project` (row ``i - offset`` belongs to sample ``i``).
    q : int
        Directions to use; 0 searches the full space.
    labels : int32 array of shape (N,)
        Winners of the epoch before (-1: none), overwritten.
    big, big_weight, big_error : float
        From :func:`grid_constant` for sums, counts and errors.
    sums : float64 array of shape (K, D) or (0, 0)
        Empty: only winners are wanted.
    counts : float64 array of shape (K,)

    Returns
    -------
    error : float
        Weighted sum of the distances to the winners (in scaled units, on its grid).
    full : int
        Number of nodes that were scored in full.
    """
    n_features = X.shape[1]
    n_nodes = codebook.shape[0]
    padded = nodes.shape[1]
    n_panels = panels.shape[0]
    weighted = weights.shape[0] > 0
    update = sums.shape[0] > 0
    gamma32 = np.float32(gamma)
    gamma_q32 = np.float32(gamma_q)
    largest_half = halves[2].max()

    block = np.zeros((block_rows, padded), np.float32)
    squares = np.empty(block_rows, np.float32)
    coordinates = np.empty((block_rows, q + 1), np.float32)
    # One panel more than needed keeps rows off a multiple of 4096 bytes, where stores collide.
    scores = np.empty((block_rows, (n_panels + 1) * PANEL), np.float32)
    minima = np.empty((block_rows, n_minima(n_panels)), np.float32)
    here = np.empty(GROUP * PANEL, np.int64)
    candidates = np.empty(n_nodes, np.int64)
    values = np.empty(n_nodes, np.float32)
    error = 0.0
    full = 0

    for start in range(first, last, block_rows):
        n = min(block_rows, last - start)
        load_block(X, start, n, centre, scale, block, squares)
        if q == 0:
            score_block(block, n, panels, n_features, scores, minima)
        else:
            for r in range(n):
                i = start + r - offset
                for d in range(q):
                    coordinates[r, d] = projected[i, d]
                coordinates[r, q] = projected[i, column]
            score_block(coordinates, n, panels, q + 1, scores, minima)

        for r in range(n):
            i = start + r
            square = squares[r]
            smallest = _smallest(minima, r)
            found = 0
            if q == 0:
                # The largest margin first: nearly always one node is left, and it is the winner.
                threshold = smallest + 2 * largest_half + gamma32 * square + TINY
                for group in range(0, minima.shape[1], WIDTH):
                    if _count_under(minima, r, group, threshold) == 0:
                        continue
                    for entry in range(group, group + WIDTH):
                        if minima[r, entry] <= threshold:
                            for c in range(_under(scores, r, entry, n_panels, threshold, here)):
                                candidates[found] = here[c]
                                values[found] = scores[r, here[c]]
                                found += 1
                if found > 1:
                    best = np.float32(np.inf)
                    for c in range(found):
                        best = min(best, values[c] + 2 * halves[2, candidates[c]])
                    kept = 0
                    for c in range(found):
                        if values[c] <= best + gamma32 * square + TINY:
                            candidates[kept] = candidates[c]
                            kept += 1
                    found = kept
            else:
                winner = _node_at(scores, minima, r, n_panels, smallest, here)
                half = square * np.float32(0.5)
                slack = half * (gamma32 + gamma_q32) + TINY
                first_winner, before = winner, labels[i]
                value = halves[0, winner] - _dot(block, r, nodes, winner, padded)
                candidates[0] = winner
                values[0] = value - halves[2, winner]
                found = 1
                best = value + halves[2, winner]
                if before >= 0 and before != winner:
                    value = halves[0, before] - _dot(block, r, nodes, before, padded)
                    candidates[1] = before
                    values[1] = value - halves[2, before]
                    found = 2
                    best = min(best, value + halves[2, before])
                for group in range(0, minima.shape[1], WIDTH):
                    if _count_under(minima, r, group, best + slack) == 0:
                        continue
                    for entry in range(group, group + WIDTH):
                        if minima[r, entry] > best + slack:
                            continue
                        for c in range(_under(scores, r, entry, n_panels, best + slack, here)):
                            j = here[c]
                            if j != first_winner and j != before:
                                value = halves[0, j] - _dot(block, r, nodes, j, padded)
                                candidates[found] = j
                                values[found] = value - halves[2, j]
                                found += 1
                                best = min(best, value + halves[2, j])
                full += found
                kept = 0
                for c in range(found):
                    if values[c] <= best + 2 * gamma32 * half + TINY:
                        candidates[kept] = candidates[c]
                        kept += 1
                found = kept
            if found == 1:
                winner = candidates[0]
            else:
                winner = exact_winner(X, i, codebook, candidates, found)
            labels[i] = winner

            if update:
                distance = np.sqrt(np.float64(_squared_distance(block, r, nodes, winner, padded)))
                if weighted:
                    weight = weights[i]
                    error += (distance * weight + big_error) - big_error
                    counts[winner] += (weight + big_weight) - big_weight
                    for d in range(n_features):
                        sums[winner, d] += (np.float64(X[i, d]) * weight + big) - big
                else:
                    error += (distance + big_error) - big_error
                    counts[winner] += 1.0
                    for d in range(n_features):
                        sums[winner, d] += (np.float64(X[i, d]) + big) - big
    return error, full


@njit(nogil=True, cache=True)
def two_nearest(X, first, last, centre, scale, codebook, panels, halves, gamma, block_rows,
                nearest, distances):  # fmt: skip
    """The two best matching units of every row, exact as in :func:`accumulate`.

    Parameters
    ----------
    nearest : int32 array of shape (N, 2)
    distances : float64 array of shape (N,)
        Distance to the first, of a direct float64 evaluation.
    """
    n_features = X.shape[1]
    n_nodes = codebook.shape[0]
    padded = -(-n_features // LANES) * LANES
    n_panels = panels.shape[0]
    block = np.zeros((block_rows, padded), np.float32)
    squares = np.empty(block_rows, np.float32)
    scores = np.empty((block_rows, (n_panels + 1) * PANEL), np.float32)
    minima = np.empty((block_rows, n_minima(n_panels)), np.float32)
    here = np.empty(GROUP * PANEL, np.int64)
    gamma32 = np.float32(gamma)
    for start in range(first, last, block_rows):
        n = min(block_rows, last - start)
        load_block(X, start, n, centre, scale, block, squares)
        score_block(block, n, panels, n_features, scores, minima)
        for r in range(n):
            i = start + r
            value = _smallest(minima, r)
            entry = 0
            while minima[r, entry] != value:
                entry += 1
            one = _node_at(scores, minima, r, n_panels, value, here)
            threshold = value + 2 * halves[2, one]
            if n_nodes > 1:  # without its winner, the row's smallest score is the second
                scores[r, one] = np.inf
                rest = np.float32(np.inf)
                for c in range(_under(scores, r, entry, n_panels, np.float32(np.inf), here)):
                    rest = min(rest, scores[r, here[c]])
                minima[r, entry] = rest
                smallest = _smallest(minima, r)
                two = _node_at(scores, minima, r, n_panels, smallest, here)
                threshold = max(threshold, smallest + 2 * halves[2, two])
                scores[r, one], minima[r, entry] = value, value
            threshold += gamma32 * squares[r] + TINY
            best, second = -1, -1
            d_best, d_second = np.inf, np.inf
            for entry in range(minima.shape[1]):
                if minima[r, entry] > threshold:
                    continue
                for c in range(_under(scores, r, entry, n_panels, threshold, here)):
                    k = here[c]
                    total = 0.0
                    for d in range(n_features):
                        difference = np.float64(X[i, d]) - np.float64(codebook[k, d])
                        total += difference * difference
                    if total < d_best or (total == d_best and k < best):
                        second, d_second = best, d_best
                        best, d_best = k, total
                    elif total < d_second or (total == d_second and k < second):
                        second, d_second = k, total
            nearest[i, 0] = best
            nearest[i, 1] = second
            distances[i] = np.sqrt(d_best)
