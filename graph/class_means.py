"""Class-representative activations (eq. 1), summed while the batches stream by.

    Q[c] = (1 / N_c) * sum of the tap over the samples of class c

``Q`` has shape ``(C, o, h, w)``: classes, channels of the group in its own order, and the extent
of the tap.  Activations are never stored: a batch adds its sums per class, made in float32 (in
float64 for float64 activations) and accumulated in float64.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass
class ClassMeans:
    """Streamed sums of activations for every class.

    Attributes
    ----------
    sums : ndarray of float64, shape (C, o, h, w), or None
        Sum of the tap over the samples of each class; None before the first batch.
    counts : ndarray of float64, shape (C,)
        Samples of each class; with class weights, the sum of the weights.
    classes : list of str or int
        Names of the classes; a label is an index into this list.
    magnitudes : ndarray of float64, shape (o,), or None
        Sum of the mean absolute activation of each channel over the samples.
    samples : int
        Number of samples seen.
    starts : tuple of int
        Where several tensors describe the group, one after the other along the last axis: where
        those behind the first begin.

    Examples
    --------
    >>> means = ClassMeans.empty(["cat", "dog"])
    >>> means.update(np.array([[1.0, 0.0], [3.0, 2.0], [5.0, 5.0]]), np.array([0, 0, 1]))
    >>> means.Q[:, :, 0, 0].tolist()
    [[2.0, 1.0], [5.0, 5.0]]
    """

    sums: np.ndarray | None
    counts: np.ndarray
    classes: list[str | int]
    magnitudes: np.ndarray | None = None
    samples: int = 0
    starts: tuple[int, ...] = ()

    @classmethod
    def empty(cls, classes: Sequence[str | int]) -> ClassMeans:
        """No samples yet of the named classes."""
        if len(classes) == 0:
            raise ValueError("expected at least one class, got none")
        return cls(None, np.zeros(len(classes)), list(classes))

    def update(self, activations: np.ndarray, labels: np.ndarray) -> None:
        """Add one batch.

        Parameters
        ----------
        activations : ndarray, shape (n, o), (n, o, l), (n, o, h, w) or more spatial axes
            The tap, its channels in the order of the group, in any floating-point type.
        labels : ndarray of int, shape (n,), or of float, shape (n, C)
            The class of each sample as an index, or the weight of each class.

        Raises
        ------
        ValueError
            Where shapes do not pair, differ from earlier batches, or a label names no class.
        """
        activations, labels = np.asarray(activations), np.asarray(labels)
        C = len(self.classes)
        if activations.ndim < 2:
            raise ValueError(
                f"expected activations of shape (samples, channels, ...), got {activations.shape}"
            )
        n, o = activations.shape[:2]
        h, w = _extent(activations.shape[2:])
        if labels.shape not in ((n,), (n, C)):
            raise ValueError(
                f"expected one label for each of the {n} samples, as indices of shape ({n},) or "
                f"class weights of shape ({n}, {C}), got shape {labels.shape}"
            )
        if self.sums is not None and self.sums.shape[1:] != (o, h, w):
            raise ValueError(
                f"expected activations of {self.sums.shape[1:]} (channels, height, width) as in "
                f"the batches before, got {(o, h, w)}; feed inputs of one size"
            )
        if n == 0:
            return
        # Few classes of many occur in one batch: only their rows are summed.
        if labels.ndim == 1:
            present, one_hot = _one_hot(labels, C)
        else:
            present = np.flatnonzero(np.any(labels != 0, axis=0))
            one_hot = np.ascontiguousarray(labels[:, present].T)
        dtype = np.float64 if activations.dtype == np.float64 else np.float32
        values = activations.reshape(n, -1).astype(dtype, copy=False)
        sums = np.matmul(one_hot.astype(dtype), values).astype(np.float64)
        if self.sums is None:
            self.sums = np.zeros((C, o, h, w))
        if self.magnitudes is None:
            self.magnitudes = np.zeros(o)
        self.sums[present] += sums.reshape(len(present), o, h, w)
        self.counts[present] += one_hot.sum(axis=1, dtype=np.float64)
        absolute = np.abs(values).reshape(n, o, -1)
        self.magnitudes += absolute.mean(axis=2).sum(axis=0, dtype=np.float64)
        self.samples += n

    def grow(self, classes: int) -> None:
        """Make room for classes numbered up to ``classes``, a higher label having turned up."""
        missing = classes - len(self.classes)
        if missing > 0:
            self.classes = [*self.classes, *range(len(self.classes), classes)]
            self.counts = np.pad(self.counts, (0, missing))
            if self.sums is not None:
                self.sums = np.pad(self.sums, ((0, missing), (0, 0), (0, 0), (0, 0)))

    def merge(self, other: ClassMeans) -> ClassMeans:
        """Add the sums of ``other`` (of the same classes) to these, and return these."""
        if self.classes != other.classes:
            raise ValueError(
                f"expected the same classes, got {self.classes!r} and {other.classes!r}"
            )
        if other.sums is None or other.magnitudes is None:
            return self
        if self.sums is None or self.magnitudes is None:
            self.sums, self.magnitudes = other.sums.copy(), other.magnitudes.copy()
        else:
            if self.sums.shape != other.sums.shape:
                raise ValueError(
                    f"expected sums of shape {self.sums.shape}, got {other.sums.shape}; "
                    "collect both from inputs of one size"
                )
            self.sums += other.sums
            self.magnitudes += other.magnitudes
        self.counts = self.counts + other.counts
        self.samples += other.samples
        return self

    def check(self) -> None:
        """Raise ValueError for a class without samples or a channel that is not finite."""
        empty = [self.classes[c] for c in np.flatnonzero(~(self.counts > 0))]
        if empty:
            names = ", ".join(repr(name) for name in empty[:5])
            more = f" and {len(empty) - 5} more" if len(empty) > 5 else ""
            raise ValueError(
                f"expected samples of every class, got none of {names}{more}; "
                "give data for these classes or leave them out"
            )
        if self.sums is None:
            raise ValueError("expected activations, got none; run at least one batch")
        # A sum of finite sums is finite: no mask of the size of the sums is needed.
        per_channel = np.abs(self.sums).sum(axis=(0, 2, 3))
        broken = np.flatnonzero(~np.isfinite(per_channel))
        if broken.size:
            raise ValueError(
                f"expected finite activations, got NaN or infinity in channel {broken[0]} "
                f"({broken.size} of {per_channel.size} channels); check the weights and the data"
            )

    @property
    def Q(self) -> np.ndarray:
        """Class-representative activations (eq. 1), float32, shape (C, o, h, w)."""
        self.check()
        assert self.sums is not None
        return (self.sums / self.counts[:, None, None, None]).astype(np.float32)

    @property
    def positions(self) -> int:
        """Positions of a slice, ``h * w``."""
        return 0 if self.sums is None else math.prod(self.sums.shape[2:])

    @property
    def activity(self) -> np.ndarray | None:
        """Mean absolute activation of each channel over all samples, shape (o,)."""
        return None if self.magnitudes is None else self.magnitudes / max(self.samples, 1)


def joined(parts: Sequence[ClassMeans]) -> ClassMeans:
    """The means of one group in several tensors, of the same samples, as one.

    ``Q`` has the positions of all.  A channel is as active as in the tensor in which it is most
    active beside the others, in units of the mean over tensors.

    >>> first, last = ClassMeans.empty(["cat"]), ClassMeans.empty(["cat"])
    >>> first.update(np.array([[8.0, 0.0]]), np.array([0]))
    >>> last.update(np.array([[0.0, 2.0]]), np.array([0]))
    >>> both = joined([first, last])
    >>> both.Q[0, :, 0].tolist(), both.starts, both.activity.tolist()
    ([[8.0, 0.0], [0.0, 2.0]], (1,), [5.0, 5.0])
    """
    if len(parts) == 1:
        return parts[0]
    sums, magnitudes = [], []
    for part in parts:
        assert part.sums is not None
        assert part.magnitudes is not None
        sums.append(part.sums.reshape(*part.sums.shape[:2], 1, -1))
        magnitudes.append(part.magnitudes)
    sizes = [array.shape[-1] for array in sums]
    totals = np.array([values.mean() for values in magnitudes])
    relative = np.divide(
        magnitudes, totals[:, None], out=np.zeros_like(magnitudes), where=totals[:, None] > 0
    )
    first = parts[0]
    return ClassMeans(
        np.concatenate(sums, axis=-1),
        first.counts,
        first.classes,
        relative.max(axis=0) * totals.mean(),
        first.samples,
        tuple(np.cumsum(sizes)[:-1].tolist()),
    )


def extent_within(
    h: int, w: int, position_bytes: int, budget: float, group: str
) -> tuple[int, int]:
    """The largest extent of about the shape of ``(h, w)`` whose sums fit in ``budget`` bytes.

    Raises
    ------
    ValueError
        Not even one position fits.

    Examples
    --------
    >>> extent_within(56, 56, position_bytes=1000, budget=100_000, group="conv")
    (10, 10)
    """
    if position_bytes > budget:
        raise ValueError(
            f"the class means of group {group!r} need {position_bytes:,} bytes at 1 x 1 positions "
            f"and {budget:,.0f} are allowed; collect fewer groups at a time or raise max_bytes"
        )
    if position_bytes * h * w > budget:
        shrink = math.sqrt(position_bytes * h * w / budget)
        h, w = max(1, int(h / shrink)), max(1, int(w / shrink))
        while position_bytes * h * w > budget:
            h, w = (h - 1, w) if h > w else (h, w - 1)
    return h, w


def _extent(spatial: tuple[int, ...]) -> tuple[int, int]:
    """``(h, w)`` of spatial axes of any number."""
    if not spatial:
        return 1, 1
    return int(np.prod(spatial[:-1], dtype=np.int64)), int(spatial[-1])


def _one_hot(labels: np.ndarray, C: int) -> tuple[np.ndarray, np.ndarray]:
    """Classes that occur, and their indicator rows of shape (classes present, n)."""
    if labels.dtype.kind not in "iu":
        raise ValueError(f"expected integer labels, got {labels.dtype}")
    wrong = labels[(labels < 0) | (labels >= C)]
    if wrong.size:
        raise ValueError(f"expected labels from 0 to {C - 1}, got {int(wrong[0])}")
    present = np.unique(labels)
    return present, labels[None, :] == present[:, None]
