"""Arrange and reorganize a PyTorch model in place.

The procedure is that of every network (:mod:`rejuvenet.graph.reorganizing`); what is PyTorch's own
are optimizers, averaged copies and several processes.  Everything or nothing: a failure undoes
all groups, in all processes.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from ...graph import arranging, reorganizing
from ...graph.arguments import refuse_idle, refuse_several
from ...graph.batches import Unpack
from ...graph.cautions import warn_where_nothing_changed
from ...graph.change.normalizations import Correction
from ...graph.measure.class_sums import MAX_BYTES
from ...graph.network import Follow
from ...graph.plan.plan import GroupPlan
from ...graph.plan.recipe import Recipe, given, shrinking
from ...graph.plan.selection import Layers
from ...graph.ratios import Budget
from ...graph.report import Report
from .batches import Batches, at_most
from .distributed import Processes
from .edit import Edit, refuse_unwritable
from .interrupts import Interruptible
from .network import TorchNetwork
from .passes import trace, trace_first
from .trace import TracedModel, unwrap
from .training.freezing import warn_of_frozen
from .training.optimizer_state import change_averages, change_state
from .training.pictures import draw_groups
from .training.sanity import refuse_not_finite
from .unread import warn_of_unread

log = logging.getLogger("rejuvenet")


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
        Inputs to trace the model with; the first of ``batches`` by default, and not for a
        ``TracedModel``, which has its own.
    groups : str or sequence of str
        Layers, patterns, ``"last"`` or ``"all"``.
    order : {"sofm", "random"}, ndarray of int, or mapping of group name to ndarray
        By place on the map (needs ``batches``), at random, or given for one group or several.
    batches : iterable, optional
        Yields ``(inputs, labels)``; for order ``"sofm"``, or to trace the model with.
    seed : int
    optimizer, ema : optional
        Permuted along.

    Returns
    -------
    Report
        ``verdict`` and ``output_change`` are measured on the example inputs.

    Warns
    -----
    UserWarning
        Where the traced pass did not use all parameters, which are in ``unread`` of the report:
        what reads channels there, as a head for training alone, is not permuted along.

    Raises
    ------
    ValueError
        For a layer that is unknown or cannot move, an order that is no permutation within the
        exchangeable sets, or outputs that changed by more than the network's own noise; the
        model is then as it was.

    Examples
    --------
    >>> import torch
    >>> from rejuvenet.adapters.torch import arrange
    >>> net = torch.nn.Sequential(
    ...     torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 3))
    >>> report = arrange(net, torch.randn(2, 3, 8, 8), order="random")
    >>> report.groups[0].group, report.verdict.within
    ('0.weight', True)
    """
    traced, read = _traced(model, batches, example_inputs)
    if example_inputs is None and traced is not model and not arranging.is_by_map(order):
        read = None  # it has served to trace the model
    network = TorchNetwork(traced, Processes())
    follow = _follower(optimizer, ema, Recipe(optimizer="merge"))
    with torch.inference_mode(False), Interruptible():
        unread = warn_of_unread(traced)
        report = arranging.arrange(network, read, groups, order, seed, follow=follow)
    report.unread = unread
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
    max_change: float | None = None,
    protected: Mapping[str, Sequence[int]] | None = None,
    progress: bool = False,
) -> Report:
    """Merge channels that respond alike and re-initialize the places that become free, in place.

    Parameters
    ----------
    model : torch.nn.Module or TracedModel
        Compiled and data-parallel wrappers are looked through.
    batches : iterable, optional
        Yields ``(inputs, labels)``; read several times, from memory where they fit in 1 GiB.
        Without it only the methods ``"l1"``, ``"l2"``, ``"random"`` and ``"correlation"`` are
        possible, consumers are not refitted and statistics are not recalibrated.
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
        Averaged copies of the model, changed by the same plan; not with ``refit="products"``.
    example_inputs : tensor, tuple or dict, optional
        As in :func:`arrange`.
    classes, pseudo_classes, unpack, max_batches, max_bytes, device, process_group, progress
        As in :func:`collect`; of a loader of more than 100 batches an event reads the first 100
        where ``max_batches`` is not given.  All processes of the group call this function, each
        with its share of the data, and end with the same weights.
    writer : object with ``add_image``, optional
        A TensorBoard ``SummaryWriter``: gets the paper's Fig. 2 and the codebook of every group.
    step : int
        Of the pictures.
    max_change : float, optional
        A budget for the relative change of the outputs: groups that would overdraw it are left
        as they were.
    protected : mapping of str to sequence of int, optional
        Channels, by names or patterns of groups or layers, that stay as and where they are.

    Returns
    -------
    Report
        With the change of the outputs on the batches.

    Warns
    -----
    UserWarning
        Where no channel became free, with the reason; where batches have no labels, or every
        class has one sample; where the traced pass did not use all parameters (:func:`arrange`);
        where an optimizer is given, and new channels lie in parameters that are frozen.

    Raises
    ------
    ValueError
        For bad data, an unknown layer or one that cannot move, a named layer whose weights are
        parametrized, or values that would not be finite; the model, the optimizer and the
        averaged copies are then as they were.

    Examples
    --------
    >>> import torch
    >>> from rejuvenet.adapters.torch import reorganize
    >>> from rejuvenet.graph import Recipe
    >>> net = torch.nn.Sequential(
    ...     torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.ReLU(),
    ...     torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(8, 2))
    >>> batches = [(torch.randn(32, 3, 8, 8), torch.arange(32) % 2) for _ in range(4)]
    >>> report = reorganize(net, batches, layers="last", recipe=Recipe.preserving(ratio=0.5))
    >>> report.groups[0].group, report.groups[0].survivors, report.groups[0].new
    ('0.weight', 4, 4)
    """
    processes = Processes(process_group)
    recipe = given(recipe, Recipe.preserving)
    recipe = recipe if ema is None else recipe.fitting("groups")
    with processes.together():
        traced, read = _traced(
            model, batches, example_inputs, unpack, max_batches, progress, device
        )
    outcome = _carried_out(
        traced, read, processes, layers, recipe, classes=classes, pseudo_classes=pseudo_classes,
        max_bytes=max_bytes, max_change=max_change, protected=protected,
        follow=_follower(optimizer, ema, recipe),
    )  # fmt: skip
    if processes.first:
        warn_where_nothing_changed(outcome.report)
        if optimizer is not None and outcome.report.plan is not None:
            warn_of_frozen(traced.tensors, outcome.report.plan.groups)
        if writer is not None:
            draw_groups(writer, outcome, step)
    return outcome.report


def shrink(
    model: nn.Module | TracedModel,
    batches: Iterable[Any] | None = None,
    layers: Layers = "all",
    recipe: Recipe | None = None,
    example_inputs: Any = None,
    *,
    ratio: float | Mapping[str, float] | None = None,
    target_params: float | None = None,
    target_flops: float | None = None,
    classes: int | Sequence[str | int] | None = None,
    pseudo_classes: int | None = None,
    unpack: Unpack | None = None,
    max_batches: int | None = None,
    max_bytes: int = MAX_BYTES,
    device: torch.device | str | None = None,
    max_change: float | None = None,
    progress: bool = False,
) -> Report:
    """Keep the channels from which the others are told best, and remove the others.

    The module itself becomes smaller.  Parameters that lose channels are replaced by new ones:
    make the optimizer afterwards.

    Parameters
    ----------
    model : torch.nn.Module or TracedModel
        Compiled wrappers are looked through.
    batches : iterable, optional
        Yields ``(inputs, labels)``, or inputs alone with ``pseudo_classes``.
    layers : str or sequence of str
        Layers, patterns, ``"last"`` or ``"all"``.
    recipe : Recipe, optional
        ``Recipe.shrinking()`` by default; free places hold nothing, whatever it says of them.
    ratio : float or mapping of name to float, optional
        Share of the channels that stay, in place of the recipe's.
    target_params, target_flops : float, optional
        Share of the parameters, or of the multiply-adds, that stays at most: each group gets the
        ratio under which the next channel would cost as much as in the others.
    example_inputs, classes, pseudo_classes, unpack, max_batches, max_bytes, device, max_change
        As in :func:`reorganize`.
    progress : bool

    Returns
    -------
    Report
        With parameters and multiply-adds before and after.  Groups that cannot lose channels are
        in ``skipped``, with the reason.

    Warns
    -----
    UserWarning
        Where the traced pass did not use all parameters (:func:`arrange`).

    Raises
    ------
    ValueError
        For bad data, an unknown layer, or nothing that can be removed; the model is then as it was.
    """
    refuse_several(ratio=ratio, target_params=target_params, target_flops=target_flops)
    processes = Processes()
    if processes.world > 1:
        raise ValueError("expected one process: shrink the model before it is spread over several")
    traced, read = _traced(model, batches, example_inputs, unpack, max_batches, progress, device)
    return _carried_out(
        traced, read, processes, layers, shrinking(recipe, ratio), classes=classes,
        pseudo_classes=pseudo_classes, max_bytes=max_bytes, max_change=max_change, remove=True,
        budget=Budget.of(target_params, target_flops),
    ).report  # fmt: skip


@torch.inference_mode(False)
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
    if isinstance(model, TracedModel):
        refuse_idle("beside a TracedModel, which has its own", example_inputs=example_inputs)
    if batches is None:
        refuse_idle("without batches", unpack=unpack, max_batches=max_batches, device=device)
    module = model.model if isinstance(model, TracedModel) else unwrap(model)
    refuse_unwritable(module)
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


def _carried_out(
    traced: TracedModel,
    read: Batches | None,
    processes: Processes,
    layers: Layers,
    recipe: Recipe | None,
    **options: Any,
) -> reorganizing.Outcome:
    """The procedure, on batches that are read from their source once."""
    network = TorchNetwork(traced, processes)
    unread = warn_of_unread(traced, aloud=processes.first)
    reading = contextlib.nullcontext() if read is None else read.remembered()
    with torch.inference_mode(False), Interruptible(), reading:
        outcome = reorganizing.reorganize(
            network, read, layers, recipe, team=processes, **options
        )
    outcome.report.unread = unread
    return outcome


def refuse_averages(recipe: Recipe, ema: Any) -> None:
    """Raise ValueError where averaged copies could not change along."""
    if ema is not None and recipe.refit == "products":
        raise ValueError(
            "refit 'products' changes weights by more than the plan says, which averaged copies "
            "cannot follow: choose refit='groups', or begin the averages anew"
        )


def _follower(optimizer: Any, ema: Any, recipe: Recipe) -> Follow:
    """What changes along with the model."""
    refuse_averages(recipe, ema)

    def follow(
        edit: Edit,
        plans: Sequence[GroupPlan],
        corrections: Mapping[str, Correction],
        before: Mapping[str, np.ndarray] | None,
    ) -> None:
        for plan in plans if optimizer is not None else ():
            _, left = change_state(edit, optimizer, plan, recipe.optimizer, before)
            if left:
                log.info("state of the optimizer that was left as it is: %s", ", ".join(left))
        if ema is not None:
            change_averages(edit, ema, plans, corrections)
        if any(plan.kind == "reorganize" for plan in plans):
            refuse_not_finite(edit, optimizer, ema)

    return follow
