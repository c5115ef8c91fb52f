"""Statistics of the normalizations that a change touches: before it, within it, and after it.

After a change, a normalization takes the statistics of the batch in every run
(:mod:`.batch_statistics`), so that none has to wait for those before it; one run then corrects all
running statistics (:mod:`.normalizations`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .change.normalizations import Correction, Normalization, Statistics, touched_normalizations
from .change.surgery import restricted, transform
from .find.channels import ChannelGroup
from .measure.batch_statistics import Moments, batch_normalizations, by_tensor
from .network import BatchNormalization
from .plan.plan import GroupPlan
from .runs import Runs


class Recalibration:
    """Of the normalizations that a change of some groups touches.

    Parameters
    ----------
    runs : Runs
    groups : sequence of ChannelGroup
    wanted : bool
        Whether any statistics are estimated again.

    Attributes
    ----------
    before : Moments
        What they read in the network as it was.
    corrections : dict of str to Correction
        What was done, by the name of the running mean.
    """

    def __init__(self, runs: Runs, groups: Sequence[ChannelGroup], wanted: bool) -> None:
        self._runs, self._wanted = runs, wanted
        self.before = Moments(self._touched(groups), runs.network.arrays)
        self.corrections: dict[str, Correction] = {}

    def restrict(self, groups: Sequence[ChannelGroup]) -> None:
        """Go on with some of the groups."""
        self.before = self.before.only(self._touched(groups))

    def _touched(self, groups: Sequence[ChannelGroup]) -> list[Normalization]:
        members = [m for group in groups if self._wanted for m in group.members]
        return touched_normalizations(self._runs.network.graph, members)

    @property
    def names(self) -> list[str]:
        """The running statistics."""
        pairs = ((n.mean, n.variance) for n in self.before.normalizations)
        return list(dict.fromkeys(name for pair in pairs for name in pair))

    def own(self, plans: Sequence[GroupPlan]) -> Callable[[int], list[BatchNormalization]]:
        """How normalizations use the statistics of a batch, by its number."""
        merged = self._merged(plans)
        parts = {
            n.mean: restricted(plans, {n.mean, n.variance}) for n in self.before.normalizations
        }
        return lambda number: batch_normalizations(self.before, number, merged, parts)

    def carry_out(self, plans: Sequence[GroupPlan]) -> None:
        """Correct the running statistics, in one run."""
        self.corrections = {}
        normalizations, runs = self.before.normalizations, self._runs
        if not normalizations or not plans:
            return
        after = Moments(normalizations, runs.network.arrays)
        own = self.own(plans)
        with runs.team.together():
            for number, (_, inputs, *_) in enumerate(runs.batches("normalization statistics")):
                runs.network.run(inputs, by_tensor(after.watch()), statistics=own(number))
        after.share(runs.team)
        before, now = self.before.statistics(), after.statistics()
        before |= transform(restricted(plans, set(before)), before)
        merged = self._merged(plans)
        for n in normalizations:
            if n.mean not in self.corrections:
                self.corrections[n.mean] = Correction.between(n, before, now)
                self.corrections[n.mean].repeat(merged)
        with runs.team.together():
            runs.edit.write(merged)

    def _merged(self, plans: Sequence[GroupPlan]) -> Statistics:
        """Running statistics as the plans merge them."""
        running = self._runs.edit.original(self.names)
        return running | transform(restricted(plans, set(running)), running)
