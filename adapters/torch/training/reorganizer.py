"""Algorithm 1 in anybody's training loop: reorganize every r epochs until a share of it is over.

Or every so many optimizer steps, where data keep changing and there is no end.

Example
-------
::

    reorganizer = Reorganizer(model, optimizer, loader, epochs=100, every=20)
    for epoch in range(100):
        train_one_epoch(...)
        reorganizer.step(epoch)      # after the epoch; a Report where something was due

    reorganizer = Reorganizer(model, optimizer, every_steps=400, example_inputs=x[:2])
    for inputs, labels in stream:
        train_one_step(...)
        reorganizer.step(inputs, labels)      # after the step
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from ....graph.arguments import refuse_idle, refuse_several
from ....graph.batches import Unpack
from ....graph.cautions import warn
from ....graph.change.surgery import NotFinite
from ....graph.measure.class_sums import MAX_BYTES
from ....graph.plan.recipe import Recipe
from ....graph.plan.selection import Layers, ratio_of, refuse_unknown, select_groups
from ....graph.report import Report
from ..batches import Batches, at_most
from ..distributed import Processes
from ..edit import refuse_unwritable
from ..passes import trace, trace_first
from ..reorganize import refuse_averages, reorganize
from ..trace import TracedModel, unwrap
from .freezing import Frozen, refuse_freezing, weights_before
from .sanity import far_from, largest_values
from .schedule import Every, Schedule, recipe_at
from .state_check import VERSION, check_state
from .steps import Steps, refuse_beside_steps
from .warm_up import NewChannels, WarmUp, innermost, new_rows

log = logging.getLogger("rejuvenet")

# In training, what hardly responds is freed earlier than in a file: measured in tutorials/streams.
DEFAULT_RECIPE = Recipe.preserving(ratio="redundant", dormant=0.1)

EVENTS, RECENT = 1000, 10  # of the history: events, and those with the sources of their channels

Ratio = float | str | Callable[[int], Any]


class Reorganizer:
    """Reorganizes layers of a model while it is trained, by epochs or by optimizer steps.

    Parameters
    ----------
    model : torch.nn.Module
        Compiled and data-parallel wrappers are looked through; the module inside is edited in
        place.  With several processes all of them call :meth:`step`.
    optimizer : torch.optim.Optimizer, a wrapper of one, a sequence of these, or None
        Its state changes along with the weights.
    loader : iterable, optional
        Yields ``(inputs, labels)``; see :func:`collect` for other forms.  Without it
        ``every_steps`` and ``example_inputs`` are needed.
    layers : str or sequence of str
        As in :func:`reorganize`; unknown and frozen layers are refused here and now.  With
        ``"auto"`` they are chosen anew at every event (and so are their ratios, where the recipe
        or ``ratio`` gives a number).
    every : int, collection of int, callable or scheduler, optional
        Epochs between two reorganizations (``r`` of Algorithm 1; ``recipe.every`` by default);
        the epochs after which one is due, counted from 0; a function of the epoch; or a schedule
        of the learning rate, where it restarts (PyTorch's ``CosineAnnealingWarmRestarts``, also as
        a part of ``SequentialLR``, or timm's ``CosineLRScheduler``, counted in epochs).
    stop : float, optional
        Share of the training after which none takes place; it needs ``epochs``.  By default
        ``recipe.stop`` for a number of epochs, and none for other forms of ``every``.
    recipe : Recipe or callable, optional
        A recipe, or a function of the epoch that gives one; by default
        ``Recipe.preserving(ratio="redundant", dormant=0.1)``, which frees what others do as well,
        what hardly responds, and nothing else.  A fixed share costs accuracy where all channels
        are in use (measured in ``tutorials/paper``).  The optimizer begins anew for the weights
        that change (``optimizer="reset"``): better where tasks replace each other; where data are
        only added, ``optimizer="merge"`` is (both measured in ``tutorials/streams``, and so is
        ``dormant``).
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
    every_steps : int, optional
        Optimizer steps between two reorganizations, in place of ``every``: :meth:`step` is then
        called after every step, with its batch.
    recent : int, optional
        With ``every_steps``: judged by so many of the samples seen since the last event, as many
        of every class as there are; 512 by default.  Four times as many are kept for that, in at
        most 256 MiB, where they came from (on the GPU, if they were there).
    maturity : int, optional
        With ``every_steps``: steps for which new channels are left alone; 100 by default.
    warmup : WarmUp, optional
        How fast new channels learn at first.
    classes, pseudo_classes, unpack, max_batches, max_bytes, process_group, writer, progress
        As in :func:`reorganize`.
    example_inputs : tensor, tuple or dict, optional
        Inputs to trace the model with; the first of ``loader`` by default.

    Attributes
    ----------
    history : list of dict
        Epoch or step, recipe, plan and figures of the last 1,000 events, in plain types.  Of a
        plan, ``["sources"][group][place]`` lists the channels that came to a place; new channels
        have none.  These are kept for the last ten events.

    Warns
    -----
    UserWarning
        Where no event falls within ``epochs``.

    Raises
    ------
    ValueError
        For wrong settings or layers, and a model whose parameters are spread over processes.

    Examples
    --------
    >>> import torch
    >>> from rejuvenet.adapters.torch import Reorganizer
    >>> net = torch.nn.Sequential(
    ...     torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(288, 2))
    >>> optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    >>> loader = [(torch.randn(32, 3, 8, 8), torch.arange(32) % 2) for _ in range(2)]
    >>> reorganizer = Reorganizer(net, optimizer, loader, every=2, ratio=0.5, epochs=4)
    >>> for epoch in range(4):
    ...     for images, labels in loader:
    ...         optimizer.zero_grad()
    ...         torch.nn.functional.cross_entropy(net(images), labels).backward()
    ...         optimizer.step()
    ...     report = reorganizer.step(epoch)
    ...     if report:
    ...         print(epoch, report.groups[0].new, "new channels")
    1 4 new channels
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Any,
        loader: Iterable[Any] | None = None,
        layers: Layers = "last",
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
        every_steps: int | None = None,
        recent: int | None = None,
        maturity: int | None = None,
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
        self.recipe = recipe if recipe is not None else DEFAULT_RECIPE
        self.ratio, self.seed = ratio, seed
        self.steps: Steps | None = None
        if every_steps is not None:
            refuse_beside_steps(
                {"loader": loader, "every": every, "stop": stop, "epochs": epochs,
                 "classes": classes, "unpack": unpack, "max_batches": max_batches}
            )  # fmt: skip
            self.steps = Steps(every_steps, recent, maturity)
        self._counted = "epoch" if self.steps is None else "step"
        if loader is None and (every_steps is None or example_inputs is None):
            raise ValueError(
                "expected a loader, or every_steps and example_inputs (of one batch, to trace the "
                "model with)"
            )
        if every_steps is None:
            refuse_idle("without every_steps", recent=recent, maturity=maturity)
        refuse_several(classes=classes, pseudo_classes=pseudo_classes)
        first = recipe_at(0, self.recipe, ratio)
        refuse_averages(first, ema)
        self._schedule = Schedule(every, stop, epochs, first)
        self.model = unwrap(model)
        refuse_unwritable(self.model)
        self.optimizer, self.ema, self.layers = optimizer, ema, layers
        max_batches = at_most(loader, max_batches)
        self._read = partial(
            Batches, model=self.model, unpack=unpack, max_batches=max_batches, progress=progress,
            device=device,
        )  # fmt: skip
        self.batches = None if loader is None else self._read(loader)
        self._options: dict[str, Any] = {
            "classes": classes, "pseudo_classes": pseudo_classes, "max_bytes": max_bytes,
            "process_group": process_group, "writer": writer,
        }  # fmt: skip
        self.warmup = warmup
        if warmup is not None:
            if not isinstance(warmup, WarmUp):
                raise TypeError(f"expected warmup to be a WarmUp, got {warmup!r}")
            innermost(optimizer)  # raises where there is no hook
        self.traced: TracedModel = (
            trace_first(self.model, self.batches)
            if self.batches is not None and example_inputs is None
            else trace(self.model, example_inputs)
        )
        refuse_unknown(self.traced.groups, first.ratio)
        self._turns: list[str] = []
        if layers != "auto":
            chosen, _ = select_groups(self.traced.groups, layers, activations=first.needs_means)
            for choice in chosen:
                ratio_of(choice.group, first.ratio)  # raises where a mapping leaves it out
            self._turns = [choice.layer or choice.group.name for choice in chosen]
        if freeze_below:
            refuse_freezing(model, layers)
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
        return epoch > self.last_epoch and self._schedule.due(epoch)

    def step(self, done: Any, labels: Any = None) -> Report | None:
        """Reorganize where it is due; call it after every epoch, or after every optimizer step.

        Parameters
        ----------
        done : int; with ``every_steps`` tensor, tuple or dict
            The epoch that is over (the first one is 0); or the inputs of the step.
        labels : array-like, optional
            Of the inputs.

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
        if self.steps is not None:
            return self._event(self.steps.count) if self.steps.add(done, labels) else None
        refuse_idle("without every_steps, where a step is the end of an epoch", labels=labels)
        report = self._event(done) if self.due(done) else None
        if self._schedule.is_over(done):
            self.release()
        return report

    def _event(self, number: int) -> Report | None:
        """One event, after an epoch or so many steps; None where it was undone."""
        begun, what = self.traced.edit, f"{self._counted} {number}"
        try:
            return self._reorganize(number, what)
        except NotFinite as error:
            self._passed(number)
            warn(f"{what}: nothing was reorganized: {error}")
            return None
        except BaseException:
            # An interrupt after the change: the event has been, and is not repeated.
            if self.traced.edit is not begun and self.traced.edit.closed:
                self._passed(number)
            raise

    def _passed(self, number: int) -> None:
        if self.steps is None:
            self.last_epoch = number

    def release(self) -> None:
        """End of the training: what was frozen is trained again, and no update is scaled.

        :meth:`step` does so after the last epoch, where ``epochs`` was given.
        """
        self._frozen.release(self.traced.tensors)
        if self._new_channels is not None:
            self._new_channels.remove()
            self._new_channels = None

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs, in plain types (``weights_only=True`` loads it, JSON too).

        With ``every_steps`` also the batches kept, as tensors.
        """
        new = self._new_channels
        return {
            "version": VERSION,
            "last_epoch": self.last_epoch,
            "seed": self.seed,
            "history": list(self.history),
            "frozen": list(self._frozen.names),
            "new_channels": None if new is None or new.warm else new.state_dict(),
            "steps": None if self.steps is None else self.steps.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`state_dict`; frozen parameters are frozen again.

        Raises
        ------
        ValueError
            For a state that is damaged, or of another model; nothing has changed then.
        """
        tensors = self.traced.tensors
        check_state(state, tensors)
        if (state.get("steps") is None) != (self.steps is None):
            raise ValueError(
                f"expected the state of a Reorganizer that counts {self._counted}s, got one that "
                f"counts {'steps' if self.steps is None else 'epochs'}"
            )
        new = None
        if self.warmup is not None and (state["new_channels"] or {}).get("rows"):
            new = NewChannels(self.warmup, self.optimizer, tensors, **state["new_channels"])
        self.release()
        self._new_channels = new
        self.last_epoch, self.seed = state["last_epoch"], state["seed"]
        self.history = list(state["history"])
        if self.steps is not None:
            self.steps.load_state_dict(state["steps"])
        self._frozen.freeze(tensors, state["frozen"])

    def _reorganize(self, number: int, what: str) -> Report:
        recipe = recipe_at(number, self.recipe, self.ratio)
        layers: Layers = self.layers
        if self.freeze_below:
            layers = [self._turns[min(len(self.history), len(self._turns) - 1)]]
        along = (self.traced.tensors, self.optimizer, self.ema)
        self._first = {**largest_values(*along), **self._first}
        processes = Processes(self._options["process_group"])
        options, batches = dict(self._options), self.batches
        if self.steps is not None:
            batches = self._read(self.steps.batches(processes.gather))
            options["protected"] = self.steps.protected()
        with warnings.catch_warnings():
            if self.steps is not None:  # in a long training that is no news
                warnings.filterwarnings("ignore", "nothing was")
            report = reorganize(
                self.traced,
                batches,
                layers,
                replace(recipe, seed=(1_000_003 * self.seed + 7919 * recipe.seed + number) % 2**32),
                self.optimizer,
                self.ema,
                step=number,
                **options,
            )
        assert report.plan is not None
        if self.freeze_below:
            group = self.traced.group(layers[0])  # type: ignore[arg-type]
            self._frozen.freeze(along[0], weights_before(self.traced.graph, group))
        if self.steps is not None:
            self.steps.born(report.plan.groups)
        if self.warmup is not None:
            if self._new_channels is not None:
                self._new_channels.remove()
            self._new_channels = NewChannels(
                self.warmup, self.optimizer, self.traced.tensors, new_rows(report.plan.groups)
            )
        self._passed(number)
        if far := far_from(self._first, largest_values(*along)):
            warn(
                f"{what}: far from what they were before the first event: "
                f"{'; '.join(far)}; lower the learning rate, or reorganize less often"
            )
        sources = {
            plan.group: [np.flatnonzero(row).tolist() for row in plan.A]
            for plan in report.plan.groups
            if plan.A is not None
        }
        event = {"recipe": recipe.to_dict(), "sources": sources, **report.to_dict()}
        self.history.append({self._counted: number, **event})
        del self.history[:-EVENTS]
        for event in self.history[:-RECENT]:
            event["sources"] = {}
        if processes.first:
            log.info("%s: %s", what, str(report).replace("\n", "; "))
        return report
