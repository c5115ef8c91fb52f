"""One pass over samples before training: their range, and whether they are finite.

The policy for values that are no numbers: NaN and infinity are refused, naming the row; with
``missing="ignore"`` NaN means "not observed", infinity is refused all the same, and so is a row
without any value.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

WIDE = 1024  # features beside each other that make numpy's reduction fast
CHUNK_BYTES = 256 << 10  # looked at several times while they are in the cache


def _reduced(ufunc: np.ufunc, X: NDArray) -> NDArray:
    """``ufunc.reduce`` over the rows, several of which are laid side by side: each costs a call."""
    n, D = X.shape
    beside = max(1, WIDE // D)
    whole = n // beside * beside
    rest = X[whole:]
    if whole:
        wide = ufunc.reduce(X[:whole].reshape(-1, beside * D), axis=0)
        rest = np.concatenate([wide.reshape(beside, D), rest])
    return ufunc.reduce(rest, axis=0)


def _least(X: NDArray) -> NDArray:
    """Smallest magnitude but 0 of every column; infinite where there is none.

    The bits of floats that are not negative are ordered as the floats are; less 1, those of 0 are
    the largest.
    """
    word = np.dtype(f"u{X.itemsize}").type
    magnitudes = X.view(word) & word(np.iinfo(word).max >> 1)
    magnitudes -= word(1)
    least = (_reduced(np.minimum, magnitudes) + word(1)).view(X.dtype)
    return np.where((least > 0) & np.isfinite(least), least, np.inf).astype(X.dtype)


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
        step = max(1, CHUNK_BYTES // (X.itemsize * X.shape[1]))
        for first in range(0, len(X), step):
            chunk = X[first : first + step]
            if missing:
                self._add_missing(chunk)
            else:
                self._add_finite(chunk)
            self.least = np.minimum(self.least, _least(chunk))
            self.n_rows += len(chunk)

    def _add_finite(self, chunk: NDArray) -> None:
        low, high = _reduced(np.minimum, chunk), _reduced(np.maximum, chunk)
        if not (np.isfinite(low).all() and np.isfinite(high).all()):  # NaN spreads to both
            row = self.n_rows + int(np.argmin(np.isfinite(chunk).all(axis=1)))
            raise ValueError(
                f"expected finite values, got NaN or infinity (inf) in row {row} of X: remove the "
                "row, fill the value, or pass missing='ignore' where NaN means 'not observed'"
            )
        self.low, self.high = np.minimum(self.low, low), np.maximum(self.high, high)

    def _add_missing(self, chunk: NDArray) -> None:
        bad = np.isinf(chunk).any(axis=1) | np.isnan(chunk).all(axis=1)
        if bad.any():
            row = self.n_rows + int(np.argmax(bad))
            raise ValueError(
                f"expected a finite value in every row, got infinity (inf) or only NaN in "
                f"row {row} of X: remove the row"
            )
        self.low = np.fmin(self.low, _reduced(np.fmin, chunk))
        self.high = np.fmax(self.high, _reduced(np.fmax, chunk))

    def merge(self, other: Range) -> None:
        """Include what was seen of other rows of the same samples (``n_rows``: up to there)."""
        self.low = np.minimum(self.low, other.low)
        self.high = np.maximum(self.high, other.high)
        self.least = np.minimum(self.least, other.least)
        self.n_rows = max(self.n_rows, other.n_rows)


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
