"""One pass over samples before training: their range, their centre, and whether they are finite.

The policy for values that are no numbers: NaN and infinity are refused, naming the row; with
``missing="ignore"`` NaN means "not observed", infinity is refused all the same, and so is a row
without any value.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

CHUNK_ROWS = 4096


@njit(nogil=True, cache=True)
def _range(X, low, high):
    """Widen ``low`` and ``high`` by the rows of ``X``; first row with NaN or infinity, or -1."""
    for i in range(X.shape[0]):
        bad = False
        for d in range(X.shape[1]):
            v = X[i, d]
            low[d] = v if v < low[d] else low[d]
            high[d] = v if v > high[d] else high[d]
            bad |= v - v != 0  # NaN compares unequal
        if bad:
            return i
    return -1


@dataclass
class Range:
    """Smallest and largest value of every feature, over blocks of rows.

    Parameters
    ----------
    low, high : arrays of shape (D,)
    n_rows : int
    """

    low: NDArray
    high: NDArray
    n_rows: int = 0

    @classmethod
    def empty(cls, n_features: int, dtype) -> Range:
        return cls(np.full(n_features, np.inf, dtype), np.full(n_features, -np.inf, dtype))

    def add(self, X: NDArray, missing: bool = False) -> None:
        """Include a block.

        Raises
        ------
        ValueError
            Names the first row that cannot be used.
        """
        if missing:
            self._add_missing(X)
        else:
            row = _range(X, self.low, self.high)
            if row >= 0:
                raise ValueError(
                    f"expected finite values, got NaN or infinity (inf) in row "
                    f"{self.n_rows + row} of X: remove the row, fill the value, or pass "
                    "missing='ignore' where NaN means 'not observed'"
                )
        self.n_rows += len(X)

    def _add_missing(self, X: NDArray) -> None:
        for first in range(0, len(X), CHUNK_ROWS):
            chunk = X[first : first + CHUNK_ROWS]
            absent = np.isnan(chunk)
            bad = np.isinf(chunk).any(axis=1) | absent.all(axis=1)
            if bad.any():
                row = self.n_rows + first + int(np.argmax(bad))
                raise ValueError(
                    f"expected a finite value in every row, got infinity (inf) or only NaN in "
                    f"row {row} of X: remove the row"
                )
            self.low = np.fmin(self.low, np.fmin.reduce(chunk, axis=0))
            self.high = np.fmax(self.high, np.fmax.reduce(chunk, axis=0))

    def merge(self, other: Range) -> None:
        """Include what was seen of other rows of the same samples (``n_rows``: up to there)."""
        self.low = np.minimum(self.low, other.low)
        self.high = np.maximum(self.high, other.high)
        self.n_rows = max(self.n_rows, other.n_rows)


def spread(n_rows: int, n_features: int) -> NDArray[np.int64]:
    """Indices of evenly spaced rows that stand for all: at most 8192 rows, or 16 MB in float64."""
    n = min(n_rows, 8192, max(64, (16 << 20) // (8 * n_features)))
    return np.linspace(0, n_rows - 1, n).astype(np.int64)
