"""Epochs over a dask array, on one machine or on a cluster.

An epoch is a map (sums, counts and the error of every block of rows) and a reduction.  Blocks stay
where they are; the codebook travels.  A block that is lost with its worker is computed again, and
since sums are exact (:mod:`.search`) the outcome has the same bits as a local fit.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .batch import Sweep
from .samples import Samples, frame
from .scan import Range


def _dense(block) -> NDArray:
    block = np.asarray(block)
    kind = block.dtype if block.dtype in (np.float32, np.float64) else np.float64
    return np.ascontiguousarray(block, dtype=kind)


def block_range(block, first_row: int) -> Range:
    """Range of a block that begins at ``first_row`` of the whole."""
    block = _dense(block)
    seen = Range.empty(block.shape[1], block.dtype)
    seen.n_rows = first_row
    seen.add(block)
    return seen


def block_rows(block, rows: NDArray) -> NDArray:
    return _dense(block)[rows]


def block_epoch(block, weights, frame_, grids, directions, codebook):
    """Sums, counts and error of one block, in one thread of a worker."""
    centre, reach = frame_
    sweep = Sweep(_dense(block), weights, centre, reach, grids, directions, 1, None)
    return sweep.epoch(codebook)


def block_two_nearest(block, frame_, grids, codebook):
    centre, reach = frame_
    sweep = Sweep(_dense(block), None, centre, reach, grids, None, 1, None)
    return sweep.two_nearest(codebook)


class DaskRows(Samples):
    """A dask array of shape (N, D), in blocks of rows.

    Parameters
    ----------
    X : dask.array.Array
    weights : float64 array of shape (N,), or None
    """

    def __init__(self, X, weights: NDArray | None = None) -> None:
        import dask

        if X.ndim != 2:
            raise ValueError(f"expected a dask array of shape (N, D), got {X.ndim} dimensions")
        self._dask = dask
        self.weights = weights
        self.n_features = int(X.shape[1])
        if np.isnan(X.chunks[0]).any():
            X.compute_chunk_sizes()
        self.edges = [0, *np.cumsum(X.chunks[0]).tolist()]
        self.blocks = list(X.rechunk({1: -1}).to_delayed().ravel())
        task = dask.delayed(block_range)
        ranges = self._compute([task(b, i) for b, i in zip(self.blocks, self.edges, strict=False)])
        self.dtype = ranges[0].low.dtype
        self.range = Range.empty(self.n_features, self.dtype)
        for seen in ranges:
            self.range.merge(seen)
        if weights is not None and len(weights) != self.n_rows:
            raise ValueError(
                f"expected one weight for each of {self.n_rows} samples, got {len(weights)}"
            )

    def _compute(self, tasks: list) -> list:
        return list(self._dask.compute(*tasks))

    def take(self, rows: NDArray) -> NDArray:
        out = np.empty((len(rows), self.n_features), self.dtype)
        owner = np.searchsorted(self.edges, rows, side="right") - 1
        wanted = np.unique(owner)
        parts = self._compute(
            [
                self._dask.delayed(block_rows)(self.blocks[b], rows[owner == b] - self.edges[b])
                for b in wanted
            ]
        )
        for b, part in zip(wanted, parts, strict=True):
            out[owner == b] = part
        return out

    def begin(self, codebook, directions, threads, pool, some=None) -> None:
        self.frame = frame(self.range, self.some()[0] if some is None else some, codebook)
        self.directions = directions

    def epoch(self, codebook: NDArray):
        delayed = self._dask.delayed
        shared = delayed(codebook), delayed(self.directions)
        tasks = []
        for block, first, last in zip(self.blocks, self.edges, self.edges[1:], strict=False):
            weights = None if self.weights is None else self.weights[first:last]
            tasks.append(
                delayed(block_epoch)(
                    block, weights, self.frame, self.grids(), shared[1], shared[0]
                )
            )
        return [sum(part) for part in zip(*self._compute(tasks), strict=True)]

    def two_nearest(self, codebook: NDArray):
        shared = self._dask.delayed(codebook)
        task = self._dask.delayed(block_two_nearest)
        parts = self._compute([task(b, self.frame, self.grids(), shared) for b in self.blocks])
        return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])
