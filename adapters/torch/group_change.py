"""The change of one group of channels: what is measured before, the plan, and what follows it.

1. One pass of the model as it is: class means, statistics of the normalizations that the change
   touches, outputs, and the tap ``x`` itself as far as it fits in ``KEPT_ACTIVATIONS``.
2. The plan, and the linear part of the change.
3. Statistics of the group's own normalizations, a pass for each level; passes end at what they
   look at.
4. One pass for ``x'``, and the fit of the consumers to what they read before.  Where ``x`` was
   not kept, the model as it was runs beside it, by exchanging the values of what changed.
5. Statistics of the normalizations behind, a pass for each level.

With several processes each reads its share; the first one decides (:mod:`.distributed`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from ...graph.balance import balance_plan, scaled_members
from ...graph.channels import ChannelGroup, Tap, Unfit
from ...graph.class_means import ClassMeans
from ...graph.directions import filters_of
from ...graph.nodes import Graph
from ...graph.normalizations import Correction, Normalization, touched_normalizations
from ...graph.plan import GroupPlan
from ...graph.plan_makers import refit, reorganize_plan
from ...graph.recipe import Recipe
from ...graph.surgery import transform
from .batches import Batches, samples
from .class_sums import ClassSums, channels_first
from .distributed import Processes
from .edit import Edit
from .gradients import loss_gradients
from .output_change import Outputs
from .passes import Callback, by_tensor, exact_type, forward, full_precision, glance
from .recalibrate import Moments, measure
from .trace import TracedModel

KEPT_ACTIVATIONS = 2**28  # bytes of one group's tap


def expected_passes(graph: Graph, groups: Sequence[ChannelGroup], recipe: Recipe) -> int:
    """Passes over the data that changing these groups takes at most, with the one for the outputs.

    Where activations do not fit in ``KEPT_ACTIVATIONS``, one more for each group.
    """
    passes = 0
    for group in groups:
        passes += 1 + recipe.needs_gradients
        passes += recipe.outgoing == "least_squares" and group.tap is not None
        if recipe.batchnorm == "recalibrate":
            touched = touched_normalizations(graph, group.members)
            behind = [n.level for n in touched if not n.own]
            passes += len({n.level for n in touched if n.own})
            passes += len({n.level for n in touched if behind and n.level >= min(behind)})
    return passes + bool(groups)


@dataclass
class GroupChange:
    """The change of one group.

    Attributes
    ----------
    traced : TracedModel
    edit : Edit
        Of this group alone.
    read : Batches or None
        Calibration data.
    processes : Processes
    group : ChannelGroup
    layer : str or None
        The weight that was asked for, where the group has several.
    recipe : Recipe
    classes, max_bytes
        As in :func:`collect`.
    """

    traced: TracedModel
    edit: Edit
    read: Batches | None
    processes: Processes
    group: ChannelGroup
    layer: str | None
    recipe: Recipe
    classes: int | Sequence[str | int] | None
    max_bytes: int

    def __post_init__(self) -> None:
        self.corrections: dict[str, Correction] = {}
        self.means: ClassMeans | None = None
        self.balance: GroupPlan | None = None
        self.passes = 0
        self._taps = () if self.group.tap is None else self.group.tap.each
        self._kept: dict[Tap, list[torch.Tensor | None]] = {tap: [] for tap in self._taps}
        self._bytes = 0

    def run(self, outputs: Outputs | None) -> GroupPlan:
        """Plan and change; ``outputs`` receives those of the model before."""
        group, recipe, edit, read = self.group, self.recipe, self.edit, self.read
        statistics: dict[str, np.ndarray] = {}
        if read is not None:
            statistics = self._look(read, outputs)
        names = dict.fromkeys(m.weight for m in group.members)
        weights = edit.read([*names, *statistics])
        plan = self._planned(weights)
        if plan.idle:
            return plan
        with self.processes.together():
            changed = transform(plan, weights)
            edit.write(changed)
        if read is None:
            return plan
        recalibrated = recipe.batchnorm == "recalibrate"
        touched = touched_normalizations(self.traced.graph, plan.members) if recalibrated else []
        # The statistics before, as the plan would merge them.
        statistics |= {
            name: value
            for name, value in transform(plan, weights | statistics).items()
            if name in statistics
        }
        merged = {**weights, **changed}
        self._recalibrate(read, [n for n in touched if n.own], statistics, merged)
        if recipe.outgoing == "least_squares" and self._taps:
            plan = self._refitted(plan, read, weights)
            values = transform(plan, weights)
            # Only the consumers differ from what was written before.
            consumers = {m.weight for m in plan.members if m.kind == "consumer"}
            edit.write({name: values[name] for name in values if name in consumers})
        if self.processes.first:
            after = edit.read(names)
            self.balance = balance_plan(self.traced.graph, plan, weights, after)
        self.balance = self.processes.from_first(self.balance)
        behind = [n.level for n in touched if not n.own]
        rest = [n for n in touched if behind and n.level >= min(behind)]
        self._recalibrate(read, rest, statistics, merged)
        self._kept.clear()
        self.processes.copy_from_first(edit.tensors[name] for name in edit.written)
        return plan

    def _look(self, read: Batches, outputs: Outputs | None) -> dict[str, np.ndarray]:
        """The pass before the change; gives the statistics of what the change touches."""
        group, recipe = self.group, self.recipe
        moments = Moments(touched_normalizations(self.traced.graph, group.members))
        with self.processes.together():
            described = [group] if self._taps else []
            sums = ClassSums(self.traced, described, self.classes, None, self.max_bytes)
            for inputs, labels in read.read("class means"):
                taps: list[tuple[str, Callback]] = [*moments.taps().items()]
                if described:
                    taps += sums.taps(labels, samples(inputs), read.device).items()
                if recipe.outgoing == "least_squares":
                    taps += [(tap.tensor, partial(self._keep, tap)) for tap in self._taps]
                look = by_tensor(taps)
                if outputs is None:
                    glance(self.traced, inputs, look)
                else:
                    outputs.before(forward(self.traced, inputs, look))
        self.passes += 1
        moments.share(self.processes)
        if described:
            sums.share(self.processes)
            with self.processes.together():
                if group.name in sums.refused:
                    self._taps = ()
                    if recipe.needs_means:
                        raise Unfit(sums.refused[group.name])
                self.means = sums.means().get(group.name)
        return moments.statistics()

    def _keep(self, tap: Tap, activation: torch.Tensor) -> None:
        """Keep a tap of one batch, as far as there is room."""
        self._bytes += activation.nbytes
        fits = self._bytes <= KEPT_ACTIVATIONS
        self._kept[tap].append(activation.detach().clone() if fits else None)

    def _planned(self, weights: Mapping[str, np.ndarray]) -> GroupPlan:
        """The plan of the first process, in all."""
        processes, recipe, options = self.processes, self.recipe, dict[str, Any]()
        if recipe.needs_gradients:
            with processes.together():
                if self.read is None:
                    raise ValueError("init 'gradient' needs batches of (inputs, labels), got none")
            names = list(dict.fromkeys(m.weight for m in filters_of(self.group.members)))
            options["gradients"] = loss_gradients(self.traced, self.read, names, processes)
            self.passes += 1
        plan: GroupPlan | None = None
        with processes.together():
            if processes.first:
                plan = reorganize_plan(
                    self.group, weights, recipe, self.means, self.layer, **options
                )
        plan = processes.from_first(plan)
        assert plan is not None
        return plan

    def _recalibrate(
        self,
        read: Batches,
        normalizations: list[Normalization],
        before: Mapping[str, np.ndarray],
        merged: Mapping[str, np.ndarray],
    ) -> None:
        """One pass for each level: what lies behind sees the statistics of what lies before."""
        for level in sorted({n.level for n in normalizations}):
            here = [n for n in normalizations if n.level == level]
            after = measure(self.traced, read, here, self.processes)
            self.passes += 1
            for normalization in here:
                correction = Correction.between(normalization, dict(before), after)
                names = (normalization.mean, normalization.variance)
                values = {name: merged[name] for name in names}
                correction.repeat(values)
                self.edit.write(values)
                self.corrections[normalization.mean] = correction

    def _refitted(
        self, plan: GroupPlan, read: Batches, weights: Mapping[str, np.ndarray]
    ) -> GroupPlan:
        """``E[x x'^T]`` and ``E[x' x'^T]`` over samples and positions, and the consumers fitted."""
        o = self.group.channels
        exact = exact_type(read.device)
        cross, gram = (torch.zeros(o, o, dtype=exact, device=read.device) for _ in range(2))
        seen: dict[Tap, torch.Tensor] = {}
        doubled = False

        def rows(n: int, tap: Tap, activation: torch.Tensor) -> torch.Tensor:
            return channels_first(activation.detach(), tap, n).movedim(1, 0).flatten(1).to(exact)

        def add(n: int, tap: Tap, activation: torch.Tensor) -> None:
            nonlocal cross, gram
            with full_precision(activation.device):
                x, changed = rows(n, tap, seen.pop(tap)), rows(n, tap, activation)
                cross = cross.to(x.device).addmm_(x, changed.T)
                gram = gram.to(x.device).addmm_(changed, changed.T)

        def keep(tap: Tap, activation: torch.Tensor) -> None:
            seen[tap] = activation.detach().clone()

        with self.processes.together():
            for number, (inputs, _) in enumerate(read.read("least squares")):
                kept = {tap: self._kept[tap][number] for tap in self._taps}
                seen.update({tap: x for tap, x in kept.items() if x is not None})
                missing = [tap for tap in self._taps if tap not in seen]
                if missing:
                    doubled = True
                    with self.edit.undone():
                        look = by_tensor((tap.tensor, partial(keep, tap)) for tap in missing)
                        glance(self.traced, inputs, look)
                n = samples(inputs)
                look = by_tensor((tap.tensor, partial(add, n, tap)) for tap in self._taps)
                glance(self.traced, inputs, look)
        self.passes += 1 + doubled
        self.processes.sum([cross, gram])
        fitted: GroupPlan | None = None
        with self.processes.together():
            if self.processes.first:
                matrices = (cross.cpu().double().numpy(), gram.cpu().double().numpy())
                free = scaled_members(self.traced.graph, plan.members)
                fitted = refit(plan, *matrices, bounded=None if free else weights)
        fitted = self.processes.from_first(fitted)
        assert fitted is not None
        return fitted
