"""Arrange and reorganize an ONNX model; the result is a new model, the given one stays.

One group after the other, the deepest last.  For each: class means and statistics before the
change; a plan; the change; statistics of the group's own normalizations; the least-squares fit of
the consumers to what they read before; statistics of the normalizations behind them.
"""

from __future__ import annotations

import math
import os
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir

from ...graph.balance import balance_plan, scaled_members
from ...graph.capacity import capacity
from ...graph.channels import ChannelGroup, Unfit
from ...graph.normalizations import (
    Correction,
    Normalization,
    Statistics,
    touched_normalizations,
)
from ...graph.plan import GroupPlan, Plan
from ...graph.plan_makers import arrange_plan, refit, reorganize_plan
from ...graph.recipe import Recipe
from ...graph.report import GroupReport, Report
from ...graph.selection import refuse_named, select_groups
from ...graph.surgery import transform
from ...graph.verdict import Verdict, judge, limits_of, shaken_array
from .collect import Runner, channels_first, described, read
from .model import OnnxModel, load
from .storage import OnDisk

Source = OnnxModel | ir.Model | str | os.PathLike[str]
Layers = str | Sequence[str | ChannelGroup]
MORE_SHAKES = 5  # of inputs and weights, before a change of the outputs is called an error


def arrange(
    model: Source,
    groups: Layers = "all",
    order: str | np.ndarray | Mapping[str, np.ndarray] = "sofm",
    batches: Iterable[Any] | None = None,
    seed: int = 0,
    progress: bool = False,
) -> tuple[OnnxModel, Report]:
    """Permute channels; the function of the model is unchanged to rounding.

    Parameters
    ----------
    model : OnnxModel, path or onnx_ir.Model
    groups : str or sequence of str
        Layers, patterns, ``"last"`` or ``"all"``.
    order : {"sofm", "random"}, ndarray of int, or mapping of group name to ndarray
        By place on the map (needs ``batches``), at random, or given.
    batches : iterable, optional
        Yields ``(inputs, labels)``.
    seed : int
    progress : bool
        Show a progress bar.

    Returns
    -------
    OnnxModel
        With the same nodes and shapes.
    Report
        ``verdict`` and ``output_change`` are measured on random inputs; None for a model that
        cannot run here, with the reason in ``unverified``.

    Raises
    ------
    ValueError
        For a layer that is unknown or cannot move, an order that is no permutation within the
        exchangeable sets, or outputs that changed by more than the network's own noise.
    """
    start = time.perf_counter()
    model = model if isinstance(model, OnnxModel) else load(model)
    by_map = isinstance(order, str) and order == "sofm"
    requests = model.requests(groups)
    chosen, skipped = select_groups(model.groups, requests, activations=by_map, permute=True)
    found = [choice.group for choice in chosen]
    if isinstance(order, np.ndarray):
        if len(found) != 1:
            raise ValueError(f"one order was given for {len(found)} groups: name one layer")
        order = {found[0].name: order}
    means = None
    if by_map:
        if batches is None:
            raise ValueError("order 'sofm' needs batches of (inputs, labels); or give 'random'")
        means, refused = described(model, batches, found, progress=progress)
        refuse_named(chosen, refused)
        found, skipped = [g for g in found if g.name in means], skipped | refused
    plan = arrange_plan(found, order, means, seed)  # type: ignore[arg-type]
    changed = model.with_weights(_arranged(model, plan))
    verdict, change, unverified = _verified(model, changed)
    report = Report.of(plan, None, change, time.perf_counter() - start)
    report.verdict, report.unverified = verdict, unverified
    report.skipped.update(skipped)
    return changed, report


def reorganize(
    model: Source,
    batches: Iterable[Any] | None = None,
    layers: Layers = "last",
    recipe: Recipe | None = None,
    progress: bool = False,
) -> tuple[OnnxModel, Report]:
    """Merge channels that respond alike and re-initialize the places that become free.

    Parameters
    ----------
    model : OnnxModel, path or onnx_ir.Model
    batches : iterable, optional
        Yields ``(inputs, labels)``; read several times.  Without it only methods that look
        at weights alone are possible, consumers are not refitted and statistics are not
        recalibrated.
    layers : str or sequence of str
        Layers, patterns, ``"last"`` (the deepest group that can move) or ``"all"``.
    recipe : Recipe, optional
        ``Recipe.preserving()`` by default.
    progress : bool
        Show progress bars.

    Returns
    -------
    OnnxModel
        With the same nodes and shapes; fine-tune it through the module that it came from.
    Report
        ``output_change`` is the root mean square change of the outputs on the batches, relative
        to their root mean square.

    Raises
    ------
    ValueError
        For bad data, an unknown layer or one that cannot move.
    """
    start = time.perf_counter()
    model = model if isinstance(model, OnnxModel) else load(model)
    recipe = recipe or Recipe.preserving()
    if batches is None:
        if recipe.needs_means:
            raise ValueError(f"method {recipe.method!r} needs batches of (inputs, labels)")
        without = "sum" if recipe.outgoing == "least_squares" else recipe.outgoing
        recipe = replace(recipe, outgoing=without, batchnorm="merge")
    elif iter(batches) is batches:
        batches = list(batches)
    requests = model.requests(layers)
    chosen, skipped = select_groups(model.groups, requests, activations=recipe.needs_means)
    present, plans, reports = model, [], []
    unfit: dict[str, str] = {}
    for group, layer, named in chosen:
        began = time.perf_counter()
        task = _Task(present, batches, group, layer, recipe, progress)
        try:
            present, plan = task.run()
        except Unfit as error:
            if named:
                raise
            unfit[group.name] = str(error)
            continue
        plans.append(plan)
        reports.append(GroupReport.of(plan, seconds=time.perf_counter() - began))
        if plan.reason:
            warnings.warn(plan.reason, stacklevel=2)
    refuse_named(chosen, unfit)
    skipped |= unfit
    relative = None
    if batches is not None:
        relative = output_change(model, present, batches, progress)
        changed = [choice.group for choice in chosen if choice.group.name not in skipped]
        means, _ = described(present, batches, changed, progress=progress)
        for report, plan in zip(reports, plans, strict=True):
            if report.group in means:
                after = means[report.group]
                report.after = capacity(after.Q, max(plan.nodes, 1), after.activity, recipe.seed)
    seconds = time.perf_counter() - start
    return present, Report(reports, skipped, Plan(plans, recipe, skipped), relative, seconds)


@dataclass
class _Task:
    """The change of one group."""

    model: OnnxModel
    batches: Any
    group: ChannelGroup
    layer: str | None
    recipe: Recipe
    progress: bool

    def run(self) -> tuple[OnnxModel, GroupPlan]:
        """The changed model and what was done."""
        model, group, recipe = self.model, self.group, self.recipe
        weights = model.weights
        if self.batches is None:
            plan = reorganize_plan(group, weights, recipe, None, self.layer)
            return model.with_weights(transform(plan, weights)), plan
        found, refused = described(model, self.batches, [group], progress=self.progress)
        means = found.get(group.name)
        if refused and recipe.needs_means:
            raise Unfit(refused[group.name])
        plan = reorganize_plan(group, weights, recipe, means, self.layer)
        recalibrated = recipe.batchnorm == "recalibrate"
        touched = touched_normalizations(model.graph, plan.members) if recalibrated else []
        statistics = self.measure(model, touched)
        # The statistics before, as the plan would merge them.
        as_merged = transform(plan, {**weights, **statistics})
        statistics |= {name: as_merged[name] for name in statistics if name in as_merged}
        changed = model.with_weights(transform(plan, weights))
        merged = changed.weights
        own = [n for n in touched if n.own]
        changed = self.recalibrated(changed, own, statistics, merged)
        if recipe.outgoing == "least_squares" and means is not None:
            plan = self.refitted(changed, plan)
            values = transform(plan, weights)
            consumers = {m.weight for m in plan.members if m.kind == "consumer"}
            changed = changed.with_weights({n: v for n, v in values.items() if n in consumers})
        balance = balance_plan(model.graph, plan, weights, changed.weights)
        if balance is not None:
            values = transform(balance, changed.weights)
            changed, merged = changed.with_weights(values), {**merged, **values}
        behind = [n.level for n in touched if not n.own]
        rest = [n for n in touched if behind and n.level >= min(behind)]
        return self.recalibrated(changed, rest, statistics, merged), plan

    def measure(self, model: OnnxModel, normalizations: list[Normalization]) -> Statistics:
        """Mean and variance of every channel of what normalizations read, in float64."""
        if not normalizations:
            return {}
        runner = Runner(model, sorted({n.tensor for n in normalizations}))
        sums: dict[str, tuple[Any, Any, int]] = {}
        for inputs, _ in read(self.batches, "normalization statistics", self.progress):
            values = runner(inputs)
            for n in normalizations:
                x = np.moveaxis(values[n.tensor], n.axis, 0)
                x = x.reshape(len(x), -1).astype(np.float64)
                # A normalization that is used twice has the statistics of both uses.
                total, squares, count = sums.get(n.mean, (0.0, 0.0, 0))
                sums[n.mean] = (total + x.sum(1), squares + (x * x).sum(1), count + x.shape[1])
        result: Statistics = {}
        for n in normalizations:
            total, squares, count = sums[n.mean]
            result[n.mean] = total / count
            result[n.variance] = np.maximum(squares / count - (total / count) ** 2, 0.0)
        return result

    def recalibrated(
        self,
        model: OnnxModel,
        normalizations: list[Normalization],
        before: Statistics,
        merged: Mapping[str, np.ndarray],
    ) -> OnnxModel:
        """One pass for each level: what lies behind sees the statistics of what lies before."""
        for level in sorted({n.level for n in normalizations}):
            here = [n for n in normalizations if n.level == level]
            after = self.measure(model, here)
            for normalization in here:
                correction = Correction.between(normalization, before, after)
                names = (normalization.mean, normalization.variance)
                values = {name: merged[name] for name in names}
                correction.repeat(values)
                model = model.with_weights(values)
        return model

    def refitted(self, changed: OnnxModel, plan: GroupPlan) -> GroupPlan:
        """``E[x x'^T]``, ``E[x' x'^T]`` over samples and positions, and the consumers fitted."""
        assert self.group.tap is not None
        taps = self.group.tap.each
        tensors = {tap.tensor: tap.samples for tap in taps}
        runners = [Runner(model, tensors) for model in (self.model, changed)]
        cross: Any = 0.0
        gram: Any = 0.0
        for inputs, labels in read(self.batches, "least squares", self.progress):
            values = [runner(inputs) for runner in runners]
            for tap in taps:
                x, y = (
                    np.moveaxis(channels_first(found[tap.tensor], tap, len(labels)), 1, 0)
                    .reshape(self.group.channels, -1)
                    .astype(np.float64)
                    for found in values
                )
                cross, gram = cross + x @ y.T, gram + y @ y.T
        free = scaled_members(self.model.graph, plan.members)
        return refit(plan, cross, gram, bounded=None if free else self.model.weights)


def _arranged(model: OnnxModel, plan: Plan) -> dict[str, np.ndarray]:
    """The weights that a plan permutes; one at a time where they lie in other files.

    Those are put back on the disk, so that a model larger than the memory can be arranged.
    """
    outside = model.outside & set(plan.weights)
    inside = _restricted(plan, set(plan.weights) - outside)
    given = {name: model.weight(name) for name in plan.weights if name not in outside}
    values = transform(inside, given)
    disk = OnDisk() if outside else None
    for name in sorted(outside):
        (value,) = transform(_restricted(plan, {name}), {name: model.weight(name)}).values()
        values[name] = disk.put(value) if disk is not None else value
    return values


def _restricted(plan: Plan, weights: set[str]) -> list[GroupPlan]:
    """What a plan does to some weights."""
    parts = [
        replace(p, members=tuple(m for m in p.members if m.weight in weights)) for p in plan.groups
    ]
    return [part for part in parts if part.members]


def _verified(before: OnnxModel, after: OnnxModel) -> tuple[Verdict | None, float | None, str]:
    """The verdict on a permutation, the change of the outputs, or why there is neither.

    One model is in memory at a time.
    """
    inputs = before.example_inputs
    limits = limits_of(str(x.dtype) for x in (*inputs.values(), *before.weights.values()))
    rng = np.random.default_rng(0)

    def shaken(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: shaken_array(x, limits.shake, rng) for name, x in arrays.items()}

    def responses() -> Iterator[list[np.ndarray]]:
        yield response
        for _ in range(MORE_SHAKES):
            runner = Runner(before.with_weights(shaken(before.weights)))
            yield runner.compared(runner(shaken(inputs)))

    try:
        runner = Runner(before)
        old, response = runner.compared(runner(inputs)), runner.compared(runner(shaken(inputs)))
        del runner
        runner = Runner(after)
        new = runner.compared(runner(inputs))
    except ValueError as error:  # operators that onnxruntime does not have
        return None, None, str(error)
    del runner
    verdict = judge(old, new, responses(), limits)
    if verdict is None:
        return None, None, "they hold no finite number for random inputs"
    if not verdict.within:
        raise ValueError(
            f"{verdict}; nothing was changed: the file means something that was not understood"
        )
    return verdict, _root_mean_square_change(old, new), ""


def _root_mean_square_change(old: list[np.ndarray], new: list[np.ndarray]) -> float:
    f, g = (np.nan_to_num(np.concatenate([x.ravel() for x in parts])) for parts in (old, new))
    difference, size = float(np.linalg.norm(g - f)), float(np.linalg.norm(f))
    return difference / size if size else (0.0 if difference == 0.0 else math.inf)


def output_change(
    before: OnnxModel, after: OnnxModel, batches: Iterable[Any], progress: bool = False
) -> float:
    """Root mean square of the change of the outputs over that of the outputs before."""
    squares = difference = 0.0
    first, second = Runner(before), Runner(after)
    for inputs, _ in read(batches, "outputs", progress):
        old, new = _scores(first, inputs), _scores(second, inputs)
        squares += float(old @ old)
        difference += float(np.sum((new - old) ** 2))
    if squares == 0.0:
        return 0.0 if difference == 0.0 else math.inf
    return math.sqrt(difference / squares)


def _scores(runner: Runner, inputs: Any) -> np.ndarray:
    return runner.scores(runner(inputs))
