"""Samples in every form, behind one interface: what a map needs to know of them.

=====================  =============================================================
:class:`InMemory`      a dense array, memory maps included (never copied)
:class:`Blocks`        dense blocks that come one after the other (out of core)
:class:`SparseRows`    a CSR matrix
:class:`WithMissing`   a dense array where NaN means "not observed"
=====================  =============================================================

Each has ``n_rows``, ``n_features``, ``dtype``, ``range``, ``weights``, ``take(rows)``,
``begin(codebook, directions, threads, pool)``, ``epoch(codebook)`` and ``two_nearest(codebook)``.
Because sums are exact (:mod:`.search`), the same rows give the same bits in any of the dense forms.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .batch import Sweep, share
from .missing import accumulate_missing
from .scan import Range, spread
from .search import grid_constant
from .sparse import accumulate_csr


class Samples:
    """What all forms share: weights, and the constants that make sums exact."""

    dtype: np.dtype
    n_features: int
    range: Range
    weights: NDArray | None = None

    @property
    def n_rows(self) -> int:
        return self.range.n_rows

    @property
    def total_weight(self) -> float:
        return float(self.n_rows if self.weights is None else self.weights.sum())

    def grids(self) -> tuple[float, float, float]:
        """:func:`.search.grid_constant` of sums, counts and errors (errors in scaled units)."""
        heaviest = 1.0 if self.weights is None else float(self.weights.max())
        low, high = self.range.low, self.range.high
        largest = float(max(np.abs(low).max(), np.abs(high).max()))
        diagonal = 4 * np.sqrt(self.n_features)
        return (
            grid_constant(largest * heaviest, self.n_rows),
            grid_constant(heaviest, self.n_rows),
            grid_constant(diagonal * heaviest, self.n_rows),
        )

    def some(self) -> tuple[NDArray, NDArray | None]:
        """Evenly spaced samples that stand for all, with their weights."""
        rows = spread(self.n_rows, self.n_features)
        return self.take(rows), None if self.weights is None else self.weights[rows]

    def take(self, rows: NDArray) -> NDArray:
        """Samples of those (ascending or drawn) rows, dense."""
        raise NotImplementedError

    def begin(self, codebook: NDArray, directions, threads: int, pool, some=None) -> None:
        """Prepare for epochs that start at ``codebook``; ``some`` saves taking them again."""
        raise NotImplementedError

    def epoch(self, codebook: NDArray) -> Sequence[Any]:
        """Sums, counts and the sum of distances (eq. 8) for a codebook."""
        raise NotImplementedError

    def two_nearest(self, codebook: NDArray) -> tuple[NDArray, NDArray]:
        """The two best matching units (N, 2) and the distance to the first (N,)."""
        raise NotImplementedError

    def winners(self, codebook: NDArray) -> NDArray[np.int32]:
        """Best matching units alone."""
        return np.ascontiguousarray(self.two_nearest(codebook)[0][:, 0])


def frame(samples_range: Range, some: NDArray, codebook: NDArray) -> tuple[NDArray, float]:
    """A point amid the data and the largest distance of any coordinate from it."""
    centre = some.mean(axis=0, dtype=np.float64).astype(some.dtype)
    extremes = (samples_range.low, samples_range.high, codebook.min(axis=0), codebook.max(axis=0))
    return centre, float(max(np.abs(e.astype(np.float64) - centre).max() for e in extremes))


class InMemory(Samples):
    """A dense, C-contiguous float32 or float64 array.

    Parameters
    ----------
    X : array of shape (N, D)
    weights : float64 array of shape (N,), or None
    """

    def __init__(self, X: NDArray, weights: NDArray | None = None) -> None:
        self.X, self.weights = X, weights
        self.dtype, self.n_features = X.dtype, X.shape[1]
        self.range = Range.empty(X.shape[1], X.dtype)
        self.range.add(X)

    def take(self, rows: NDArray) -> NDArray:
        return self.X[rows]

    def begin(self, codebook, directions, threads, pool, some=None) -> None:
        """Prepare for epochs that start at ``codebook``."""
        some = self.some()[0] if some is None else some
        centre, reach = frame(self.range, some, codebook)
        self.sweep = Sweep(
            self.X, self.weights, centre, reach, self.grids(), directions, threads, pool
        )

    def epoch(self, codebook: NDArray):
        return self.sweep.epoch(codebook)

    def two_nearest(self, codebook: NDArray):
        return self.sweep.two_nearest(codebook)

    def winners(self, codebook: NDArray) -> NDArray[np.int32]:
        self.sweep.epoch(codebook, update=False)
        return self.sweep.labels


class Blocks(Samples):
    """Dense blocks that can be gone through again and again, of which one is in memory at a time.

    Parameters
    ----------
    blocks : callable
        Returns an iterator of arrays of shape (n, D), the same each time.
    weights : float64 array of shape (N,), or None
    """

    def __init__(self, blocks: Callable[[], Iterable[NDArray]], weights=None) -> None:
        self.blocks, self.weights = blocks, weights
        seen: Range | None = None
        for block in self._dense():
            if seen is None:
                self.dtype, self.n_features = block.dtype, block.shape[1]
                seen = Range.empty(self.n_features, self.dtype)
            if block.shape[1] != self.n_features or block.dtype != self.dtype:
                raise ValueError(
                    f"expected blocks of {self.n_features} features of {self.dtype}, got "
                    f"{block.shape[1]} of {block.dtype} after row {seen.n_rows}: make all alike"
                )
            seen.add(block)
        if seen is None or not seen.n_rows:
            raise ValueError("expected at least one block of samples, got none")
        self.range = seen
        if weights is not None and len(weights) != seen.n_rows:
            raise ValueError(
                f"expected one weight for each of {seen.n_rows} samples, got {len(weights)}"
            )

    def _dense(self) -> Iterator[NDArray]:
        for block in self.blocks():
            block = np.asarray(block)
            if block.ndim != 2:
                raise ValueError(f"expected blocks of shape (n, D), got shape {block.shape}")
            kind = block.dtype if block.dtype in (np.float32, np.float64) else np.float64
            yield np.ascontiguousarray(block, dtype=kind)

    def take(self, rows: NDArray) -> NDArray:
        out = np.empty((len(rows), self.n_features), self.dtype)
        first = 0
        for block in self._dense():
            mine = (rows >= first) & (rows < first + len(block))
            out[mine] = block[rows[mine] - first]
            first += len(block)
        return out

    def begin(self, codebook, directions, threads, pool, some=None) -> None:
        some = self.some()[0] if some is None else some
        self.centre, self.reach = frame(self.range, some, codebook)
        self.directions, self.threads, self.pool = directions, threads, pool
        self.labels = np.full(self.n_rows, -1, np.int32)

    def _sweeps(self, directions) -> Iterator[tuple[slice, Sweep]]:
        first = 0
        for block in self._dense():
            rows = slice(first, first + len(block))
            first += len(block)
            if len(block):
                yield rows, Sweep(
                    block, None if self.weights is None else self.weights[rows],
                    self.centre, self.reach, self.grids(), directions, self.threads, self.pool,
                    self.labels[rows],
                )  # fmt: skip

    def epoch(self, codebook: NDArray, update: bool = True):
        sums, counts, error = 0.0, 0.0, 0.0
        for _, sweep in self._sweeps(self.directions):
            s, n, e = sweep.epoch(codebook, update)
            sums, counts, error = sums + s, counts + n, error + e
        return sums, counts, error

    def two_nearest(self, codebook: NDArray):
        parts = [sweep.two_nearest(codebook) for _, sweep in self._sweeps(None)]
        return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])

    def winners(self, codebook: NDArray) -> NDArray[np.int32]:
        self.epoch(codebook, update=False)
        return self.labels


class _ByFeature(Samples):
    """Forms whose kernels read the codebook feature by feature and find both nearest at once."""

    counts_per_feature = False

    def begin(self, codebook, directions, threads, pool, some=None) -> None:
        self.threads, self.pool = threads, pool

    def _kernel(self, first, last, by_feature, grids, nearest, distances, sums, counts) -> float:
        raise NotImplementedError

    def _run(self, codebook: NDArray, update: bool):
        K, D = codebook.shape
        by_feature = np.ascontiguousarray(codebook.T, dtype=np.float64)
        big, big_weight, _ = self.grids()
        reach = float(np.abs([self.range.low, self.range.high]).max()) + np.abs(codebook).max()
        heaviest = 1.0 if self.weights is None else float(self.weights.max())
        grids = big, big_weight, grid_constant(reach * np.sqrt(D) * heaviest, self.n_rows)
        nearest, distances = np.empty((self.n_rows, 2), np.int32), np.empty(self.n_rows)
        edges = np.linspace(0, self.n_rows, self.threads + 1).astype(int)

        def work(t: int):
            sums = np.zeros((K, D) if update else (0, 0))
            counts = np.zeros(sums.shape if self.counts_per_feature else len(sums))
            error = self._kernel(
                edges[t], edges[t + 1], by_feature, grids, nearest, distances, sums, counts
            )
            return sums, counts, error

        parts = share(self.pool, self.threads, work)
        return nearest, distances, [sum(p[j] for p in parts) for j in range(3)]

    def epoch(self, codebook: NDArray):
        return self._run(codebook, True)[2]

    def two_nearest(self, codebook: NDArray):
        return self._run(codebook, False)[:2]


class SparseRows(_ByFeature):
    """A CSR matrix; implicit entries are zeros.

    Parameters
    ----------
    X : CSR matrix or array of shape (N, D)
    weights : float64 array of shape (N,), or None
    """

    def __init__(self, X, weights: NDArray | None = None) -> None:
        self.X, self.weights = X, weights
        self.dtype, self.n_features = X.dtype, X.shape[1]
        bad = np.flatnonzero(~np.isfinite(X.data))
        if len(bad):
            row = int(np.searchsorted(X.indptr, bad[0], side="right")) - 1
            raise ValueError(
                f"expected finite values, got NaN or infinity (inf) in row {row} of X: remove it"
            )
        self.range = Range(
            X.min(axis=0).toarray().ravel(), X.max(axis=0).toarray().ravel(), X.shape[0]
        )

    def take(self, rows: NDArray) -> NDArray:
        return self.X[rows].toarray()

    def _kernel(self, first, last, by_feature, grids, nearest, distances, sums, counts):
        weights = np.empty(0) if self.weights is None else self.weights
        halves = (by_feature * by_feature).sum(axis=0) / 2
        big, big_weight, big_error = grids
        return accumulate_csr(
            self.X.data, self.X.indices, self.X.indptr, weights, first, last, by_feature,
            halves, big, big_weight, big_error, nearest, distances, sums, counts,
        )  # fmt: skip


class WithMissing(_ByFeature):
    """A dense array with NaN where a value was not observed.

    Parameters
    ----------
    X : array of shape (N, D)
    weights : float64 array of shape (N,), or None
    """

    counts_per_feature = True

    def __init__(self, X: NDArray, weights: NDArray | None = None) -> None:
        self.X, self.weights = X, weights
        self.dtype, self.n_features = X.dtype, X.shape[1]
        self.range = Range.empty(X.shape[1], X.dtype)
        self.range.add(X, missing=True)
        empty = np.flatnonzero(~np.isfinite(self.range.low))
        if len(empty):
            raise ValueError(
                f"expected a value in every column, got only NaN in column {empty[0]} of X: drop it"
            )

    def take(self, rows: NDArray) -> NDArray:
        """Rows with the middle of the feature's range in place of what is missing."""
        X = self.X[rows]
        return np.where(np.isnan(X), (self.range.low + self.range.high) / 2, X).astype(self.dtype)

    def _kernel(self, first, last, by_feature, grids, nearest, distances, sums, counts):
        weights = np.empty(0) if self.weights is None else self.weights
        big, big_weight, big_error = grids
        return accumulate_missing(
            self.X, weights, first, last, by_feature, big, big_weight, big_error,
            nearest, distances, sums, counts,
        )  # fmt: skip
