"""A network in the middle of a change, run over its data again and again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .change.surgery import restricted, transform
from .network import Data, Network, Team, Transaction
from .plan.plan import GroupPlan


@dataclass
class Runs:
    """What every step of a change works on.

    Attributes
    ----------
    network : Network
    edit : Transaction
    data : Data or None
    team : Team
    passes : float
        How often the network has run over the data.
    """

    network: Network
    edit: Transaction
    data: Data | None
    team: Team
    passes: float = 0

    def batches(
        self, purpose: str, passes: int = 1
    ) -> Iterator[tuple[int, Any, int, np.ndarray | None]]:
        """Batches, with the number of samples before and in each, for so many runs of each."""
        assert self.data is not None
        first = 0
        for inputs, labels in self.data.read(purpose):
            n = self.network.samples(inputs)
            yield first, inputs, n, labels
            first += n
        self.passes += passes

    def write(self, plans: Sequence[GroupPlan]) -> None:
        """Weights as the plans make them, one at a time."""
        for name in dict.fromkeys(name for plan in plans for name in plan.weights):
            self.edit.write(transform(restricted(plans, {name}), self.edit.original([name])))
