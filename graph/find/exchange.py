"""Classes: one channel and everything that moves with it; what tells the atoms of a class apart.

The classes are the connected components of the equations.  Two classes may be exchanged if an
exchange of their atoms maps every recorded constraint onto itself.  Which atom of the one then
takes the place of which atom of the other is told by *colours*, refined as in the test for graph
isomorphism of Weisfeiler and Leman (1968):

- the first colour of an atom says on which weight axes it has places, by which keys it is divided,
  and in which equations it stands, with its keys there;
- then colours are refined by those of the atoms that they are equated to.

Where all atoms of a class differ in colour, and another class has the same colours, atoms of equal
colour correspond, and so do the pairs of every equation.  A class in which two atoms cannot be
told apart stays in place.

Multisets are compared by the sum of 64-bit hashes of their elements.
"""

from __future__ import annotations

import itertools

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from .constraints import Constraints


class Classes:
    """The solved constraints.

    Attributes
    ----------
    atom : ndarray of int64, shape (size,)
        The atom that an atom is, where a weight took over the atoms of what it met.
    label : ndarray of int64, shape (size,)
        The class of an atom: the least atom in it.
    colour : ndarray of uint64, shape (size,)
        Tells the atoms of one class apart; zero where a class has only one.
    members : ndarray of uint64, shape (size,)
        For the label of a class: the weight axes on which it has places.
    signature : ndarray of uint64, shape (size,)
        For the label of a class: classes with equal signatures may be exchanged.
    unnamed : ndarray of uint64, shape (size,)
        First colours without the sets that divide an atom.
    links : tuple of three ndarrays
        Atoms that are equated, and a hash of the equation and of their keys there.
    divided : tuple of three ndarrays
        Atoms, the sets that divide them, and a hash of the partition and of their keys there.
    """

    def __init__(self, state: Constraints):
        size = state.size
        self.atom = _resolved(state)
        first = np.zeros(size, np.uint64)
        salts = mix(np.arange(len(state.places)), 1)
        for salt, places in zip(salts, state.places, strict=True):
            first[self.atom[places.atoms]] += salt  # the atoms of one axis are distinct
        self.members = first.copy()
        blocks = zip(state.origins, itertools.pairwise([*state.starts, size]), strict=True)
        for origin, (start, stop) in blocks:
            if origin < 0:
                first[start:stop] += mix(start, 2)
        divided: list[tuple[np.ndarray, ...]] = []
        for i, (fine, sets) in enumerate(state.partitions):
            salt = mix(np.zeros(fine.atoms.size, int) if fine.keys is None else fine.keys.ravel(),
                       mix(i, 3))  # fmt: skip
            part = self.atom[fine.atoms].ravel(), sets.ravel(), salt
            if sets.flat[0] < 0:
                np.add.at(first, part[0], mix(*part[1:]))
            else:
                divided.append(part)
        self.unnamed = first
        self.links = _equated(state, self.atom)
        self.divided = _joined(divided)
        self.label = self._labels()
        while len(self.divided[0]) and self._owned_sets():
            self.label = self._labels()
        # Sets are told apart, tied or not.
        atoms, sets, salt = self.divided
        self.signature = first.copy()
        np.add.at(self.signature, atoms, mix(sets, salt))
        self.colour = np.zeros(size, np.uint64)
        if len(self.links[0]):
            self._tell_apart()

    def _labels(self) -> np.ndarray:
        """The least atom that the links lead to."""
        a, b, _ = self.links
        if not len(a):
            return self.atom
        used, index = np.unique(np.concatenate([a, b]), return_inverse=True)
        ends = index[: len(a)], index[len(a) :]
        edges = coo_array((np.ones(len(a), np.int8), ends), shape=(len(used), len(used)))
        component = connected_components(edges, directed=False)[1]
        least = np.empty(len(used), np.int64)
        least[component[::-1]] = used[::-1]
        label = np.arange(len(self.atom))
        label[used] = least[component]
        return label[self.atom]

    def _owned_sets(self) -> bool:
        """Link sets that hold atoms of one class only to that class: they move with it."""
        atoms, sets, salt = self.divided
        fine, coarse = self.label[atoms], self.label[sets]
        least, greatest = np.full(len(self.atom), len(self.atom)), np.full(len(self.atom), -1)
        np.minimum.at(least, coarse, fine)
        np.maximum.at(greatest, coarse, fine)
        owned = (least == greatest)[coarse]
        self.divided = atoms[~owned], sets[~owned], salt[~owned]
        self.links = _joined([self.links, (atoms[owned], sets[owned], salt[owned])])
        return bool(owned.any())

    def _tell_apart(self) -> None:
        """Colours and signatures of classes of several atoms."""
        a, b, salt = self.links
        used, index = np.unique(np.concatenate([a, b]), return_inverse=True)
        a, b = index[: len(a)], index[len(a) :]
        label = self.label[used]
        colour = _refined(self.signature[used], label, a, b, salt)
        self.colour[used] = colour
        for total, part in (
            (self.members, self.members[used]),
            (self.signature, mix(colour, 5)),
        ):
            total[used] = 0
            np.add.at(total, label, part)
        order = np.argsort(mix(colour, label))
        same = np.flatnonzero(np.diff(mix(colour, label)[order]) == 0)
        alike = np.unique(label[order[same]])
        self.signature[alike] += mix(alike, 6)


def _refined(
    colour: np.ndarray, label: np.ndarray, a: np.ndarray, b: np.ndarray, salt: np.ndarray
) -> np.ndarray:
    """Colours refined by those of what they are equated to, until that tells no more."""
    known: np.signedinteger | int = 0
    while True:
        finer = mix(colour, 7)
        np.add.at(finer, a, mix(colour[b], salt))
        np.add.at(finer, b, mix(colour[a], mix(salt, 8)))
        told_apart = np.sort(mix(colour, label))
        distinct = 1 + np.count_nonzero(np.diff(told_apart))
        colour = finer  # once more than needed: partners correspond by colours that are told apart
        if distinct in (known, len(label)):
            return colour
        known = distinct


def _equated(state: Constraints, atom: np.ndarray) -> tuple[np.ndarray, ...]:
    """Pairs of equal atoms, and a hash of the equation and of their keys in it."""
    pairs: list[tuple[np.ndarray, ...]] = []
    for i, (a, b) in enumerate(state.equations):
        salt = mix(i, 4)
        for side in (a, b):
            salt = mix(
                np.zeros(a.atoms.size, int) if side.keys is None else side.keys.ravel(), salt
            )
        pairs.append((atom[a.atoms].ravel(), atom[b.atoms].ravel(), salt))
    return _joined(pairs)


def _joined(parts: list[tuple[np.ndarray, ...]]) -> tuple[np.ndarray, ...]:
    if not parts:
        return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.uint64)
    return tuple(np.concatenate(column) for column in zip(*parts, strict=True))


def _resolved(state: Constraints) -> np.ndarray:
    """The atom that each atom is, once weights took over those of what they met."""
    atom = np.arange(state.size)
    for start, _, same in state.aliases:
        atom[start : start + same.size] = same.ravel()
    while True:
        further = atom[atom]
        if np.array_equal(further, atom):
            return atom
        atom = further


def mix(values: np.ndarray | int, salt: np.ndarray | int) -> np.ndarray:
    """SplitMix64 of ``values`` and ``salt``: equal inputs only give equal hashes."""
    with np.errstate(over="ignore"):
        z = np.asarray(values).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = z + np.asarray(salt).astype(np.uint64) * np.uint64(0xD1B54A32D192ED03)
        z = z + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))
