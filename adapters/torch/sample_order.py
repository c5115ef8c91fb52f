"""Samples of some batches in an order that is that of their content.

What is measured on batches depends, beyond rounding, on which samples share one: normalizations
take the statistics of the batch for a while, and some places of a batch are held out.
"""

from __future__ import annotations

import itertools
import zlib
from typing import Any

import numpy as np
import torch
from torch.utils._pytree import tree_flatten, tree_unflatten

from .tensors import to_numpy


def in_canonical_order(batches: list[Any]) -> list[Any]:
    """Batches of the same sizes, the samples sorted by a checksum of what they hold.

    Batches that are no structures of tensors and arrays with one row a sample stay as they are.

    >>> a, b = torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0]])
    >>> one, other = in_canonical_order([(a, None), (b, None)])
    >>> two, last = in_canonical_order([(torch.tensor([[3.0], [1.0]]), None), (a[1:], None)])
    >>> torch.equal(one[0], two[0]), torch.equal(other[0], last[0])
    (True, True)
    """
    flat = [tree_flatten(batch) for batch in batches]
    if not flat or any(spec != flat[0][1] for _, spec in flat):
        return batches
    rows = [_rows(leaves) for leaves, _ in flat]
    if any(n is None for n in rows):
        return batches
    columns = []
    for parts in zip(*(leaves for leaves, _ in flat), strict=True):
        if parts[0] is not None and len({(type(p), p.dtype, p.shape[1:]) for p in parts}) > 1:
            return batches  # pictures of several sizes
        columns.append(_joined(parts))
    order = np.argsort(_checksums(columns), kind="stable")
    edges = np.cumsum([0, *rows])
    return [
        tree_unflatten([_taken(c, order[low:high]) for c in columns], flat[0][1])
        for low, high in itertools.pairwise(edges)
    ]


def _rows(leaves: list[Any]) -> int | None:
    """Samples of a batch, if every part of it has one row for each."""
    arrays = [leaf for leaf in leaves if leaf is not None]
    if not all(isinstance(a, (torch.Tensor, np.ndarray)) and a.ndim for a in arrays):
        return None
    counts = {len(a) for a in arrays}
    return counts.pop() if len(counts) == 1 else None


def _joined(parts: tuple[Any, ...]) -> Any:
    if parts[0] is None:
        return None
    return torch.cat(parts) if isinstance(parts[0], torch.Tensor) else np.concatenate(parts)


def _taken(column: Any, rows: np.ndarray) -> Any:
    if isinstance(column, torch.Tensor):
        return column[torch.from_numpy(rows)]
    return None if column is None else column[rows]


def _checksums(columns: list[Any]) -> np.ndarray:
    arrays = [c if isinstance(c, np.ndarray) else to_numpy(c) for c in columns if c is not None]
    found = np.zeros(len(arrays[0]), np.int64)
    for array in arrays:
        for i, row in enumerate(array):
            found[i] = zlib.crc32(np.ascontiguousarray(row).tobytes(), int(found[i]))
    return found
