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
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from ...graph.channels import ChannelGroup
from ...graph.recipe import Recipe
from ...graph.report import Report
from ...graph.selection import select_groups
from .batches import Batches, Unpack
from .edit import refuse_sharded
from .reorganize import reorganize
from .trace import TracedModel, trace, unwrap

log = logging.getLogger("rejuvenet")


class Reorganizer:
    """Reorganizes layers of a model while it is trained.

    Parameters
    ----------
    model : torch.nn.Module
        Compiled wrappers are looked through; the module inside is edited in place.
    optimizer : torch.optim.Optimizer or None
        Its state changes along with the weights.
    loader : iterable
        Yields ``(inputs, labels)``; see :func:`collect` for other forms.
    layers : str or sequence of str
        As in :func:`reorganize`; unknown and frozen layers are refused here and now.
    every : int, optional
        Epochs between two reorganizations (``r`` of Algorithm 1); ``recipe.every`` by default.
    stop : float, optional
        Share of the training after which none takes place; ``recipe.stop`` by default.  It needs
        ``epochs``.
    epochs : int, optional
        Length of the training; without it there is no end.
    recipe : Recipe or callable, optional
        A recipe, or a function of the epoch that gives one; ``Recipe.preserving()`` by default.
    ema : torch.nn.Module or object with ``.module``, optional
    classes, unpack, max_batches, progress
        As in :func:`collect`.
    example_inputs : tensor, tuple or dict, optional
        Inputs to trace the model with; the first of ``loader`` by default.
    seed : int
        Every event draws from a seed of its own, made of this one and the epoch, so that a
        training resumed from a checkpoint continues as if it had not stopped.

    Attributes
    ----------
    history : list of dict
        Epoch and figures of every event.

    Raises
    ------
    ValueError
        For wrong settings, layers, a model sharded over processes, or several processes.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Any,
        loader: Iterable[Any],
        layers: str | Sequence[str | ChannelGroup] = "last",
        every: int | None = None,
        stop: float | None = None,
        recipe: Recipe | Callable[[int], Recipe] | None = None,
        ema: Any = None,
        *,
        epochs: int | None = None,
        classes: int | Sequence[str | int] | None = None,
        unpack: Unpack | None = None,
        max_batches: int | None = None,
        example_inputs: Any = None,
        progress: bool = False,
        seed: int = 0,
    ) -> None:
        self.recipe = recipe if recipe is not None else Recipe.preserving()
        first = self.recipe if isinstance(self.recipe, Recipe) else self.recipe(0)
        # Recipe checks the values.
        timed = replace(
            first,
            every=first.every if every is None else every,
            stop=first.stop if stop is None else stop,
        )
        if stop is not None and epochs is None:
            raise ValueError("stop is a share of the training: give epochs, its length, as well")
        if epochs is not None and epochs < 1:
            raise ValueError(f"expected epochs to be at least 1, got {epochs!r}")
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            world = torch.distributed.get_world_size()
            if world > 1:
                raise ValueError(
                    f"Reorganizer works in one process, got {world}: reorganize between two runs, "
                    "or in one process and load the weights in all"
                )
        self.model = unwrap(model)
        refuse_sharded(self.model)
        self.optimizer, self.ema, self.layers = optimizer, ema, layers
        self.every, self.stop, self.epochs, self.seed = timed.every, timed.stop, epochs, seed
        self.classes = classes
        self.batches = Batches(loader, self.model, unpack, max_batches, progress)
        inputs = self.batches.example() if example_inputs is None else example_inputs
        self.traced: TracedModel = trace(self.model, inputs)
        select_groups(self.traced.groups, layers)
        self.last_epoch = -1
        self.history: list[dict[str, Any]] = []

    def due(self, epoch: int) -> bool:
        """Whether :meth:`step` would reorganize after ``epoch`` (the first one is 0).

        Every ``every`` epochs, not at the very beginning, and not after ``stop`` of them.
        """
        done = epoch + 1
        if done % self.every or epoch <= self.last_epoch:
            return False
        return self.epochs is None or (done < self.epochs and done <= self.stop * self.epochs)

    def step(self, epoch: int) -> Report | None:
        """Reorganize where it is due; call it once after every epoch.

        Returns
        -------
        Report or None
            None where nothing was due; a second call for the same epoch does nothing.
        """
        if not self.due(epoch):
            return None
        recipe = self.recipe if isinstance(self.recipe, Recipe) else self.recipe(epoch)
        seed = (1_000_003 * self.seed + 7919 * recipe.seed + epoch) % 2**32
        report = reorganize(
            self.traced,
            self.batches,
            self.layers,
            replace(recipe, seed=seed),
            self.optimizer,
            self.ema,
            classes=self.classes,
        )
        self.last_epoch = epoch
        self.history.append({"epoch": epoch, "recipe": recipe.to_dict(), **report.to_dict()})
        log.info("epoch %d: %s", epoch, "; ".join(map(str, report.groups)))
        return report

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs, in plain types (it loads with ``weights_only=True``)."""
        return {"last_epoch": self.last_epoch, "seed": self.seed, "history": list(self.history)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state_dict`.

        Raises
        ------
        ValueError
            For a state without the entries of :meth:`state_dict`.
        """
        missing = {"last_epoch", "seed", "history"} - set(state)
        if missing:
            raise ValueError(
                f"expected the state of a Reorganizer, got one without {min(missing)!r}"
            )
        self.last_epoch, self.seed = int(state["last_epoch"]), int(state["seed"])
        self.history = list(state["history"])
