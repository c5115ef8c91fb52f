"""Whether outputs that had to stay did, against the network's own noise.

For an output ``f`` before and ``f'`` after a permutation, and ``f~`` for inputs that changed by a
relative ``shake`` of about one rounding (where this does not explain the change, for weights that
did as well: inputs may be whole numbers, or be made such)::

    change = max |f' - f| / max |f|          noise = max |f~ - f| / max |f|

``max |f|`` is of the values that moved with the inputs, or have changed: others (a mask of -1e9) do
not say how large an output is.

A permutation only changes the order of sums, so its change is of the size of the noise.  It is
within the noise if ``change <= max(least, floors * noise)`` holds for every output.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..network import Network

SHAKES = 6  # the last ones of weights too, before a change of the outputs is called an error


@dataclass(frozen=True)
class Limits:
    """How far outputs may move in one precision.

    Attributes
    ----------
    shake : float
        Relative change of the inputs whose response is the noise floor.
    least : float
        Change that is always allowed.
    floors : float
        Noise floors that are allowed.
    """

    shake: float
    least: float
    floors: float

    def allow(self, change: float, noise: float) -> bool:
        """Whether a change is within the noise."""
        return change <= max(self.least, self.floors * noise)


DOUBLE = Limits(shake=1e-15, least=1e-12, floors=100)
SINGLE = Limits(shake=3e-7, least=1e-5, floors=100)
HALF = Limits(shake=1e-3, least=2e-3, floors=10)
BFLOAT16 = Limits(shake=8e-3, least=1.6e-2, floors=10)


def limits_of(types: Iterable[str]) -> Limits:
    """The limits of the coarsest of some number types.

    >>> limits_of(["float64", "float32", "int64"]) is SINGLE
    True
    """
    found = set(types)
    for name, limits in (("bfloat16", BFLOAT16), ("float16", HALF), ("float32", SINGLE)):
        if name in found:
            return limits
    return DOUBLE if "float64" in found else SINGLE


@dataclass(frozen=True)
class Verdict:
    """What was found.

    Attributes
    ----------
    change, noise : float
        Of the output that is nearest to its limit, or furthest beyond it.
    within : bool
        Whether every output is within its noise.
    shake : float
        Relative change that made the noise.
    """

    change: float
    noise: float
    within: bool
    shake: float

    def __str__(self) -> str:
        which = "within" if self.within else "beyond"
        return (
            f"outputs changed by {self.change:.2e}, {which} the network's own noise "
            f"({self.noise:.2e}, its response to a relative change of {self.shake:.0e})"
        )


class Noise:
    """Outputs of a network as it is now, and what they do when inputs and weights are shaken.

    Within ``undone()`` the network is again what it is now.
    """

    def __init__(
        self,
        network: Network,
        undone: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext,
    ) -> None:
        self._network, self._undone = network, undone
        self._limits = limits_of(network.number_types)
        self._responses: dict[float, list[list[np.ndarray]]] = {}
        self.before = network.example_outputs()

    def verdict(self, after: Sequence[np.ndarray]) -> Verdict | None:
        """Whether these outputs are the same; None where nothing can be compared."""
        verdict = judge(self.before, after, self._shaken(self._limits.shake), self._limits)
        if verdict is not None and not verdict.within and self._limits is DOUBLE:
            # A network in double precision may compute in single precision inside.
            verdict = judge(self.before, after, self._shaken(SINGLE.shake), SINGLE)
        return verdict

    def _shaken(self, shake: float) -> Iterator[list[np.ndarray]]:
        found = self._responses.setdefault(shake, [])
        for number in range(SHAKES):
            if number == len(found):
                with self._undone():
                    found.append(self._network.example_outputs(shake, weights=number > 0))
            yield found[number]


def judge(
    before: Sequence[np.ndarray],
    after: Sequence[np.ndarray],
    shaken: Iterable[Sequence[np.ndarray]],
    limits: Limits,
) -> Verdict | None:
    """Compare outputs before and after; None where they hold nothing that can be compared.

    Parameters
    ----------
    before, after : sequence of ndarray
        All outputs for the same inputs.
    shaken : iterable of sequence of ndarray
        Outputs before the change for what was shaken; further ones are only asked for where the
        first do not explain the change.
    limits : Limits
    """
    finite = [bool(np.isfinite(x).any()) for x in before]
    if not any(finite):
        return None
    changes = [relative_change(x, y) for x, y in zip(before, after, strict=True)]
    noises = [0.0] * len(changes)
    moved: list[np.ndarray] = []
    for response in shaken:
        moved = moved or [_moved(x, y) for x, y in zip(before, response, strict=True)]
        for i, (x, y) in enumerate(zip(before, response, strict=True)):
            changes[i] = relative_change(x, after[i], moved[i])
            same = x.shape == y.shape
            found = relative_change(x[moved[i]], y[moved[i]]) if same else float("inf")
            noises[i] = max(noises[i], found)
        if all(map(limits.allow, changes, noises)):
            break
    allowed = [max(limits.least, limits.floors * noise) for noise in noises]
    excess = [c / most if c else 0.0 for c, most in zip(changes, allowed, strict=True)]
    worst = int(np.argmax(np.nan_to_num(excess, nan=0.0, posinf=np.inf)))
    within = all(map(limits.allow, changes, noises))
    return Verdict(changes[worst], noises[worst], within, limits.shake)


def _moved(before: np.ndarray, shaken: np.ndarray) -> np.ndarray:
    """The finite values that moved with the inputs, or all where none did."""
    moved = np.isfinite(before)
    if before.shape == shaken.shape and (moved & (before != shaken)).any():
        moved &= before != shaken
    return moved


def relative_change(
    before: np.ndarray, after: np.ndarray, moved: np.ndarray | None = None
) -> float:
    """Largest change over the largest value; values that are equal, NaN too, have not changed.

    Of values that are not ``moved`` only those that changed say how large an output is.

    >>> relative_change(np.array([np.nan, 2.0, 4.0]), np.array([np.nan, 2.0, 3.0]))
    0.25
    >>> x, y = np.array([-1e9, 2.0, 4.0]), np.array([-1e9, 2.0, 3.0])
    >>> relative_change(x, y, moved=np.array([False, True, True]))
    0.25
    """
    if before.shape != after.shape:
        return float("inf")
    before, after = before.astype(np.float64), after.astype(np.float64)
    differ = (before != after) & ~(np.isnan(before) & np.isnan(after))
    if not differ.any():
        return 0.0
    change = np.abs(after[differ] - before[differ]).max()
    counts = np.isfinite(before)
    if moved is not None:
        counts &= moved | differ
    scale = np.abs(before[counts]).max(initial=0.0)
    return float(change / scale) if np.isfinite(change) and scale else float("inf")


def shaken_array(x: np.ndarray, shake: float, rng: np.random.Generator) -> np.ndarray:
    """``x`` with a relative change of ``shake``; whole numbers stay as they are.

    >>> shaken_array(np.ones(2), 1e-3, np.random.default_rng(0)).round(4).tolist()
    [1.0001, 0.9999]
    """
    if x.dtype.kind in "iubOUS":
        return x
    with np.errstate(over="ignore"):  # the largest number of its type
        return np.asarray(x * (1 + shake * rng.standard_normal(x.shape)), x.dtype)
