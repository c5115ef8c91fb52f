"""One pass over samples before training: their range, and whether they are finite.

The policy for values that are no numbers: NaN and infinity are refused, naming the place; with
``missing="ignore"`` NaN means "not observed", infinity is refused all the same, and so is a row
without any value.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .compiled import compiled

CHUNK_BYTES = 256 << 10  # looked at twice while they are in the cache


@compiled
def _ends(bits, without_sign, sign, infinity, low, high):
    """Smallest and largest number but NaN of every column, of signed bits, in their order."""
    word = low.dtype.type
    for i in range(bits.shape[0]):
        for d in range(bits.shape[1]):
            b = bits[i, d]
            number = word(b ^ word(word(b >> sign) & without_sign))
            is_nan = word(b & without_sign) > infinity
            low[d] = min(low[d], infinity if is_nan else number)
            high[d] = max(high[d], ~infinity if is_nan else number)


@compiled
def _sizes(bits, without_sign, one, least, largest):
    """Smallest magnitude but 0 of every column, less ``one``, and the largest, of unsigned bits."""
    word = least.dtype.type
    for i in range(bits.shape[0]):
        for d in range(bits.shape[1]):
            magnitude = word(bits[i, d] & without_sign)
            least[d] = min(least[d], word(magnitude - one))  # of 0: the largest integer
            largest[d] = max(largest[d], magnitude)


def chunk_rows(X: NDArray) -> int:
    return max(1, CHUNK_BYTES // (X.itemsize * X.shape[1]))


def extremes(X: NDArray) -> tuple[NDArray, NDArray, NDArray, bool]:
    """Of every column of floats (N, D), without what is NaN; and whether all are finite.

    Numbers are compared by their bits, as integers, a vector at a time: of floats LLVM does not
    know that none is NaN.  The bits of magnitudes are in the order of the floats, and with those of
    negative numbers turned over all are.  Two arrays to write to are as many as LLVM checks for
    lying apart.

    Returns
    -------
    low, high, least : arrays of shape (D,)
        Smallest and largest number (infinity and -infinity: there is none), and smallest magnitude
        but 0 (infinity: there is none).
    finite : bool
    """
    signed, unsigned = (np.dtype(f"{kind}{X.itemsize}").type for kind in "iu")
    sign, most = 8 * X.itemsize - 1, np.iinfo(signed).max
    infinity = np.array(np.inf, X.dtype).view(signed)[()]
    low, high = (np.full(X.shape[1], end, signed) for end in (infinity, ~infinity))
    least, largest = (np.full(X.shape[1], end, unsigned) for end in (~unsigned(0), 0))
    step = chunk_rows(X)
    with np.errstate(over="ignore"):  # without the JIT
        for first in range(0, len(X), step):
            chunk = X[first : first + step]
            _ends(chunk.view(signed), signed(most), signed(sign), infinity, low, high)
            _sizes(chunk.view(unsigned), unsigned(most), unsigned(1), least, largest)
        least += unsigned(1)
        low, high = (end ^ ((end >> sign) & most) for end in (low, high))  # turned back
    beyond = unsigned(infinity)
    least[(least == 0) | (least > beyond)] = beyond
    ends = (end.view(X.dtype) + X.dtype.type(0) for end in (low, high, least))  # -0 becomes 0
    return *ends, bool((largest < beyond).all())


def unmasked(X) -> NDArray:
    """An array; of a masked array with NaN, "not observed", for what its mask hides."""
    if isinstance(X, np.ma.MaskedArray) and X.dtype.kind in "biuf":
        kind = X.dtype if X.dtype in (np.float32, np.float64) else np.float64
        return np.ma.filled(X.astype(kind), np.nan)
    return np.asarray(X)


@dataclass
class Range:
    """What is known of every feature, over blocks of rows.

    Parameters
    ----------
    low, high : arrays of shape (D,)
        Smallest and largest value.
    least : array of shape (D,)
        Smallest magnitude of those that are not 0; infinite where there is none.
    n_rows : int
    """

    low: NDArray
    high: NDArray
    least: NDArray
    n_rows: int = 0

    @classmethod
    def empty(cls, n_features: int, dtype) -> Range:
        """Of no rows yet.

        Raises
        ------
        ValueError
            There are no features.
        """
        if n_features == 0:
            raise ValueError("expected samples with at least one feature, got 0 features")
        none = np.full(n_features, np.inf, dtype)
        return cls(none, -none, none)

    @classmethod
    def of(cls, X: NDArray, missing: bool = False) -> Range:
        """Of one array (N, D)."""
        seen = cls.empty(X.shape[1], X.dtype)
        seen.add(X, missing)
        return seen

    @property
    def largest(self) -> NDArray[np.float64]:
        """Largest magnitude of every feature."""
        return np.maximum(np.abs(self.low), np.abs(self.high)).astype(np.float64)

    def add(self, X: NDArray, missing: bool = False) -> None:
        """Include a block.

        Raises
        ------
        ValueError
            Names the first row that cannot be used.
        """
        low, high, least, finite = extremes(X)
        if not finite:
            self._refuse(X, missing)
        self.low, self.high = np.minimum(self.low, low), np.maximum(self.high, high)
        self.least = np.minimum(self.least, least)
        self.n_rows += len(X)

    def _refuse(self, X: NDArray, missing: bool) -> None:
        """Raise ValueError where a row cannot be used."""
        step = chunk_rows(X)
        for first in range(0, len(X), step):
            chunk = X[first : first + step]
            bad = np.isinf(chunk) if missing else ~np.isfinite(chunk)
            if bad.any():
                row, column = np.argwhere(bad)[0]
                raise ValueError(not_finite(chunk[row, column], self.n_rows + first + row, column))
            unseen = np.isnan(chunk).all(axis=1)
            if unseen.any():
                raise ValueError(nothing_seen(self.n_rows + first + int(np.argmax(unseen))))

    def merge(self, other: Range) -> None:
        """Include what was seen of other rows of the same samples (``n_rows``: up to there)."""
        self.low = np.minimum(self.low, other.low)
        self.high = np.maximum(self.high, other.high)
        self.least = np.minimum(self.least, other.least)
        self.n_rows = max(self.n_rows, other.n_rows)


def not_finite(value: float, row: int, column: int) -> str:
    """What is said of a value that is no number."""
    if np.isnan(value):
        what, rest = "NaN", ", or pass missing='ignore' where it means 'not observed'"
    else:
        what, rest = f"infinity ({value})", ""
    return (
        f"expected finite values, got {what} in row {row}, column {column} of X: remove the row or "
        f"fill the value{rest}"
    )


def nothing_seen(row: int) -> str:
    """What is said of a row without any value."""
    return f"expected a finite value in every row, got only NaN in row {row} of X: remove the row"


def no_empty_column(seen: Range, empty: NDArray[np.bool_], refuse: bool) -> None:
    """Range 0 of columns without any value, where these are not refused.

    Raises
    ------
    ValueError
        Names the first.
    """
    if refuse and empty.any():
        raise ValueError(
            "expected a value in every column, got only NaN in column "
            f"{int(np.argmax(empty))} of X: drop it"
        )
    seen.low[empty] = seen.high[empty] = 0.0


def spread(n_rows: int, n_features: int) -> NDArray[np.int64]:
    """Indices of evenly spaced rows that stand for all: at most 8192 rows, or 16 MB in float64."""
    n = min(n_rows, 8192, max(64, (16 << 20) // (8 * n_features)))
    return np.linspace(0, n_rows - 1, n).astype(np.int64)
