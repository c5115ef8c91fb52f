"""Arms: what is done beside ordinary training, each a few hooks around the loop of ``training.py``.

===================  =============================================================================
``protocol``         the training that the arm is defined for, given the usual one
``network``          the network, given the usual one
``start``            once, and again where a run goes on after a kill
``event``            before every epoch, given how many are done
``loss``             of a batch
``before_step``      with the gradients there; whether the optimizer takes its step
``state_dict``       what a checkpoint needs beside weights and optimizer
``hurry``            before a trial: let everything happen within a few steps
===================  =============================================================================

``plain`` is the control that costs as many epochs.  ``how-block`` reorganizes a block of the
network (``networks.py``), or the last two after each other, with what lies before frozen (section
3.1.1).  ``how`` is one of

- ``paper``: the method as printed, ``Recipe.paper()``;
- ``l2``, ``l1``: the channels with the smallest filters, or the smallest scale of their
  normalization under an l1 penalty, are drawn again as the paper's are (section 3.1.2);
- ``random``: as many channels, by chance, drawn again in the same way: the control for what is
  chosen and merged;
- ``preserving``: ``Recipe.preserving()``, merging with a refit of the consumers;
- ``refit``: the control for that: channels by chance, and the same refit;
- ``merged``, ``redundant``, ``tolerant``, ``early``, ``kmeans``, ``dropped``: those of the first
  study, all with momentum that merges along.

``narrow`` is plain training with half of the channels where others reorganize: are they needed?
``nr``, ``rigl`` and ``sac`` are trainings of their own, in files of their names.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from images import Images
from networks import Network
from protocols import Protocol
from rejuvenet.adapters.torch import Reorganizer
from rejuvenet.graph import Recipe
from rejuvenet.graph.plan.selection import select_groups
from torch import nn
from torch.nn import functional as F

# The paper names no strength; Neural Rejuvenation takes 1e-4 to 3e-4 on CIFAR.
SPARSITY = 1e-4

# Non-surviving channels are reinitialized in one way by all methods of Table 2.
DRAWN_AGAIN: dict[str, Any] = {
    "init": "kaiming", "new_outgoing": "random", "batchnorm": "merge", "stop": 1.0
}  # fmt: skip

RECIPES: dict[str, Recipe] = {
    "paper": Recipe.paper(),
    "l2": Recipe.comparison("l2", **DRAWN_AGAIN),
    "l1": Recipe.comparison("l1", **DRAWN_AGAIN),
    "random": Recipe.comparison("random", **DRAWN_AGAIN),
    "preserving": Recipe.preserving(),
    "refit": Recipe.preserving(method="random"),
    "merged": Recipe.preserving(optimizer="merge"),
    "redundant": Recipe.preserving(ratio="redundant", optimizer="merge"),
    "dropped": Recipe.comparison("random", optimizer="merge"),
    "kmeans": Recipe.preserving(method="kmeans", optimizer="merge"),
    "tolerant": Recipe.preserving(ratio="redundant", tolerance=0.5, optimizer="merge"),
    "early": Recipe.preserving(stop=0.25, optimizer="merge"),
}


@dataclass
class Run:
    """What a run gives its arm.

    Attributes
    ----------
    model : torch.nn.Module
        The module itself, not what compiles it.
    optimizer : torch.optim.SGD
    images : Images
    protocol : Protocol
    seed : int
    """

    model: nn.Module
    optimizer: torch.optim.SGD
    images: Images
    protocol: Protocol
    seed: int


class Arm:
    """Plain training: the hooks do nothing.

    Attributes
    ----------
    title : str
    waited : int
        Epochs that the schedule of the rate does not count.
    compiles : bool
        Whether compiling pays.
    own : bool
        Whether the network becomes another one.
    """

    title = "plain training"
    waited = 0
    compiles = True
    own = False

    def protocol(self, usual: Protocol) -> Protocol:
        return usual

    def network(self, usual: Network) -> Callable[[int, bool], nn.Module]:
        return usual.make

    def start(self, run: Run) -> None:
        self.run = run

    def event(self, done: int) -> dict[str, Any] | None:
        """What happened, in plain types; ``"rebuilt"`` where parameters are others now."""
        return None

    def loss(self, outputs: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(outputs, y, label_smoothing=self.run.protocol.smoothing)

    def before_step(self, step: int, steps: int) -> bool:
        """Step ``step`` of the ``steps`` of the whole training."""
        return True

    def hurry(self) -> None:
        """Let everything happen within a few steps, to try it out."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any], model: nn.Module) -> None:
        """Called before :meth:`start`, with the new model, which gets its weights afterwards."""


class Narrow(Arm):
    """Plain training of a narrow network."""

    title = "plain, half as many channels there"
    own = True

    def network(self, usual: Network) -> Callable[[int, bool], nn.Module]:
        if usual.narrow is None:
            raise ValueError(f"{usual.title} has no narrow form")
        return usual.narrow


class Reorganized(Arm):
    """A block is reorganized at every event of the protocol, until the recipe's ``stop``.

    Parameters
    ----------
    title : str
    layers : list of str
    recipe : Recipe
    sparsity : float
        Of the l1 penalty on the scales of the normalizations of these layers.
    """

    def __init__(
        self, title: str, layers: list[str], recipe: Recipe, sparsity: float = 0.0
    ) -> None:
        self.title, self.layers, self.recipe, self.sparsity = title, layers, recipe, sparsity
        self.loaded: dict[str, Any] | None = None

    def start(self, run: Run) -> None:
        super().start(run)
        protocol = run.protocol
        events = [e for e in protocol.events if e <= self.recipe.stop * protocol.epochs]
        if len(self.layers) == 1:
            # "applied once": one layer needs the first event of fine-tuning only.
            events = events[:1] if protocol.published else events
        batches = run.images.judged()
        self.reorganizer = Reorganizer(
            run.model, run.optimizer, batches, layers=self.layers, every=set(events),
            recipe=self.recipe, freeze_below=len(self.layers) > 1, seed=run.seed,
            max_batches=len(batches),
        )  # fmt: skip
        if self.loaded is not None:
            self.reorganizer.load_state_dict(self.loaded)
        traced = self.reorganizer.traced
        self.scales = [
            traced.tensors[member.weight]
            for choice in select_groups(traced.groups, self.layers)[0]
            for member in choice.group.members
            if member.role == "scale" and self.sparsity
        ]  # fmt: skip

    def event(self, done: int) -> dict[str, Any] | None:
        report = self.reorganizer.step(done)
        return None if report is None else report.to_dict()

    def before_step(self, step: int, steps: int) -> bool:
        for scale in self.scales:
            if scale.grad is not None:
                scale.grad += self.sparsity * scale.detach().sign()
        return True

    def state_dict(self) -> dict[str, Any]:
        return {"reorganizer": self.reorganizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any], model: nn.Module) -> None:
        self.loaded = state["reorganizer"]


TITLES = {
    "paper": "the paper's recipe", "l2": "l2", "l1": "l1",
    "random": "random channels, drawn again as the paper's",
    "preserving": "merged with a refit", "refit": "random channels with the same refit",
    "merged": "`Recipe.preserving()`", "redundant": '`ratio="redundant"`',
    "dropped": '`Recipe.comparison("random")`', "kmeans": '`method="kmeans"`',
    "tolerant": '`ratio="redundant", tolerance=0.5`', "early": "`stop=0.25`, one event only",
}  # fmt: skip


def make(name: str, network: Network) -> Arm:
    """The arm of that name for a network.

    >>> from networks import NETWORKS
    >>> make("l1-conv5", NETWORKS["resnet18"]).layers
    ['layer4.1.conv2']
    """
    how, _, block = name.partition("-")
    if how == "plain":
        return Arm()
    if how == "narrow":
        return Narrow()
    if how == "nr":
        from neural_rejuvenation import NeuralRejuvenation

        return NeuralRejuvenation()
    if how == "rigl":
        from rigl import RigL

        return RigL()
    if how == "sac":
        from selective_allocation import SelectiveAllocation

        return SelectiveAllocation()
    title = f"{TITLES[how]}, {block}"
    sparsity = SPARSITY if how == "l1" else 0.0
    return Reorganized(title, network.layers(block), RECIPES[how], sparsity)
