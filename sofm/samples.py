"""Samples in every form, behind one interface: what a map needs to know of them.

==============================  =======================================================
:class:`InMemory`               a dense array, memory maps included (never copied)
:class:`.blocks.Blocks`         dense blocks that come one after the other (out of core)
:class:`.sparse.SparseRows`     a CSR matrix
:class:`.missing.WithMissing`   dense blocks where NaN means "not observed"
:class:`.distributed.DaskRows`  a dask array
:class:`.metrics.WithoutMeans`  a dense array under a distance that has no mean
==============================  =======================================================

Because sums are exact (:mod:`.rounding`), the same rows give the same bits in any of the dense
forms.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from .batch import add, batch_sums, nearest_nodes, totals
from .distances import PIECE_BYTES, DistancesTo, power_of_two
from .kernels.prepared import NO_NODES, Frame, Preparation
from .rounding import error_of, grids
from .scan import Range, spread, unmasked
from .threads import ALONE, Threads

WORTH_MOVING = 0.4  # share of rows: each with another winner is added and taken off
COPY_BYTES = 16 << 20  # up to this size samples are copied at once, else block by block
SMALLEST = np.finfo(np.float64).smallest_subnormal
LOST = 1e-290  # sums of what is smaller may have no digits left


class Samples(ABC):
    """What all forms have in common.

    Attributes
    ----------
    dtype : numpy.dtype
        Of the samples and the codebook: float32 or float64.
    n_features : int
    range : Range
    weights : float64 array of shape (N,), or None
    idle : bool array and Samples, or None
        Which rows were left out because they have no weight, and they themselves.
    """

    dtype: np.dtype
    n_features: int
    range: Range
    weights: NDArray | None = None
    idle: tuple[NDArray[np.bool_], Samples] | None = None

    @property
    def n_rows(self) -> int:
        return self.range.n_rows

    @property
    def total_weight(self) -> float:
        return float(self.n_rows if self.weights is None else self.weights.sum())

    @cached_property
    def grids(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """:func:`.rounding.grids` of sums (F - 1, D) and of counts (F' - 1, 1)."""
        largest, least = self.range.largest, self.range.least.astype(np.float64)
        # Also where weights are small: samples alone must not be too large.
        plain = grids(largest, least, np.finfo(self.dtype).nmant + 1, self.n_rows)
        if self.weights is None:  # counts are integers: one fold
            return plain, np.empty((0, 1))
        weights = self.weights[self.weights > 0]
        heaviest, lightest = weights.max(keepdims=True), weights.min(keepdims=True)
        with np.errstate(over="ignore", under="ignore"):
            largest, least = largest * heaviest, np.maximum(least * lightest, SMALLEST)
        smallest = min(x for x in (largest.max(), heaviest[0]) if x > 0)
        if smallest < LOST:
            raise ValueError(
                f"expected weights, and their products with samples, of up to {LOST:.0e} at least, "
                f"got {smallest:.3g}, of which a float64 loses digits: scale X or the weights up"
            )
        return (
            grids(largest, least, 53, self.n_rows), grids(heaviest, lightest, 53, self.n_rows)
        )  # fmt: skip

    def some(self) -> tuple[NDArray, NDArray | None]:
        """Evenly spaced samples that stand for all, with their weights."""
        rows = spread(self.n_rows, self.n_features)
        return self.take(rows), None if self.weights is None else self.weights[rows]

    def for_training(self) -> Samples:
        """The rows that have a weight: the others take no part in anything but the labels.

        Raises
        ------
        ValueError
            Their sums can be larger than a float64.
        """
        some: Samples = self
        if self.weights is not None and not self.weights.all():
            idle = self.weights == 0
            some = self.only(~idle, self.weights[~idle])
            some.idle = idle, self.only(idle, None)
        assert some.grids is not None
        return some

    def labels(self, nearest: NDArray, codebook: NDArray) -> NDArray[np.int32]:
        """The winners of all rows, from the nearest nodes of those that have a weight."""
        if self.idle is None:
            return np.ascontiguousarray(nearest[:, 0])
        idle, rows = self.idle
        labels = np.empty(len(idle), np.int32)
        rows.begin(codebook, ALONE)
        labels[~idle], labels[idle] = nearest[:, 0], rows.nearest(codebook, 1)[0][:, 0]
        return labels

    @abstractmethod
    def only(self, rows: NDArray[np.bool_], weights: NDArray | None) -> Samples:
        """Those rows alone."""

    @abstractmethod
    def take(self, rows: NDArray) -> NDArray:
        """Samples of those (ascending or drawn) rows, dense."""

    def filled(self, X: NDArray) -> NDArray:
        """Rows with something in place of what is missing."""
        return X

    @abstractmethod
    def begin(self, codebook: NDArray, threads: Threads, some: NDArray | None = None) -> None:
        """Prepare for codebooks that come from this one; ``some`` saves taking them again."""

    @abstractmethod
    def nearest(self, codebook: NDArray, n: int) -> tuple[NDArray[np.int32], float]:
        """The ``n`` (1 or 2) nearest nodes (N, n), and the weighted sum of the distances."""

    @abstractmethod
    def pieces(self) -> Iterator[tuple[NDArray, NDArray | None]]:
        """All samples and their weights, dense, one piece in memory at a time."""

    def own_distances(self, codebook: NDArray, nodes: NDArray) -> NDArray[np.float64]:
        """Distances (N,) of all samples to one node each, ``nodes`` (N,)."""
        distances, first = np.empty(self.n_rows), 0
        reach = max(float(self.range.largest.max()), float(np.abs(codebook).max()))
        scale = np.ldexp(1.0, power_of_two(2 * reach))
        for X, _ in self.slices(self.n_features):
            rows = slice(first, first + len(X))
            apart = X * scale - codebook[nodes[rows]] * scale
            present = np.maximum((~np.isnan(apart)).sum(axis=1), 1)
            squares = np.nansum(apart * apart, axis=1) * (self.n_features / present)
            distances[rows] = np.sqrt(squares) / scale
            first = rows.stop
        return distances

    def slices(self, width: int) -> Iterator[tuple[NDArray, NDArray | None]]:
        """Pieces so short that ``width`` float64 numbers for each of their rows fit in memory."""
        step = max(1, PIECE_BYTES // (8 * max(width, self.n_features)))
        for X, weights in self.pieces():
            for first in range(0, len(X), step):
                rows = slice(first, first + step)
                yield X[rows], None if weights is None else weights[rows]

    def distances(self, codebook: NDArray) -> Iterator[tuple[NDArray, NDArray | None]]:
        """Distances to all nodes, (n, K) in float64 for ``n`` samples at a time, with weights."""
        distances_to = DistancesTo(codebook, self.range)
        for X, weights in self.slices(len(codebook)):
            yield distances_to(X), weights


class Averaged(Samples):
    """Forms of samples whose nodes move to means."""

    @abstractmethod
    def epoch(self, codebook: NDArray) -> list:
        """Sums, counts and the weighted sum of the distances to the winners (eq. 8)."""


class Dense(Averaged):
    """Forms of dense, finite samples."""

    one_array = False  # whether a pass is over one array

    def begin(self, codebook, threads, some=None) -> None:
        some = self.some()[0] if some is None else some
        self.threads = threads
        frame = self._frame(some, codebook)
        self.prepare = Preparation(frame, some, self.n_rows, len(codebook), self.one_array)

    def _frame(self, some: NDArray, codebook: NDArray) -> Frame:
        ends = np.array(
            [self.range.low, self.range.high, codebook.min(axis=0), codebook.max(axis=0)],
            np.float64,
        )  # fmt: skip
        small = -int(np.frexp(np.abs(ends).max())[1])  # what is to be added could overflow
        few = np.ldexp(some[:: -(-len(some) // 256)].astype(np.float64), small)
        centre = np.ldexp(few.mean(axis=0), -small).astype(some.dtype)
        apart = np.ldexp(ends, small) - np.ldexp(centre.astype(np.float64), small)
        # Equal rows lie as far apart as nodes that are rounded.
        reach = max(float(np.abs(apart).max()), 8.0 * np.finfo(some.dtype).eps)
        most = np.finfo(some.dtype).maxexp - 2  # of the scale: subnormal numbers stay below 1
        fitting = small - int(np.frexp(reach)[1])
        scale = some.dtype.type(np.ldexp(1.0, int(np.clip(fitting, -most, most))))
        few = np.ldexp(few, -small)
        few = (few - centre) * float(scale)
        return Frame(centre, scale, float(np.vdot(few, few)) / len(few))


class InMemory(Dense):
    """A dense, C-contiguous float32 or float64 array.

    Parameters
    ----------
    X : array of shape (N, D)
    weights : float64 array of shape (N,), or None
    """

    one_array = True

    def __init__(self, X: NDArray, weights: NDArray | None = None) -> None:
        self.X, self.weights = X, weights
        self.dtype, self.n_features = X.dtype, X.shape[1]
        self.range = Range.of(X)

    def only(self, rows, weights):
        if self.X.nbytes > COPY_BYTES:  # a memory map may not fit in memory
            from .blocks import Blocks

            return Blocks(lambda: masked(slices_of(self.X), rows), weights)
        return InMemory(self.X[rows], weights)

    def take(self, rows: NDArray) -> NDArray:
        return self.X[rows]

    def some(self):
        if self.n_rows == len(spread(self.n_rows, self.n_features)):
            return self.X, self.weights  # all of them
        return super().some()

    def begin(self, codebook, threads, some=None) -> None:
        super().begin(codebook, threads, some)
        self._forget()

    def _forget(self) -> None:
        """What is known of the epoch before: winners, sums and counts, and the share that moved."""
        self.winners, self.moved = NO_NODES, 1.0
        self.sums: list[NDArray] = []

    def epoch(self, codebook: NDArray) -> list:
        """Of the epoch before only rows with another winner, if these have become few."""
        prepared = self.prepare(codebook)
        nearest = np.empty((self.n_rows, 1), np.int32)
        before = self.winners if self.sums else NO_NODES
        parts = batch_sums(
            self.X, self.weights, prepared, self.grids, self.threads, nearest, before
        )
        if self.sums:
            parts[:2] = add([parts[:2], self.sums])
        if len(self.winners):
            self.moved = np.count_nonzero(nearest != self.winners) / self.n_rows
        self.winners, self.sums = nearest, parts[:2] if self.moved < WORTH_MOVING else []
        return totals(parts, prepared)

    def nearest(self, codebook: NDArray, n: int):
        self._forget()  # there are no more epochs
        prepared = self.prepare(codebook)
        nearest, error = nearest_nodes(self.X, self.weights, prepared, self.threads, n)
        return nearest, error_of(error, prepared.frame.distance_scale)

    def pieces(self):
        yield self.X, self.weights


def slices_of(X: NDArray) -> Iterator[NDArray]:
    """Rows of about ``COPY_BYTES`` in float64."""
    step = max(1, COPY_BYTES // (8 * X.shape[1]))
    return (X[first : first + step] for first in range(0, len(X), step))


def masked(blocks: Iterable[NDArray], rows: NDArray[np.bool_]) -> Iterator[NDArray]:
    """Blocks with those of their rows that a mask (N,) names."""
    first = 0
    for block in blocks:
        yield block[rows[first : first + len(block)]]
        first += len(block)


def as_floats(block) -> NDArray:
    """C-contiguous float32 or float64 (other types become float64)."""
    block = unmasked(block)
    kind = block.dtype if block.dtype in (np.float32, np.float64) else np.float64
    return np.ascontiguousarray(block, dtype=kind)


def directions(X: NDArray, metric: str, first_row: int = 0) -> NDArray:
    """Rows as the metric compares them: for cosine and correlation, of length 1.

    Raises
    ------
    ValueError
        Names a row that has no direction; ``first_row`` is the number of the first.
    """
    if metric == "correlation":
        return unit_rows(centred_rows(X, first_row), first_row)
    return unit_rows(X, first_row) if metric == "cosine" else X


def centred_rows(X: NDArray, first_row: int = 0) -> NDArray:
    """Rows less their mean, scaled: the cosine of two is Pearson's correlation.

    Raises
    ------
    ValueError
        Names a row that is constant; ``first_row`` is the number of the first.
    """
    constant = X.min(axis=1) == X.max(axis=1)
    if constant.any():
        row = first_row + int(np.argmax(constant))
        raise ValueError(
            f"metric='correlation': row {row} of X is constant and correlates with nothing: remove "
            "the row"
        )
    with np.errstate(invalid="ignore"):  # infinity: NaN, which is refused with its row
        X = X / np.abs(X).max(axis=1, keepdims=True)
        return X - X.mean(axis=1, keepdims=True, dtype=np.float64).astype(X.dtype)


def unit_rows(X: NDArray, first_row: int = 0) -> NDArray:
    """Rows scaled to length 1, for the cosine metric.

    Raises
    ------
    ValueError
        Names a row that is zero; ``first_row`` is the number of the first.
    """
    with np.errstate(over="ignore", under="ignore"):
        norms = np.linalg.norm(X, axis=1)
    limits = np.finfo(X.dtype)
    least = np.sqrt(limits.tiny) / limits.eps
    extreme = np.flatnonzero(~((norms > least) & (norms < np.inf)))  # squares have lost digits
    if len(extreme):
        largest = np.abs(X[extreme]).max(axis=1)
        if not largest.all():
            raise no_direction(first_row + int(extreme[np.argmin(largest != 0)]))
        with np.errstate(invalid="ignore"):  # infinity: NaN, which is refused with its row
            rows = X[extreme] / largest[:, None]
        X = X.copy()
        X[extreme], norms[extreme] = rows, np.linalg.norm(rows, axis=1)
    return X / norms[:, None]


def no_direction(row: int) -> ValueError:
    return ValueError(
        f"metric='cosine': row {row} of X is all zeros and has no direction: remove the row"
    )


def check_length(weights: NDArray | None, n_rows: int) -> None:
    if weights is not None and weights.shape != (n_rows,):
        raise ValueError(
            f"sample_weight: expected one weight for each of {n_rows} samples, got "
            f"shape {weights.shape}"
        )
