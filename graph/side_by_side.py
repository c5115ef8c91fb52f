"""A network before and after a change, taken from tensor to tensor side by side.

Over all batches: every one stands where it was looked at, and goes on from there with the weights
that were written meanwhile.  So two runs are enough to look at any number of tensors, one after
the other.  What a run keeps to go on is counted; beyond :data:`KEPT_BYTES` the batches begin anew,
up to the next tensor, until what they keep there fits.
"""

from __future__ import annotations

import contextlib
from collections import deque
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
    pairs : sequence of (str, str)
        Tensors of the network before and after the change, in the order in which they are made.
    statistics : callable
        How normalizations of the changed network use the statistics of a batch, by its number.
    """

    def __init__(
        self,
        runs: Runs,
        pairs: Sequence[tuple[str, str]],
        statistics: Callable[[int], Sequence[BatchNormalization]],
    ) -> None:
        self._runs, self._statistics = runs, statistics
        self._pairs = deque(pairs)
        self._standing: deque[_Standing] | None = None

    def next_pair(self) -> Iterator[tuple[int, int, Any, Any]]:
        """For every batch the samples before it and in it, and both activations, if it has them."""
        passing = self._begun() if self._standing is None else _taken(self._standing)
        standing: deque[_Standing] | None = deque()
        kept = 0
        for batch in passing:
            with self._runs.edit.undone():
                before, first_bytes = next(batch.before)
            after, more_bytes = next(batch.after)
            if standing is not None and None not in (first_bytes, more_bytes):
                kept += (first_bytes or 0) + (more_bytes or 0)
                standing.append(batch)
            else:
                standing = None
            if kept > KEPT_BYTES:
                standing = None
            yield batch.first, batch.n, before, after
        self._standing = standing
        self._pairs.popleft()

    def _begun(self) -> Iterator[_Standing]:
        network = self._runs.network
        before, after = zip(*self._pairs, strict=True)
        for number, (first, inputs, n, _) in enumerate(self._runs.batches("least squares", 2)):
            own = self._statistics(number)
            yield _Standing(
                first, n, network.stepwise(inputs, before), network.stepwise(inputs, after, own)
            )


def _taken(standing: deque[_Standing]) -> Iterator[_Standing]:
    """The batches, which nothing else holds any more."""
    while standing:
        yield standing.popleft()


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
