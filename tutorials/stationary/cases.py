"""Cases: data that stay, or only grow, trained in five stages with a network made to memorize.

CIFAR-100 restricted to its first 20 classes, images averaged down to 16 x 16; the 2,000 test images
of these classes are never trained on.  Every stage is 75 steps of AdamW on batches of 128 (200 in
two cases), with a new optimizer and a rate that falls along a cosine.  The network has no
normalization, but for that of one case.
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import cifar100
import torch
from torch import nn
from torch.nn import functional as F

CLASSES = 20

Labelled = tuple[torch.Tensor, torch.Tensor]


def plain() -> nn.Sequential:
    """Three convolutions with stride 2 and a hidden linear layer, by PyTorch's defaults.

    The hidden groups of channels are those of layers 0, 2, 4 and 7; layer 9 makes the scores.
    """
    layers: list[nn.Module] = []
    for n_in, n_out in ((3, 16), (16, 32), (32, 64)):
        layers += [nn.Conv2d(n_in, n_out, 3, 2, 1), nn.ReLU()]
    layers += [nn.Flatten(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, CLASSES)]
    return nn.Sequential(*layers).to(memory_format=torch.channels_last)


def narrow(width: int) -> nn.Sequential:
    """Four convolutions and a hidden linear layer, each of ``width`` channels.

    The hidden groups are those of layers 0, 2, 4, 6 and 9; layer 11 makes the scores.
    """
    layers: list[nn.Module] = []
    for n_in, stride in ((3, 2), (width, 2), (width, 2), (width, 1)):
        layers += [nn.Conv2d(n_in, width, 3, stride, 1), nn.ReLU()]
    layers += [
        nn.Flatten(), nn.Linear(4 * width, width), nn.ReLU(), nn.Linear(width, CLASSES),
    ]  # fmt: skip
    return nn.Sequential(*layers).to(memory_format=torch.channels_last)


def resnet() -> nn.Sequential:
    """A ResNet-8: three blocks of 16, 32 and 64 channels."""
    parts: dict[str, nn.Module] = {
        "stem": nn.Sequential(
            nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()
        ),
        "one": cifar100.BasicBlock(16, 16, 1), "two": cifar100.BasicBlock(16, 32, 2),
        "three": cifar100.BasicBlock(32, 64, 2),
        "pool": nn.AdaptiveAvgPool2d(1), "flat": nn.Flatten(), "head": nn.Linear(64, CLASSES),
    }  # fmt: skip
    return nn.Sequential(OrderedDict(parts)).to(memory_format=torch.channels_last)


@dataclass(frozen=True)
class Case:
    """What is trained, on what, and for how long.

    Attributes
    ----------
    title : str
    stages : callable
        From training data and seed to the data of each stage.
    tuned : float
        AdamW's weight decay that :data:`arms.DECAYS` was best at on seeds from 100 on, which the
        comparison does not use (nan where that has not been run).
    augment : bool
        Random flips and crops.
    steps, batch, rate
        Steps of a stage, images of a step, and learning rate at the start of a stage.
    network : callable
    later, head : tuple of str
        How the names of its later layers begin, and those of the layer of the scores.
    graded : dict of str to float
        Shares of its channels, hidden layers in order: few of the early ones are freed, most of
        the later ones.
    decays : tuple of float
        Weight decays that ``search.py`` tries.
    """

    title: str
    stages: Callable[[Labelled, int], list[Labelled]]
    tuned: float = float("nan")
    augment: bool = False
    steps: int = 75
    batch: int = 128
    rate: float = 3e-3
    network: Callable[[], nn.Sequential] = plain
    later: tuple[str, ...] = ("4.", "7.", "9.")
    head: tuple[str, ...] = ("9.",)
    graded: dict[str, float] = field(
        default_factory=lambda: {"0.*": 0.9, "2.*": 0.7, "4.*": 0.4, "7.*": 0.1}
    )
    decays: tuple[float, ...] = (0.0, 0.3, 1.0, 3.0)


@functools.cache
def images(root: Path, split: str) -> Labelled:
    """Images ``(n, 3, 16, 16)``, normalized, and labels."""
    x, y = cifar100.load(str(root / "cifar100"), split, CLASSES)
    return F.avg_pool2d(x, 2).contiguous(memory_format=torch.channels_last), y


def chosen(train: Labelled, seed: int, per_class: int) -> Labelled:
    """So many images of each class, drawn by the seed, classes taking turns."""
    x, y = train
    generator = torch.Generator().manual_seed(seed)
    of_each = [torch.where(y == label)[0] for label in range(CLASSES)]
    shuffled = [rows[torch.randperm(len(rows), generator=generator)] for rows in of_each]
    rows = torch.stack([rows[:per_class] for rows in shuffled], 1).flatten()
    return x[rows].contiguous(memory_format=torch.channels_last), y[rows]


def same(
    train: Labelled, seed: int, per_class: int, n: int = 5, noise: float = 0.0,
    told: bool = False,
) -> list[Labelled]:  # fmt: skip
    """The same images in every stage; a share ``noise`` of the labels is drawn at random.

    Symmetric noise: a label that is drawn may be the right one.  Who is ``told`` which labels are
    wrong leaves these images out.
    """
    x, y = chosen(train, seed, per_class)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(CLASSES, (len(y),), generator=generator)
    labels = torch.where(torch.rand(len(y), generator=generator) < noise, drawn, y)
    used = labels == y if told else torch.ones_like(y, dtype=torch.bool)
    return [(x[used].contiguous(memory_format=torch.channels_last), labels[used])] * n


def growing(train: Labelled, seed: int, per_class: int, n: int = 5) -> list[Labelled]:
    """``n`` equal chunks of the data; stage ``k`` has the first ``k`` of them."""
    x, y = chosen(train, seed, per_class)
    ends = [len(y) * k // n for k in range(1, n + 1)]
    return [(x[:end], y[:end]) for end in ends]


CASES = {
    "noise": Case(
        "40 % of the labels at random, 50 images a class",
        functools.partial(same, per_class=50, noise=0.4),
        tuned=3.0,
    ),
    "noise-told": Case(
        "What noise costs: the same images without those whose labels are wrong",
        functools.partial(same, per_class=50, noise=0.4, told=True),
        tuned=3.0,
    ),
    "noise-resnet": Case(
        "40 % of the labels at random, 50 images a class, a small ResNet",
        functools.partial(same, per_class=50, noise=0.4),
        tuned=3.0,
        network=resnet,
        later=("two.", "three.", "head."),
        head=("head.",),
        graded={"three.*": 0.1, "two.*": 0.25, "*": 0.5},
    ),
    # Ash and Adams (2020), "On warm-starting neural network training".
    "growing": Case(
        "Growing data: 10 to 50 images a class in five chunks, warm starts",
        functools.partial(growing, per_class=50),
        tuned=0.1,
    ),
    "memorizing": Case(
        "Memorizing, no augmentation: 50 images a class",
        functools.partial(same, per_class=50),
        tuned=1.0,
    ),
    "few-25": Case(
        "25 images a class, augmented",
        functools.partial(same, per_class=25),
        tuned=0.3,
        augment=True,
    ),
    "few-50": Case(
        "50 images a class, augmented",
        functools.partial(same, per_class=50),
        tuned=0.1,
        augment=True,
    ),
    "few-100": Case(
        "100 images a class, augmented",
        functools.partial(same, per_class=100),
        tuned=0.03,
        augment=True,
    ),
    **{
        f"narrow-{width}": Case(
            f"500 images a class, {width} channels in every layer",
            functools.partial(same, per_class=500),
            tuned={8: 0.1, 16: 0.03}[width],
            steps=200,
            rate=1e-2,
            network=functools.partial(narrow, width),
            later=("6.", "9.", "11."),
            head=("11.",),
            graded={"0.*": 0.9, "2.*": 0.7, "4.*": 0.7, "6.*": 0.4, "9.*": 0.2},
            decays=(0.0, 0.03, 0.1, 0.3),
        )
        for width in (8, 16)
    },
}
