"""Labels of tensors: which channel each position along an axis belongs to.

A tensor carries *components*.  A component is an integer array of *atoms* over one axis of the
tensor, or jointly over several after a split such as ``(heads, dim)``.  Equal atoms are the same
channel.  Where atoms repeat, as along the flattened ``(channels, height, width)`` before a linear
layer, ``keys`` tell the positions of one atom apart.  Concat, slice, reshape, transpose and
flatten do to the arrays of atoms what they do to the data; these functions say how.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

from .nodes import Shape


@dataclass(frozen=True)
class Component:
    """Atoms over some axes of a tensor.

    Attributes
    ----------
    axes : tuple of int
        Ascending axes of the tensor; ``atoms`` has one dimension for each.
    atoms : ndarray of int64
    keys : ndarray of int64 or None
        Same shape; ``(atom, key)`` is unique.  None where the atoms already are.
    coarse : bool
        The atoms stand for sets of other atoms (what is left of ``(heads, dim)`` after ``dim`` was
        summed): finer atoms are divided by them and never equal them.
    """

    axes: tuple[int, ...]
    atoms: np.ndarray
    keys: np.ndarray | None = None
    coarse: bool = False

    def moved(self, axes: tuple[int, ...]) -> Component:
        """The same component where axis ``self.axes[i]`` has become ``axes[i]``."""
        order = sorted(range(len(axes)), key=axes.__getitem__)
        if order == list(range(len(axes))):
            return Component(axes, self.atoms, self.keys, self.coarse)
        return Component(
            tuple(axes[i] for i in order),
            self.atoms.transpose(order),
            None if self.keys is None else self.keys.transpose(order),
            self.coarse,
        )

    def over(
        self, axes: tuple[int, ...], shape: Shape, values: np.ndarray | None = None
    ) -> np.ndarray:
        """Atoms (or ``values``) broadcast to the superset ``axes`` of a tensor of ``shape``."""
        values = self.atoms if values is None else values
        view = values.reshape([shape[a] if a in self.axes else 1 for a in axes])
        return np.broadcast_to(view, [shape[a] for a in axes])

    def simplified(self) -> Component:
        """Without axes of size one or along which the atoms do not change."""
        atoms, keys, axes = self.atoms, self.keys, list(self.axes)
        for i in reversed(range(len(axes))):
            if atoms.shape[i] == 1 or bool((atoms == atoms.take([0], axis=i)).all()):
                atoms = atoms.take(0, axis=i)
                keys = None if keys is None else keys.take(0, axis=i)
                del axes[i]
        if keys is not None and is_distinct(atoms):
            keys = None
        return Component(tuple(axes), atoms, keys, self.coarse)


def is_distinct(atoms: np.ndarray) -> bool:
    """Whether no atom occurs twice."""
    return len(np.unique(atoms)) == atoms.size


def occurrence(values: np.ndarray) -> np.ndarray:
    """How many equal values stand before each one, in row-major order; same shape.

    >>> occurrence(np.array([5, 7, 5, 5])).tolist()
    [0, 0, 1, 2]
    """
    flat = values.ravel()
    order = np.argsort(flat, kind="stable")
    ranked = flat[order]
    starts = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])
    rank = np.arange(flat.size) - np.repeat(starts, np.diff(np.r_[starts, flat.size]))
    out = np.empty(flat.size, np.int64)
    out[order] = rank
    return out.reshape(values.shape)


def reshape_blocks(before: Shape, after: Shape) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Least blocks of consecutive axes with equal products, axes of size one left out.

    >>> reshape_blocks((2, 6, 4, 4), (2, 3, 2, 16))
    [((0,), (0,)), ((1,), (1, 2)), ((2, 3), (3,))]

    Raises
    ------
    ValueError
        The shapes hold different numbers of elements.
    """
    if prod(before) != prod(after):
        raise ValueError(f"expected a shape of {prod(before)} elements as {before}, got {after}")
    rows = [i for i, n in enumerate(before) if n != 1]
    cols = [i for i, n in enumerate(after) if n != 1]
    blocks = []
    i = j = 0
    while i < len(rows) and j < len(cols):
        left, right = [rows[i]], [cols[j]]
        p, q = before[rows[i]], after[cols[j]]
        i, j = i + 1, j + 1
        while p != q:
            if p < q:
                p *= before[rows[i]]
                left.append(rows[i])
                i += 1
            else:
                q *= after[cols[j]]
                right.append(cols[j])
                j += 1
        blocks.append((tuple(left), tuple(right)))
    return blocks


def reshaped(component: Component, before: Shape, after: Shape) -> Component:
    """The component after the tensor's shape went from ``before`` to ``after``."""
    axes, atoms, keys = component.axes, component.atoms, component.keys
    # Negative numbers are axes that already have their new place: -1 - axis.
    for old, new in reshape_blocks(before, after):
        if not set(old) & set(axes):
            continue
        if len(old) == len(new) == 1:
            axes = tuple(-1 - new[0] if a == old[0] else a for a in axes)
            continue
        missing = tuple(a for a in old if a not in axes)
        rest = tuple(a for a in axes if a not in old)
        full = rest + old
        sizes = dict(zip(axes, atoms.shape, strict=True)) | {a: before[a] for a in old}
        order = [axes.index(a) for a in full if a in axes]
        view = [sizes[a] if a in axes else 1 for a in full]
        shape = [sizes[a] for a in full]
        atoms = np.broadcast_to(atoms.transpose(order).reshape(view), shape)
        if keys is not None or missing:
            count = int(np.prod([sizes[a] for a in missing], dtype=np.int64))
            place = np.arange(count).reshape([sizes[a] if a in missing else 1 for a in full])
            old_keys = 0 if keys is None else keys.transpose(order).reshape(view)
            keys = np.broadcast_to(old_keys * count + place, shape)
        lead = [sizes[a] for a in rest]
        atoms = atoms.reshape(*lead, *(after[a] for a in new))
        keys = None if keys is None else keys.reshape(atoms.shape)
        axes = rest + tuple(-1 - a for a in new)
    keep = [i for i, a in enumerate(axes) if a < 0]  # what is left over has size one
    extent = tuple(atoms.shape[i] for i in keep)
    keys = None if keys is None else keys.reshape(extent)
    component = Component((), atoms.reshape(extent), keys, component.coarse)
    return component.moved(tuple(-1 - axes[i] for i in keep)).simplified()
