"""Samples in blocks that come one after the other (out of core)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from .batch import add, batch_sums, nearest_nodes, totals
from .rounding import WORDS, error_of
from .samples import Dense, as_floats, check_length, directions, masked
from .scan import Range, unmasked


class Blocks(Dense):
    """Dense blocks that can be gone through again and again, of which one is in memory at a time.

    Parameters
    ----------
    blocks : callable
        Returns an iterator of arrays of shape (n, D), the same each time.
    weights : float64 array of shape (N,), or None
    metric : str
        See :func:`.samples.directions`.
    missing : bool
        Whether NaN means "not observed".
    """

    def __init__(
        self, blocks: Callable[[], Iterable[NDArray]], weights=None,
        metric: str = "euclidean", missing: bool = False,
    ) -> None:  # fmt: skip
        self.blocks, self.weights, self.metric = blocks, weights, metric
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
            seen.add(block, missing)
        if seen is None or not seen.n_rows:
            raise ValueError("expected at least one block of samples, got none")
        self.range = seen
        check_length(weights, seen.n_rows)

    def _dense(self) -> Iterator[NDArray]:
        first = 0
        for block in self.blocks():
            block = unmasked(block)
            if block.ndim != 2:
                raise ValueError(f"expected blocks of shape (n, D), got shape {block.shape}")
            block = as_floats(block)
            yield directions(block, self.metric, first)
            first += len(block)

    def rows(self) -> Iterator[tuple[slice, NDArray, NDArray | None]]:
        """All blocks once more, which must be those of the first pass."""
        first = 0
        for block in self._dense():
            rows = slice(first, first + len(block))
            first = rows.stop
            if block.shape[1] != self.n_features or block.dtype != self.dtype:
                raise self._changed(f"{block.shape[1]} of {block.dtype} after row {rows.start}")
            if first > self.n_rows:
                raise self._changed("more rows")
            yield rows, block, None if self.weights is None else self.weights[rows]
        if first < self.n_rows:
            raise self._changed(f"{first} rows")

    def _changed(self, got: str) -> ValueError:
        return ValueError(
            f"expected blocks with the same {self.n_rows} rows of {self.n_features} features of "
            f"{self.dtype} in every pass, got {got}: begin each pass anew with the same data"
        )

    def only(self, rows, weights):
        return Blocks(lambda: masked(self._dense(), rows), weights)

    def take(self, rows: NDArray) -> NDArray:
        out = np.empty((len(rows), self.n_features), self.dtype)
        for span, block, _ in self.rows():
            mine = (rows >= span.start) & (rows < span.stop)
            out[mine] = block[rows[mine] - span.start]
        return out

    def epoch(self, codebook: NDArray) -> list:
        prepared = self.prepare(codebook)
        total = None
        for _, block, weights in self.rows():
            part = batch_sums(block, weights, prepared, self.grids, self.threads)
            total = part if total is None else add([total, part])
        assert total is not None
        return totals(total, prepared)

    def nearest(self, codebook: NDArray, n: int):
        prepared = self.prepare(codebook)
        nearest, error = np.empty((self.n_rows, n), np.int32), np.zeros(WORDS, np.int64)
        for rows, block, weights in self.rows():
            nearest[rows], e = nearest_nodes(block, weights, prepared, self.threads, n)
            error += e
        return nearest, error_of(error, prepared.frame.distance_scale)

    def pieces(self):
        for _, block, weights in self.rows():
            yield block, weights
