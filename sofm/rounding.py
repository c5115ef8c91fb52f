r"""What rounding may cost: margins of float32 scores, and sums that are exact.

With ``u = 2^-24``, a float32 sum of ``n`` products of rounded factors is off by at most
``gamma_n |x| |w|``, ``gamma_n = (n + 8) u`` (Higham, "Accuracy and Stability of Numerical
Algorithms", section 3.1; the 8 covers rounded input, bias and thresholds), and ``q`` coordinates
on orthonormal directions, as a vector, by at most ``eps |x|``, ``eps = sqrt(q) gamma_D``.

**Sums of columns.**  A float64 sum does not depend on the order of its terms when all terms are
multiples of a grid so coarse that no sum is rounded.  Every term is cut into *folds*: it is rounded
to a coarse grid (add and subtract ``big``), what is left to a finer one, and so on, and each fold
has a sum of its own (Demmel & Nguyen, "Fast reproducible floating-point summation", 2013).  The
grids are those of the column, and there are as many folds as it takes for the last one to hold
every digit of the smallest value: nothing is lost, whatever the columns' scales.  Columns of small
integers and of many float32 features need one fold, a plain sum; most others need two.

**The error** is a sum of distances that can be of any size: their digits are added to integers, a
word for every ``WORD`` powers of two, those of the lower and the upper half of a float64 apart.

Threads, blocks and processes can then be added in any order and give the same bits, and what was
added can be taken off again: from epoch to epoch, only rows that have another winner need to move.
(A sum of ``n`` terms leaves two binary digits of a float64 unused, so that the ``2 n`` terms of a
change add up exactly as well.)
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from .compiled import compiled

UNIT = 2.0**-24
TINY = np.float32(1e-30)  # coordinates are at most 1: what is below comes from underflow
WORD, HALF = 32, 27  # binary digits of a word of the error, and of half of a float64
MASK, MOST = (1 << WORD) - 1, (1 << 63) - 1
WORDS = 2047 // WORD + 3, 2  # shape: words for both halves


def gamma(n: int) -> float:
    """Bound of the relative error of a float32 sum of ``n`` products."""
    return 1.01 * (n + 8) * UNIT


def grids(largest: NDArray, smallest: NDArray, digits: int, n_terms: int) -> NDArray[np.float64]:
    """The ``big`` of every fold but the last, for sums of columns.

    Parameters
    ----------
    largest, smallest : float64 arrays of shape (D,)
        Of the magnitudes of a column's terms that are not 0.  No term: 0 and infinity.
    digits : int
        Binary digits of a term.
    n_terms : int
        Of a sum, at most.

    Returns
    -------
    bigs : float64 array of shape (F - 1, D)
        ``1.5 * 2**52`` times the spacing of the grids.

    Raises
    ------
    ValueError
        The sums can be larger than a float64.

    Examples
    --------
    >>> import numpy as np
    >>> from rejuvenet.sofm.rounding import grids
    >>> [len(grids(np.array([1.0]), np.array([x]), 53, 1000)) + 1 for x in (1.0, 1e-3, 1e-30)]
    [2, 2, 4]
    """
    some = (largest > 0) & np.isfinite(smallest)
    top = np.where(some, np.frexp(largest)[1], 0)
    bottom = np.where(some, np.maximum(np.frexp(smallest)[1] - digits, -1074), 0)
    carried = math.ceil(math.log2(max(n_terms, 2))) + 1
    if not np.isfinite(largest).all() or top.max() + carried + 1 > np.finfo(np.float64).maxexp:
        raise ValueError(
            f"expected samples whose weighted sums fit in a float64, got {n_terms} values of up to "
            f"{largest.max():.3g}: scale X or the weights down"
        )
    width = 52 - carried  # of a fold, in binary digits
    n_folds = max(1, int(np.ceil((top - bottom) / width).max()))
    folds = np.arange(1, n_folds)[:, None]
    with np.errstate(under="ignore"):
        return np.where(some, np.ldexp(1.5, top - folds * width + 52), 0.0)


@compiled
def add_rows(X, first, n, weights, sign, nodes, bigs, big_weights, sums, counts):
    """Add what ``n`` rows add to the sums and counts of nodes, or take it off there.

    Parameters
    ----------
    X : array of shape (N, D)
    first, n : int
        Which rows.
    weights : float64 array of shape (N,) or (0,)
    sign : float
        1 or -1.
    nodes : int64 array of at least n numbers
        One for every row; -1 for none.
    bigs, big_weights : float64 arrays of shapes (F - 1, D) and (F' - 1, 1)
        From :func:`grids`.
    sums, counts : float64 arrays of shapes (K, F, D) and (K, F', 1)
    """
    for r in range(n):
        if nodes[r] < 0:
            continue
        if weights.shape[0] > 0:
            add_term(weights[first + r] * sign, 0, big_weights, counts, nodes[r], 0)
        else:
            counts[nodes[r], 0, 0] += sign
    for r in range(n):
        i, k = first + r, nodes[r]
        if k < 0:
            continue
        weight = weights[i] * sign if weights.shape[0] > 0 else sign
        if bigs.shape[0] == 0:
            for d in range(X.shape[1]):
                sums[k, 0, d] += X[i, d] * weight
        elif bigs.shape[0] == 1:  # the usual case: arrays of one dimension, that become vectors
            x, big, coarse_sum, fine_sum = X[i], bigs[0], sums[k, 0], sums[k, 1]
            for d in range(X.shape[1]):
                term = x[d] * weight
                coarse = (term + big[d]) - big[d]
                coarse_sum[d] += coarse
                fine_sum[d] += term - coarse
        else:
            for d in range(X.shape[1]):
                add_term(X[i, d] * weight, d, bigs, sums, k, d)


@compiled(inner=True)
def add_term(term, column, bigs, sums, k, d):
    """Add a term, of which a column of ``bigs`` holds the grids, to the sums of one entry."""
    for fold in range(bigs.shape[0]):
        coarse = (term + bigs[fold, column]) - bigs[fold, column]
        sums[k, fold, d] += coarse
        term -= coarse
    sums[k, bigs.shape[0], d] += term


def total(folds: NDArray[np.float64]) -> NDArray[np.float64]:
    """The sums of the folds' sums, of shape (K, F, D), rounded once (K, D)."""
    if folds.shape[1] > 2:
        return _total_of_many(folds)
    return folds[:, 0] if folds.shape[1] == 1 else folds[:, 0] + folds[:, 1]


@compiled
def _total_of_many(folds):
    n_folds = folds.shape[1]
    totals = np.empty((folds.shape[0], folds.shape[2]))
    parts = np.empty(n_folds)
    for k in range(totals.shape[0]):
        for d in range(totals.shape[1]):
            for fold in range(n_folds):
                parts[fold] = folds[k, n_folds - 1 - fold, d]
            for _ in range(n_folds):  # each makes the last part more exact (Ogita et al. 2005)
                for i in range(1, n_folds):
                    a, b = parts[i - 1], parts[i]
                    s = a + b
                    z = s - a
                    parts[i - 1], parts[i] = (a - (s - z)) + (b - z), s
            totals[k, d] = parts.sum()
    return totals


@compiled(inner=True)
def _add_integer(total, place, part, words):
    """Add ``total * 2**place``, ``0 <= total < 2**63``, to the words of a half."""
    word, shift = place >> 5, place & (WORD - 1)
    low, high = (total & MASK) << shift, (total >> WORD) << shift
    words[word, part] += low & MASK
    words[word + 1, part] += (low >> WORD) + (high & MASK)
    words[word + 2, part] += high >> WORD


@compiled
def add_to_error(value, words):
    """Add a finite float64 that is not negative to the integers of an error."""
    bits = np.float64(value).view(np.int64)
    exponent, digits = bits >> 52, bits & ((1 << 52) - 1)
    if exponent > 0:
        digits |= 1 << 52
    place = exponent if exponent > 1 else 1
    _add_integer(digits & ((1 << HALF) - 1), place, 0, words)
    _add_integer(digits >> HALF, place, 1, words)


@compiled
def add_errors(squares, first, n, weights, words):
    """Add the weighted roots of ``n <= 256`` squared distances, of rows from ``first`` on.

    Loops that are turned into vectors; the roots take the place of the squares.  Mostly the
    exponents are so near to each other that the digits can be added before they go to the words.
    """
    least, most = MOST, 0
    for r in range(n):
        weight = weights[first + r] if weights.shape[0] > 0 else 1.0
        squares[r] = np.sqrt(squares[r]) * weight
    for r in range(n):
        bits = int(np.float64(squares[r]).view(np.int64))  # in the order of the numbers
        most = max(most, bits)
        least = min(least, bits if bits > 0 else MOST)
    base = least >> 52
    if base == 0 or (most >> 52) - base > 63 - 8 - HALF:
        for r in range(n):
            add_to_error(squares[r], words)
    elif most > 0:
        low = high = 0
        for r in range(n):
            bits = int(np.float64(squares[r]).view(np.int64))
            digits = bits & ((1 << 52) - 1) | int(bits > 0) << 52
            shift = max((bits >> 52) - base, 0)
            low += (digits & ((1 << HALF) - 1)) << shift
            high += (digits >> HALF) << shift
        _add_integer(low, base, 0, words)
        _add_integer(high, base, 1, words)


def error_of(words: NDArray[np.int64], scale: float = 1.0) -> float:
    """The sum that the integers stand for, in units of ``1 / scale`` (a power of two).

    Examples
    --------
    >>> import numpy as np
    >>> from rejuvenet.sofm.rounding import WORDS, add_to_error, error_of
    >>> words = np.zeros(WORDS, np.int64)
    >>> for value in (1e300, 0.25, 1e-300):
    ...     add_to_error(value, words)
    >>> words[50:] = 0  # without the first
    >>> error_of(words)
    0.25
    """
    whole = 0
    for i, (low, high) in enumerate(words.tolist()):
        if low or high:
            whole += (low + (high << HALF)) << WORD * i
    try:
        return whole / (1 << 1074 + math.frexp(scale)[1])  # of integers: rounded once
    except OverflowError:  # beyond all float64 numbers
        return math.inf
