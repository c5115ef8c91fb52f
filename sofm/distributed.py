"""Epochs over a dask array, on one machine or on a cluster; labels and distances as lazy arrays.

An epoch is a map (sums, counts and the error of every block of rows) and a reduction.  Blocks stay
where they are; the codebook travels.  A block that is lost with its worker is computed again, and
since sums are exact (:mod:`.rounding`) the outcome has the same bits as a local fit.
"""

from __future__ import annotations

from copy import copy

import numpy as np
from numpy.typing import NDArray

from .batch import add, batch_sums, nearest_nodes, totals
from .opening import check_n_features
from .rounding import error_of
from .samples import Dense, as_floats, check_length, directions
from .scan import Range
from .threads import ALONE


def block_of(block, first_row: int, metric: str) -> NDArray:
    """A block's rows as floats, as the metric compares them."""
    return directions(as_floats(block), metric, first_row)


def block_range(block, first_row: int) -> Range:
    """Range of a block that begins at ``first_row`` of the whole."""
    seen = Range.empty(block.shape[1], block.dtype)
    seen.n_rows = first_row
    seen.add(block)
    return seen


def block_rows(block, rows: NDArray) -> NDArray:
    return block[rows]


def block_epoch(block, weights, prepared, grids):
    """Sums, counts and error of one block, in one thread of a worker."""
    return batch_sums(block, weights, prepared, grids, ALONE)


def block_nearest(block, weights, prepared, n: int):
    return nearest_nodes(block, weights, prepared, ALONE, n)


def check_array(X) -> None:
    """Refuse what is of dask but no array of shape (N, D)."""
    if not hasattr(X, "chunks"):
        raise ValueError(
            f"expected a dask array, got a dask {type(X).__name__}: pass an array, which of a "
            "data frame is .to_dask_array(lengths=True)"
        )
    if X.ndim != 2:
        raise ValueError(f"expected a dask array of shape (N, D), got {X.ndim} dimensions")


def _ready(som, X):
    """A copy of the map that later fits do not change, and ``X`` in blocks of whole rows."""
    check_array(X)
    check_n_features(som, X.shape[1], reset=False)
    return copy(som).set_params(n_jobs=1), X.rechunk({1: -1})


def block_answer(block, som, method: str, none: NDArray) -> NDArray:
    """What a map answers for a block; ``none`` for one without rows."""
    return getattr(som, method)(block) if len(block) else none


def lazy_imputed(som, X):
    """:meth:`.SOFM.impute` of a dask array, as a lazy dask array."""
    som, X = _ready(som, X)
    none = np.empty((0, X.shape[1]), np.float32 if X.dtype == np.float32 else np.float64)
    return X.map_blocks(block_answer, som, "impute", none, dtype=none.dtype, meta=none)


def lazy_labels(som, X):
    """:meth:`.SOFM.predict` of a dask array, as a lazy dask array."""
    som, X = _ready(som, X)
    none = np.empty(0, np.int32)
    return X.map_blocks(
        block_answer, som, "predict", none, drop_axis=1, dtype=none.dtype, meta=none
    )


def lazy_distances(som, X):
    """:meth:`.SOFM.transform` of a dask array, as a lazy dask array."""
    som, X = _ready(som, X)
    K, dtype = len(som.codebook_), np.float32 if X.dtype == np.float32 else np.float64
    none = np.empty((0, K), dtype)
    return X.map_blocks(
        block_answer, som, "transform", none, chunks=(X.chunks[0], (K,)), dtype=dtype, meta=none
    )


class DaskRows(Dense):
    """A dask array of shape (N, D), in blocks of rows.

    Parameters
    ----------
    X : dask.array.Array
    weights : float64 array of shape (N,), or None
    metric : str
        See :func:`.samples.directions`.
    """

    def __init__(self, X, weights: NDArray | None = None, metric: str = "euclidean") -> None:
        import dask

        check_array(X)
        self._dask = dask
        self.weights = weights
        self.n_features = int(X.shape[1])
        if np.isnan(X.chunks[0]).any():
            X.compute_chunk_sizes()
        self.edges = [0, *np.cumsum(X.chunks[0]).tolist()]
        delayed = X.rechunk({1: -1}).to_delayed().ravel()
        self.blocks = [
            dask.delayed(block_of)(b, i, metric) for b, i in zip(delayed, self.edges, strict=False)
        ]
        task = dask.delayed(block_range)
        ranges = self._compute([task(b, i) for b, i in zip(self.blocks, self.edges, strict=False)])
        self.dtype = ranges[0].low.dtype
        self._merge(ranges)
        check_length(weights, self.n_rows)

    def _merge(self, ranges: list[Range]) -> None:
        self.range = Range.empty(self.n_features, self.dtype)
        for seen in ranges:
            self.range.merge(seen)

    def only(self, rows, weights):
        part = copy(self)
        part.__dict__.pop("grids", None)
        some = [np.flatnonzero(mine) for mine in np.split(rows, self.edges[1:-1])]
        part.edges, part.weights = [0, *np.cumsum([len(mine) for mine in some]).tolist()], weights
        pairs = zip(self.blocks, some, strict=True)
        part.blocks = [self._dask.delayed(block_rows)(block, mine) for block, mine in pairs]
        task = self._dask.delayed(block_range)
        starts = zip(part.blocks, part.edges, strict=False)
        part._merge(self._compute([task(block, first) for block, first in starts]))
        return part

    def _compute(self, tasks: list) -> list:
        return list(self._dask.compute(*tasks))

    def _weights(self) -> list:
        """The weights of every block."""
        if self.weights is None:
            return [None] * len(self.blocks)
        return np.split(self.weights, self.edges[1:-1])

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

    def epoch(self, codebook: NDArray) -> list:
        task, prepared = self._dask.delayed(block_epoch), self.prepare(codebook)
        ready, grids = self._dask.delayed(prepared), self._dask.delayed(self.grids)
        pairs = zip(self.blocks, self._weights(), strict=True)
        return totals(add(self._compute([task(b, m, ready, grids) for b, m in pairs])), prepared)

    def nearest(self, codebook: NDArray, n: int):
        task, prepared = self._dask.delayed(block_nearest), self.prepare(codebook)
        ready = self._dask.delayed(prepared)
        pairs = zip(self.blocks, self._weights(), strict=True)
        nearest, errors = zip(*self._compute([task(b, m, ready, n) for b, m in pairs]), strict=True)
        return np.concatenate(nearest), error_of(sum(errors), prepared.frame.distance_scale)

    def pieces(self):
        for block, weights in zip(self.blocks, self._weights(), strict=True):
            yield self._compute([block])[0], weights
