"""Class-representative activations (eq. 1).

    Q[c] = (1 / N_c) * sum of the tap over the samples of class c

``Q`` has shape ``(C, o, h, w)``: classes, channels of the group in its own order, and the extent
of the tap.  How a network's are summed while its batches stream by: ``class_sums.py``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..arrays import NumpyArrays, two_axes


@dataclass
class ClassMeans:
    """Sums of activations for every class.

    Attributes
    ----------
    sums : ndarray of float64, shape (C, o, h, w)
        Sum of the tap over the samples of each class.
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
    """

    sums: np.ndarray
    counts: np.ndarray
    classes: list[str | int]
    magnitudes: np.ndarray | None = None
    samples: int = 0
    starts: tuple[int, ...] = ()

    @classmethod
    def of(
        cls,
        activations: np.ndarray,
        labels: np.ndarray,
        classes: Sequence[str | int] | None = None,
    ) -> ClassMeans:
        """Of activations that are at hand.

        Parameters
        ----------
        activations : ndarray, shape (n, o), (n, o, l), (n, o, h, w) or more spatial axes
            The tap, its channels in the order of the group, in any floating-point type.
        labels : ndarray of int, shape (n,), or of float, shape (n, C)
            The class of each sample as an index, or the weight of each class.
        classes : sequence, optional
            Names of the classes; by default as many as the labels that turn up.

        Raises
        ------
        ValueError
            Where shapes do not pair, or a label names no class.

        Examples
        --------
        >>> activations = np.array([[1.0, 0.0], [3.0, 2.0], [5.0, 5.0]])
        >>> means = ClassMeans.of(activations, np.array([0, 0, 1]), ["cat", "dog"])
        >>> means.Q[:, :, 0, 0].tolist()
        [[2.0, 1.0], [5.0, 5.0]]
        """
        x, labels = np.asarray(activations), np.asarray(labels)
        if x.ndim < 2:
            raise ValueError(
                f"expected activations of shape (samples, channels, ...), got {x.shape}"
            )
        x = x.reshape(*x.shape[:2], *two_axes(x.shape[2:]))
        names = list(classes or ())
        counts = class_counts(labels, len(x), len(names), math.inf if classes is None else 0)
        C, arrays = len(counts), NumpyArrays()
        sums = arrays.sums_by_class(None, x, labels, C).reshape(C, *x.shape[1:])
        return cls(sums, counts, names or list(range(C)), arrays.magnitudes(x), len(x))

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
        return (self.sums / self.counts[:, None, None, None]).astype(np.float32)

    @property
    def positions(self) -> int:
        """Positions of a slice, ``h * w``."""
        return math.prod(self.sums.shape[2:])

    @property
    def activity(self) -> np.ndarray | None:
        """Mean absolute activation of each channel over all samples, shape (o,)."""
        return None if self.magnitudes is None else self.magnitudes / max(self.samples, 1)


def joined(parts: Sequence[ClassMeans]) -> ClassMeans:
    """The means of one group in several tensors, of the same samples, as one.

    ``Q`` has the positions of all.  A channel is as active as in the tensor in which it is most
    active beside the others, in units of the mean over tensors.

    >>> parts = [ClassMeans.of(np.array([row]), np.array([0])) for row in ([8.0, 0.0], [0.0, 2.0])]
    >>> both = joined(parts)
    >>> both.Q[0, :, 0].tolist(), both.starts, both.activity.tolist()
    ([[8.0, 0.0], [0.0, 2.0]], (1,), [5.0, 5.0])
    """
    if len(parts) == 1:
        return parts[0]
    sums, magnitudes = [], []
    for part in parts:
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


def class_counts(labels: np.ndarray, n: int, classes: int, more: float) -> np.ndarray:
    """Samples of every class, or the sums of their weights, float64.

    Parameters
    ----------
    labels : ndarray of int, shape (n,), or of float, shape (n, C)
    n : int
        Samples.
    classes : int
        How many are known; 0 where none is.
    more : int or infinity
        How many further classes there is room for, which higher labels stand for.

    Raises
    ------
    ValueError
        The labels do not pair with the samples or the classes, or a weight is negative.
    """
    if labels.ndim == 2 and len(labels) == n:
        C = classes or labels.shape[1]
        if labels.shape[1] != C:
            raise ValueError(f"expected class weights of shape ({n}, {C}), got {labels.shape}")
        if not (np.isfinite(labels).all() and (labels >= 0).all()):
            raise ValueError(
                "expected class weights of at least 0, got "
                f"{np.min(labels):g} to {np.max(labels):g}"
            )
        return labels.sum(0, dtype=np.float64)
    if labels.shape != (n,) or labels.dtype.kind not in "iu":
        raise ValueError(
            f"expected integer labels of shape ({n},) or class weights of shape ({n}, C), got "
            f"{labels.dtype} of shape {labels.shape}: number the classes from 0 on, and of targets "
            "that are no classes leave them out"
        )
    low, high = (int(labels.min()), int(labels.max())) if n else (0, -1)
    if low < 0 or high >= classes + more:
        last = "the number of classes" if more else classes - 1
        room = f", and max_bytes has room for {classes + more:,} classes: number them from 0 on"
        raise ValueError(
            f"expected labels from 0 to {last}, got "
            f"{low if low < 0 else f'{high}{room * (more > 0)}'}"
        )
    return np.bincount(labels, minlength=max(classes, high + 1)).astype(np.float64)
