"""Consumers that learn to read what a change leaves of their channels.

Each is fitted from one look at the network as it was, as if the other groups stayed
(:mod:`.least_squares`).  With the recipe's refit of products, every product that reads changed
channels is then fitted to what it reads by now, one after the other (:mod:`.products`), where the
network before and after stands side by side.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence

from .cautions import warn_of_few_samples
from .change.balance import scaled_members
from .change.least_squares import Sums, Watched, refit
from .change.products import ProductSums, fitted, products_of
from .find.channels import ChannelGroup
from .measure.class_means import ClassMeans
from .plan.plan import GroupPlan
from .recalibration import Recalibration
from .runs import Runs
from .side_by_side import SideBySide


class Refits:
    """Of the groups of one change.

    Parameters
    ----------
    runs : Runs
    statistics : Recalibration

    Attributes
    ----------
    sums : dict of str to Sums
        Second moments of what was there before, by group; empty where nothing is refitted.
    residual : dict of str to float
        Share of what they read that consumers miss, by group.
    written : set of str
        Weights and biases of products that were fitted.
    """

    def __init__(self, runs: Runs, statistics: Recalibration) -> None:
        self._runs, self._statistics = runs, statistics
        self.sums: dict[str, Sums] = {}
        self.residual: dict[str, float] = {}
        self.written: set[str] = set()

    def begin(self, groups: Sequence[ChannelGroup]) -> None:
        """Of these groups, second moments are gathered in the look at the network."""
        self.sums = {group.name: Sums(group, self._runs.network.arrays) for group in groups}

    def watch(self, first: int, n: int) -> Watched:
        """What to look at in the run of the network before, of ``n`` samples after ``first``."""
        return [watched for own in self.sums.values() for watched in own.watch(first, n)]

    def share(self, refused: Container[str] = ()) -> None:
        """Second moments over all processes, but for groups whose tensors hold no samples."""
        self.sums = {name: own for name, own in self.sums.items() if name not in refused}
        for own in self.sums.values():
            own.share(self._runs.team)

    def _fits(self, plan: GroupPlan) -> bool:
        return plan.group in self.sums and not plan.idle and bool(_read(plan))

    def warn(self, plans: Sequence[GroupPlan], means: Mapping[str, ClassMeans]) -> None:
        """Say of which plans there are too few samples to fit consumers to."""
        warn_of_few_samples(
            (plan, self.sums[plan.group], means.get(plan.group))
            for plan in plans
            if self._fits(plan)
        )

    def fitted(self, plan: GroupPlan) -> GroupPlan:
        """The plan with its consumers refitted, where there is something to fit them to."""
        own = self.sums.get(plan.group)
        if own is None or not self._fits(plan):
            return plan
        free = scaled_members(self._runs.network.graph, plan.members)
        bounded = None if free else self._runs.edit.original(_read(plan))
        fitted, held = own.fitted.merged(plan), own.held.merged(plan)
        plan = refit(plan, fitted, held, bounded)
        self.residual[plan.group] = (held if held.samples else fitted).residual(plan)
        return plan

    def fit_products(self, plans: Sequence[GroupPlan], most: float, bounded: bool) -> None:
        """One product after the other that reads channels of the plans, in so many runs at most."""
        runs = self._runs
        reading = {name for plan in plans for name in _read(plan)}
        normalized = {n.tensor for n in self._statistics.before.normalizations}
        products = products_of(runs.network.graph, reading, normalized)
        pairs = [(product.y.tensor, product.x.tensor) for product in products]
        both = SideBySide(runs, pairs, self._statistics.own(plans), most)
        for product in products:
            names = [name for name in (product.weight, product.bias) if name]
            weights = runs.edit.read(names)
            sums = ProductSums(product, weights[product.weight].shape, runs.network.arrays)
            fits = None  # unless there is a batch
            with runs.team.together():
                for first, n, before, after in both.next_pair():
                    fits = fits is not False and sums.add(first, n, before, after)
            every = runs.team.gather(fits)
            if True in every and False not in every:
                sums.share(runs.team)
                found = fitted(sums, plans, weights, bounded)
                runs.edit.write(found)
                self.written |= found.keys()


def _read(plan: GroupPlan) -> list[str]:
    """The weights that read its channels."""
    return [m.weight for m in plan.members if m.kind == "consumer"]
