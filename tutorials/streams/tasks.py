"""Streams of classification tasks: data that keep changing, and the networks that learn them.

A stream is a sequence of tasks, each so many steps long.  The same seed gives the same tasks, the
same batches and the same initial weights to every arm.  What differs from Kumar et al. (2023,
"Maintaining plasticity in continual learning via regenerative regularization", arXiv 2308.11958,
appendix A.1) stands beside each stream in ``STREAMS``.
"""

from __future__ import annotations

import functools
import gzip
import itertools
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parents[1]))

import cifar100

Labelled = tuple[torch.Tensor, torch.Tensor]

DEBIAN = Path("/usr/share/datasets/fashion-mnist")


@dataclass(frozen=True)
class Data:
    """Images and labels to train on and to test on."""

    train: Labelled
    test: Labelled


@dataclass(frozen=True)
class Task:
    """One task of a stream; ``test`` is None where there is nothing to generalize to."""

    train: Labelled
    test: Labelled | None
    easy: bool = False


@dataclass(frozen=True)
class Stream:
    """A sequence of tasks and the network that learns them.

    Attributes
    ----------
    title : str
    load : callable
        From the folder of data to :class:`Data`; raises FileNotFoundError with what to do.
    tasks : callable
        From data and seed to the tasks, one after the other.
    network : callable
        From ``layer_norm`` to the network, initialized by PyTorch's defaults.
    n_tasks, steps, batch : int
        Tasks, steps of a task, and images of a step.
    published : str
        Whose optimal hyper-parameters of Kumar et al. the arms take (:mod:`arms`).
    last : int
        Over how many of the last tasks, easy ones not counted, the final accuracy is a mean.
    alternates : bool
        Whether every second task is an easy one.
    """

    title: str
    load: Callable[[Path], Data]
    tasks: Callable[[Data, int], Iterator[Task]]
    network: Callable[[bool], nn.Sequential]
    n_tasks: int
    steps: int
    batch: int
    published: str
    last: int = 5
    alternates: bool = False


# --- data -----------------------------------------------------------------------------------


@functools.cache
def cifar(root: Path, size: int) -> Data:
    """CIFAR-100, normalized; images of 32 x 32, or averaged down to ``size``."""
    folder = str(root / "cifar100")
    try:
        splits = [cifar100.load(folder, split, 100) for split in ("train", "test")]
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}; --data is the folder that holds cifar100/") from None
    return Data(*((_smaller(x, 32 // size), y) for x, y in splits))


def _smaller(x: torch.Tensor, factor: int) -> torch.Tensor:
    x = F.avg_pool2d(x, factor) if factor > 1 else x
    return x.contiguous(memory_format=torch.channels_last)


@functools.cache
def fashion(root: Path) -> Data:
    """Fashion-MNIST as rows of 784 values, normalized; from ``root`` or Debian's package."""
    places = [root / "fashion-mnist", DEBIAN]
    place = next((p for p in places if (p / "train-images-idx3-ubyte.gz").exists()), None)
    if place is None:
        raise FileNotFoundError(
            f"expected train-images-idx3-ubyte.gz and the like in {places[0]} or {places[1]}; "
            "install Debian's dataset-fashion-mnist, or copy torchvision's raw files"
        )
    train_x, train_y, test_x, test_y = (
        _idx(place / f"{split}-{kind}-ubyte.gz")
        for split in ("train", "t10k")
        for kind in ("images-idx3", "labels-idx1")
    )
    mean, std = train_x.mean() / 255, train_x.std() / 255

    def prepared(images: np.ndarray, labels: np.ndarray) -> Labelled:
        x = (images.reshape(len(images), -1).astype(np.float32) / 255 - mean) / std
        return torch.from_numpy(x.astype(np.float32)), torch.from_numpy(labels.astype(np.int64))

    return Data(prepared(train_x, train_y), prepared(test_x, test_y))


def _idx(path: Path) -> np.ndarray:
    """An array in LeCun's IDX format: two zero bytes, type, dimensions, sizes, values."""
    raw = gzip.decompress(path.read_bytes())
    sizes = np.frombuffer(raw, ">i4", raw[3], 4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * len(sizes)).reshape(sizes)


# --- tasks ----------------------------------------------------------------------------------


def five_and_one(data: Data, seed: int) -> Iterator[Task]:
    """Five new classes, then one new class, and so on: 15 hard and 15 easy tasks."""
    classes = np.random.default_rng(seed).permutation(100)
    start = 0
    for easy in itertools.cycle((False, True)):
        end = start + (1 if easy else 5)
        yield Task(_of(data.train, classes[start:end]), _of(data.test, classes[start:end]), easy)
        start = end


def permuted(data: Data, seed: int) -> Iterator[Task]:
    """The same 10,000 images all the time; every task shuffles the pixels anew."""
    rng = np.random.default_rng(seed)
    x, y = data.train
    rows = torch.from_numpy(rng.permutation(len(x))[:10_000])
    x, y = x[rows], y[rows]
    while True:
        pixels = torch.from_numpy(rng.permutation(x.shape[1]))
        yield Task((x[:, pixels], y), (data.test[0][:2000, pixels], data.test[1][:2000]))


def random_labels(data: Data, seed: int) -> Iterator[Task]:
    """The same 1,200 images all the time; every task draws their labels, of 100, anew."""
    rng = np.random.default_rng(seed)
    x = data.train[0][torch.from_numpy(rng.permutation(len(data.train[0]))[:1200])]
    while True:
        yield Task((x, torch.from_numpy(rng.integers(0, 100, len(x)))), None)


def incremental(data: Data, seed: int) -> Iterator[Task]:
    """Five classes more in every task; all data of the classes seen stay."""
    classes = np.random.default_rng(seed).permutation(100)
    for end in range(5, 101, 5):
        yield Task(_of(data.train, classes[:end]), _of(data.test, classes[:end]))


def _of(labelled: Labelled, classes: np.ndarray) -> Labelled:
    x, y = labelled
    rows = torch.isin(y, torch.from_numpy(classes))
    return x[rows].contiguous(memory_format=_layout(x)), y[rows]


def _layout(x: torch.Tensor) -> torch.memory_format:
    return torch.channels_last if x.ndim == 4 else torch.contiguous_format


# --- networks -------------------------------------------------------------------------------


def convolutional(size: int, kernel: int) -> Callable[[bool], nn.Sequential]:
    """Two convolutions of 16 channels, each pooled, and two linear layers of 100 units."""

    def network(layer_norm: bool = False) -> nn.Sequential:
        layers: list[nn.Module] = []
        side = size
        for n_in in (3, 16):
            side = (side - kernel + 1) // 2
            norm = [nn.GroupNorm(1, 16)] if layer_norm else []
            layers += [nn.Conv2d(n_in, 16, kernel), *norm, nn.ReLU(), nn.MaxPool2d(2)]
        head = perceptron(16 * side * side, 100)(layer_norm)
        return nn.Sequential(*layers, nn.Flatten(), *head).to(memory_format=torch.channels_last)

    return network


def perceptron(n_in: int, n_out: int) -> Callable[[bool], nn.Sequential]:
    """Two hidden layers of 100 units."""

    def network(layer_norm: bool = False) -> nn.Sequential:
        layers: list[nn.Module] = []
        for width in (n_in, 100):
            norm = [nn.LayerNorm(100)] if layer_norm else []
            layers += [nn.Linear(width, 100), *norm, nn.ReLU()]
        return nn.Sequential(*layers, nn.Linear(100, n_out))

    return network


STREAMS = {
    # Kumar et al. in full: 32 x 32 images, 5 x 5 kernels, 780 steps.  Four minutes a run.
    "5+1-full": Stream(
        "5+1 CIFAR as published: 30 tasks of 780 steps, 32 x 32",
        functools.partial(cifar, size=32), five_and_one, convolutional(32, 5),
        30, 780, 32, "5+1 CIFAR", alternates=True,
    ),
    # 16 x 16 images, 3 x 3 kernels and 400 steps cost a tenth of that.
    "5+1": Stream(
        "5+1 CIFAR, smaller: 30 tasks of 400 steps, 16 x 16",
        functools.partial(cifar, size=16), five_and_one, convolutional(16, 3),
        30, 400, 32, "5+1 CIFAR", alternates=True,
    ),
    # Kumar et al. take digits.  Eight minutes a run.
    "permuted-full": Stream(
        "Permuted Fashion-MNIST as published: 500 tasks of 625 steps",
        fashion, permuted, perceptron(784, 10),
        500, 625, 16, "Permuted MNIST", last=10,
    ),
    # A tenth of the tasks.
    "permuted": Stream(
        "Permuted Fashion-MNIST: 50 tasks of 625 steps",
        fashion, permuted, perceptron(784, 10),
        50, 625, 16, "Permuted MNIST", last=10,
    ),
    # Kumar et al. take CIFAR-10, 50 tasks of 30,000 steps of 16, and 32 x 32 images.
    "random-labels": Stream(
        "Random labels on 1,200 CIFAR images: 30 tasks of 750 steps, 16 x 16",
        functools.partial(cifar, size=16), random_labels, convolutional(16, 3),
        30, 750, 32, "Random Label CIFAR",
    ),
    # Dohare et al. (2024) scaled down; no optima are published for it, so those of 5+1 CIFAR.
    "incremental": Stream(
        "Class-incremental CIFAR-100, all data kept: 20 tasks of 400 steps, 16 x 16",
        functools.partial(cifar, size=16), incremental, convolutional(16, 3),
        20, 400, 64, "5+1 CIFAR", last=1,
    ),
}  # fmt: skip
