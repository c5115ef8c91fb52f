"""Whether batches that are read again are those that were read before.

All figures of an event are compared with one another: class means, statistics, what consumers
read before and after.  Data that differ from pass to pass (random numbers of their own, streams of
shards, decoding on another device) would be compared with other data, and the consumers refitted
to nothing.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from typing import Any

import numpy as np

LOOKED_AT = 2**16  # elements of an array, evenly spaced


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
