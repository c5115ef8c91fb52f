"""How far the outputs of a network moved.

With ``f`` the outputs before and ``f'`` after:

- relative change: root mean square of ``f' - f`` over that of ``f``, of the output that changed
  most.  Values that the first sample has as well and that stayed (a mask of -1e9) are left out, as
  are infinite ones and NaN that stayed;
- largest change: the largest ``|f' - f|`` of one element, in units of the outputs;
- agreement: the share of positions whose largest output is the same as before (of samples, for a
  classifier; of pixels, for a segmentation), where outputs are ``(samples, classes, ...)``.

Samples that the refit used and samples that were held out are counted apart.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..network import Team

KEPT_BYTES = 2**28  # of outputs before; later batches are not compared


class OutputChange:
    """Outputs of the same batches before and after a change.

    Attributes
    ----------
    alike : bool
        Whether several samples were seen, and all had the same outputs up to rounding.
    held_out : int
        Samples that the figures are of, no refit having used them; 0 where they are of all.
    unlike : bool
        Whether an output had another shape than before (as many boxes as were found), so that the
        figures leave it out; the relative change is infinite then.
    """

    def __init__(self) -> None:
        self._before: list[list[np.ndarray]] = []
        self._bytes = 0
        self._next = 0
        self.held_out, self.unlike = 0, False
        # For each output: rows of samples that were fitted, samples that were held out; columns of
        # squares of the outputs, of the change, decisions that stayed, all decisions.
        self._sums = np.zeros((0, 2, 4))
        self._largest = np.zeros((0, 2))  # for each output, by the same rows
        self._first: list[np.ndarray] = []  # sample, of every output
        self._n = 0
        self._differ = False

    def before(self, outputs: Sequence[np.ndarray]) -> None:
        """Keep the outputs of the next batch."""
        if not self._differ:
            self._first = self._first or [np.array(np.atleast_1d(values)[:1]) for values in outputs]
            self._differ = not all(map(_repeats, self._first, outputs))
            self._n += max((len(values) for values in outputs if values.ndim), default=0)
        self._bytes += sum(values.nbytes for values in outputs)
        if self._bytes <= KEPT_BYTES:
            self._before.append([np.array(values) for values in outputs])

    def again(self) -> None:
        """Begin a comparison."""
        self._next, self.held_out, self.unlike = 0, 0, False
        n = len(self._before[0]) if self._before else 0
        self._sums, self._largest = np.zeros((n, 2, 4)), np.zeros((n, 2))

    def after(self, outputs: Sequence[np.ndarray], out: np.ndarray | None = None) -> None:
        """Compare with the outputs of the batch in this place; ``out`` marks held-out samples."""
        number, self._next = self._next, self._next + 1
        if number >= len(self._before):
            return
        told_apart = False
        for place, (old, new) in enumerate(zip(self._before[number], outputs, strict=True)):
            if old.shape != new.shape:
                self.unlike = True
            if not old.size or old.shape != new.shape:
                continue
            apart = out is not None and old.ndim > 0 and len(old) == len(out)
            told_apart |= apart
            change, known = difference(old, new), self._told(place, old, new)
            for row, chosen in ((0, ~out), (1, out)) if apart else ((0, ...),):  # type: ignore[operator]
                d, f = change[chosen], np.where(known, old, 0.0)[chosen]
                most = max(self._largest[place, row], np.abs(d).max(initial=0.0))
                self._largest[place, row] = most
                same = decisions = 0
                if old.ndim > 1 and old.shape[1] > 1:
                    stayed = old[chosen].argmax(1) == new[chosen].argmax(1)
                    same, decisions = int(stayed.sum()), stayed.size
                squares = float(np.sum(np.square(f, dtype=np.float64)))
                self._sums[place, row] += squares, float(np.sum(d * d)), same, decisions
        if out is not None and told_apart:
            self.held_out += int(out.sum())

    def _told(self, place: int, old: np.ndarray, new: np.ndarray) -> np.ndarray:
        """Which values say how large an output is."""
        told = np.isfinite(old)
        first = self._first[place] if place < len(self._first) else old[:0]
        if old.ndim and first.shape[1:] == old.shape[1:] and len(first):
            told &= (old != first) | (new != old)
        return told

    def share(self, team: Team) -> None:
        """Figures over all processes."""
        everyone = team.gather((self._sums, self._largest))  # some may have seen no batch
        n = max(len(sums) for sums, _ in everyone)
        self._sums, self._largest = np.zeros((n, 2, 4)), np.zeros((n, 2))
        for sums, largest in everyone:
            self._sums[: len(sums)] += sums
            self._largest[: len(sums)] = np.maximum(self._largest[: len(sums)], largest)
        self.unlike = any(team.gather(self.unlike))
        self.held_out = sum(team.gather(self.held_out))
        self._differ = any(team.gather(self._differ))

    @property
    def alike(self) -> bool:
        return self._n > 1 and not self._differ

    @property
    def _rows(self) -> tuple[np.ndarray, np.ndarray]:
        """Of each output the row of held-out samples, where it has any."""
        return np.arange(len(self._sums)), self._sums[:, 1].any(axis=1).astype(int)

    @property
    def largest(self) -> float:
        """Largest absolute change of one element."""
        return float(self._largest[self._rows].max(initial=0.0))

    @property
    def agreement(self) -> float | None:
        """Share of decisions that stay; None where the outputs are no decisions."""
        *_, same, decisions = self._sums[self._rows].sum(0)
        return float(same / decisions) if decisions else None

    @property
    def relative(self) -> float:
        """Root mean square of the change over that of the outputs."""
        squares, change = self._sums[self._rows][:, :2].T
        if self.unlike or (change[squares == 0.0] > 0.0).any():
            return math.inf
        return float(np.sqrt(change / np.where(squares, squares, 1.0)).max(initial=0.0))


def difference(old: np.ndarray, new: np.ndarray) -> np.ndarray:
    """``new - old`` in float64: 0 where both are NaN or equal, infinite where one is no number.

    >>> difference(np.array([1.0, -np.inf, np.nan, 1.0]), np.array([1.5, -np.inf, np.nan, np.nan]))
    array([0.5, 0. , 0. , inf])
    """
    stayed = (old == new) | ((old != old) & (new != new))
    with np.errstate(invalid="ignore"):
        change = np.asarray(new.astype(np.float64) - old)
    return np.where(stayed, 0.0, np.where(np.isnan(change), math.inf, change))


def _repeats(first: np.ndarray, values: np.ndarray) -> bool:
    """Whether all samples have the outputs of the first one, up to rounding."""
    if values.shape[1:] != first.shape[1:] or not first.size:
        return False
    varied = np.isfinite(first) & (values != first).any(axis=0, keepdims=True)
    scale = float(np.abs(first[varied]).max(initial=0.0))
    return bool(np.allclose(values, first, rtol=0.0, atol=1e-6 * scale, equal_nan=True))
