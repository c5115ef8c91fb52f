"""Neural Rejuvenation with its parameter constraint (NR; Qiao et al. 2019), the paper's Table 3.

Training from scratch in two parts.

1. At the first rate, with an l1 penalty ``lambda`` on the scales of normalizations.  A channel is
   dead whose scale is below ``DEAD`` of the largest of its layer; the utilization is the share of
   the convolutions' parameters between channels that live.  Where an epoch lowers it by less than
   ``STEP``, ``lambda`` grows by ``MORE``.
2. When it has fallen to ``TARGET``, dead channels go, and every layer is widened by ``sqrt(1 /
   utilization)``, so that the network has as many parameters as before.  Scales are raised to
   ``RESCALED``, and the weights behind them lowered in proportion, which changes no output.  Then
   the whole schedule follows, without penalty.  Between survivors ``S`` and rejuvenated channels
   ``R`` the connections are gated ("cross attention")::

       y_S = W_SS x_S + 2 sigmoid(W_SS x_S) * (W_SR x_R)        and the same for y_R

   The classifier judges by both parts, each with a loss of its own, and by their sum in the end.

Settings are those of their code for ImageNet: 100 epochs after the first part, batch 128, rate 0.1
by tenths at 30, 60 and 90.  Channels that are summed over several layers all live, as theirs do;
where several normalizations read a channel (DenseNet, which they build with one), it is dead where
all of them say so.  ``rejuvenet.adapters.torch.trace`` finds the channels and what depends on them.
"""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

import torch
from arms import Arm, Run
from protocols import Protocol
from rejuvenet.adapters.torch import trace
from rejuvenet.graph import ChannelGroup
from torch import nn
from torch.nn import functional as F

DEAD, TARGET, STEP, MORE = 1e-2, 0.5, 0.01, 5e-5
RESCALED = 0.5
LONGEST = 100  # epochs of the first part at most

Live = dict[str, torch.Tensor]  # by group: bool, which channels live
Axis = tuple[str, int]  # a weight and one of its axes


class Channels:
    """Channel groups of a model, and which of their channels live.

    Parameters
    ----------
    model : torch.nn.Module
    size : int
        Extent of an image.
    """

    def __init__(self, model: nn.Module, size: int) -> None:
        device = next(model.parameters()).device
        traced = trace(model, torch.zeros(2, 3, size, size, device=device))
        self.model, self.tensors = model, traced.tensors
        self.groups = [group for group in traced.groups if group.frozen is None]
        self.convolutions = [name for name, tensor in self.tensors.items() if tensor.ndim == 4]

    @staticmethod
    def summed(group: ChannelGroup) -> bool:
        """Whether several layers add up to the channels."""
        return sum(member.role == "weight" for member in group.producers) > 1

    def scales(self) -> list[torch.Tensor]:
        """Scales of all channels that may die."""
        found = {
            member.weight: self.tensors[member.weight]
            for group in self.groups if not self.summed(group)
            for member in group.members if member.role == "scale"
        }  # fmt: skip
        return list(found.values())

    def live(self, dead: float) -> Live:
        """Which channels live; at least one of every group."""
        found: Live = {}
        for group in self.groups:
            largest = torch.zeros(group.channels)  # scale relative to the layer's largest
            judged = [member for member in group.members if member.role == "scale"]
            for member in judged:
                scale = self.tensors[member.weight].detach().abs().cpu()
                share = scale / scale.max().clamp(min=1e-12)
                largest = torch.maximum(largest, share[member.positions[:, 0]])
            if self.summed(group) or not judged:
                largest[:] = 1
            found[group.name] = largest >= min(dead, float(largest.max()))
        return found

    def utilization(self, live: Live) -> float:
        """Share of the parameters of convolutions between channels that live."""
        share: dict[Axis, float] = {}
        for axis, parts in self._axes().items():
            size = self.tensors[axis[0]].shape[axis[1]]
            lost = sum(int((~live[g.name]).sum()) * m.positions.shape[1] for g, m in parts)
            share[axis] = 1 - lost / size
        size = {name: self.tensors[name].numel() for name in self.convolutions}
        left = sum(n * share.get((name, 0), 1) * share.get((name, 1), 1)
                   for name, n in size.items())  # fmt: skip
        return left / sum(size.values())

    def _axes(self) -> dict[Axis, list[tuple[ChannelGroup, Any]]]:
        """The groups along every axis of a weight, in their order."""
        found: dict[Axis, list[tuple[ChannelGroup, Any]]] = defaultdict(list)
        for group in self.groups:
            for member in group.members:
                if len(member.axes) != 1 or member.view != tuple(self.tensors[member.weight].shape):
                    raise ValueError(f"{member.weight!r} is grouped, which nr is not defined for")
                found[member.weight, member.axes[0]].append((group, member))
        return {
            axis: sorted(parts, key=lambda part: part[1].positions.min())
            for axis, parts in found.items()
        }

    def widen(self, live: Live, rate: float) -> None:
        """Without what is dead, every group wider by ``rate``, new channels behind the others."""
        sources: dict[Axis, torch.Tensor] = {}
        for axis, parts in self._axes().items():
            rows = []
            for group, member in parts:
                alive = live[group.name]
                new = int(int(alive.sum()) * rate) - int(alive.sum())
                kept = torch.from_numpy(member.positions)[alive].flatten()
                fresh = torch.full((new * member.positions.shape[1],), -1, dtype=kept.dtype)
                rows += [kept, fresh]
            sources[axis] = torch.cat(rows)
        for path, module in list(self.model.named_modules()):
            widen_module(module, path, sources)
            read, made = (sources.get((f"{path}.weight", axis)) for axis in (1, 0))
            if read is not None:
                separate(module, read < 0, None if made is None else made < 0)

    def rescale(self, target: float) -> None:
        """Raise scales to ``target``, and lower what reads the channels in proportion."""
        for group in self.groups:
            scale = shift = None
            for member in () if self.summed(group) else group.members:
                if member.role == "scale":
                    scale, shift, share = member, None, None
                elif member.role == "shift":
                    shift = member
                elif member.kind == "consumer" and scale is not None:
                    if share is None:
                        share = self._raise(scale, shift, target)
                    rows = torch.from_numpy(member.positions).to(share.device)
                    weight = self.tensors[member.weight]
                    lowered = weight.data[:, rows.flatten()].unflatten(1, rows.shape)
                    lowered *= share.view(-1, 1, *[1] * (weight.ndim - 2))
                    weight.data[:, rows.flatten()] = lowered.flatten(1, 2)

    def _raise(self, scale: Any, shift: Any, target: float) -> torch.Tensor:
        """By what the channels of one normalization are larger now, inverted."""
        rows = torch.from_numpy(scale.positions[:, 0])
        values = self.tensors[scale.weight].data
        own = values[rows.to(values.device)]
        share = (own.abs() / target).clamp(max=1.0)
        share[own == 0] = 1.0  # nothing comes of these
        values[rows] = own / share
        self.tensors[shift.weight].data[rows] /= share
        return share


def widen_module(module: nn.Module, path: str, sources: dict[Axis, torch.Tensor]) -> None:
    """New parameters of one module: those of ``sources``, and fresh ones where these are -1."""
    held = {**module._parameters, **module._buffers}
    for name, old in held.items():
        rows = {axis: sources[f"{path}.{name}", axis] for axis in (0, 1)
                if (f"{path}.{name}", axis) in sources}  # fmt: skip
        if not rows:
            continue
        values, fresh = old.detach(), torch.zeros((), dtype=torch.bool, device=old.device)
        for axis, source in rows.items():
            source = source.to(old.device)
            values = values.index_select(axis, source.clamp(min=0))
            shape = [-1 if i == axis else 1 for i in range(old.ndim)]
            fresh = fresh | (source < 0).view(shape)
        values = torch.where(fresh, drawn(module, name, values), values).contiguous()
        setattr(module, name, nn.Parameter(values) if isinstance(old, nn.Parameter) else values)
    if isinstance(module, nn.Conv2d):
        module.out_channels, module.in_channels = module.weight.shape[:2]
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, nn.BatchNorm2d):
        module.num_features = len(module.weight)


def drawn(module: nn.Module, name: str, like: torch.Tensor) -> torch.Tensor:
    """First values of a parameter or statistic."""
    if isinstance(module, nn.BatchNorm2d):
        return torch.full_like(like, {"weight": 0.5, "running_var": 1.0}.get(name, 0.0))
    if name == "bias":
        return torch.zeros_like(like)
    if isinstance(module, nn.Conv2d):
        return torch.randn_like(like) * math.sqrt(2 / (like.shape[0] * like[0, 0].numel()))
    return torch.randn_like(like) * 0.01


class CrossAttention(nn.Conv2d):
    """A convolution whose connections between survivors and rejuvenated channels are gated."""

    def separated(self, new_in: torch.Tensor, new_out: torch.Tensor) -> None:
        """Which inputs and outputs are rejuvenated."""
        parts = {"in": new_in, "out": new_out}
        for name, new in parts.items():
            self.register_buffer(f"old_{name}", torch.where(~new)[0], persistent=False)
            self.register_buffer(f"new_{name}", torch.where(new)[0], persistent=False)
        order = torch.cat([self.old_out, self.new_out]).argsort()
        self.register_buffer("order", order, persistent=False)

    def _part(self, x: torch.Tensor, made: torch.Tensor, read: torch.Tensor) -> torch.Tensor:
        weight = self.weight[made][:, read]
        return F.conv2d(x, weight, None, self.stride, self.padding, self.dilation)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        old, new = x[:, self.old_in], x[:, self.new_in]
        from_old = self._part(old, self.old_out, self.old_in)
        from_new = self._part(new, self.new_out, self.new_in)
        y_old = from_old + 2 * from_old.sigmoid() * self._part(new, self.old_out, self.new_in)
        y_new = from_new + 2 * from_new.sigmoid() * self._part(old, self.new_out, self.old_in)
        return torch.cat([y_old, y_new], 1)[:, self.order]


class TwoViews(nn.Linear):
    """A classifier by survivors and by rejuvenated features: ``(n, classes, 2)`` in training."""

    def separated(self, new_in: torch.Tensor) -> None:
        self.register_buffer("new", new_in, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        views = torch.stack([super().forward(x * ~self.new), super().forward(x * self.new)], -1)
        return views if self.training else views.sum(-1)


def separate(module: nn.Module, new_in: torch.Tensor, new_out: torch.Tensor | None) -> None:
    """Turn a layer that reads survivors and rejuvenated channels into one that tells them apart.

    ``new_out`` is None for a classifier.
    """
    device = module.weight.device
    if isinstance(module, nn.Linear):
        module.__class__ = TwoViews
        module.separated(new_in.to(device))
    elif new_in.any() and new_out is not None and new_out.any():
        module.__class__ = CrossAttention
        module.separated(new_in.to(device), new_out.to(device))


class NeuralRejuvenation(Arm):
    """Makes the network sparse, and then wide again."""

    title = "NR with its parameter constraint, from scratch"
    own = True

    def __init__(self) -> None:
        self.sparsity, self.utilization, self.rate = 0.0, 1.0, 0.0
        self.survivors: dict[str, torch.Tensor] | None = None
        self.dead, self.target = DEAD, TARGET

    def protocol(self, usual: Protocol) -> Protocol:
        return Protocol(
            epochs=100, batch=128, rate=0.1, falls=(30, 60, 90), factor=0.1, stretch=100
        )

    def hurry(self) -> None:
        self.dead, self.target = 0.995, 1.0

    def start(self, run: Run) -> None:
        super().start(run)
        self.channels = None
        if self.survivors is None:
            if sum(isinstance(module, nn.Linear) for module in run.model.modules()) != 1:
                raise ValueError("nr is defined here for networks with one linear layer")
            self.channels = Channels(run.model, run.images.size)
            self.scales = self.channels.scales()

    def event(self, done: int) -> dict[str, Any] | None:
        if not done or self.channels is None:
            return None
        self.waited = done
        live = self.channels.live(self.dead)
        utilization = self.channels.utilization(live)
        if utilization > self.target and done < LONGEST:
            self.sparsity += MORE * (self.utilization - utilization < STEP)
            self.utilization = utilization
            return {"utilization": utilization, "sparsity": self.sparsity}
        self.survivors, self.rate = live, math.sqrt(1 / utilization)
        self.channels.rescale(RESCALED)
        self.channels.widen(live, self.rate)
        return {"rebuilt": True, "utilization": utilization, "rate": self.rate}

    def loss(self, outputs: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        if outputs.ndim == 3:
            return F.cross_entropy(outputs, y[:, None].expand(-1, 2)) * 2
        return super().loss(outputs, y)

    def before_step(self, step: int, steps: int) -> bool:
        if self.channels is not None:
            for scale in self.scales:
                scale.grad += self.sparsity * scale.detach().sign()
        return True

    def state_dict(self) -> dict[str, Any]:
        return {
            "sparsity": self.sparsity, "utilization": self.utilization, "rate": self.rate,
            "survivors": self.survivors,
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any], model: nn.Module) -> None:
        self.sparsity, self.utilization = state["sparsity"], state["utilization"]
        self.survivors, self.rate = state["survivors"], state["rate"]
        if self.survivors is not None:
            self.survivors = {name: live.cpu() for name, live in self.survivors.items()}
            Channels(model, 64).widen(self.survivors, self.rate)
