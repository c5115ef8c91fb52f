"""Algorithm 1 in anybody's training loop: reorganize every r epochs until a share of it is over.

Example
-------
::

    reorganizer = Reorganizer(model, optimizer, loader, epochs=100, every=20)
    for epoch in range(100):
        train_one_epoch(...)
        reorganizer.step(epoch)      # after the epoch; a Report where something was due
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from ....graph.change.surgery import NotFinite
from ....graph.find.channels import ChannelGroup
from ....graph.measure.class_sums import MAX_BYTES
from ....graph.plan.plan import GroupPlan
from ....graph.plan.recipe import Recipe
from ....graph.plan.selection import ratio_of, select_groups
from ....graph.report import Report
from ..batches import Batches, Unpack, at_most
from ..distributed import Processes
from ..edit import refuse_sharded
from ..passes import trace, trace_first
from ..reorganize import reorganize
from ..trace import TracedModel, unwrap
from .freezing import Frozen, weights_before
from .sanity import far_from, largest_values
from .schedule import Every, is_after
from .state_check import VERSION, check_state
from .warm_up import NewChannels, WarmUp, innermost, new_rows

log = logging.getLogger("rejuvenet")

EVENTS, RECENT = 1000, 10  # of the history: events, and those with the sources of their channels

Ratio = float | str | Callable[[int], Any]


class Reorganizer:
    """Reorganizes layers of a model while it is trained.

    Parameters
    ----------
    model : torch.nn.Module
        Compiled and data-parallel wrappers are looked through; the module inside is edited in
        place.  With several processes all of them call :meth:`step`.
    optimizer : torch.optim.Optimizer, a wrapper of one, a sequence of these, or None
        Its state changes along with the weights.
    loader : iterable
        Yields ``(inputs, labels)``; see :func:`collect` for other forms.
    layers : str or sequence of str
        As in :func:`reorganize`; unknown and frozen layers are refused here and now.  With
        ``"auto"`` they are chosen anew at every event (and so are their ratios, where the recipe
        or ``ratio`` gives a number).
    every : int, collection of int, callable or scheduler, optional
        Epochs between two reorganizations (``r`` of Algorithm 1; ``recipe.every`` by default);
        the epochs after which one is due, counted from 0; a function of the epoch; or a schedule
        of the learning rate, where it restarts (:func:`.schedule.is_after`).
    stop : float, optional
        Share of the training after which none takes place; it needs ``epochs``.  By default
        ``recipe.stop`` for a number of epochs, and none for other forms of ``every``.
    recipe : Recipe or callable, optional
        A recipe, or a function of the epoch that gives one; by default
        ``Recipe.preserving(ratio="redundant")``, which frees what others do as well and nothing
        else.  A fixed share costs accuracy where all channels are in use (measured in
        ``tutorials/paper``).
    ema : torch.nn.Module, object with ``.module``, or a sequence of these, optional
        Averaged copies, changed by the same plan.
    freeze_below : bool
        As in section 3.1.1 of the paper: the layers take turns, one an event, the deepest last,
        which keeps its turn.  From a layer's event until the next, what lies before it in the
        network is frozen (``requires_grad`` is False; a compiled model is compiled anew then).
    device : torch.device or str, optional
        Where batches go; the model's device by default.
    seed : int
        Every event draws from a seed of its own, made of this one and the epoch, so that a
        training resumed from a checkpoint continues as if it had not stopped.
    epochs : int, optional
        Length of the training; without it there is no end.
    ratio : float, "redundant", callable or mapping, optional
        In place of the recipe's; a function of the epoch, or a mapping of layer patterns to any
        of these.
    warmup : WarmUp, optional
        How fast new channels learn at first.
    classes, pseudo_classes, unpack, max_batches, max_bytes, process_group, progress
        As in :func:`reorganize`.
    writer : object with ``add_image``, optional
        A TensorBoard ``SummaryWriter``, for pictures of every event.
    example_inputs : tensor, tuple or dict, optional
        Inputs to trace the model with; the first of ``loader`` by default.

    Attributes
    ----------
    history : list of dict
        Epoch, recipe, plan and figures of the last 1,000 events, in plain types.  Of a plan,
        ``["sources"][group][place]`` lists the channels that came to a place; new channels have
        none.  These are kept for the last ten events.

    Raises
    ------
    ValueError
        For wrong settings or layers, and a model whose parameters are spread over processes.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Any,
        loader: Iterable[Any],
        layers: str | Sequence[str | ChannelGroup] = "last",
        every: Every | None = None,
        stop: float | None = None,
        recipe: Recipe | Callable[[int], Recipe] | None = None,
        ema: Any = None,
        freeze_below: bool = False,
        device: torch.device | str | None = None,
        seed: int = 0,
        *,
        epochs: int | None = None,
        ratio: Ratio | Mapping[str, Ratio] | None = None,
        warmup: WarmUp | None = None,
        classes: int | Sequence[str | int] | None = None,
        pseudo_classes: int | None = None,
        unpack: Unpack | None = None,
        max_batches: int | None = None,
        max_bytes: int = MAX_BYTES,
        example_inputs: Any = None,
        process_group: Any = None,
        writer: Any = None,
        progress: bool = False,
    ) -> None:
        self.recipe = recipe if recipe is not None else Recipe.preserving(ratio="redundant")
        self.ratio, self.seed, self.epochs = ratio, seed, epochs
        first = self._recipe(0)
        self.every = first.every if every is None else every
        is_after(self.every, 0)  # raises for what is no schedule
        if stop is not None and epochs is None:
            raise ValueError("stop is a share of the training: give epochs, its length, as well")
        if stop is None:
            stop = first.stop if isinstance(self.every, int) else 1.0
        self.stop = replace(first, stop=stop).stop  # Recipe checks the value
        if epochs is not None and epochs < 1:
            raise ValueError(f"expected epochs to be at least 1, got {epochs!r}")
        self.model = unwrap(model)
        refuse_sharded(self.model)
        self.optimizer, self.ema, self.layers = optimizer, ema, layers
        max_batches = at_most(loader, max_batches)
        self.batches = Batches(loader, self.model, unpack, max_batches, progress, device)
        self.process_group, self.writer = process_group, writer
        self._options: dict[str, Any] = {
            "classes": classes, "pseudo_classes": pseudo_classes, "max_bytes": max_bytes
        }  # fmt: skip
        self.warmup = warmup
        if warmup is not None:
            innermost(optimizer)  # raises where there is no hook
        self.traced: TracedModel = (
            trace_first(self.model, self.batches)
            if example_inputs is None
            else trace(self.model, example_inputs)
        )
        self._turns: list[str] = []
        if layers != "auto":
            chosen, _ = select_groups(self.traced.groups, layers, activations=first.needs_means)
            for choice in chosen:
                ratio_of(choice.group, first.ratio)  # raises where a mapping leaves it out
            self._turns = [choice.layer or choice.group.name for choice in chosen]
        if freeze_below:
            _check_freezing(model, layers)
        self.freeze_below = freeze_below
        self.last_epoch = -1
        self.history: list[dict[str, Any]] = []
        self._frozen = Frozen()
        self._first: dict[str, float] = {}  # largest values before the first event
        self._new_channels: NewChannels | None = None

    def due(self, epoch: int) -> bool:
        """Whether :meth:`step` would reorganize after ``epoch`` (the first one is 0).

        Not at the very beginning, not after ``stop`` of the epochs, and not after the last one.
        """
        done = epoch + 1
        if epoch <= self.last_epoch or not is_after(self.every, epoch):
            return False
        return self.epochs is None or (done < self.epochs and done <= self.stop * self.epochs)

    def step(self, epoch: int) -> Report | None:
        """Reorganize where it is due; call it once after every epoch.

        Returns
        -------
        Report or None
            None where nothing was due, and where the event was undone; a second call for the
            same epoch does nothing.

        Warns
        -----
        UserWarning
            Where values would not have been finite, so that the event was undone; where weights
            or moments have left the range that they had before the first event a thousandfold.
        """
        report = None
        if self.due(epoch):
            begun = self.traced.edit
            try:
                report = self._reorganize(epoch)
            except NotFinite as error:
                self.last_epoch = epoch
                warnings.warn(f"epoch {epoch}: nothing was reorganized: {error}", stacklevel=2)
            except BaseException:
                # An interrupt after the change: the event has been, and is not repeated.
                if self.traced.edit is not begun and self.traced.edit.closed:
                    self.last_epoch = epoch
                raise
        if self.epochs is not None and epoch + 1 >= self.epochs:
            self.release()
        return report

    def release(self) -> None:
        """End of the training: what was frozen is trained again, and no update is scaled.

        :meth:`step` does so after the last epoch, where ``epochs`` was given.
        """
        self._frozen.release(self.traced.tensors)
        if self._new_channels is not None:
            self._new_channels.remove()
            self._new_channels = None

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs, in plain types (``weights_only=True`` loads it, JSON too)."""
        new = self._new_channels
        return {
            "version": VERSION,
            "last_epoch": self.last_epoch,
            "seed": self.seed,
            "history": list(self.history),
            "frozen": list(self._frozen.names),
            "new_channels": None if new is None or new.warm else new.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`state_dict`; frozen parameters are frozen again.

        Raises
        ------
        ValueError
            For a state that is damaged, or of another model; nothing has changed then.
        """
        check_state(state, self.traced.tensors)
        new = None
        if self.warmup is not None and (state["new_channels"] or {}).get("rows"):
            new = NewChannels(
                self.warmup, self.optimizer, self.traced.tensors, **state["new_channels"]
            )
        self.release()
        self._new_channels = new
        self.last_epoch, self.seed = state["last_epoch"], state["seed"]
        self.history = list(state["history"])
        self._frozen.freeze(self.traced.tensors, state["frozen"])

    def _recipe(self, epoch: int) -> Recipe:
        """The recipe of one event."""
        recipe = self.recipe if isinstance(self.recipe, Recipe) else self.recipe(epoch)

        def at(ratio: Any) -> Any:
            return ratio(epoch) if callable(ratio) else ratio

        if self.ratio is None:
            return recipe
        if isinstance(self.ratio, Mapping):
            return replace(recipe, ratio={name: at(ratio) for name, ratio in self.ratio.items()})
        return replace(recipe, ratio=at(self.ratio))

    def _reorganize(self, epoch: int) -> Report:
        recipe = self._recipe(epoch)
        layers: str | Sequence[str | ChannelGroup] = self.layers
        if self.freeze_below:
            layers = [self._turns[min(len(self.history), len(self._turns) - 1)]]
        along = (self.traced.tensors, self.optimizer, self.ema)
        self._first = {**largest_values(*along), **self._first}
        report = reorganize(
            self.traced,
            self.batches,
            layers,
            replace(recipe, seed=(1_000_003 * self.seed + 7919 * recipe.seed + epoch) % 2**32),
            self.optimizer,
            self.ema,
            process_group=self.process_group,
            writer=self.writer,
            step=epoch,
            **self._options,
        )
        if self.freeze_below:
            group = self.traced.group(layers[0])  # type: ignore[arg-type]
            before = weights_before(self.traced.graph, group)
            self._frozen.freeze(self.traced.tensors, before)
        assert report.plan is not None
        if self.warmup is not None:
            if self._new_channels is not None:
                self._new_channels.remove()
            self._new_channels = NewChannels(
                self.warmup, self.optimizer, self.traced.tensors, new_rows(report.plan.groups)
            )
        self.last_epoch = epoch
        if far := far_from(self._first, largest_values(*along)):
            warnings.warn(
                f"epoch {epoch}: far from what they were before the first event: "
                f"{'; '.join(far)}; lower the learning rate, or reorganize less often",
                stacklevel=3,
            )
        sources = {plan.group: _sources(plan) for plan in report.plan.groups}
        self.history.append(
            {"epoch": epoch, "recipe": recipe.to_dict(), "sources": sources, **report.to_dict()}
        )
        del self.history[:-EVENTS]
        for event in self.history[:-RECENT]:
            event["sources"] = {}
        if Processes(self.process_group).first:
            log.info("epoch %d: %s", epoch, str(report).replace("\n", "; "))
        return report


def _sources(plan: GroupPlan) -> list[list[int]]:
    """The channels that come to every place."""
    assert plan.A is not None
    return [np.flatnonzero(weights).tolist() for weights in plan.A]


def _check_freezing(model: nn.Module, layers: Any) -> None:
    if layers == "auto":
        raise ValueError(
            "freeze_below needs layers by name: those that layers='auto' chooses differ from "
            "event to event"
        )
    outside: Any = getattr(model, "_orig_mod", model)
    parallel = isinstance(outside, nn.parallel.DistributedDataParallel)
    if parallel and not outside.find_unused_parameters:
        raise ValueError(
            "freeze_below leaves parameters without gradients, for which DistributedDataParallel "
            "waits: make it with find_unused_parameters=True"
        )
