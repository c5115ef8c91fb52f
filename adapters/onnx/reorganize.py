"""Arrange and reorganize an ONNX model; a new model comes back, the old one stays as it is.

One group after the other, the deepest last.  For each: class means and statistics of the model
before the change; a plan; the producers; statistics of the group's own normalizations; the
least-squares fit of the consumers to what they read before; statistics of the normalizations
behind them.  Where BatchNorm is folded into the convolutions, there is nothing to estimate again.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir

from ...graph.capacity import capacity
from ...graph.channels import ChannelGroup
from ...graph.plan import GroupPlan, Plan
from ...graph.plan_makers import arrange_plan, refit, reorganize_plan
from ...graph.recipe import Recipe
from ...graph.report import GroupReport, Report
from ...graph.surgery import transform
from ..group_names import Layers, select_groups
from ..normalizations import Normalization, Statistics, corrected, touched_normalizations
from .collect import (
    Batches,
    Means,
    Moments,
    Names,
    OutputChange,
    collect,
    normalization_statistics,
    tap_products,
    unique,
)
from .model import OnnxModel, load

Model = OnnxModel | ir.Model | str | os.PathLike[str]


def arrange(
    model: Model,
    groups: Layers = "all",
    order: str | np.ndarray | Mapping[str, np.ndarray] = "sofm",
    batches: Iterable[Any] | None = None,
    seed: int = 0,
    *,
    progress: bool = True,
) -> tuple[OnnxModel, Report]:
    """Permute channels; the function of the model is unchanged to rounding.

    Parameters
    ----------
    model : OnnxModel, onnx_ir.Model or path-like
    groups : str or sequence of str
        Layers, patterns, ``"last"`` or ``"all"``.
    order : {"sofm", "random"}, ndarray of int, or mapping of group name to ndarray
        By place on the map (needs ``batches``), at random, or given for one group or several.
    batches : iterable, optional
        Yields ``(inputs, labels)``.
    seed : int
    progress : bool
        Show a progress bar.

    Returns
    -------
    OnnxModel
        The model with its channels in the new order.
    Report
        ``output_change`` is measured on the first batch, or on a random input.

    Raises
    ------
    ValueError
        For a layer that is unknown or cannot move, or an order that is no permutation within the
        exchangeable sets.
    """
    start = time.perf_counter()
    model = model if isinstance(model, OnnxModel) else load(model)
    by_map = isinstance(order, str) and order == "sofm"
    chosen, skipped = select_groups(model.groups, groups, model.aliases, need_tap=by_map)
    found = [group for group, _ in chosen]
    if isinstance(order, np.ndarray):
        if len(found) != 1:
            raise ValueError(f"one order was given for {len(found)} groups: name one layer")
        order = {found[0].name: order}
    read = None if batches is None else Batches(batches, progress=progress)
    means = None
    if by_map:
        if read is None:
            raise ValueError("order 'sofm' needs batches of (inputs, labels); or give 'random'")
        means = collect(model, read, found, progress=progress)
    plan = arrange_plan(found, order, means, seed)  # type: ignore[arg-type]
    changed = model.replaced(transform(plan, model.weights))
    inputs = model.example_inputs if read is None else next(read.read("outputs"))[0]
    change = OutputChange()
    change.update(model.run(inputs), changed.run(inputs))
    report = Report.of(plan, None, change.relative, time.perf_counter() - start)
    report.skipped.update(skipped)
    return changed, report


def reorganize(
    model: Model,
    batches: Iterable[Any] | None = None,
    layers: Layers = "last",
    recipe: Recipe | None = None,
    *,
    classes: int | Names | None = None,
    progress: bool = True,
) -> tuple[OnnxModel, Report]:
    """Merge channels that respond alike and re-initialize the places that become free.

    Parameters
    ----------
    model : OnnxModel, onnx_ir.Model or path-like
    batches : iterable, optional
        Yields ``(inputs, labels)``; read several times.  Without it only the methods ``"l1"``,
        ``"l2"`` and ``"random"`` are possible, consumers are not refitted and statistics are
        not recalibrated.
    layers : str or sequence of str
        Layers, patterns, ``"last"`` (the deepest group that can move) or ``"all"``; the deepest
        is changed last.
    recipe : Recipe, optional
        ``Recipe.preserving()`` by default.
    classes : int or sequence, optional
        Number or names of the classes.
    progress : bool
        Show a progress bar.

    Returns
    -------
    OnnxModel
    Report
        ``output_change`` is the root mean square change of the outputs on the batches, relative
        to their root mean square.

    Raises
    ------
    ValueError
        For bad data, an unknown layer or one that cannot move.
    """
    start = time.perf_counter()
    recipe = recipe or Recipe.preserving()
    model = model if isinstance(model, OnnxModel) else load(model)
    read = None if batches is None else Batches(batches, classes, progress)
    if read is None:
        if recipe.method in ("sofm", "kmeans"):
            raise ValueError(f"method {recipe.method!r} needs batches of (inputs, labels)")
        outgoing = "sum" if recipe.outgoing == "least_squares" else recipe.outgoing
        recipe = replace(recipe, outgoing=outgoing, batchnorm="merge")
    chosen, skipped = select_groups(model.groups, layers, model.aliases)
    plans, reports, changed = [], [], model
    for group, layer in chosen:
        began = time.perf_counter()
        changed, plan = _reorganized(changed, read, group, layer, recipe)
        plans.append(plan)
        reports.append(GroupReport.of(plan, seconds=time.perf_counter() - began))
        if not plan.new.size:
            warnings.warn(
                f"nothing was rejuvenated in {plan.group!r}: each of its {plan.nodes} nodes has a "
                "channel of its own; a smaller ratio frees channels",
                stacklevel=2,
            )
    change = None
    if read is not None:
        found = [group for group, _ in chosen]
        change = _compare(model, changed, read, found, plans, reports, recipe.seed)
    seconds = time.perf_counter() - start
    return changed, Report(reports, skipped, Plan(plans, recipe, skipped), change, seconds)


def _compare(
    model: OnnxModel,
    changed: OnnxModel,
    read: Batches,
    groups: list[ChannelGroup],
    plans: list[GroupPlan],
    reports: list[GroupReport],
    seed: int,
) -> float:
    """Fill in the capacity after the change; how far the outputs moved."""
    outputs = model.session().outputs
    means, change = Means(groups, read.classes), OutputChange()
    taps = [group.tap.tensor for group in groups if group.tap]
    before, after = model.session(), changed.session(unique([*outputs, *taps]))
    for inputs, labels in read.read("outputs after"):
        values = after.run(inputs)
        change.update(before.run(inputs), values)
        means.update(values, labels)
    for report, plan, found in zip(reports, plans, means.checked().values(), strict=True):
        report.after = capacity(found.Q, max(plan.nodes, 1), found.activity, seed)
    return change.relative


def _reorganized(
    model: OnnxModel,
    read: Batches | None,
    group: ChannelGroup,
    layer: str | None,
    recipe: Recipe,
) -> tuple[OnnxModel, GroupPlan]:
    """The change of one group."""
    weights: dict[str, np.ndarray] = dict(model.weights)
    if read is None:
        plan = reorganize_plan(group, weights, recipe, None, layer)
        return model.replaced(transform(plan, weights)), plan
    assert group.tap is not None
    means = Means([group], read.classes)
    moments = Moments(touched_normalizations(model.graph, group.members))
    session = model.session(unique([group.tap.tensor, *moments.tensors]))
    for inputs, labels in read.read("class means"):
        taps = session.run(inputs)
        means.update(taps, labels)
        moments.update(taps)
    plan = reorganize_plan(group, weights, recipe, means.checked()[group.name], layer)
    merged = weights | transform(plan, weights)
    statistics = moments.statistics()
    # The statistics before, as the plan would merge them.
    transformed = transform(plan, weights | statistics)
    statistics |= {name: transformed[name] for name in statistics if name in transformed}
    recalibrated = recipe.batchnorm == "recalibrate"
    touched = touched_normalizations(model.graph, plan.members) if recalibrated else []
    changed = model.replaced({name: merged[name] for name in plan.weights})
    changed = _recalibrated(changed, read, [n for n in touched if n.own], statistics, merged)
    if recipe.outgoing == "least_squares":
        plan = refit(plan, *tap_products(model, changed, read, group.tap))
        # Only the consumers differ from what was written before.
        consumers = {m.weight for m in plan.members if m.kind == "consumer"}
        values = transform(plan, weights)
        changed = changed.replaced({name: values[name] for name in consumers})
    behind = [n.level for n in touched if not n.own]
    rest = [n for n in touched if behind and n.level >= min(behind)]
    return _recalibrated(changed, read, rest, statistics, merged), plan


def _recalibrated(
    model: OnnxModel,
    read: Batches,
    normalizations: list[Normalization],
    before: Statistics,
    merged: Mapping[str, np.ndarray],
) -> OnnxModel:
    """One pass for each level: what lies behind sees the statistics of what lies before."""
    for level in sorted({n.level for n in normalizations}):
        here = [n for n in normalizations if n.level == level]
        after = normalization_statistics(model, read, here)
        for normalization in here:
            model = model.replaced(corrected(normalization, merged, before, after))
    return model
