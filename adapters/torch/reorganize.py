"""Arrange and reorganize a PyTorch model in place.

One group after the other, the deepest last.  For each: class means and statistics before the
change; a plan; the change; statistics of the group's own normalizations; the least-squares fit of
the consumers to what they read before; statistics of the normalizations behind them.  The model
as it was and as it is run side by side on the same batches, by exchanging the values of the
parameters that changed.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from ...graph.capacity import capacity
from ...graph.channels import ChannelGroup
from ...graph.normalizations import Correction, Normalization, touched_normalizations
from ...graph.plan import GroupPlan, Plan
from ...graph.plan_makers import arrange_plan, refit, reorganize_plan
from ...graph.recipe import Recipe
from ...graph.report import GroupReport, Report
from ...graph.selection import select_groups
from ...graph.surgery import transform
from .batches import Batches, Unpack, samples
from .collect import ClassSums, channels_first, collect, exact_type
from .edit import Edit, refuse_sharded
from .optimizer_state import change_average, change_state
from .output_change import Outputs
from .recalibrate import Moments, measure
from .trace import TracedModel, observe, trace, unwrap

Layers = str | Sequence[str | ChannelGroup]


def arrange(
    model: nn.Module | TracedModel,
    example_inputs: Any = None,
    groups: Layers = "all",
    order: str | np.ndarray | Mapping[str, np.ndarray] = "sofm",
    batches: Iterable[Any] | None = None,
    seed: int = 0,
    optimizer: Any = None,
    ema: Any = None,
) -> Report:
    """Permute channels in place; the function of the model is unchanged to rounding.

    Parameters
    ----------
    model : torch.nn.Module or TracedModel
    example_inputs : tensor, tuple or dict, optional
        Inputs to trace the model with; the first of ``batches`` by default.
    groups : str or sequence of str
        Layers, patterns, ``"last"`` or ``"all"``.
    order : {"sofm", "random"}, ndarray of int, or mapping of group name to ndarray
        By place on the map (needs ``batches``), at random, or given for one group or several.
    batches : iterable, optional
        Yields ``(inputs, labels)``.
    seed : int
    optimizer, ema : optional
        Permuted along.

    Returns
    -------
    Report
        ``output_change`` is measured on the example inputs.

    Raises
    ------
    ValueError
        For a layer that is unknown or cannot move, or an order that is no permutation within the
        exchangeable sets.
    """
    start = time.perf_counter()
    traced, read = _traced(model, batches, example_inputs)
    chosen, skipped = select_groups(traced.groups, groups)
    found = [group for group, _ in chosen]
    if isinstance(order, np.ndarray):
        if len(found) != 1:
            raise ValueError(f"one order was given for {len(found)} groups: name one layer")
        order = {found[0].name: order}
    means = None
    if isinstance(order, str) and order == "sofm":
        if read is None:
            raise ValueError("order 'sofm' needs batches of (inputs, labels); or give 'random'")
        means = collect(traced, read, found)
    plan = arrange_plan(found, order, means, seed)  # type: ignore[arg-type]
    outputs = Outputs()
    outputs.before(observe(traced, traced.example_inputs, {}))
    with Edit(traced.model) as edit:
        edit.write(transform(plan, edit.read(plan.weights)))
        for group_plan in plan.groups:
            _follow(edit, group_plan, "merge", optimizer, ema, {})
        outputs.after(observe(traced, traced.example_inputs, {}))
    report = Report.of(plan, None, outputs.relative, time.perf_counter() - start)
    report.skipped.update(skipped)
    return report


def reorganize(
    model: nn.Module | TracedModel,
    batches: Iterable[Any] | None = None,
    layers: Layers = "last",
    recipe: Recipe | None = None,
    optimizer: Any = None,
    ema: Any = None,
    example_inputs: Any = None,
    *,
    classes: int | Sequence[str | int] | None = None,
    unpack: Unpack | None = None,
    max_batches: int | None = None,
    max_bytes: int = 2**31,
    progress: bool = False,
) -> Report:
    """Merge channels that respond alike and re-initialize the places that become free, in place.

    Parameters
    ----------
    model : torch.nn.Module or TracedModel
        Compiled and data-parallel wrappers are looked through.
    batches : iterable, optional
        Yields ``(inputs, labels)``; read several times.  Without it only the methods ``"l1"``,
        ``"l2"`` and ``"random"`` are possible, consumers are not refitted and statistics are
        not recalibrated.
    layers : str or sequence of str
        Layers, patterns, ``"last"`` (the deepest group that can move) or ``"all"``; the deepest
        is changed last.
    recipe : Recipe, optional
        ``Recipe.preserving()`` by default.
    optimizer : torch.optim.Optimizer, optional
        Its state changes along, as ``recipe.optimizer`` says.
    ema : torch.nn.Module or object with ``.module``, optional
        An averaged copy of the model, changed by the same plan.
    example_inputs : tensor, tuple or dict, optional
        Inputs to trace the model with; the first of ``batches`` by default.
    classes, unpack, max_batches, max_bytes, progress
        As in :func:`collect`.

    Returns
    -------
    Report
        ``output_change`` is the root mean square change of the outputs on the batches, relative
        to their root mean square.

    Raises
    ------
    ValueError
        For bad data, an unknown layer or one that cannot move; the model, the optimizer and the
        averaged copy are then as they were.
    """
    start = time.perf_counter()
    recipe = recipe or Recipe.preserving()
    traced, read = _traced(model, batches, example_inputs, unpack, max_batches, progress)
    if read is None:
        if recipe.method in ("sofm", "kmeans"):
            raise ValueError(f"method {recipe.method!r} needs batches of (inputs, labels)")
        without = "sum" if recipe.outgoing == "least_squares" else recipe.outgoing
        recipe = replace(recipe, outgoing=without, batchnorm="merge")
    chosen, skipped = select_groups(traced.groups, layers)
    reports, plans, outputs = [], [], Outputs()
    sums = ClassSums([g for g, _ in chosen if g.tap is not None], classes, None, max_bytes)
    with Edit(traced.model) as whole:
        for number, (group, layer) in enumerate(chosen):
            began = time.perf_counter()
            with Edit(traced.model, within=whole) as edit:
                task = _Task(traced, edit, read, group, layer, recipe)
                plan = task.run(classes, max_bytes, outputs if number == 0 else None)
                _follow(edit, plan, recipe.optimizer, optimizer, ema, task.corrections)
            plans.append(plan)
            reports.append(GroupReport.of(plan, seconds=time.perf_counter() - began))
        if read is not None:
            for inputs, labels in read.read("outputs after"):
                taps = sums.taps(labels, samples(inputs), read.device)
                outputs.after(observe(traced, inputs, taps))
    if read is not None:
        for report, plan in zip(reports, plans, strict=True):
            if report.group in sums.sums:
                means = sums.means()[report.group]
                report.after = capacity(means.Q, max(plan.nodes, 1), means.activity, recipe.seed)
    for plan in plans:
        if not plan.new.size:
            warnings.warn(
                f"nothing was rejuvenated in {plan.group!r}: each of its {plan.nodes} nodes has a "
                "channel of its own; a smaller ratio frees channels",
                stacklevel=2,
            )
    change = None if read is None else outputs.relative
    return Report(
        reports, skipped, Plan(plans, recipe, skipped), change, time.perf_counter() - start
    )


def _traced(
    model: nn.Module | TracedModel,
    batches: Iterable[Any] | None,
    example_inputs: Any,
    unpack: Unpack | None = None,
    max_batches: int | None = None,
    progress: bool = False,
) -> tuple[TracedModel, Batches | None]:
    """The model traced, and its calibration data."""
    module = model.model if isinstance(model, TracedModel) else unwrap(model)
    refuse_sharded(module)
    read = batches if isinstance(batches, Batches) else None
    if read is None and batches is not None:
        read = Batches(batches, module, unpack, max_batches, progress)
    if isinstance(model, TracedModel):
        return model, read
    if example_inputs is None:
        if read is None:
            raise ValueError("expected batches or example_inputs to trace the model with, got none")
        example_inputs = read.example()
    return trace(module, example_inputs), read


def _follow(
    edit: Edit,
    plan: GroupPlan,
    how: str,
    optimizer: Any,
    ema: Any,
    corrections: Mapping[str, Correction],
) -> None:
    """Change what goes along with the model."""
    if optimizer is not None:
        change_state(edit, optimizer, plan, how)
    if ema is not None:
        change_average(edit, ema, plan, corrections)


@dataclass
class _Task:
    """The change of one group."""

    traced: TracedModel
    edit: Edit
    read: Batches | None
    group: ChannelGroup
    layer: str | None
    recipe: Recipe

    def __post_init__(self) -> None:
        self.corrections: dict[str, Correction] = {}

    def run(
        self, classes: int | Sequence[str | int] | None, max_bytes: int, outputs: Outputs | None
    ) -> GroupPlan:
        """Plan and change; ``outputs`` receives those of the model before."""
        group, recipe, edit, read = self.group, self.recipe, self.edit, self.read
        names = dict.fromkeys(m.weight for m in group.members)
        means, statistics = None, {}
        touched: list[Normalization] = []
        if read is not None:
            touched = touched_normalizations(self.traced.graph, group.members)
            moments, sums = Moments(touched), None
            if group.tap is not None:
                sums = ClassSums([group], classes, None, max_bytes)
            for inputs, labels in read.read("class means"):
                taps = moments.taps()
                if sums is not None:
                    taps |= sums.taps(labels, samples(inputs), read.device)
                output = observe(self.traced, inputs, taps)
                if outputs is not None:
                    outputs.before(output)
            means = None if sums is None else sums.means()[group.name]
            statistics = moments.statistics()
        weights = edit.read([*names, *statistics])
        plan = reorganize_plan(group, weights, recipe, means, self.layer)
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
        self._recalibrate([n for n in touched if n.own], statistics, merged)
        if recipe.outgoing == "least_squares":
            plan = self._refitted(plan)
            values = transform(plan, weights)
            # Only the consumers differ from what was written before.
            consumers = {m.weight for m in plan.members if m.kind == "consumer"}
            edit.write({name: values[name] for name in values if name in consumers})
        behind = [n.level for n in touched if not n.own]
        rest = [n for n in touched if behind and n.level >= min(behind)]
        self._recalibrate(rest, statistics, merged)
        return plan

    def _recalibrate(
        self,
        normalizations: list[Normalization],
        before: Mapping[str, np.ndarray],
        merged: Mapping[str, np.ndarray],
    ) -> None:
        """One pass for each level: what lies behind sees the statistics of what lies before."""
        assert self.read is not None
        for level in sorted({n.level for n in normalizations}):
            here = [n for n in normalizations if n.level == level]
            after = measure(self.traced, self.read, here)
            for normalization in here:
                correction = Correction.between(normalization, dict(before), after)
                names = (normalization.mean, normalization.variance)
                values = {name: merged[name] for name in names}
                correction.repeat(values)
                self.edit.write(values)
                self.corrections[normalization.mean] = correction

    def _refitted(self, plan: GroupPlan) -> GroupPlan:
        """``E[x x'^T]`` and ``E[x' x'^T]`` over samples and positions, and the consumers fitted."""
        assert self.read is not None
        tap = self.group.tap
        assert tap is not None
        pair: dict[str, torch.Tensor] = {}
        cross = gram = torch.zeros(())

        def keep(which: str, n: int, activation: torch.Tensor) -> None:
            x = channels_first(activation.detach(), tap, n).movedim(1, 0).flatten(1)
            pair[which] = x.to(exact_type(x.device), copy=True)

        for inputs, _ in self.read.read("least squares"):
            n = samples(inputs)
            with self.edit.undone():
                observe(self.traced, inputs, {tap.tensor: partial(keep, "before", n)})
            observe(self.traced, inputs, {tap.tensor: partial(keep, "after", n)})
            cross = cross + (pair["before"] @ pair["after"].T).cpu()
            gram = gram + (pair["after"] @ pair["after"].T).cpu()
        return refit(plan, cross.double().numpy(), gram.double().numpy())
