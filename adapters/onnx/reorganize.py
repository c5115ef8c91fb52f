"""Arrange and reorganize an ONNX model; the result is a new model, the given one stays.

The procedure is that of every network (:mod:`rejuvenet.graph.reorganizing`).
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from ...graph import reorganizing
from ...graph.channels import ChannelGroup
from ...graph.class_sums import MAX_BYTES
from ...graph.plan import Plan
from ...graph.plan_makers import arrange_plan
from ...graph.recipe import Recipe
from ...graph.report import Report
from ...graph.selection import refuse_named, select_groups
from ...graph.surgery import restricted, transform
from ...graph.verdict import Verdict, judge, limits_of, shaken_array
from .batches import OnnxBatches, Unpack
from .collect import described
from .model import OnnxModel, load
from .network import OnnxNetwork
from .runner import Runner
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
    *,
    classes: int | Sequence[str | int] | None = None,
    pseudo_classes: int | None = None,
    unpack: Unpack | None = None,
    max_batches: int | None = None,
    max_bytes: int = MAX_BYTES,
    max_change: float | None = None,
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
    changed, outcome = reorganized(
        model, batches, layers, recipe, progress, classes=classes, pseudo_classes=pseudo_classes,
        unpack=unpack, max_batches=max_batches, max_bytes=max_bytes, max_change=max_change,
    )  # fmt: skip
    return changed, outcome.report


def reorganized(
    model: Source,
    batches: Iterable[Any] | None = None,
    layers: Layers = "last",
    recipe: Recipe | None = None,
    progress: bool = False,
    *,
    classes: int | Sequence[str | int] | None = None,
    unpack: Unpack | None = None,
    max_batches: int | None = None,
    **options: Any,
) -> tuple[OnnxModel, reorganizing.Outcome]:
    """As :func:`reorganize`, with the class means before and after."""
    model = model if isinstance(model, OnnxModel) else load(model)
    network, data = OnnxNetwork(model), None
    if batches is not None:
        data = OnnxBatches(batches, model, unpack, max_batches, progress)
        if classes is None and options.get("pseudo_classes") is None:
            classes = getattr(batches, "classes", None)
    requests = layers if isinstance(layers, str) and layers == "auto" else model.requests(layers)
    outcome = reorganizing.reorganize(network, data, requests, recipe, classes=classes, **options)
    reorganizing.warn_where_nothing_changed(outcome.report)
    return network.model, outcome


def _arranged(model: OnnxModel, plan: Plan) -> dict[str, np.ndarray]:
    """The weights that a plan permutes; one at a time where they lie in other files.

    Those are put back on the disk, so that a model larger than the memory can be arranged.
    """
    outside = model.outside & set(plan.weights)
    inside = restricted(plan, set(plan.weights) - outside)
    given = {name: model.weight(name) for name in plan.weights if name not in outside}
    values = transform(inside, given)
    disk = OnDisk() if outside else None
    for name in sorted(outside):
        (value,) = transform(restricted(plan, {name}), {name: model.weight(name)}).values()
        values[name] = disk.put(value) if disk is not None else value
    return values


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
