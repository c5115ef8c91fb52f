"""Samples of some batches taken apart: in the order of their content, or as many of each class.

What is measured on batches depends, beyond rounding, on which samples share one: normalizations
take the statistics of the batch for a while, and some places of a batch are held out.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable
from typing import Any, TypeGuard

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
    found = _columns(batches)
    if found is None:
        return batches
    columns, rows, rebuilt = found
    order = np.argsort(_checksums(columns), kind="stable")
    edges = np.cumsum([0, *rows])
    return [rebuilt(order[low:high]) for low, high in itertools.pairwise(edges)]


def balanced(batches: list[Any], n: int) -> list[Any]:
    """At most ``n`` samples of some batches, as many of every class as there are, spread over all.

    The last part of a batch are its labels; where they are no class indices, samples count as of
    one class.  Nothing where the batches cannot be taken apart, see :func:`in_canonical_order`.

    >>> x, y = torch.arange(6.0)[:, None], torch.tensor([7, 7, 7, 7, 7, 2])
    >>> [(found, labels)] = balanced([(x, y)], 3)
    >>> sorted(labels.tolist()), 5.0 in found
    ([2, 7, 7], True)
    """
    found = _columns(batches)
    if found is None:
        return []
    columns, rows, rebuilt = found
    total, labels = sum(rows), columns[-1]
    classes = np.zeros(total, np.int64)
    if is_index(labels):
        classes = to_numpy(labels)
    order = np.random.default_rng(0).permutation(total)
    by_class = order[np.argsort(classes[order], kind="stable")]
    firsts = np.searchsorted(classes[by_class], classes[by_class])
    rank = np.arange(total) - firsts  # among those of its class
    chosen = np.sort(by_class[np.argsort(rank, kind="stable")[:n]])
    return [rebuilt(part) for part in np.array_split(chosen, -(-len(chosen) // max(rows)))]


def is_index(labels: Any) -> TypeGuard[torch.Tensor]:
    """Whether these are class indices, one for each sample."""
    index = isinstance(labels, torch.Tensor) and labels.ndim == 1
    return index and not labels.is_floating_point() and labels.dtype != torch.bool


def _columns(
    batches: list[Any],
) -> tuple[list[Any], list[int], Callable[[np.ndarray], Any]] | None:
    """Every part of all batches joined, samples of each, and a batch of chosen rows."""
    flat = [tree_flatten(batch) for batch in batches]
    if not flat or any(spec != flat[0][1] for _, spec in flat):
        return None
    rows = [_rows(leaves) for leaves, _ in flat]
    if any(n is None for n in rows):
        return None
    columns = []
    for parts in zip(*(leaves for leaves, _ in flat), strict=True):
        if parts[0] is not None and len({(type(p), p.dtype, p.shape[1:]) for p in parts}) > 1:
            return None  # pictures of several sizes
        columns.append(_joined(parts))

    def rebuilt(chosen: np.ndarray) -> Any:
        return tree_unflatten([_taken(column, chosen) for column in columns], flat[0][1])

    return columns, rows, rebuilt  # type: ignore[return-value]


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
