"""What the procedure computes on activations, for any kind of array.

Activations stay where they are made (on a GPU, in a framework's own type); only sums reach numpy.
Sums are float64 and added in a fixed order, so that one set of samples gives one plan.
:class:`NumpyArrays` is the plain version; an adapter whose activations are no numpy arrays brings
its own, and the tests hold all of them to the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar

import numpy as np

from .find.channels import Tap, Unfit
from .find.nodes import Window

A = TypeVar("A")
Extent = tuple[int, int]

MOST_POSITIONS = 4096  # of one sample that enter a Gram matrix: 64 x 64


class Arrays(Protocol, Generic[A]):
    """Sums over activations."""

    def channels_first(self, x: A, tap: Tap, n: int) -> A:
        """The group's channels of a tap of ``n`` samples, as (n, o, h, w).

        Several places of a channel and several rows of a sample become positions.
        """
        ...

    def pooled(self, x: A, extent: Extent) -> A:
        """Means over the cells of a grid of ``extent``; (n, o, h, w) to (n, o, *extent)."""
        ...

    def magnitudes(self, x: A) -> np.ndarray:
        """Sum over samples of each channel's mean absolute activation; (n, o, h, w) to (o,)."""
        ...

    def sums_by_class(self, sums: A | None, x: A, labels: np.ndarray, classes: int) -> A:
        """Sums of shape (classes, the rest flattened) with (n, ...) activations added.

        Sums of fewer classes grow.  ``labels`` are class indices of shape (n,), or class weights
        of shape (n, classes).
        """
        ...

    def moments(self, x: A, axis: int) -> tuple[np.ndarray, np.ndarray, int]:
        """Sum and sum of squares of every channel of an axis, and how many values each has."""
        ...

    def positions(self, x: A) -> A:
        """A copy of (n, o, h, w) as (n, o, p), at most ``MOST_POSITIONS`` evenly spaced."""
        ...

    def picked(self, x: A, places: np.ndarray) -> A:
        """A copy of (n, o, h, w) at some of the ``h w`` places, as (n, o, p)."""
        ...

    def patches(self, x: A, windows: Sequence[Window], kernel: Sequence[int], at: np.ndarray) -> A:
        """What a kernel reads of (n, c, h, w) at the places ``at`` (2, p) of what it makes.

        As (n, c * kernel + 1, p), the offsets of one channel side by side, and ones at the end.
        """
        ...

    def gram(self, x: A, y: A, samples: np.ndarray) -> np.ndarray:
        """``sum x y^T`` over the positions of some samples; two (n, o, p) to (o, o)."""
        ...

    def to_numpy(self, x: A) -> np.ndarray:
        """The values on the host."""
        ...


def two_axes(spatial: tuple[int, ...]) -> Extent:
    """``(h, w)`` of spatial axes of any number.

    >>> two_axes((2, 3, 4)), two_axes(())
    ((6, 4), (1, 1))
    """
    return (math.prod(spatial[:-1]), spatial[-1]) if spatial else (1, 1)


def rows_of_a_sample(tap: Tap, shape: tuple[int, ...], n: int) -> int:
    """How many rows of a tap's axis of samples belong to each of ``n`` (windows of attention).

    Raises
    ------
    Unfit
        The axis does not hold ``n`` samples.
    """
    if n == 0 or not shape or shape[tap.samples] % n:
        raise Unfit(
            f"the tensor {tap.tensor!r} of shape {tuple(shape)}, which holds its channels, has no "
            f"axis of {n} samples"
        )
    return shape[tap.samples] // n


def evenly(count: int) -> np.ndarray | None:
    """The positions of a sample that enter a Gram matrix; None for all of them."""
    if count <= MOST_POSITIONS:
        return None
    return np.linspace(0, count - 1, MOST_POSITIONS).round().astype(np.int64)


class NumpyArrays:
    """:class:`Arrays` of numpy."""

    def channels_first(self, x: np.ndarray, tap: Tap, n: int) -> np.ndarray:
        rows = rows_of_a_sample(tap, x.shape, n)
        x = np.moveaxis(x, (tap.samples, tap.axis), (0, 1)).take(tap.index, axis=1)
        if rows > 1:
            x = np.moveaxis(x.reshape(n, rows, *x.shape[1:]), 1, 2)
        return x.reshape(*x.shape[:2], *two_axes(x.shape[2:]))

    def pooled(self, x: np.ndarray, extent: Extent) -> np.ndarray:
        for axis, cells in zip((2, 3), extent, strict=True):
            size = x.shape[axis]
            if cells != size:
                x = np.moveaxis(np.moveaxis(x, axis, -1) @ _cells(size, cells, x.dtype), -1, axis)
        return x

    def magnitudes(self, x: np.ndarray) -> np.ndarray:
        return np.abs(x).mean(axis=(2, 3), dtype=_mean_type(x)).sum(axis=0, dtype=np.float64)

    def sums_by_class(
        self, sums: np.ndarray | None, x: np.ndarray, labels: np.ndarray, classes: int
    ) -> np.ndarray:
        flat = x.reshape(len(x), -1)
        if sums is None:
            sums = np.zeros((classes, flat.shape[1]))
        elif len(sums) < classes:
            sums = np.pad(sums, ((0, classes - len(sums)), (0, 0)))
        if labels.ndim == 2:
            sums += labels.T.astype(np.float64) @ flat
        else:
            for row, label in zip(flat, labels.tolist(), strict=True):
                sums[label] += row
        return sums

    def moments(self, x: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray, int]:
        x = np.moveaxis(x, axis, 0).reshape(x.shape[axis], -1).astype(np.float64)
        return x.sum(1), np.einsum("cn,cn->c", x, x), x.shape[1]

    def positions(self, x: np.ndarray) -> np.ndarray:
        x = x.reshape(*x.shape[:2], -1)
        chosen = evenly(x.shape[2])
        return np.array(x) if chosen is None else x.take(chosen, axis=2)

    def picked(self, x: np.ndarray, places: np.ndarray) -> np.ndarray:
        return x.reshape(*x.shape[:2], -1).take(places, axis=2)

    def patches(
        self, x: np.ndarray, windows: Sequence[Window], kernel: Sequence[int], at: np.ndarray
    ) -> np.ndarray:
        x = np.pad(x, ((0, 0), (0, 0), *((w.before, w.after) for w in windows)))
        spans = tuple((k - 1) * w.dilation + 1 for k, w in zip(kernel, windows, strict=True))
        seen = np.lib.stride_tricks.sliding_window_view(x, spans, (2, 3))
        (s, d), (t, e) = ((w.stride, w.dilation) for w in windows)
        found = np.moveaxis(seen[:, :, ::s, ::t, ::d, ::e][:, :, at[0], at[1]], 2, -1)
        found = found.reshape(len(x), -1, at.shape[1])
        return np.concatenate([found, np.ones_like(found[:, :1])], axis=1)

    def gram(self, x: np.ndarray, y: np.ndarray, samples: np.ndarray) -> np.ndarray:
        a = x[samples].swapaxes(0, 1).reshape(x.shape[1], -1).astype(np.float64)
        if y is x:
            return a @ a.T
        return a @ y[samples].swapaxes(0, 1).reshape(y.shape[1], -1).astype(np.float64).T

    def to_numpy(self, x: np.ndarray) -> np.ndarray:
        return x


def _mean_type(x: np.ndarray) -> type:
    return np.float64 if x.dtype == np.float64 else np.float32


def _cells(size: int, cells: int, dtype: np.dtype) -> np.ndarray:
    """Means over ``cells`` cells of an axis, as a matrix (size, cells).

    Cell ``i`` reaches from ``floor(i size / cells)`` to ``ceil((i + 1) size / cells)``, as in
    adaptive average pooling: cells overlap where the extents do not divide.
    """
    place = np.arange(size)[:, None]
    i = np.arange(cells)
    start, stop = i * size // cells, -(-(i + 1) * size // cells)
    return ((place >= start) & (place < stop)).astype(dtype) / (stop - start).astype(dtype)
