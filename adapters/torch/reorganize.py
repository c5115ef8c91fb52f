"""Arrange and reorganize a PyTorch model in place.

One group after the other, the deepest last (:mod:`.group_change`); then one pass for the outputs
and the capacity after.  Everything or nothing: a failure undoes all groups, in all processes.
"""

from __future__ import annotations

import contextlib
import logging
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from ...graph.capacity import Capacity, capacity
from ...graph.channels import ChannelGroup, Unfit
from ...graph.class_means import ClassMeans
from ...graph.normalizations import Correction
from ...graph.plan import GroupPlan, Plan
from ...graph.plan_makers import arrange_plan
from ...graph.recipe import Recipe
from ...graph.report import GroupReport, Report
from ...graph.selection import refuse_named, select_groups
from ...graph.surgery import transform
from .batches import KEPT_BYTES, Batches, Unpack, at_most, samples
from .class_sums import MAX_BYTES, ClassSums
from .collect import described
from .distributed import Processes
from .edit import Edit, refuse_sharded
from .group_change import KEPT_ACTIVATIONS, GroupChange, expected_passes
from .optimizer_state import change_averages, change_state
from .output_change import Outputs
from .parametrized import refuse_parametrized
from .passes import forward, trace, trace_first
from .pictures import draw_groups
from .pseudo_classes import with_pseudo_classes
from .sanity import refuse_not_finite
from .trace import TracedModel, unwrap
from .unchanged import Unchanged

log = logging.getLogger("rejuvenet")

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
        ``verdict`` and ``output_change`` are measured on the example inputs.

    Raises
    ------
    ValueError
        For a layer that is unknown or cannot move, an order that is no permutation within the
        exchangeable sets, or outputs that changed by more than the network's own noise; the
        model is then as it was.
    """
    start = time.perf_counter()
    traced, read = _traced(model, batches, example_inputs)
    by_map = isinstance(order, str) and order == "sofm"
    chosen, skipped = select_groups(traced.groups, groups, activations=by_map, permute=True)
    found = [choice.group for choice in chosen]
    if isinstance(order, np.ndarray):
        if len(found) != 1:
            raise ValueError(f"one order was given for {len(found)} groups: name one layer")
        order = {found[0].name: order}
    means = None
    if by_map:
        if read is None:
            raise ValueError("order 'sofm' needs batches of (inputs, labels); or give 'random'")
        means, refused = described(traced, read, found, Processes())
        refuse_named(chosen, refused)
        found, skipped = [g for g in found if g.name in means], skipped | refused
    plan = arrange_plan(found, order, means, seed)  # type: ignore[arg-type]
    outputs, check = Outputs(), Unchanged(traced)
    outputs.before(check.before)
    edit = Edit(traced.model, caches=traced.caches)
    with edit, edit:
        edit.write(transform(plan, edit.read(plan.weights)))
        for group_plan in plan.groups:
            _follow(edit, group_plan, "merge", optimizer, ema, {})
        after = forward(traced, traced.example_inputs, {})
        outputs.after(after)
        verdict = check.verdict(after, edit)
    report = Report.of(plan, None, outputs.relative, time.perf_counter() - start)
    report.verdict = verdict
    report.unverified = "" if verdict else "they hold no finite number for the example inputs"
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
    pseudo_classes: int | None = None,
    unpack: Unpack | None = None,
    max_batches: int | None = None,
    max_bytes: int = MAX_BYTES,
    device: torch.device | str | None = None,
    process_group: Any = None,
    writer: Any = None,
    step: int = 0,
    progress: bool = False,
) -> Report:
    """Merge channels that respond alike and re-initialize the places that become free, in place.

    Parameters
    ----------
    model : torch.nn.Module or TracedModel
        Compiled and data-parallel wrappers are looked through.
    batches : iterable, optional
        Yields ``(inputs, labels)``; read several times, from memory where they fit in 1 GiB.
        Without it only the methods ``"l1"``, ``"l2"`` and ``"random"`` are possible, consumers
        are not refitted and statistics are not recalibrated.
    layers : str or sequence of str
        Layers, patterns, ``"last"`` (the deepest group that can move), ``"all"``, or ``"auto"``:
        the groups that use the least of their capacity, each with the ratio that its figures
        give (a ratio of the recipe that is "redundant" or a mapping stays).  The deepest is
        changed last.
    recipe : Recipe, optional
        ``Recipe.preserving()`` by default.
    optimizer : torch.optim.Optimizer, a wrapper of one, or a sequence of these, optional
        Its state changes along, as ``recipe.optimizer`` says.
    ema : torch.nn.Module or object with ``.module``, or a sequence of these, optional
        Averaged copies of the model, changed by the same plan.
    example_inputs : tensor, tuple or dict, optional
        Inputs to trace the model with; the first of ``batches`` by default.
    classes, pseudo_classes, unpack, max_batches, max_bytes, device, process_group, progress
        As in :func:`collect`; of a loader of more than 100 batches an event reads the first 100
        where ``max_batches`` is not given.  All processes of the group call this function, each
        with its share of the data, and end with the same weights.
    writer : object with ``add_image``, optional
        A TensorBoard ``SummaryWriter``: gets the paper's Fig. 2 and the codebook of every group.
    step : int
        Of the pictures.

    Returns
    -------
    Report
        With the change of the outputs on the batches.

    Warns
    -----
    UserWarning
        Where no channel became free, with the reason; where batches have no labels, or every
        class has one sample.

    Raises
    ------
    ValueError
        For bad data, an unknown layer or one that cannot move, a named layer whose weights are
        parametrized, or values that would not be finite; the model, the optimizer and the
        averaged copies are then as they were.
    """
    start = time.perf_counter()
    recipe, processes = recipe or Recipe.preserving(), Processes(process_group)
    with processes.together():
        traced, read = _traced(
            model, batches, example_inputs, unpack, max_batches, progress, device
        )
        if read is None:
            if recipe.needs_means or layers == "auto":
                what = "layers 'auto'" if layers == "auto" else f"method {recipe.method!r}"
                raise ValueError(f"{what} needs batches of (inputs, labels)")
            without = "sum" if recipe.outgoing == "least_squares" else recipe.outgoing
            recipe = replace(recipe, outgoing=without, batchnorm="merge")
    outputs, passes = Outputs(), 0
    traced.edit = whole = Edit(traced.model, caches=traced.caches)
    with whole, whole, _remembered(read):
        _synchronize(whole, traced, processes)
        if read is not None and pseudo_classes is not None:
            read = with_pseudo_classes(traced, read, pseudo_classes, processes, recipe.seed)
            classes, passes = pseudo_classes, passes + 1
        automatic = layers == "auto"
        if automatic:
            assert read is not None
            layers, recipe = _least_used(traced, read, recipe, processes, classes, max_bytes)
            passes += 1
        with processes.together():
            nothing = automatic and not layers
            chosen, skipped = (
                ([], {})
                if nothing
                else select_groups(traced.groups, layers, activations=recipe.needs_means)
            )
        if read is not None and processes.first:
            groups = [choice.group for choice in chosen]
            _tell(passes + expected_passes(traced.graph, groups, recipe), max_bytes)
        reports, plans, before = [], [], {}
        unfit: dict[str, str] = {}
        looked = False
        for group, layer, named in chosen:
            began = time.perf_counter()
            edit = Edit(traced.model, whole, traced.caches)
            change = GroupChange(
                traced, edit, read, processes, group, layer, recipe, classes, max_bytes
            )
            try:
                with edit:
                    refuse_parametrized(traced.model, group)
                    plan = change.run(None if looked else outputs)
                    with processes.together():
                        _follow(edit, plan, recipe.optimizer, optimizer, ema, change.corrections)
                        if change.balance is not None:
                            balance, present = change.balance, edit.read(change.balance.weights)
                            edit.write(transform(balance, present))
                            _follow(edit, balance, recipe.optimizer, optimizer, ema, {}, present)
            except Unfit as error:
                if named:
                    raise
                unfit[group.name] = str(error)
                continue
            finally:
                looked = looked or change.passes > 0
                passes += change.passes
            plans.append(plan)
            reports.append(GroupReport.of(plan, seconds=time.perf_counter() - began))
            if change.means is not None:
                before[plan.group] = change.means
        refuse_named(chosen, unfit)
        skipped |= unfit
        if read is not None and plans:
            changed = [choice.group for choice in chosen if choice.group.name not in skipped]
            after = _after(traced, read, changed, classes, max_bytes, outputs, processes)
            figures = _capacities(after, plans, recipe, processes)
            passes += 1
            for report in reports:
                report.after = figures.get(report.group)
            if writer is not None and processes.first:
                draw_groups(writer, plans, before, after, step)
        with processes.together():
            refuse_not_finite(whole, optimizer, ema)
    result = Report(reports, skipped, Plan(plans, recipe, skipped))
    if read is not None and plans:
        result.output_change, result.largest_change = outputs.relative, outputs.largest
        result.agreement, result.passes = outputs.agreement, passes
    if processes.first:
        _warn_where_nothing_changed(plans)
        if read is not None and recipe.needs_means:
            _warn_about_classes(read, before)
    result.seconds = time.perf_counter() - start
    return result


def _remembered(read: Batches | None) -> contextlib.AbstractContextManager[None]:
    return contextlib.nullcontext() if read is None else read.remembered()


def _synchronize(edit: Edit, traced: TracedModel, processes: Processes) -> None:
    """Equal parameters are expected of all processes; buffers are those of the first.

    Data-parallel training sends the first one's buffers to the others when the next forward pass
    begins, so that they differ until then.
    """
    if processes.world == 1:
        return
    for buffer in traced.model.buffers():
        value = buffer.detach().clone()
        processes.copy_from_first([value])
        edit.copy(buffer, value)
    processes.check_same(edit.read(name for name, _ in traced.model.named_parameters()))


def _least_used(
    traced: TracedModel,
    read: Batches,
    recipe: Recipe,
    processes: Processes,
    classes: int | Sequence[str | int] | None,
    max_bytes: int,
) -> tuple[list[str], Recipe]:
    """The groups that use the least of their capacity, and the recipe with their ratios."""
    from ...graph.least_used import least_used

    movable = [choice.group for choice in select_groups(traced.groups, "all")[0]]
    means, _ = described(traced, read, movable, processes, classes, max_bytes)
    ratios: dict[str, float] = {}
    with processes.together():
        if processes.first:
            figures = {n: capacity(m.Q, activity=m.activity) for n, m in means.items()}
            ratios = least_used(figures)
    ratios = processes.from_first(ratios)
    if ratios and isinstance(recipe.ratio, float):
        recipe = replace(recipe, ratio=ratios)
    return list(ratios), recipe


def _after(
    traced: TracedModel,
    read: Batches,
    groups: Sequence[ChannelGroup],
    classes: int | Sequence[str | int] | None,
    max_bytes: int,
    outputs: Outputs,
    processes: Processes,
) -> dict[str, ClassMeans]:
    """The pass after all changes: outputs, and class means."""
    with processes.together():
        groups = [group for group in groups if group.tap is not None]
        sums = ClassSums(traced, groups, classes, None, max_bytes)
        for inputs, labels in read.read("outputs after"):
            outputs.after(forward(traced, inputs, sums.taps(labels, samples(inputs), read.device)))
    outputs.share(processes)
    sums.share(processes)
    with processes.together():
        return sums.means()


def _capacities(
    means: Mapping[str, ClassMeans],
    plans: Sequence[GroupPlan],
    recipe: Recipe,
    processes: Processes,
) -> dict[str, Capacity]:
    found: dict[str, Capacity] = {}
    with processes.together():
        for plan in plans if processes.first else ():
            if plan.group in means:
                own = means[plan.group]
                found[plan.group] = capacity(own.Q, max(plan.nodes, 1), own.activity, recipe.seed)
    return processes.from_first(found)


def _warn_where_nothing_changed(plans: Sequence[GroupPlan]) -> None:
    if not plans:
        warnings.warn(
            "nothing was reorganized: every group uses its capacity (layers='auto'); name layers "
            "to reorganize them all the same",
            stacklevel=3,
        )
    for plan in plans:
        if not plan.new.size:
            warnings.warn(f"nothing was freed in {plan.group!r}: {plan.reason}", stacklevel=3)


def _tell(passes: int, max_bytes: int) -> None:
    """What an event will take, before it starts."""
    log.info(
        "up to %d passes over the batches; in memory up to %d MiB of batches, %d MiB of "
        "activations and %d MiB of class sums",
        passes,
        *(n >> 20 for n in (KEPT_BYTES, KEPT_ACTIVATIONS, max_bytes)),
    )


def _warn_about_classes(read: Batches, means: Mapping[str, ClassMeans]) -> None:
    if read.unlabelled and classes_of(means) < 2:
        warnings.warn(
            "the batches have no labels, so that all samples count as one class: give "
            "(inputs, labels), or pseudo_classes=number",
            stacklevel=3,
        )
    for own in list(means.values())[:1]:
        if len(own.counts) > 1 and max(own.counts) <= 1:
            warnings.warn(
                "every class has one sample, which a class mean is hardly made of: give more data",
                stacklevel=3,
            )


def classes_of(means: Mapping[str, ClassMeans]) -> int:
    """How many classes there were."""
    return max((len(own.counts) for own in means.values()), default=0)


def _traced(
    model: nn.Module | TracedModel,
    batches: Iterable[Any] | None,
    example_inputs: Any,
    unpack: Unpack | None = None,
    max_batches: int | None = None,
    progress: bool = False,
    device: torch.device | str | None = None,
) -> tuple[TracedModel, Batches | None]:
    """The model traced, and its calibration data."""
    module = model.model if isinstance(model, TracedModel) else unwrap(model)
    refuse_sharded(module)
    read = batches if isinstance(batches, Batches) else None
    if read is None and batches is not None:
        max_batches = at_most(batches, max_batches)
        read = Batches(batches, module, unpack, max_batches, progress, device)
    if isinstance(model, TracedModel):
        return model, read
    if example_inputs is None:
        if read is None:
            raise ValueError("expected batches or example_inputs to trace the model with, got none")
        return trace_first(module, read), read
    return trace(module, example_inputs), read


def _follow(
    edit: Edit,
    plan: GroupPlan,
    how: str,
    optimizer: Any,
    ema: Any,
    corrections: Mapping[str, Correction],
    before: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Change what goes along with the model."""
    if plan.kind == "reorganize" and plan.idle:
        return
    if optimizer is not None:
        _, left = change_state(edit, optimizer, plan, how, before)
        if left:
            log.info("state of the optimizer that was left as it is: %s", ", ".join(left))
    if ema is not None:
        change_averages(edit, ema, plan, corrections)
