"""Calibration data: any iterable of batches, read several times, the same at every time.

All figures of an event are compared with one another: class means, statistics, what consumers
read before and after.  Data that differ from pass to pass (random numbers of their own, streams of
shards, decoding on another device) would be compared with other data, and the consumers refitted
to nothing.
"""

from __future__ import annotations

import copy
import itertools
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np

from .arguments import check_kind

if TYPE_CHECKING:
    from typing_extensions import Self

Unpack = Callable[[Any], tuple[Any, Any]]

KEPT_BYTES = 2**30  # of calibration data that are read from their source once
LOOKED_AT = 2**16  # elements of an array, evenly spaced


class Batches:
    """Batches as ``(inputs, labels)``; an adapter says what it makes of those of a source.

    Parameters
    ----------
    source : iterable
        An iterator, which can be read once only, is kept in memory.
    unpack : callable
        Turns one batch of the source into ``(inputs, labels)``; labels may be None.
    max_batches : int, optional
        Read no more than this many.
    progress : bool
        Show a progress bar (tqdm).
    """

    def __init__(
        self, source: Iterable[Any], unpack: Unpack, max_batches: int | None, progress: bool
    ) -> None:
        # Arrays and tensors can be iterated over as well, which nobody means.
        if isinstance(source, (str, bytes)) or not hasattr(source, "__iter__") or (
            hasattr(source, "ndim")
        ):  # fmt: skip
            raise ValueError(
                "batches must be an iterable that yields (inputs, labels), such as a DataLoader "
                f"or a list; got {type(source).__name__}"
            )
        if _is_pair(source):
            raise ValueError(
                "batches must be an iterable that yields (inputs, labels), got one such pair: give "
                "[(inputs, labels)]"
            )
        check_kind(Integral, max_batches=max_batches)
        if max_batches is not None and max_batches < 1:
            raise ValueError(f"max_batches must be at least 1, got {max_batches}")
        if isinstance(source, Iterator):
            source = list(itertools.islice(source, max_batches))
        self.source, self.unpack = source, unpack
        self.max_batches, self.progress = max_batches, progress
        self._labels: list[np.ndarray] | None = None

    def read(self, purpose: str) -> Iterator[tuple[Any, np.ndarray | None]]:
        """Iterate; ``purpose`` stands beside the progress bar.

        Raises
        ------
        ValueError
            If there is no batch, an empty one, or one whose inputs and labels do not pair; where
            a batch is not what it was in an earlier pass.
        """
        number = 0
        for inputs, labels in self.made(purpose):
            yield inputs, labels if self._labels is None else self._labels[number]
            number += 1
        if not number:
            raise ValueError("batches is empty: give at least one batch of calibration data")

    def made(self, purpose: str) -> Iterator[tuple[Any, np.ndarray | None]]:
        """All batches as the network takes them."""
        raise NotImplementedError

    def labelled(self, labels: Sequence[np.ndarray]) -> Self:
        """The same batches with other labels, those of one batch after those of the other."""
        other = copy.copy(self)
        other._labels = list(labels)
        return other

    def shown(self, purpose: str, kept: Sequence[Any] | None = None) -> Iterator[Any]:
        """Batches beside a progress bar: ``kept``, or as many of the source as are to be read."""
        batches = itertools.islice(self.source, self.max_batches) if kept is None else iter(kept)
        if not self.progress:
            return batches
        from tqdm.auto import tqdm

        known = self.source if kept is None else kept
        total = len(known) if isinstance(known, Sized) else None
        if kept is None and self.max_batches is not None:
            total = self.max_batches if total is None else min(total, self.max_batches)
        return iter(tqdm(batches, desc=purpose, total=total, leave=False, unit="batch"))


def _is_pair(source: Any) -> bool:
    """Whether it is inputs and labels, which no two batches of inputs can be: the axes differ."""
    if not (isinstance(source, (list, tuple)) and len(source) == 2):
        return False
    axes = [getattr(part, "ndim", None) for part in source]
    return axes[1] is not None and axes[0] != axes[1]


def paired(number: int, samples: int, labels: np.ndarray | None) -> np.ndarray | None:
    """The labels of a batch, a column of class indices as one axis.

    Raises
    ------
    ValueError
        The batch is empty, or its inputs and labels do not pair.
    """
    if not samples:
        raise ValueError(f"batch {number} holds no sample: leave empty batches out")
    if labels is None:
        return None
    if labels.shape[1:] == (1,) and labels.dtype.kind != "f":  # floats are weights of one class
        labels = labels[:, 0]
    if labels.shape[:1] != (samples,):
        raise ValueError(
            f"batch {number} has {samples} inputs and labels of shape {labels.shape}, which do not "
            "pair: give one label, or one row of class weights, for each input"
        )
    return labels


class SameBatches:
    """Checksums of the batches of the first pass, which every later one must repeat."""

    def __init__(self) -> None:
        self._sums: list[int] = []
        self._whole = False

    def check(self, number: int, parts: Iterable[Any]) -> None:
        """Raise ValueError where the parts of a batch differ from those of this number before."""
        found = checksum(parts)
        if not self._whole and number == len(self._sums):
            self._sums.append(found)
        elif number >= len(self._sums) or self._sums[number] != found:
            raise ValueError(_differs(f"batch {number} is another one"))

    def end(self, count: int) -> None:
        """Raise ValueError where a pass ended early."""
        self._whole = True
        if count != len(self._sums):
            raise ValueError(_differs(f"there were {len(self._sums)} batches, then {count}"))


def checksum(parts: Iterable[Any]) -> int:
    """Of all arrays of a batch (of large ones a part), and of what else it holds.

    >>> checksum([np.ones(3), None]) == checksum([np.ones(3), None]) != checksum([np.ones(3), 1])
    True
    """
    total = 0
    for part in parts:
        if isinstance(part, np.ndarray) and part.dtype != object:
            content = part.ravel()[:: max(1, part.size // LOOKED_AT)].tobytes()
        else:
            content = repr(part).encode()
        total = zlib.crc32(content, total)
    return total


def _differs(how: str) -> str:
    return (
        f"calibration data must be the same in every pass, and {how}: give a list of batches "
        "(list(itertools.islice(loader, n))), or a smaller max_batches, with which they fit in "
        "memory"
    )
