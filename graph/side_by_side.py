"""A network before and after a change, taken from tensor to tensor side by side.

Over all batches: every one stands where it was looked at, and goes on from there with the weights
that were written meanwhile.  So two runs are enough to look at any number of tensors, one after
the other.  What runs keep to go on is counted; beyond ``KEPT_BYTES`` batches begin anew up to
the next tensor, and where that would take too many runs they are left out from there on.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from .network import BatchNormalization, Network, NotMade
from .runs import Runs

KEPT_BYTES = 1 << 30

Step = tuple[Any, int | None]  # an activation, and the bytes kept to go on


class _Standing(NamedTuple):
    """One batch: the samples before it and in it, and its run before and after the change."""

    first: int
    n: int
    before: Iterator[Step]
    after: Iterator[Step]


class SideBySide:
    """Both networks at one pair of tensors after the other.

    Parameters
    ----------
    runs : Runs
        Counts the parts of runs, each up to the next pair of so many.
    pairs : sequence of (str, str)
        Tensors of the network before and after the change, in the order in which they are made.
    statistics : callable
        How normalizations of the changed network use the statistics of a batch, by its number.
    most : float
        How many runs over the data there may be; those that stand are finished in any case.
    """

    def __init__(
        self,
        runs: Runs,
        pairs: Sequence[tuple[str, str]],
        statistics: Callable[[int], Sequence[BatchNormalization]],
        most: float,
    ) -> None:
        self._runs, self._statistics, self._pairs = runs, statistics, pairs
        self._until = runs.passes + most
        self._at = 0  # pairs that were looked at
        self._samples: dict[int, int] = {}  # of every batch, but for those that are left out
        self._all = 0
        self._standing: dict[int, _Standing] = {}

    def next_pair(self) -> Iterator[tuple[int, int, Any, Any]]:
        """For every batch the samples before it and in it, and both activations, if it has them."""
        standing: dict[int, _Standing] = {}
        kept = parts = 0
        for number, batch, steps in self._batches():
            with self._runs.edit.undone():
                before, first_bytes = next(batch.before)
            after, more_bytes = next(batch.after)
            first, n = batch.first, batch.n
            self._samples[number], parts = n, parts + n * steps
            if first_bytes is not None and more_bytes is not None:
                held = kept + first_bytes + more_bytes
                if held <= KEPT_BYTES:
                    standing[number], kept = batch, held
            del batch
            yield first, n, before, after
        self._all = self._all or sum(self._samples.values())
        self._standing, self._at = standing, self._at + 1
        share = 2 / max(1, self._all * len(self._pairs))
        self._runs.passes += parts * share
        others = sum(n for number, n in self._samples.items() if number not in standing)
        if self._runs.passes + others * (self._at + 1) * share > self._until:
            self._samples = {number: batch.n for number, batch in standing.items()}

    def _batches(self) -> Iterator[tuple[int, _Standing, int]]:
        """Batches by number, with how many pairs they have to reach."""
        standing = self._standing
        if self._at and standing.keys() == self._samples.keys():
            for number in list(standing):
                yield number, standing.pop(number), 1
            return
        network = self._runs.network
        before, after = zip(*self._pairs[self._at :], strict=True)
        for number, (first, inputs, n, _) in enumerate(self._runs.batches("least squares", 0)):
            if number in standing:
                yield number, standing.pop(number), 1
            elif not self._at or number in self._samples:
                own = self._statistics(number)
                yield number, _Standing(
                    first, n, network.stepwise(inputs, before), network.stepwise(inputs, after, own)
                ), self._at + 1  # fmt: skip


def run_for_each(
    network: Network,
    inputs: Any,
    tensors: Iterable[str],
    statistics: Sequence[BatchNormalization] = (),
) -> Iterator[Step]:
    """:meth:`.network.Network.stepwise` of a network that cannot stand: a run for each tensor."""
    for tensor in tensors:
        found: list[Any] = []
        with contextlib.suppress(NotMade):
            network.run(inputs, {tensor: [found.append]}, statistics=statistics)
        yield found.pop() if found else None, None
