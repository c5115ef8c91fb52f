"""CIFAR-100 from mosaics, a small residual network, and a training loop that can be resumed.

What the tutorials share that measure something on CIFAR-100.  The data are ``train_CC.webp`` and
``test_CC.webp`` files: mosaics of 32 x 32 tiles, one file for each class.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

MEAN = np.array([0.5071, 0.4865, 0.4409], np.float32)
STD = np.array([0.2673, 0.2564, 0.2762], np.float32)


def load(root: str, split: str, n_classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (n, 3, 32, 32), normalized, and labels (n,) of the first ``n_classes`` classes."""
    paths = sorted(glob.glob(f"{root}/{split}_*.webp"))[:n_classes]
    if len(paths) < n_classes:
        raise FileNotFoundError(f"expected {n_classes} files {root}/{split}_*.webp")
    images, labels = [], []
    for label, path in enumerate(paths):
        mosaic = np.asarray(Image.open(path).convert("RGB"))
        rows, columns = mosaic.shape[0] // 32, mosaic.shape[1] // 32
        tiles = mosaic.reshape(rows, 32, columns, 32, 3).swapaxes(1, 2).reshape(-1, 32, 32, 3)
        images.append((tiles.astype(np.float32) / 255 - MEAN) / STD)
        labels += [label] * len(tiles)
    x = np.concatenate(images).transpose(0, 3, 1, 2)
    return torch.from_numpy(np.ascontiguousarray(x)), torch.tensor(labels)


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions and a shortcut; the inner group is ``conv1``'s channels."""

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(n_out)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(n_out)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or n_in != n_out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(n_in, n_out, 1, stride, bias=False), nn.BatchNorm2d(n_out)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class ResNet20(nn.Module):
    """The CIFAR ResNet with three stages of three blocks (He et al., 2016, section 4.2)."""

    def __init__(self, n_classes: int, width: int = 16) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = self._stage(width, width, 1)
        self.layer2 = self._stage(width, 2 * width, 2)
        self.layer3 = self._stage(2 * width, 4 * width, 2)
        self.fc = nn.Linear(4 * width, n_classes)

    @staticmethod
    def _stage(n_in: int, n_out: int, stride: int) -> nn.Sequential:
        return nn.Sequential(
            BasicBlock(n_in, n_out, stride),
            BasicBlock(n_out, n_out, 1),
            BasicBlock(n_out, n_out, 1),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(x.mean((2, 3)))


def augment(x: torch.Tensor, generator: torch.Generator, pad: int = 4) -> torch.Tensor:
    """Random flips and crops after padding by ``pad``, one offset for each image."""
    flip = (torch.rand(len(x), generator=generator) < 0.5).to(x.device, non_blocking=True)
    x = torch.where(flip[:, None, None, None], x.flip(3), x)
    padded = F.pad(x, (pad, pad, pad, pad))
    offsets = torch.randint(0, 2 * pad + 1, (len(x), 2), generator=generator)
    offsets = offsets.to(x.device, non_blocking=True)

    def along(axis: int) -> torch.Tensor:
        return torch.arange(x.shape[axis], device=x.device)

    rows = (offsets[:, :1] + along(2))[:, None, :, None]
    columns = (offsets[:, 1:] + along(3))[:, None, None, :]
    image, channel = along(0)[:, None, None, None], along(1)[None, :, None, None]
    return padded[image, channel, rows, columns]


@torch.no_grad()
def accuracy(model: nn.Module, x: torch.Tensor, y: torch.Tensor, batch: int = 500) -> float:
    """Share of ``x`` that the model labels as ``y``, in evaluation mode."""
    mode = model.training
    model.eval()
    right = sum(
        int((model(x[i : i + batch]).argmax(1) == y[i : i + batch]).sum())
        for i in range(0, len(x), batch)
    )
    model.train(mode)
    return right / len(x)


def train(
    model: nn.Module,
    x: torch.Tensor,
    y: torch.Tensor,
    epochs: int,
    checkpoint: Path | None = None,
    batch: int = 128,
    rate: float = 0.1,
    seed: int = 0,
    log: Callable[[str], None] = print,
) -> None:
    """SGD with Nesterov momentum and a one-cycle rate; resumed where ``checkpoint`` exists.

    Every random choice comes from a generator seeded by ``seed`` and the epoch, so that a run
    that was interrupted ends with the weights of one that was not.
    """
    optimizer = torch.optim.SGD(
        model.parameters(), lr=rate, momentum=0.9, nesterov=True, weight_decay=5e-4
    )
    steps = -(-len(x) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, epochs * steps, pct_start=0.3)
    start = 0
    if checkpoint is not None and checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        schedule.load_state_dict(saved["schedule"])
        start = saved["epoch"]
    model.train()
    for epoch in range(start, epochs):
        generator = torch.Generator().manual_seed(1_000_003 * seed + epoch)
        order = torch.randperm(len(x), generator=generator)
        total = 0.0
        for i in range(0, len(x), batch):
            picked = order[i : i + batch]
            loss = F.cross_entropy(model(augment(x[picked], generator)), y[picked])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item() * len(picked)
        log(f"epoch {epoch + 1}/{epochs}: loss {total / len(x):.3f}")
        if checkpoint is not None:
            checkpoint.parent.mkdir(parents=True, exist_ok=True)
            state = {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "schedule": schedule.state_dict(),
                "epoch": epoch + 1,
            }
            beside = checkpoint.with_suffix(".part")
            torch.save(state, beside)
            os.replace(beside, checkpoint)
