"""Whether batches that are read again are those that were read before.

All figures of an event are compared with one another: class means, statistics, what consumers
read before and after.  Data that differ from pass to pass (random numbers of their own, streams of
shards, decoding on another device) would be compared with other data, and the consumers refitted
to nothing.
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import torch
from torch.utils._pytree import tree_flatten

LOOKED_AT = 2**16  # elements of a tensor, evenly spaced


class SameBatches:
    """Checksums of the batches of the first pass, which every later one must repeat."""

    def __init__(self) -> None:
        self._sums: list[int] = []
        self._whole = False

    def check(self, number: int, batch: Any) -> None:
        """Raise ValueError where a batch differs from the one of this number before."""
        found = checksum(batch)
        if not self._whole and number == len(self._sums):
            self._sums.append(found)
        elif number >= len(self._sums) or self._sums[number] != found:
            raise ValueError(_differs(f"batch {number} is another one"))

    def end(self, count: int) -> None:
        """Raise ValueError where a pass ended early."""
        self._whole = True
        if count != len(self._sums):
            raise ValueError(_differs(f"there were {len(self._sums)} batches, then {count}"))


def checksum(batch: Any) -> int:
    """Of all tensors and arrays of a batch, of large ones a part.

    >>> checksum(torch.ones(3)) == checksum([torch.ones(3)]) != checksum(torch.zeros(3))
    True
    """
    total = 0
    for leaf in tree_flatten(batch)[0]:
        if isinstance(leaf, torch.Tensor):
            flat = leaf.detach().reshape(-1)
            part = flat[:: max(1, flat.numel() // LOOKED_AT)].cpu()
            content = (part.float() if part.is_floating_point() else part).numpy().tobytes()
        elif isinstance(leaf, np.ndarray):
            content = leaf.ravel()[:: max(1, leaf.size // LOOKED_AT)].tobytes()
        else:
            content = repr(leaf).encode()
        total = zlib.crc32(content, total)
    return total


def _differs(how: str) -> str:
    return (
        f"calibration data must be the same in every pass, and {how}: give a list of batches "
        "(list(itertools.islice(loader, n))), or a smaller max_batches, with which they fit in "
        "memory"
    )
