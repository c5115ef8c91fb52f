"""Images of CIFAR-100, of ImageNet, or of noise, as batches on a device.

Every order and every crop comes from a generator that is seeded by the run and the epoch, so that
a run that was interrupted sees what it would have seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import cifar100
import numpy as np
import torch
import torchvision
from torchvision.transforms import v2

Batch = tuple[torch.Tensor, torch.Tensor]
EVALUATED = 500  # images at once where nothing is learned
PER_CLASS = 100  # images of ImageNet by which channels are judged; the paper takes all


class Images(Protocol):
    """What a training needs.

    Attributes
    ----------
    classes, size, tests, judges : int
        How many classes, the extent of an image, how many test images, and how many by which
        channels are judged.
    """

    classes: int
    size: int
    tests: int
    judges: int

    def steps(self, batch: int) -> int:
        """Batches of an epoch."""

    def train(self, batch: int, seed: int, epoch: int) -> Iterator[Batch]:
        """One epoch, shuffled and augmented."""

    def test(self) -> Iterator[Batch]:
        """The test images."""

    def judged(self) -> list[Batch] | torch.utils.data.DataLoader:
        """Training images as they are, by which channels are judged (eq. 1)."""


class InMemory:
    """All images on the device, cropped and flipped there.

    Parameters
    ----------
    train, test : (images, labels)
    device : torch.device
    classes : int
    judging : int, optional
        So many images judge; all by default.
    """

    def __init__(
        self, train: Batch, test: Batch, device: torch.device, classes: int = 100,
        judging: int | None = None,
    ) -> None:  # fmt: skip
        self.x, self.y = (part.to(device) for part in train)
        self.judges = len(self.x) if judging is None else judging
        self.tested = tuple(part.to(device) for part in test)
        self.classes, self.size, self.tests = classes, self.x.shape[-1], len(test[0])

    def steps(self, batch: int) -> int:
        return -(-len(self.x) // batch)

    def train(self, batch: int, seed: int, epoch: int) -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(1_000_003 * seed + epoch)
        for rows in torch.randperm(len(self.x), generator=generator).split(batch):
            rows = rows.to(self.x.device, non_blocking=True)
            yield cifar100.augment(self.x[rows], generator, self.size // 8), self.y[rows]

    def test(self) -> Iterator[Batch]:
        return zip(*(part.split(EVALUATED) for part in self.tested), strict=True)

    def judged(self) -> list[Batch]:
        # Mixed: normalizations take the statistics of these batches.
        order = torch.randperm(len(self.x), generator=torch.Generator().manual_seed(0))
        rows = order[: self.judges].to(self.x.device).split(EVALUATED)
        return [(self.x[part], self.y[part]) for part in rows]


class ImageFolders:
    """``train/`` and ``val/`` with one folder a class, decoded by processes that draw the crops."""

    classes, size = 1000, 224

    def __init__(self, folder: Path, device: torch.device, workers: int) -> None:
        end = [
            v2.ToImage(), v2.ToDtype(torch.float32, scale=True),
            v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]  # fmt: skip
        whole = v2.Compose([v2.Resize(256), v2.CenterCrop(224), *end])
        cropped = v2.Compose([v2.RandomResizedCrop(224), v2.RandomHorizontalFlip(), *end])
        open_folder = torchvision.datasets.ImageFolder
        self.trained = open_folder(folder / "train", cropped)
        self.tested = open_folder(folder / "val", whole)
        plain = open_folder(folder / "train", whole)
        labels = np.array(plain.targets)
        rows = np.random.default_rng(0).permutation(
            np.concatenate([np.flatnonzero(labels == c)[:PER_CLASS] for c in np.unique(labels)])
        )
        self.chosen = torch.utils.data.Subset(plain, rows.tolist())
        self.tests, self.judges = len(self.tested), len(rows)
        self.device, self.workers = device, workers

    def _loader(self, data: Any, batch: int, generator: torch.Generator | None = None) -> Any:
        return torch.utils.data.DataLoader(
            data, batch, shuffle=generator is not None, generator=generator,
            num_workers=self.workers, pin_memory=self.device.type == "cuda",
        )  # fmt: skip

    def _moved(self, loader: Any) -> Iterator[Batch]:
        for x, y in loader:
            yield x.to(self.device, non_blocking=True), y.to(self.device, non_blocking=True)

    def steps(self, batch: int) -> int:
        return -(-len(self.trained) // batch)

    def train(self, batch: int, seed: int, epoch: int) -> Iterator[Batch]:
        # The generator seeds the workers as well, and with them the crops.
        generator = torch.Generator().manual_seed(1_000_003 * seed + epoch)
        return self._moved(self._loader(self.trained, batch, generator))

    def test(self) -> Iterator[Batch]:
        return self._moved(self._loader(self.tested, EVALUATED))

    def judged(self) -> Any:
        return self._loader(self.chosen, EVALUATED)


def load_cifar100(folder: Path, device: torch.device) -> InMemory:
    """CIFAR-100 from mosaics (``tutorials/cifar100.py``), or by torchvision, which downloads it."""
    parts: dict[str, Batch] = {}
    for split in ("train", "test"):
        if list(folder.glob("*.webp")):
            x, y = cifar100.load(str(folder), split, 100)
        else:
            data = torchvision.datasets.CIFAR100(str(folder), split == "train", download=True)
            scaled = (data.data.astype(np.float32) / 255 - cifar100.MEAN) / cifar100.STD
            x, y = torch.from_numpy(scaled).permute(0, 3, 1, 2), torch.tensor(data.targets)
        parts[split] = x.contiguous(memory_format=torch.channels_last), y
    return InMemory(parts["train"], parts["test"], device)


def load_small(folder: Path, device: torch.device, classes: int) -> InMemory:
    """The first classes of CIFAR-100 in 16 x 16, of which 100 images a class judge."""
    whole = load_cifar100(folder, device)
    parts = []
    for x, y in ((whole.x, whole.y), whole.tested):
        small = torch.nn.functional.avg_pool2d(x[y < classes], 2)
        parts.append((small.contiguous(memory_format=torch.channels_last), y[y < classes]))
    return InMemory(*parts, device, classes, judging=100 * classes)


def noise(data: str, device: torch.device, batch: int = 8) -> InMemory:
    """Two batches of eight classes, to try everything out; smaller than real images of ImageNet."""
    generator = torch.Generator().manual_seed(0)
    size, classes = (64, 1000) if data == "imagenet" else (32, 100)
    x = torch.randn(2 * batch, 3, size, size, generator=generator)
    y = torch.arange(2 * batch) % 8
    return InMemory((x, y), (x, y), device, classes)
