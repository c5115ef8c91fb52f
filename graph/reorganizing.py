"""The whole method on any network: look, plan, merge, refit, recalibrate, report.

All groups change together, so that the number of runs does not grow with that of the groups:

1. One look at the network as it was: class means and second moments of every group, moments of
   every normalization that the change touches, outputs.
2. A plan for every group (:mod:`.planning`), its consumers refitted (:mod:`.least_squares`), and
   all changes at once (:mod:`.surgery`).
3. Where one group changes, its consumers are refitted once more, to what they read now: two runs,
   of the network before and after, side by side.  Where channels are removed, every product that
   reads some is, one after the other (:mod:`.products`).
4. One run for the statistics of all normalizations.  Each takes those of the batch meanwhile
   (:mod:`.batch_statistics`), so that none has to wait for those before it.
5. One run for what remains: outputs, and class means after.  Scale that the merges moved is moved
   back (:mod:`.balance`), which changes no function.

That is 3 runs for each sample, 5 where one group changes, or two parts of one more for each product
that reads channels which were removed; pseudo-classes and gradients of the loss take one more each.
Everything or nothing: a failure undoes all, in all processes.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from .cautions import warn_about_classes, warn_of_few_samples
from .change.balance import balance_plan, scaled_members
from .change.least_squares import SecondMoments, Sums, held_out, refit
from .change.new_filters import filters_of
from .change.normalizations import Correction, Statistics, touched_normalizations
from .change.products import MOST_ROWS, ProductSums, fitted, products_of
from .change.removable import compacted, removable
from .change.removal import Layout
from .change.surgery import restricted, transform
from .collecting import with_pseudo_classes
from .find.channels import ChannelGroup, Unfit
from .measure.batch_statistics import Moments, batch_normalizations, by_tensor
from .measure.class_means import ClassMeans
from .measure.class_sums import MAX_BYTES, ClassSums
from .measure.cost import cost
from .measure.output_change import KEPT_BYTES, OutputChange
from .network import ALONE, BatchNormalization, Data, Follow, Network, Team, Transaction
from .plan.automatic_layers import least_used
from .plan.capacity import Capacity, capacity
from .plan.plan import GroupPlan, Plan
from .plan.planning import reorganize_plan
from .plan.recipe import Recipe
from .plan.selection import Choice, refuse_named, select_groups
from .ratios import Budget, Prices, TimeBudget
from .removing import unremovable
from .report import Report

log = logging.getLogger("rejuvenet")

Layers = str | Sequence[str | ChannelGroup]


@dataclass
class Outcome:
    """What happened, and what the activations were.

    Attributes
    ----------
    report : Report
    before, after : dict of str to ClassMeans
        Class means of the groups that have activations, by name.
    """

    report: Report
    before: dict[str, ClassMeans] = field(default_factory=dict)
    after: dict[str, ClassMeans] = field(default_factory=dict)


def reorganize(
    network: Network,
    data: Data | None,
    layers: Layers = "last",
    recipe: Recipe | None = None,
    *,
    classes: int | Sequence[str | int] | None = None,
    pseudo_classes: int | None = None,
    max_bytes: int = MAX_BYTES,
    max_change: float | None = None,
    protected: Mapping[str, Sequence[int]] | None = None,
    remove: bool = False,
    budget: Budget | TimeBudget | None = None,
    team: Team = ALONE,
    follow: Follow | None = None,
) -> Outcome:
    """Merge channels that respond alike and re-initialize the places that become free.

    Parameters
    ----------
    network : Network
        Changed in place.
    data : Data or None
        Without it only methods that look at weights are possible, consumers are not refitted
        and statistics are not recalibrated.
    layers : str or sequence of str
        Layers, patterns, ``"last"``, ``"all"`` or ``"auto"``.
    recipe : Recipe, optional
        ``Recipe.preserving()`` by default.
    classes, pseudo_classes, max_bytes
        As in :func:`rejuvenet.graph.collecting.collect`.
    max_change : float, optional
        A budget for the relative change of the outputs.  While it is overdrawn, the half of the
        groups that miss most of what their consumers read is put back; two more runs each time.
    protected : mapping of str to sequence of int, optional
        Channels, by the name of their group, that stay as and where they are.
    remove : bool
        Remove the places that become free instead; a group that cannot lose channels stays as it
        was, with the reason.
    budget : Budget or TimeBudget, optional
        With ``remove``: what may be left of the network, in place of the recipe's ratio.
    team : Team
        Processes that change the network together, each with its share of the data.
    follow : callable, optional
        Changes what goes along with the network, by the same plans.

    Raises
    ------
    ValueError
        For bad data, an unknown layer or one that cannot move; the network is then as it was.
    """
    start = time.perf_counter()
    recipe = recipe or Recipe.preserving()
    with team.together():
        if data is None:
            recipe = _without_data(recipe, layers)
        if max_change is not None and not max_change > 0:
            raise ValueError(f"expected a positive max_change, got {max_change!r}")
    with network.transaction() as edit:
        passes = 0
        if data is not None and pseudo_classes is not None:
            data = with_pseudo_classes(network, data, pseudo_classes, team, recipe.seed)
            classes, passes = pseudo_classes, 1
        with team.together():
            chosen, skipped = select_groups(
                network.groups,
                "all" if layers == "auto" else layers,
                activations=recipe.needs_means or layers == "auto",
            )
            chosen, spared = _without(chosen, protected or {})
            skipped |= spared
        run = _Run(network, edit, data, team, recipe, [choice.group for choice in chosen])
        run.passes = passes
        if remove:
            run.layout = Layout(network.graph)
        if data is not None:
            if team.first:
                run.tell(max_bytes)
            run.look(classes, max_bytes)
            if team.first and (layers == "auto" or recipe.tells_classes_apart):
                warn_about_classes(run.unlabelled, run.before)
        if layers == "auto":
            run.restrict(*_least_used(run))
        if budget is not None:
            run.spread(budget)
        run.plan({choice.group.name: choice.layer for choice in chosen})
        with team.together():
            refuse_named(chosen, run.refused)
        if run.active:
            run.change()
        with team.together():
            refuse_named(chosen, run.refused)
        skipped |= run.refused
        if data is not None and run.active:
            run.measure(classes, max_bytes)
            while max_change is not None and run.active and run.outputs.relative > max_change:
                reason = f"left as it was: its change is beyond the budget of {max_change:g}"
                skipped |= dict.fromkeys(run.spend_less(), reason)
                run.measure(classes, max_bytes)
        with team.together():
            if follow is not None and run.active:
                follow(edit, run.active, run.corrections, None)
            run.balance(follow)
        report = run.report(skipped)
        if run.layout is not None:
            run.remove(report)
    report.seconds = time.perf_counter() - start
    return Outcome(report, run.before, run.after)


class _Run:
    """One reorganization of several groups."""

    def __init__(
        self,
        network: Network,
        edit: Transaction,
        data: Data | None,
        team: Team,
        recipe: Recipe,
        groups: list[ChannelGroup],
    ) -> None:
        self.network, self.edit, self.data, self.team = network, edit, data, team
        self.recipe, self.groups = recipe, groups
        self.passes = 0
        self.unlabelled = False
        self.plans: list[GroupPlan] = []
        self.refused: dict[str, str] = {}
        self.before: dict[str, ClassMeans] = {}
        self.after: dict[str, ClassMeans] = {}
        self.corrections: dict[str, Correction] = {}
        self.outputs = OutputChange()
        self._moments = Moments([], network.arrays)
        self._sums: dict[str, Sums] = {}  # of groups that are refitted
        self._residual: dict[str, float] = {}
        self._made: GroupPlan  # the last one, before its refit
        self.layout: Layout | None = None  # where free places are removed
        self._freed: dict[str, np.ndarray] = {}

    def tell(self, max_bytes: int) -> None:
        """What it will take, before it starts."""
        refits = self.recipe.outgoing == "least_squares"
        passes = self.passes + 2 + (self.recipe.batchnorm == "recalibrate")
        passes += self.recipe.needs_gradients + 2 * (refits and len(self.groups) == 1)
        log.info(
            "up to %d passes over the batches, up to %d MiB of class sums and %d MiB of outputs",
            passes, max_bytes >> 20, KEPT_BYTES >> 20,
        )  # fmt: skip

    @property
    def active(self) -> list[GroupPlan]:
        """The plans that change something."""
        return [plan for plan in self.plans if not plan.idle]

    def look(self, classes: Any, max_bytes: int) -> None:
        """Class means, moments and outputs of the network as it is."""
        network, team = self.network, self.team
        with team.together():
            sums = ClassSums(network, self.groups, classes, None, max_bytes)
            self._moments = self._touched(self.groups)
            refits = self.recipe.outgoing == "least_squares"
            self._sums = {
                group.name: Sums(group, network.arrays)
                for group in self.groups
                if refits and group.tap is not None and group.name not in sums.refused
            }
            for first, inputs, n, labels in self._read("class means"):
                self.unlabelled |= labels is None
                watch = sums.watch(labels, n) + self._moments.watch()
                watch += [w for s in self._sums.values() for w in s.watch(first, n)]
                self.outputs.before(network.run(inputs, by_tensor(watch), outputs=True))
        self.passes += 1
        self._moments.share(team)
        sums.share(team)
        for own in self._sums.values():
            own.share(team)
        with team.together():
            self.before = sums.means()
        if self.recipe.needs_means:
            self.refused |= sums.refused

    def restrict(self, groups: list[ChannelGroup], recipe: Recipe) -> None:
        """Go on with some of the groups that were looked at."""
        self.groups, self.recipe = groups, recipe
        self.before = {g.name: self.before[g.name] for g in groups if g.name in self.before}
        self._moments = self._moments.only(self._touched(groups).normalizations)

    def spread(self, budget: Budget | TimeBudget) -> None:
        """Ratios by group that keep a budget."""
        assert self.layout is not None
        if not self._sums:
            raise ValueError("a target needs batches of inputs and outgoing 'least_squares'")
        grams = {name: sums.fitted.X for name, sums in self._sums.items()}
        names = [m.weight for group in self.groups for m in group.consumers]
        weights = self.edit.original(list(dict.fromkeys(names)))
        samples = self.network.example_samples
        prices = Prices(self.layout, self.groups, grams, weights, samples)
        self.recipe = replace(self.recipe, ratio=budget.ratios(prices))

    def plan(self, layers: Mapping[str, str | None]) -> None:
        """The plans of the first process, in all."""
        team, options = self.team, dict[str, Any]()
        if self.recipe.needs_gradients:
            with team.together():
                if self.data is None:
                    raise ValueError("init 'gradient' needs batches of (inputs, labels), got none")
            names = [m.weight for group in self.groups for m in filters_of(group.members)]
            names = list(dict.fromkeys(names))
            options["gradients"] = self.network.gradients(self.data, names, team)
            self.passes += 1
        with team.together():
            for group in self.groups if team.first else ():
                if group.name not in self.refused:
                    self._plan(group, layers[group.name], options)
            if self.layout is not None:
                self.plans = [plan if plan.idle else compacted(plan) for plan in self.plans]
                self._freed, against = removable(self.layout, self.active)
                self.refused |= against
                self.plans = [plan for plan in self.plans if plan.group not in against]
            self.plans = [self._fitted(plan) for plan in self.plans]
        self.plans, self.refused, self._residual = team.from_first(
            (self.plans, self.refused, self._residual)
        )

    def _plan(self, group: ChannelGroup, layer: str | None, options: Mapping[str, Any]) -> None:
        weights = self.edit.original([m.weight for m in group.members])
        means, sums = self.before.get(group.name), self._sums.get(group.name)
        if sums is not None and self.recipe.method == "subset":
            options = {**options, "gram": sums.fitted.X}
        try:
            self.network.check(group)
            plan = reorganize_plan(group, weights, self.recipe, means, layer, **options)
        except Unfit as error:
            self.refused[group.name] = str(error)
            return
        self.plans.append(plan)

    def _fitted(self, plan: GroupPlan) -> GroupPlan:
        """The plan with its consumers refitted, where there is something to fit them to."""
        own = self._sums.get(plan.group)
        if own is None or plan.idle:
            return plan
        warn_of_few_samples(plan, own, self.before.get(plan.group))
        self._made = plan
        return self._refitted(plan, own.fitted.merged(plan), own.held.merged(plan))

    def _refitted(self, plan: GroupPlan, fitted: SecondMoments, held: SecondMoments) -> GroupPlan:
        free = scaled_members(self.network.graph, plan.members)
        names = [m.weight for m in plan.members if m.kind == "consumer"]
        plan = refit(plan, fitted, held, bounded=None if free else self.edit.original(names))
        self._residual[plan.group] = (held if held.samples else fitted).residual(plan)
        return plan

    def change(self) -> None:
        """All weights as the plans make them, and the statistics of all normalizations."""
        with self.team.together():
            self._write(self.active)
            if self.layout is not None:
                found = unremovable(self.network, self.layout, self._freed, self.active)
                self.refused |= found
                self._put_back(list(found))
        if self.layout is not None:
            self._fit_products()
        elif len(self.active) == 1 and self.active[0].group in self._sums:
            self._fit_beside(self.active[0])
        self._recalibrate()

    def _fit_products(self) -> None:
        """What reads channels of the plans, one product after the other, both networks beside."""
        network, team = self.network, self.team
        if self.data is None or self.recipe.outgoing != "least_squares":
            return
        plans = self.active
        reading = {m.weight for plan in plans for m in plan.members if m.kind == "consumer"}
        normalized = {n.tensor for n in self._moments.normalizations}
        for product in products_of(network.graph, reading, normalized):
            names = [name for name in (product.weight, product.bias) if name]
            weights = self.edit.read(names)
            sums = ProductSums(product, weights[product.weight].shape, network.arrays)
            if sums.rows > MOST_ROWS:
                continue
            own = self._own_statistics()
            try:
                for number, (first, inputs, n, _) in enumerate(self._read("least squares")):
                    with self.edit.undone():
                        network.run(inputs, by_tensor(sums.watch(n)))
                    watch = by_tensor(sums.watch_changed(first, n))
                    network.run(inputs, watch, statistics=own(number))
            except Unfit:  # what it reads is not of samples
                continue
            self.passes += 2
            sums.share(team)
            self.edit.write(fitted(sums, plans, weights))

    def _fit_beside(self, plan: GroupPlan) -> None:
        """The one plan refitted to what its consumers read now, both networks side by side."""
        network, team = self.network, self.team
        sums = Sums(self._sums[plan.group].group, network.arrays)
        own = self._own_statistics()
        with team.together():
            for number, (first, inputs, n, _) in enumerate(self._read("least squares")):
                with self.edit.undone():
                    network.run(inputs, by_tensor(sums.watch(first, n, keep=True)))
                watch = by_tensor(sums.watch_changed(first, n))
                network.run(inputs, watch, statistics=own(number))
        self.passes += 2
        sums.share(team)
        with team.together():
            if team.first:
                plan = self._refitted(self._made, sums.fitted, sums.held)
        plan, self._residual = team.from_first((plan, self._residual))
        self.plans = [plan if other.group == plan.group else other for other in self.plans]
        with team.together():
            self._write([plan])

    def spend_less(self) -> list[str]:
        """Put back the half of the groups that miss most of what their consumers read."""
        order = sorted(self.active, key=lambda plan: self._residual.get(plan.group, math.inf))
        back = order[len(order) // 2 :]
        names = [plan.group for plan in back]
        with self.team.together():
            self._put_back(names)
        if self.layout is not None:
            self._fit_products()
        self._recalibrate()
        return names

    def _put_back(self, names: Sequence[str]) -> None:
        """The groups of these names as they were, the others as their plans make them."""
        back = [plan for plan in self.plans if plan.group in names]
        if not back:
            return
        self.plans = [plan for plan in self.plans if plan.group not in names]
        statistics = [s for n in self._moments.normalizations for s in (n.mean, n.variance)]
        touched = [*(name for plan in back for name in plan.weights), *statistics]
        self.edit.write(self.edit.original(list(dict.fromkeys(touched))))
        self._write(self.active)

    def remove(self, report: Report) -> None:
        """Remove the free places, and say what that saves."""
        assert self.layout is not None
        graph, samples = self.network.graph, self.network.example_samples
        removal = self.layout.removal(self._freed, self.active)
        report.cost, report.cost_before = cost(graph, samples, removal.shapes), cost(graph, samples)
        for group in report.groups:
            group.removed = len(removal.channels.get(group.group, ()))
        self.network.remove(removal)

    def measure(self, classes: Any, max_bytes: int) -> None:
        """What remains: outputs, and class means after."""
        network, team = self.network, self.team
        with team.together():
            names = {plan.group for plan in self.plans}
            groups = [group for group in self.groups if group.name in names]
            sums = ClassSums(network, groups, classes, None, max_bytes)
            self.outputs.again()
            for first, inputs, n, labels in self._read("outputs after"):
                found = network.run(inputs, by_tensor(sums.watch(labels, n)), outputs=True)
                self.outputs.after(found, held_out(first, n))
        self.passes += 1
        self.outputs.share(team)
        sums.share(team)
        with team.together():
            self.after = sums.means()

    def balance(self, follow: Follow | None) -> None:
        """Scale that the merges took from what makes channels to what reads them, moved back."""
        for plan in self.active:
            names = list(plan.weights)
            present = self.edit.read(names)
            balance = balance_plan(self.network.graph, plan, self.edit.original(names), present)
            if balance is not None:
                self.edit.write(transform(balance, present))
                if follow is not None:
                    follow(self.edit, [balance], {}, present)

    def report(self, skipped: Mapping[str, str]) -> Report:
        """The report, in all processes."""
        team, figures = self.team, dict[str, Capacity]()
        with team.together():
            # Activations after would be those of silent channels as well, which are removed.
            for plan in self.plans if team.first and self.layout is None else ():
                means, nodes = self.after.get(plan.group), max(plan.nodes, 1)
                if means is not None:
                    own = capacity(means.Q, nodes, means.activity, self.recipe.seed)
                    figures[plan.group] = own
        figures = team.from_first(figures)
        report = Report.of(Plan(self.plans, self.recipe, dict(skipped)), figures)
        for group in report.groups:
            if group.group in self._residual:
                group.missed = math.sqrt(self._residual[group.group])
        report.passes = self.passes
        if self.after:
            report.output_change, report.agreement = self.outputs.relative, self.outputs.agreement
            report.largest_change, report.held_out = self.outputs.largest, self.outputs.held_out
        return report

    def _read(self, purpose: str) -> Iterator[tuple[int, Any, int, np.ndarray | None]]:
        """Batches, with the number of samples before and in each."""
        assert self.data is not None
        first = 0
        for inputs, labels in self.data.read(purpose):
            n = self.network.samples(inputs)
            yield first, inputs, n, labels
            first += n

    def _write(self, plans: Sequence[GroupPlan]) -> None:
        """Weights as the plans make them, one at a time."""
        for name in dict.fromkeys(name for plan in plans for name in plan.weights):
            self.edit.write(transform(restricted(plans, {name}), self.edit.original([name])))

    def _recalibrate(self) -> None:
        """Statistics of the normalizations that the change touches, in one run."""
        self.corrections = {}
        normalizations, plans = self._moments.normalizations, self.active
        if not normalizations or not plans:
            return
        network, team = self.network, self.team
        after = Moments(normalizations, network.arrays)
        own = self._own_statistics()
        with team.together():
            for number, (_, inputs, _, _) in enumerate(self._read("normalization statistics")):
                network.run(inputs, by_tensor(after.watch()), statistics=own(number))
        self.passes += 1
        after.share(team)
        before, now = self._moments.statistics(), after.statistics()
        before |= transform(restricted(plans, set(before)), before)
        merged = self._merged()
        for n in normalizations:
            if n.mean not in self.corrections:
                self.corrections[n.mean] = Correction.between(n, before, now)
                self.corrections[n.mean].repeat(merged)
        with team.together():
            self.edit.write(merged)

    def _merged(self) -> Statistics:
        """Running statistics as the plans merge them."""
        names = [s for n in self._moments.normalizations for s in (n.mean, n.variance)]
        running = self.edit.original(list(dict.fromkeys(names)))
        return running | transform(restricted(self.active, set(running)), running)

    def _own_statistics(self) -> Callable[[int], list[BatchNormalization]]:
        """How normalizations use the statistics of a batch, by its number."""
        merged, found = self._merged(), self._moments.normalizations
        parts = {n.mean: restricted(self.active, {n.mean, n.variance}) for n in found}
        return lambda number: batch_normalizations(self._moments, number, merged, parts)

    def _touched(self, groups: Sequence[ChannelGroup]) -> Moments:
        """Moments of the normalizations that a change of the groups touches."""
        members = [m for group in groups for m in group.members]
        again = self.recipe.batchnorm == "recalibrate"
        touched = touched_normalizations(self.network.graph, members) if again else []
        return Moments(touched, self.network.arrays)


def _without(
    chosen: Sequence[Choice], protected: Mapping[str, Sequence[int]]
) -> tuple[list[Choice], dict[str, str]]:
    """The groups without some of their channels, and those of which none are left to exchange."""
    left, spared = [], {}
    for choice in chosen:
        group = choice.group
        channels = protected.get(group.name, ())
        sets = tuple(np.setdiff1d(indices, channels) for indices in group.exchangeable)
        if len(channels) and not any(len(indices) > 1 for indices in sets):
            spared[group.name] = "its channels are protected"
        elif len(channels):
            sets = tuple(indices for indices in sets if len(indices))
            left.append(choice._replace(group=replace(group, exchangeable=sets)))
        else:
            left.append(choice)
    return left, spared


def _without_data(recipe: Recipe, layers: Layers) -> Recipe:
    """The recipe as far as weights alone allow."""
    if recipe.needs_means or layers == "auto":
        what = "layers 'auto'" if layers == "auto" else f"method {recipe.method!r}"
        raise ValueError(f"{what} needs batches of (inputs, labels)")
    without = "sum" if recipe.outgoing == "least_squares" else recipe.outgoing
    return replace(recipe, outgoing=without, batchnorm="merge")


def _least_used(run: _Run) -> tuple[list[ChannelGroup], Recipe]:
    """The groups that use the least of their capacity, and the recipe with their ratios."""
    team, ratios = run.team, dict[str, float]()
    with team.together():
        if team.first:
            figures = {n: capacity(m.Q, activity=m.activity) for n, m in run.before.items()}
            ratios = least_used(figures)
    ratios = team.from_first(ratios)
    recipe = run.recipe
    if ratios and isinstance(recipe.ratio, float):
        recipe = replace(recipe, ratio=ratios)
    return [group for group in run.groups if group.name in ratios], recipe
