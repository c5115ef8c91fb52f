"""Whole sets of channels that may be exchanged: the heads of an attention, groups of a GroupNorm.

Within a head, channels are exchanged by their classes.  Their partition names the head, an atom
that stands for a set, so that no channel leaves it.  All channels of one head may still change
places with those of another, along with everything that has one value for each head.

A *block* is a connected component of classes and the sets that divide them.  Blocks correspond by
colours that no longer tell one set from another (see :mod:`rejuvenet.graph.find.exchange`);
classes of one colour within a block are exchangeable, so that their order does.  Such a
correspondence is a guess until it has mapped every equation and every partition onto itself.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from .constraints import Constraints
from .exchange import Classes, mix


def exchangeable_blocks(
    state: Constraints, classes: Classes, frozen: np.ndarray
) -> Iterator[np.ndarray]:
    """Sets of blocks that may be exchanged, two or more in each.

    Parameters
    ----------
    state, classes
        The constraints and their solution.
    frozen : ndarray of bool, shape (size,)
        For the label of a class: whether it keeps its place.

    Yields
    ------
    ndarray of int64, shape (blocks, m)
        One row a block; atoms of one column correspond.
    """
    atoms, sets, _ = classes.divided
    if not len(atoms):
        return
    labels = np.flatnonzero(classes.label == np.arange(state.size))
    ends = tuple(np.searchsorted(labels, classes.label[side]) for side in (atoms, sets))
    edges = coo_array((np.ones(len(atoms), np.int8), ends), shape=(len(labels),) * 2)
    count, block = connected_components(edges, directed=False)
    size = np.bincount(block, minlength=count)
    stays = np.zeros(count, bool)
    stays[block[frozen[labels]]] = True
    stays |= size == 1
    atoms = np.flatnonzero(classes.atom == np.arange(state.size))
    own = block[np.searchsorted(labels, classes.label[atoms])]
    atoms, own = atoms[~stays[own]], own[~stays[own]]
    if not len(atoms):
        return
    colour = _colours(classes)
    label = classes.label[atoms]
    kind = np.zeros(state.size, np.uint64)  # of a class, by its label
    np.add.at(kind, label, mix(colour[atoms], 2))
    # Within a block by the kind of class, by class (in the order of its first place), by atom.
    order = np.lexsort((colour[atoms], label, kind[label], own))
    atoms, own = atoms[order], own[order]
    cuts = [0, *(np.flatnonzero(np.diff(own)) + 1).tolist(), len(own)]
    alike: dict[bytes, list[np.ndarray]] = {}
    for start, stop in itertools.pairwise(cuts):
        row = atoms[start:stop]
        alike.setdefault(colour[row].tobytes(), []).append(row)
    for rows in alike.values():
        blocks = np.stack(rows)
        if len(blocks) > 1 and _kept(state, classes, blocks):
            yield blocks


def _colours(classes: Classes) -> np.ndarray:
    """Colours of all atoms that do not depend on which set is which."""
    fine, sets, salt = classes.divided
    a, b, equation = classes.links
    seen = np.zeros(len(classes.atom), bool)
    for side in (fine, sets, a, b):
        seen[side] = True
    met = np.flatnonzero(seen)
    fine, sets, a, b = (np.searchsorted(met, side) for side in (fine, sets, a, b))
    colour = classes.unnamed[met]
    known: np.signedinteger | int = 0
    while True:
        finer = mix(colour, 3)
        np.add.at(finer, fine, mix(colour[sets], salt))
        np.add.at(finer, sets, mix(colour[fine], mix(salt, 4)))
        np.add.at(finer, a, mix(colour[b], equation))
        np.add.at(finer, b, mix(colour[a], mix(equation, 5)))
        colour = finer
        distinct = np.count_nonzero(np.diff(np.sort(colour)))
        if distinct == known:
            break
        known = distinct
    found = mix(classes.unnamed, 3)
    found[met] = colour
    return found


def _kept(state: Constraints, classes: Classes, blocks: np.ndarray) -> bool:
    """Whether the exchange of two blocks and the shift of all keep every constraint."""
    meant = np.zeros(state.size, bool)
    meant[blocks] = True
    parted = []  # partitions that can change
    for i, (fine, sets) in enumerate(state.partitions):
        if sets.flat[0] < 0:
            atoms = classes.atom[fine.atoms].ravel()
            if meant[atoms].any():
                keys = 0 if fine.keys is None else fine.keys.ravel()
                parted.append((atoms, mix(sets.ravel(), mix(keys, i))))
    for moved in ([1, 0, *range(2, len(blocks))], [*range(1, len(blocks)), 0]):
        image = np.arange(state.size)
        image[blocks.ravel()] = blocks[moved].ravel()
        for a, b, salt in (classes.links, classes.divided):
            if _total(image[a], image[b], salt) != _total(a, b, salt):
                return False
        for atoms, fixed in parted:
            if _total(image[atoms], fixed, 0) != _total(atoms, fixed, 0):
                return False
    return True


def _total(a: np.ndarray, b: np.ndarray, salt: np.ndarray | int) -> int:
    return int(mix(a, mix(b, salt)).sum())
