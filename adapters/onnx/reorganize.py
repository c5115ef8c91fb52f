"""Arrange and reorganize an ONNX model; the result is a new model, the given one stays.

The procedure is that of every network (:mod:`rejuvenet.graph.arranging`,
:mod:`rejuvenet.graph.reorganizing`).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir

from ...graph import arranging, reorganizing
from ...graph.arguments import refuse_idle, refuse_several
from ...graph.batches import Unpack
from ...graph.cautions import warn_where_nothing_changed
from ...graph.measure.class_sums import MAX_BYTES
from ...graph.plan.recipe import Ratio, Recipe, shrinking
from ...graph.plan.selection import Layers
from ...graph.ratios import Budget, TimeBudget
from ...graph.report import Report
from .batches import OnnxBatches
from .latency_target import LatencyTarget
from .model import OnnxModel, load
from .network import OnnxNetwork
from .runner import Runner

Source = OnnxModel | ir.Model | str | os.PathLike[str]


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
        Yields ``(inputs, labels)``; for order ``"sofm"``.
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

    Examples
    --------
    >>> import numpy as np
    >>> import onnx_ir
    >>> from rejuvenet.adapters.onnx import arrange, load
    >>> model = load(onnx_ir.from_onnx_text('''
    ...     <ir_version: 8, opset_import: ["": 17]>
    ...     example (float[n, 1] x) => (float[n, 2] y)
    ...     <float[1, 4] a = {1, -1, 2, -2}, float[4, 2] b = {1, 0, 0, 1, 1, 1, 1, 2}>
    ...     { h = MatMul(x, a)  r = Relu(h)  y = MatMul(r, b) }'''))
    >>> changed, report = arrange(model, order={"a": [2, 3, 0, 1]})
    >>> changed.weights["a"].tolist(), report.verdict.within
    ([[2.0, -2.0, 1.0, -1.0]], True)
    """
    model = model if isinstance(model, OnnxModel) else load(model)
    network = OnnxNetwork(model)
    data = None if batches is None else OnnxBatches(batches, model, progress=progress)
    classes = getattr(batches, "classes", None)
    requests = model.requests(groups)
    report = arranging.arrange(network, data, requests, order, seed, classes=classes)
    return network.model, report


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
        Layers, patterns, ``"last"`` (the deepest group that can move), ``"all"``, or ``"auto"``:
        the groups that use the least of their capacity.
    recipe : Recipe, optional
        ``Recipe.preserving()`` by default.
    progress : bool
        Show progress bars.
    classes, pseudo_classes, max_batches, max_bytes
        As in :func:`collect`.
    unpack : callable, optional
        Turns one batch into ``(inputs, labels)``.
    max_change : float, optional
        A budget for the relative change of the outputs: groups that would overdraw it are left
        as they were.

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

    Examples
    --------
    >>> import numpy as np
    >>> import onnx_ir
    >>> from rejuvenet.adapters.onnx import load, reorganize
    >>> from rejuvenet.graph import Recipe
    >>> model = load(onnx_ir.from_onnx_text('''
    ...     <ir_version: 8, opset_import: ["": 17]>
    ...     example (float[n, 1] x) => (float[n, 2] y)
    ...     <float[1, 4] a = {1, -1, 2, -2}, float[4, 2] b = {1, 0, 0, 1, 1, 1, 1, 2}>
    ...     { h = MatMul(x, a)  r = Relu(h)  y = MatMul(r, b) }'''))
    >>> x = np.linspace(-1, 1, 20, dtype="float32")[:, None]
    >>> batches = [(x, np.arange(20) // 10)]
    >>> changed, report = reorganize(model, batches, recipe=Recipe.preserving(ratio=0.5))
    >>> report.groups[0].survivors, report.groups[0].new, report.output_change < 1e-3
    (2, 2, True)
    """
    changed, outcome = reorganized(
        model, batches, layers, recipe, progress, classes=classes, pseudo_classes=pseudo_classes,
        unpack=unpack, max_batches=max_batches, max_bytes=max_bytes, max_change=max_change,
    )  # fmt: skip
    return changed, outcome.report


def shrink(
    model: Source,
    batches: Iterable[Any] | None = None,
    layers: Layers = "all",
    recipe: Recipe | None = None,
    progress: bool = False,
    *,
    ratio: float | Mapping[str, float] | None = None,
    target_params: float | None = None,
    target_flops: float | None = None,
    target_latency: float | str | None = None,
    threads: int | None = None,
    classes: int | Sequence[str | int] | None = None,
    pseudo_classes: int | None = None,
    unpack: Unpack | None = None,
    max_batches: int | None = None,
    max_bytes: int = MAX_BYTES,
    max_change: float | None = None,
) -> tuple[OnnxModel, Report]:
    """Keep the channels from which the others are told best, and remove the others.

    Parameters
    ----------
    model : OnnxModel, path or onnx_ir.Model
    batches : iterable, optional
        Yields ``(inputs, labels)``, or inputs alone with ``pseudo_classes``.
    layers : str or sequence of str
        Layers, patterns, ``"last"`` or ``"all"``.
    recipe : Recipe, optional
        ``Recipe.shrinking()`` by default; free places hold nothing, whatever it says of them.
    progress : bool
        Show progress bars.
    ratio : float or mapping of name to float, optional
        Share of the channels that stay, in place of the recipe's.
    target_params, target_flops : float, optional
        Share of the parameters, or of the multiply-adds, that stays at most: each group gets the
        ratio under which the next channel would cost as much as in the others.
    target_latency : float or str, optional
        Share of today's latency that stays at most, or milliseconds such as ``"5ms"``, for one
        sample in onnxruntime: the multiply-adds that are left are found by timing models that are
        really smaller.
    threads : int, optional
        That an operator may use when the latency is measured, for ``target_latency``; 1 by
        default.
    classes, pseudo_classes, unpack, max_batches, max_bytes, max_change
        As in :func:`reorganize`.

    Returns
    -------
    OnnxModel
        The file as it was, with smaller arrays and other lengths.
    Report
        With parameters and multiply-adds before and after, and latency where it was asked for.
        Groups that cannot lose channels are in ``skipped``, with the reason.

    Raises
    ------
    ValueError
        For bad data, an unknown layer, or nothing that can be removed.

    Examples
    --------
    >>> import numpy as np
    >>> import onnx_ir
    >>> from rejuvenet.adapters.onnx import load, shrink
    >>> model = load(onnx_ir.from_onnx_text('''
    ...     <ir_version: 8, opset_import: ["": 17]>
    ...     example (float[n, 1] x) => (float[n, 2] y)
    ...     <float[1, 4] a = {1, -1, 2, -2}, float[4, 2] b = {1, 0, 0, 1, 1, 1, 1, 2}>
    ...     { h = MatMul(x, a)  r = Relu(h)  y = MatMul(r, b) }'''))
    >>> x = np.linspace(-1, 1, 20, dtype="float32")[:, None]
    >>> batches = [(x, np.arange(20) // 10)]
    >>> smaller, report = shrink(model, batches, ratio=0.5)
    >>> smaller.weights["a"].shape, report.output_change < 1e-3
    ((1, 2), True)
    """
    changed, outcome = shrunk(
        model, batches, layers, recipe, progress, ratio=ratio, target_params=target_params,
        target_flops=target_flops, target_latency=target_latency, threads=threads,
        classes=classes, pseudo_classes=pseudo_classes, unpack=unpack, max_batches=max_batches,
        max_bytes=max_bytes, max_change=max_change,
    )  # fmt: skip
    return changed, outcome.report


def shrunk(
    model: Source,
    batches: Iterable[Any] | None,
    layers: Layers,
    recipe: Recipe | None,
    progress: bool,
    *,
    ratio: float | Mapping[str, float] | None = None,
    target_params: float | None,
    target_flops: float | None,
    target_latency: float | str | None,
    threads: int | None,
    unpack: Unpack | None = None,
    **options: Any,
) -> tuple[OnnxModel, reorganizing.Outcome]:
    """As :func:`shrink`, with the class means before and after."""
    refuse_several(
        ratio=ratio, target_params=target_params, target_flops=target_flops,
        target_latency=target_latency,
    )  # fmt: skip
    if target_latency is None:
        refuse_idle("without target_latency", threads=threads)
    model = model if isinstance(model, OnnxModel) else load(model)
    budget: Budget | TimeBudget | None = Budget.of(target_params, target_flops)
    target = None
    if target_latency is not None:
        run = _one_run(model, batches, unpack)
        target = LatencyTarget(target_latency, model, run, 1 if threads is None else threads)
        budget = target.budget()
    changed, outcome = reorganized(
        model, batches, layers, shrinking(recipe, ratio), progress, unpack=unpack, remove=True,
        budget=budget, **options,
    )  # fmt: skip
    if target is not None:
        target.describe(outcome.report, changed)
    return changed, outcome


def _one_run(
    model: OnnxModel, batches: Iterable[Any] | None, unpack: Unpack | None
) -> dict[str, np.ndarray]:
    """The first sample of the data, or as many as the model takes at a time."""
    if batches is None:
        return model.example_inputs
    read = OnnxBatches(batches, model, unpack, max_batches=1).read("a sample to time")
    return Runner(model).smallest(next(iter(read))[0])


def reorganized(
    model: Source,
    batches: Iterable[Any] | None,
    layers: Layers,
    recipe: Recipe | None,
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
    if batches is None:
        refuse_idle("without batches", unpack=unpack, max_batches=max_batches)
    else:
        data = OnnxBatches(batches, model, unpack, max_batches, progress)
        if classes is None and options.get("pseudo_classes") is None:
            classes = getattr(batches, "classes", None)
    requests = layers if isinstance(layers, str) and layers == "auto" else model.requests(layers)
    if isinstance(recipe, Recipe) and isinstance(recipe.ratio, Mapping):
        recipe = replace(recipe, ratio=_by_weight(model, recipe.ratio))
    outcome = reorganizing.reorganize(network, data, requests, recipe, classes=classes, **options)
    warn_where_nothing_changed(outcome.report, options.get("budget") is not None)
    return network.model, outcome


def _by_weight(model: OnnxModel, ratio: Mapping[str, Ratio]) -> dict[str, Ratio]:
    """Ratios with the names of modules and nodes replaced by those of their weights."""
    found: dict[str, Ratio] = {}
    for name, share in ratio.items():
        for request in model.requests(name):
            found.setdefault(str(request), share)  # the first entry that fits counts
    return found
