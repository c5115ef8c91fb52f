"""The whole method on any network: look, plan, merge, refit, recalibrate, report.

All groups change together, so that the number of runs does not grow with that of the groups:

1. One look at the network as it was: class means and second moments of every group, moments of
   every normalization that the change touches, outputs.
2. A plan for every group (:mod:`.planning`), its consumers refitted (:mod:`.refitting`), and all
   changes at once (:mod:`.surgery`).
3. Where the recipe says so, every product that reads them is fitted to what it reads by now.
4. One run for the statistics of all normalizations (:mod:`.recalibration`).
5. One run for what remains: outputs, and class means after.  Scale that the merges moved is moved
   back (:mod:`.balance`), which changes no function.

That is 3 runs for each sample, 5 with a refit of products; pseudo-classes and gradients of the loss
take one more each.  A network that cannot stand still, or keeps too much where it stands, takes
more of them (:mod:`.side_by_side`): ``MOST_PASSES``, or what it takes where places are removed.
Everything or nothing: a failure undoes all, in all processes.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Integral, Real
from typing import Any

import numpy as np

from .arguments import check_kind, refuse_idle, refuse_several
from .cautions import BEYOND, warn_about_classes, warn_of_equal_samples
from .change.balance import balance_plan
from .change.least_squares import held_out
from .change.new_filters import filters_of
from .change.removable import compacted, removable
from .change.removal import Layout
from .change.surgery import transform
from .collecting import with_pseudo_classes
from .find.channels import ChannelGroup, Unfit
from .measure.batch_statistics import by_tensor
from .measure.class_means import ClassMeans
from .measure.class_sums import MAX_BYTES, ClassSums
from .measure.cost import cost
from .measure.output_change import KEPT_BYTES, OutputChange
from .network import ALONE, Data, Follow, Network, Team
from .plan.automatic_layers import least_used
from .plan.capacity import Capacity, capacity
from .plan.plan import GroupPlan, Plan
from .plan.planning import reorganize_plan
from .plan.recipe import Recipe, given
from .plan.selection import (
    Layers,
    protected_channels,
    refuse_named,
    refuse_unknown,
    select_groups,
    without_channels,
)
from .ratios import Budget, Prices, TimeBudget
from .recalibration import Recalibration
from .refitting import Refits
from .removing import unremovable
from .report import Report
from .runs import Runs

log = logging.getLogger("rejuvenet")

MOST_PASSES = 8  # unless places are removed, which is worth any number


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
    classes, pseudo_classes, max_bytes, protected
        As in :func:`rejuvenet.adapters.torch.reorganize`.
    max_change : float, optional
        A budget for the relative change of the output that changes most, which another shape
        overdraws.  While it is overdrawn, the half of the groups that miss most of what their
        consumers read is put back; two more runs each time, four with a refit of products, and one
        at the end where scale was moved.
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
    check_kind(Real, max_change=max_change, max_bytes=max_bytes)
    check_kind(Integral, pseudo_classes=pseudo_classes)
    check_kind(Mapping, protected=protected)
    refuse_several(classes=classes, pseudo_classes=pseudo_classes)
    recipe = given(recipe, Recipe.preserving)
    with team.together():
        if data is None:
            if layers == "auto":
                raise ValueError(
                    "layers 'auto' needs batches of (inputs, labels), got none: give some, or name "
                    "the layers"
                )
            recipe = recipe.without_data()
            refuse_idle(
                "without batches", classes=classes, pseudo_classes=pseudo_classes,
                max_change=max_change,
            )  # fmt: skip
        recipe = recipe.fitting("groups" if protected else "products")
        if max_change is not None and not max_change > 0:
            raise ValueError(f"expected a positive max_change, got {max_change!r}")
        refuse_unknown(network.groups, recipe.ratio)
    with network.transaction() as edit:
        runs = Runs(network, edit, data, team)
        if data is not None and pseudo_classes is not None:
            runs.data = with_pseudo_classes(network, data, pseudo_classes, team, recipe.seed)
            classes, runs.passes = pseudo_classes, 1
        with team.together():
            chosen, skipped = select_groups(
                network.groups,
                "all" if layers == "auto" else layers,
                activations=recipe.needs_means or layers == "auto",
            )
            stay = protected_channels(network.groups, protected or {})
            chosen, spared = without_channels(chosen, stay)
            skipped |= spared
            run = _Run(runs, recipe, [choice.group for choice in chosen])
        if remove:
            run.layout = Layout(network.graph)
        if data is not None:
            if team.first:
                run.tell(max_bytes)
            run.look(classes, max_bytes)
            if team.first and (layers == "auto" or recipe.tells_classes_apart):
                warn_about_classes(run.unlabelled, run.before)
        if layers == "auto":
            run.restrict()
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
        if max_change is not None and run.active:
            skipped |= run.keep_within(max_change, classes, max_bytes)
        with team.together():
            if follow is not None and run.active:
                follow(edit, run.active, run.statistics.corrections, None)
            moved = run.balance(follow)
        if data is not None and run.active:
            if moved or max_change is None:  # what is said is true of the weights that stay
                run.measure(classes, max_bytes)
            if team.first:
                warn_of_equal_samples(run.outputs)
        report = run.report(skipped)
        if run.layout is not None:
            run.remove(report)
    report.seconds = time.perf_counter() - start
    return Outcome(report, run.before, run.after)


class _Run:
    """One reorganization of several groups."""

    def __init__(self, runs: Runs, recipe: Recipe, groups: list[ChannelGroup]) -> None:
        self.runs, self.recipe, self.groups = runs, recipe, groups
        self.network, self.edit, self.team = runs.network, runs.edit, runs.team
        self.unlabelled = False
        self.plans: list[GroupPlan] = []
        self.refused: dict[str, str] = {}
        self.before: dict[str, ClassMeans] = {}
        self.after: dict[str, ClassMeans] = {}
        self.outputs = OutputChange()
        self.statistics = Recalibration(runs, groups, recipe.batchnorm == "recalibrate")
        self.refits = Refits(runs, self.statistics)
        self.layout: Layout | None = None  # where free places are removed
        self._freed: dict[str, np.ndarray] = {}

    def tell(self, max_bytes: int) -> None:
        """What it will take, before it starts."""
        recipe = self.recipe
        products = ", and more where activations do not fit" * (recipe.refit == "products")
        passes = self.runs.passes + 2 + (recipe.batchnorm == "recalibrate")
        passes += recipe.needs_gradients + 2 * (recipe.refit == "products")
        log.info(
            "up to %d passes over the batches%s, up to %d MiB of class sums and %d MiB of outputs",
            passes, products, max_bytes >> 20, KEPT_BYTES >> 20,
        )  # fmt: skip

    @property
    def active(self) -> list[GroupPlan]:
        """The plans that change something."""
        return [plan for plan in self.plans if not plan.idle]

    def look(self, classes: Any, max_bytes: int) -> None:
        """Class means, moments and outputs of the network as it is."""
        with self.team.together():
            sums = ClassSums(self.network, self.groups, classes, None, max_bytes)
            if self.recipe.outgoing == "least_squares":
                described = [group for group in self.groups if group.tap is not None]
                self.refits.begin([g for g in described if g.name not in sums.refused])
            for first, inputs, n, labels in self.runs.batches("class means"):
                self.unlabelled |= labels is None
                watch = sums.watch(labels, n) + self.statistics.before.watch()
                watch += self.refits.watch(first, n)
                self.outputs.before(self.network.run(inputs, by_tensor(watch), outputs=True))
        self.statistics.before.share(self.team)
        sums.share(self.team)
        self.refits.share(sums.refused)
        with self.team.together():
            self.before = sums.means(self.recipe.tells_classes_apart)
        if self.recipe.needs_means:
            self.refused |= sums.refused

    def restrict(self) -> None:
        """Go on with the groups that use the least of their capacity, and with their ratios."""
        ratios = dict[str, float]()
        with self.team.together():
            if self.team.first:
                figures = {n: capacity(m.Q, activity=m.activity) for n, m in self.before.items()}
                ratios = least_used(figures)
        ratios = self.team.from_first(ratios)
        if ratios and isinstance(self.recipe.ratio, float):
            self.recipe = replace(self.recipe, ratio=ratios)
        self.groups = [group for group in self.groups if group.name in ratios]
        self.before = {name: means for name, means in self.before.items() if name in ratios}
        self.statistics.restrict(self.groups)

    def spread(self, budget: Budget | TimeBudget) -> None:
        """Ratios by group that keep a budget."""
        assert self.layout is not None
        if not self.refits.sums:
            raise ValueError(
                "a target needs batches of inputs and outgoing 'least_squares': give both, or a "
                "ratio in place of the target"
            )
        grams = {name: sums.fitted.X for name, sums in self.refits.sums.items()}
        weights = self.edit.original([m.weight for g in self.groups for m in g.consumers])
        samples = self.network.example_samples
        prices = Prices(self.layout, self.groups, grams, weights, samples)
        self.recipe = replace(self.recipe, ratio=budget.ratios(prices))

    def plan(self, layers: Mapping[str, str | None]) -> None:
        """The plans of the first process, in all."""
        team, options = self.team, dict[str, Any]()
        if self.recipe.needs_gradients:
            with team.together():
                if self.runs.data is None:
                    raise ValueError(
                        "init 'gradient' needs batches of (inputs, labels), got none: give some, "
                        "or choose another init"
                    )
            names = [m.weight for group in self.groups for m in filters_of(group.members)]
            names = list(dict.fromkeys(names))
            options["gradients"] = self.network.gradients(self.runs.data, names)
            self.runs.passes += 1
        with team.together():
            for group in self.groups if team.first else ():
                if group.name not in self.refused:
                    self._plan(group, layers[group.name], options)
            if self.layout is not None:
                self.plans = [plan if plan.idle else compacted(plan) for plan in self.plans]
                self._freed, against = removable(self.layout, self.active)
                self.refused |= against
                self.plans = [plan for plan in self.plans if plan.group not in against]
            if team.first:
                self.refits.warn(self.plans, self.before)
            self.plans = [self.refits.fitted(plan) for plan in self.plans]
        self.plans, self.refused, self.refits.residual = team.from_first(
            (self.plans, self.refused, self.refits.residual)
        )

    def _plan(self, group: ChannelGroup, layer: str | None, options: Mapping[str, Any]) -> None:
        weights = self.edit.original([m.weight for m in group.members])
        means, sums = self.before.get(group.name), self.refits.sums.get(group.name)
        if sums is not None and self.recipe.method == "subset":
            options = {**options, "gram": sums.fitted.X}
        try:
            self.network.check(group)
            plan = reorganize_plan(group, weights, self.recipe, means, layer, **options)
            self.plans.append(plan)
        except Unfit as error:
            self.refused[group.name] = str(error)

    def change(self) -> None:
        """All weights as the plans make them, and the statistics of all normalizations."""
        with self.team.together():
            self.runs.write(self.active)
        if self.layout is not None:
            with self.team.together():
                found = unremovable(self.network, self.layout, self._freed, self.active)
                self.refused |= found
                self._put_back(list(found))
        self._settle()

    def _settle(self) -> None:
        """What follows from weights that were changed."""
        if self.runs.data is not None and self.recipe.refit == "products":
            repeats = self.layout is None  # and else happens once, and may take its time
            most = MOST_PASSES - 2 - self.runs.passes if repeats else math.inf
            self.refits.fit_products(self.active, most, bounded=repeats)
        self.statistics.carry_out(self.active)

    def keep_within(self, budget: float, classes: Any, max_bytes: int) -> dict[str, str]:
        """Put groups back until the change of the outputs is in the budget; which, and why."""
        back = dict[str, str]()
        self.measure(classes, max_bytes)
        while self.active and self.outputs.relative > budget:
            back |= dict.fromkeys(self._spend_less(), f"{BEYOND} of {budget:g}")
            self.measure(classes, max_bytes)
        return back

    def _spend_less(self) -> list[str]:
        """Put back the half of the groups that miss most of what their consumers read."""
        missed = self.refits.residual
        order = sorted(self.active, key=lambda plan: missed.get(plan.group, math.inf))
        names = [plan.group for plan in order[len(order) // 2 :]]
        with self.team.together():
            self._put_back(names)
        self._settle()
        return names

    def _put_back(self, names: Sequence[str]) -> None:
        """The groups of these names as they were, the others as their plans make them."""
        back = [plan for plan in self.plans if plan.group in names]
        if not back:
            return
        self.plans = [plan for plan in self.plans if plan.group not in names]
        touched = {name for plan in back for name in plan.weights} | self.refits.written
        self.edit.write(self.edit.original([*sorted(touched), *self.statistics.names]))
        self.runs.write(self.active)

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
        with self.team.together():
            names = {plan.group for plan in self.plans}
            groups = [group for group in self.groups if group.name in names]
            sums = ClassSums(self.network, groups, classes, None, max_bytes)
            self.outputs.again()
            for first, inputs, n, labels in self.runs.batches("outputs after"):
                watch = by_tensor(sums.watch(labels, n))
                found = self.network.run(inputs, watch, outputs=True)
                self.outputs.after(found, held_out(first, n))
        self.outputs.share(self.team)
        sums.share(self.team)
        with self.team.together():
            self.after = sums.means(self.recipe.tells_classes_apart)

    def balance(self, follow: Follow | None) -> bool:
        """Scale that the merges took from what makes channels to what reads them, moved back.

        Returns whether there was any.
        """
        moved = False
        for plan in self.active:
            names = list(plan.weights)
            present = self.edit.read(names)
            balance = balance_plan(self.network.graph, plan, self.edit.original(names), present)
            if balance is not None:
                self.edit.write(transform(balance, present))
                if follow is not None:
                    follow(self.edit, [balance], {}, present)
                moved = True
        return moved

    def report(self, skipped: Mapping[str, str]) -> Report:
        """The report, in all processes."""
        team, figures = self.team, dict[str, Capacity]()
        with team.together():
            # Activations after would be those of silent channels as well, which are removed.
            for plan in self.plans if team.first and self.layout is None else ():
                if means := self.after.get(plan.group):
                    own = means.Q, max(plan.nodes, 1), means.activity, self.recipe.seed
                    figures[plan.group] = capacity(*own)
        figures = team.from_first(figures)
        report = Report.of(Plan(self.plans, self.recipe, dict(skipped)), figures)
        for group in report.groups:
            if group.group in self.refits.residual:
                group.missed = math.sqrt(self.refits.residual[group.group])
        report.passes = math.ceil(self.runs.passes - 1e-6)
        if self.after and self.outputs.unlike:
            report.unverified = "some have another shape now, as many rows as were found"
        elif self.after:
            report.output_change, report.agreement = self.outputs.relative, self.outputs.agreement
            report.largest_change, report.held_out = self.outputs.largest, self.outputs.held_out
        return report
