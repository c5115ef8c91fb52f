"""Selective allocation of channels (SAC; Jeong and Shin 2019, ICML), the paper's Table 4.

A unit is a normalization, a ReLU and a convolution that reads ``I`` channels.  Of a channel that is
normal before the normalization, which has scale ``g`` and shift ``b``, the ReLU lets through ::

    E_i = |g| phi(b / |g|) + b Phi(b / |g|)

and without it output ``o`` changes by ``D[o, i] = E_i sum_kl W[o, i, k, l]``, the expected channel
damage.  With rows of ``|D|`` that sum to 1, after every epoch of the first half of training

- **dealloc** closes channels, the least needed first, as long as no output loses more than
  ``GAMMA`` of its damage;
- **realloc** lets each closed one (of convolutions of 1 x 1) read one of the ``K`` most needed
  channels again, shifted by a few learned pixels, with weights that start at zero, so that the
  kernels of important channels grow.

The units are those of a ResNet-50 with pre-activation (He et al. 2016b), as in their code, which
names no settings for ImageNet: rate 0.1 with cosine decay and Nesterov momentum as it has, batches
of 256 and 100 epochs are ours.  Shifts have a tenth of the weight decay.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from arms import Arm, Run
from networks import Network
from protocols import Protocol
from torch import nn
from torch.nn import functional as F

GAMMA, K = 1e-3, 3
FARTHEST = 1.5  # pixels of a shift at its start
DECAY = 1e-4


class SelectiveUnit(nn.Module):
    """Normalization, ReLU and convolution that choose what they read.

    Parameters
    ----------
    n_in, n_out, kernel, stride : int
        Channels are read again with a shift where the kernel is 1.
    """

    def __init__(self, n_in: int, n_out: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(n_in)
        self.conv = nn.Conv2d(n_in, n_out, kernel, stride, kernel // 2, bias=False)
        if kernel == 1:
            self.shift = nn.Parameter(torch.zeros(n_in, 2))  # pixels
        self.register_buffer("open", torch.ones(n_in))
        self.register_buffer("source", torch.arange(n_in))  # the channel that a place reads
        self.arranged()

    def arranged(self) -> None:
        """Know the places that read another channel; after every change of ``source``."""
        places = torch.arange(len(self.source), device=self.source.device)
        self.moved = torch.where(self.source != places)[0]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(self.moved):
            x = x.index_copy(1, self.moved, self._shifted(x))
        return self.conv(F.relu(self.norm(x)) * self.open.to(x.dtype)[:, None, None])

    def _shifted(self, x: torch.Tensor) -> torch.Tensor:
        """What the moved places read; shape ``(n, moved, h, w)``."""
        read = x[:, self.source[self.moved]].transpose(0, 1)
        h, w = x.shape[2:]
        # A grid has the extent 2 whatever the number of pixels.
        offset = self.shift[self.moved] * self.shift.new_tensor([2 / w, 2 / h])
        theta = torch.cat([torch.eye(2, device=x.device).expand(len(offset), 2, 2),
                           offset[:, :, None]], 2)  # fmt: skip
        grid = F.affine_grid(theta, list(read.shape), align_corners=False).to(read.dtype)
        shifted = F.grid_sample(read, grid, padding_mode="border", align_corners=False)
        return shifted.transpose(0, 1).to(x.dtype)

    def damage(self) -> torch.Tensor:
        """``|D|`` with rows that sum to 1; shape ``(n_out, n_in)``."""
        g, b = self.norm.weight.abs() + 1e-8, self.norm.bias
        density = (-0.5 * (b / g) ** 2).exp() / math.sqrt(2 * math.pi)
        expected = (g * density + b * (1 + torch.erf(b / g / math.sqrt(2))) / 2) * self.open
        damage = (self.conv.weight.sum((2, 3)) * expected).abs()
        return damage / (damage.sum(1, keepdim=True) + 1e-8)

    @torch.no_grad()
    def dealloc(self) -> int:
        """Close what is not needed; how many places are closed now."""
        damage = self.damage()
        order = damage.amax(0).argsort(stable=True)
        lost = damage[:, order].cumsum(1).amax(0)
        closed = order[: int((lost <= GAMMA).sum())]
        self.open[closed] = 0
        self.source[closed] = closed
        self.arranged()
        return int((self.open == 0).sum())

    @torch.no_grad()
    def realloc(self, generator: torch.Generator) -> int:
        """Open what is closed for channels that are needed; how many there were."""
        places = torch.where(self.open == 0)[0]
        if not len(places):
            return 0
        needed = self.damage().norm(dim=0).topk(min(K, len(self.open))).indices
        drawn = needed[torch.randint(len(needed), (len(places),), generator=generator)]
        self.conv.weight[:, places] = 0
        for values in (self.norm.weight, self.norm.bias, self.norm.running_mean,
                       self.norm.running_var):  # fmt: skip
            values[places] = values[drawn]
        pixels = torch.rand(len(places), 2, generator=generator) * 2 - 1
        self.shift[places] = FARTHEST * pixels.to(self.shift.device)
        self.source[places] = self.source[drawn]
        self.open[places] = 1
        self.arranged()
        return len(places)


class Bottleneck(nn.Module):
    """Three selective units beside a shortcut."""

    def __init__(self, n_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.units = nn.Sequential(
            SelectiveUnit(n_in, width, 1),
            SelectiveUnit(width, width, 3, stride),
            SelectiveUnit(width, 4 * width, 1),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or n_in != 4 * width:
            self.shortcut = nn.Conv2d(n_in, 4 * width, 1, stride, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.shortcut(x) + self.units(x)


class SelectiveResNet50(nn.Module):
    """ResNet-50 with pre-activation; ``stem`` is for images of 224 x 224."""

    def __init__(self, n_classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.MaxPool2d(3, 2, 1))
        n, blocks = 64, []
        for stage, (depth, width) in enumerate(zip((3, 4, 6, 3), (64, 128, 256, 512), strict=True)):
            for number in range(depth):
                blocks.append(Bottleneck(n, width, 2 if stage and number == 0 else 1))
                n = 4 * width
        self.blocks = nn.Sequential(*blocks)
        self.norm, self.fc = nn.BatchNorm2d(n), nn.Linear(n, n_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.norm(self.blocks(self.stem(x))))
        return self.fc(x.mean((2, 3)))

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Shifts decay less."""
        shifts = [m.shift for m in self.modules() if hasattr(m, "shift")]
        known = {id(shift) for shift in shifts}
        others = [p for p in self.parameters() if id(p) not in known]
        return [{"params": others}, {"params": shifts, "weight_decay": DECAY / 10}]


class SelectiveAllocation(Arm):
    """Closes and opens channels after every epoch of the first half."""

    title = "SAC, from scratch"
    own = True
    compiles = False  # places that are moved change after every epoch

    def network(self, usual: Network) -> Callable[[int, bool], nn.Module]:
        if usual.title != "ResNet-50" or usual.data != "imagenet":
            raise ValueError(f"sac is defined for ResNet-50 on ImageNet, not for {usual.title}")
        return lambda n_classes, _: SelectiveResNet50(n_classes)

    def protocol(self, usual: Protocol) -> Protocol:
        return Protocol(
            epochs=100, batch=256, rate=0.1, falls="cosine", factor=1.0, stretch=100, decay=DECAY,
            nesterov=True,
        )  # fmt: skip

    def event(self, done: int) -> dict[str, Any] | None:
        if not 0 < done <= self.run.protocol.epochs // 2:
            return None
        generator = torch.Generator().manual_seed(1_000_003 * self.run.seed + done)
        closed = opened = 0
        for unit in self._units(self.run.model):
            closed += unit.dealloc()
            if hasattr(unit, "shift"):
                opened += unit.realloc(generator)
        return {"closed": closed, "opened": opened}

    def start(self, run: Run) -> None:
        super().start(run)
        for unit in self._units(run.model):
            unit.arranged()  # its buffers may come from a checkpoint

    @staticmethod
    def _units(model: nn.Module) -> list[SelectiveUnit]:
        return [module for module in model.modules() if isinstance(module, SelectiveUnit)]
