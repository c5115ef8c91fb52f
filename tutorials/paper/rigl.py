"""RigL with the density of ERK, five times as long (Evci et al. 2020), the paper's Table 4.

A sparse network is trained from scratch.  With ``n_in``, ``n_out`` channels and a kernel of
``w x h``, a layer has the density ::

    d = min(1, eps (n_in + n_out + w + h) / (n_in n_out w h))      (Erdos-Renyi kernel)

with the one ``eps`` that gives the whole network the density asked for.  Every ``interval`` steps
until three quarters of the training, in place of a step of the optimizer, each layer drops the
share ``alpha / 2 (1 + cos(pi t / T_end))`` of its connections, those of the smallest weights, and
grows as many at zero where the gradient is largest.

Settings are theirs for ResNet-50: 80 % sparse, alpha 0.3, 500 epochs, smoothed labels, falls of the
rate by ten at 30, 70 and 90 % after a warm-up.  Their batch of 4,096 is 256 here, the rate and the
interval scaled with it.  A GPU computes with the zeros: the cost of sparse kernels would be 0.42 of
a dense network's, here it is that of five dense trainings.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from arms import Arm, Run
from protocols import Protocol
from torch import nn

DENSITY, ALPHA = 0.2, 0.3
LONGER = 5
INTERVAL = 100 * 4096  # images between two changes of the connections


def densities(shapes: Mapping[str, Sequence[int]], density: float) -> dict[str, float]:
    """Share of its connections that each layer has.

    >>> found = densities({"a": (64, 3, 7, 7), "b": (512, 512, 3, 3), "c": (10, 512)}, 0.2)
    >>> {name: round(share, 3) for name, share in found.items()}
    {'a': 1.0, 'b': 0.195, 'c': 1.0}
    """
    size = {name: math.prod(shape) for name, shape in shapes.items()}
    raw = {name: sum(shape) / size[name] for name, shape in shapes.items()}
    dense: set[str] = set()
    while True:
        sparse = [name for name in shapes if name not in dense]
        wanted = density * sum(size.values()) - sum(size[name] for name in dense)
        eps = wanted / sum(raw[name] * size[name] for name in sparse)
        full = {name for name in sparse if eps * raw[name] > 1}
        if not full:
            return {name: 1.0 if name in dense else eps * raw[name] for name in shapes}
        dense |= full


class RigL(Arm):
    """Masks over the weights of all convolutions and linear layers."""

    title = "RigL 5x (ERK), 80 % sparse, from scratch"
    own = True

    def __init__(self) -> None:
        self.interval = INTERVAL
        self.masks: dict[str, torch.Tensor] = {}

    def protocol(self, usual: Protocol) -> Protocol:
        return Protocol(
            epochs=100 * LONGER, batch=256, rate=0.1, factor=0.1, stretch=100 * LONGER,
            falls=tuple(LONGER * epoch for epoch in (30, 70, 90)), warmup=5, smoothing=0.1,
        )  # fmt: skip

    def hurry(self) -> None:
        self.interval = 8

    def start(self, run: Run) -> None:
        super().start(run)
        self.weights = {
            name: module.weight
            for name, module in run.model.named_modules()
            # A depthwise layer has next to no weights, and stays dense as theirs does.
            if isinstance(module, nn.Linear)
            or (isinstance(module, nn.Conv2d) and module.groups == 1)
        }
        if not self.masks:
            generator = torch.Generator().manual_seed(run.seed)
            shares = densities({n: w.shape for n, w in self.weights.items()}, DENSITY)
            for name, weight in self.weights.items():
                order = torch.rand(weight.numel(), generator=generator).argsort()
                mask = order < round(shares[name] * weight.numel())
                self.masks[name] = mask.view(weight.shape).to(weight.device)
        self._apply()

    @torch.no_grad()
    def before_step(self, step: int, steps: int) -> bool:
        end = 0.75 * steps
        every = max(1, self.interval // self.run.protocol.batch)
        if step and step % every == 0 and step < end:
            share = ALPHA / 2 * (1 + math.cos(math.pi * step / end))
            for name, weight in self.weights.items():
                self.masks[name] = rewired(weight, weight.grad, self.masks[name], share)
            self._apply()
            return False
        for name, weight in self.weights.items():
            weight.grad *= self.masks[name]
        return True

    @torch.no_grad()
    def _apply(self) -> None:
        """No weight and no momentum where no connection is; none are left from before."""
        for name, weight in self.weights.items():
            weight *= self.masks[name]
            moment = self.run.optimizer.state.get(weight, {}).get("momentum_buffer")
            if moment is not None:
                moment *= self.masks[name]

    def state_dict(self) -> dict[str, Any]:
        return {"masks": self.masks}

    def load_state_dict(self, state: dict[str, Any], model: nn.Module) -> None:
        self.masks = state["masks"]


def rewired(
    weight: torch.Tensor, gradient: torch.Tensor, mask: torch.Tensor, share: float
) -> torch.Tensor:
    """The mask after one drop and one growth; it has as many connections.

    >>> weight, gradient = torch.tensor([3.0, -1, 0, 0]), torch.tensor([0.0, 1, 5, 2])
    >>> rewired(weight, gradient, torch.tensor([True, True, False, False]), 0.5)
    tensor([ True, False,  True, False])
    """
    count = int(mask.sum())
    dropped = int(share * count)
    size = torch.where(mask, weight.abs(), -1.0).flatten()
    kept = torch.zeros_like(size, dtype=torch.bool)
    kept[size.topk(count - dropped).indices] = True
    grown = torch.where(kept, -1.0, gradient.abs().flatten()).topk(dropped).indices
    kept[grown] = True
    return kept.view(mask.shape)
