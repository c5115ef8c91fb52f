"""How far the outputs of a network moved.

With ``f`` the outputs before and ``f'`` after:

- relative change: root mean square of ``f' - f`` over that of ``f``;
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
    """

    def __init__(self) -> None:
        self._before: list[list[np.ndarray]] = []
        self._bytes = 0
        self._next = 0
        self.held_out = 0
        # Rows: samples that were fitted, samples that were held out.  Columns: squares of the
        # outputs, of the change, decisions that stayed, all decisions.
        self._sums = np.zeros((2, 4))
        self._largest = [0.0, 0.0]  # by the same rows
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
        self._next, self._largest, self.held_out = 0, [0.0, 0.0], 0
        self._sums[:] = 0.0

    def after(self, outputs: Sequence[np.ndarray], out: np.ndarray | None = None) -> None:
        """Compare with the outputs of the batch in this place; ``out`` marks held-out samples."""
        number, self._next = self._next, self._next + 1
        if number >= len(self._before):
            return
        told_apart = False
        for old, new in zip(self._before[number], outputs, strict=True):
            if not old.size or old.shape != new.shape:  # as many boxes as were found
                continue
            apart = out is not None and old.ndim > 0 and len(old) == len(out)
            told_apart |= apart
            difference = np.asarray(new.astype(np.float64) - old)
            for row, chosen in ((0, ~out), (1, out)) if apart else ((0, ...),):  # type: ignore[operator]
                f, change = old[chosen], difference[chosen]
                self._largest[row] = max(self._largest[row], float(np.abs(change).max(initial=0.0)))
                same = decisions = 0
                if old.ndim > 1 and old.shape[1] > 1:
                    stayed = f.argmax(1) == new[chosen].argmax(1)
                    same, decisions = int(stayed.sum()), stayed.size
                squares = float(np.sum(np.square(f, dtype=np.float64)))
                self._sums[row] += squares, float(np.sum(change * change)), same, decisions
        if out is not None and told_apart:
            self.held_out += int(out.sum())

    def share(self, team: Team) -> None:
        """Figures over all processes."""
        (self._sums,) = team.sum_arrays(self._sums)
        self._largest = [max(row) for row in zip(*team.gather(self._largest), strict=True)]
        self.held_out = sum(team.gather(self.held_out))
        self._differ = any(team.gather(self._differ))

    @property
    def alike(self) -> bool:
        return self._n > 1 and not self._differ

    @property
    def _row(self) -> int:
        """Of the held-out samples, where there are any."""
        return int(self._sums[1].any())

    @property
    def largest(self) -> float:
        """Largest absolute change of one element."""
        return self._largest[self._row]

    @property
    def agreement(self) -> float | None:
        """Share of decisions that stay; None where the outputs are no decisions."""
        *_, same, decisions = self._sums[self._row]
        return float(same / decisions) if decisions else None

    @property
    def relative(self) -> float:
        """Root mean square of the change over that of the outputs."""
        squares, change, *_ = self._sums[self._row]
        if squares == 0.0:
            return 0.0 if change == 0.0 else math.inf
        return float(math.sqrt(change / squares))


def _repeats(first: np.ndarray, values: np.ndarray) -> bool:
    """Whether all samples have the outputs of the first one, up to rounding."""
    if values.shape[1:] != first.shape[1:] or not first.size:
        return False
    scale = float(np.abs(first[np.isfinite(first)]).max(initial=0.0))
    return bool(np.allclose(values, first, rtol=0.0, atol=1e-6 * scale, equal_nan=True))
