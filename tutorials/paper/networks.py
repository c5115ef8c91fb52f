"""The networks of the paper, and what it calls their blocks (section 3.1.1).

On CIFAR-100: AlexNet with batch normalization in place of local response normalization and 3 x 3
kernels in its first two layers; MobileNet; ResNet-18 and ResNet-50 with a first kernel of 3 x 3 and
without the pooling behind it.  On ImageNet those of torchvision, with its first weights, which are
the paper's baselines.

A block is named by its last convolution, which is what is reorganized: "conv3" to "conv5" of a
ResNet are the outputs of ``layer2`` to ``layer4`` (He et al. 2016, Table 1).  Of a dense block that
is the last of its small convolutions; what it adds to the concatenation, 32 channels, changes.

For one core there are a network of three convolutions, with many channels in the last, and the
ResNet-20 for CIFAR.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cifar100
import torchvision
from torch import nn


@dataclass(frozen=True)
class Network:
    """How to make a network, and its blocks.

    Attributes
    ----------
    title : str
    make : callable
        Gets the number of classes, and whether published weights are loaded.
    blocks : dict of str to str
        The last convolution of each block that the paper reorganizes, the deepest last.
    both : str
        The last two blocks, by the paper's name.
    data : str
        Of ``PROTOCOLS``.
    narrow : callable, optional
        As ``make``, with half of the channels in what is reorganized.
    """

    title: str
    make: Callable[[int, bool], nn.Module]
    blocks: dict[str, str]
    both: str = "conv4+5"
    data: str = "cifar100"
    narrow: Callable[[int, bool], nn.Module] | None = None

    @property
    def last(self) -> str:
        """Name of the deepest block."""
        return list(self.blocks)[-1]

    def layers(self, block: str) -> list[str]:
        """The convolutions of a block, or of the last two.

        >>> NETWORKS["resnet18"].layers("conv4+5")
        ['layer3.1.conv2', 'layer4.1.conv2']
        """
        return list(self.blocks.values())[-2:] if block == self.both else [self.blocks[block]]


def normalized(n_in: int, n_out: int, kernel: int, stride: int = 1, groups: int = 1) -> list:
    """A convolution, its batch normalization and ReLU."""
    conv = nn.Conv2d(n_in, n_out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(n_out), nn.ReLU(inplace=True)]


class AlexNet(nn.Module):
    """Krizhevsky et al. 2012, in one tower, for images of 32 x 32."""

    def __init__(self, n_classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *normalized(3, 96, 3), nn.MaxPool2d(2),
            *normalized(96, 256, 3), nn.MaxPool2d(2),
            *normalized(256, 384, 3),
            *normalized(384, 384, 3),
            *normalized(384, 256, 3), nn.MaxPool2d(2),
        )  # fmt: skip
        self.classifier = nn.Sequential(
            nn.Dropout(), nn.Linear(256 * 4 * 4, 4096), nn.ReLU(inplace=True),
            nn.Dropout(), nn.Linear(4096, 4096), nn.ReLU(inplace=True),
            nn.Linear(4096, n_classes),
        )  # fmt: skip

    def forward(self, x):
        return self.classifier(self.features(x).flatten(1))


class MobileNet(nn.Module):
    """Howard et al. 2017, without the first halvings: a stem and four blocks.

    >>> [sum(isinstance(m, nn.Conv2d) for m in b.modules()) for b in MobileNet(100).blocks]
    [3, 4, 4, 12, 4]
    """

    # Channels that a depthwise separable convolution makes, and its stride, by block.
    BLOCKS = (
        [(64, 1)],
        [(128, 2), (128, 1)],
        [(256, 2), (256, 1)],
        [(512, 2)] + 5 * [(512, 1)],
        [(1024, 2), (1024, 1)],
    )

    def __init__(self, n_classes: int) -> None:
        super().__init__()
        n, blocks = 32, []
        for number, block in enumerate(self.BLOCKS):
            layers = [] if number else normalized(3, n, 3)
            for n_out, stride in block:
                layers += normalized(n, n, 3, stride, groups=n) + normalized(n, n_out, 1)
                n = n_out
            blocks.append(nn.Sequential(*layers))
        self.blocks = nn.Sequential(*blocks)
        self.fc = nn.Linear(n, n_classes)

    def forward(self, x):
        return self.fc(self.blocks(x).mean((2, 3)))


def small_images(make: Callable[..., nn.Module]) -> Callable[[int, bool], nn.Module]:
    """A ResNet of torchvision for images of 32 x 32."""

    def made(n_classes: int, published: bool) -> nn.Module:
        model = make(num_classes=n_classes)
        model.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
        nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
        model.maxpool = nn.Identity()
        return model

    return made


def three_convolutions(width: int) -> Callable[[int, bool], nn.Module]:
    """Strided 3 x 3 convolutions, pooled; the last one makes ``width`` channels."""

    def made(n_classes: int, published: bool) -> nn.Module:
        layers, n = [], 3
        for n_out in (16, 32, width):
            layers += [nn.Conv2d(n, n_out, 3, 2, 1, bias=False), nn.BatchNorm2d(n_out), nn.ReLU()]
            n = n_out
        pooled = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(n, n_classes)]
        return nn.Sequential(*layers, *pooled)

    return made


def torchvision_model(name: str) -> Callable[[int, bool], nn.Module]:
    """A network of torchvision with its first weights, or without."""

    def made(n_classes: int, published: bool) -> nn.Module:
        weights = "IMAGENET1K_V1" if published else None
        return torchvision.models.get_model(name, weights=weights, num_classes=n_classes)

    return made


def resnet(title: str, make: Callable, depths: tuple[int, ...], data: str) -> Network:
    """A ResNet whose stages have so many units."""
    conv = "conv2" if title == "ResNet-18" else "conv3"  # of a basic block, of a bottleneck
    blocks = {f"conv{i + 1}": f"layer{i}.{depths[i - 1] - 1}.{conv}" for i in (2, 3, 4)}
    return Network(title, make, blocks, data=data)


NETWORKS = {
    "alexnet": Network(
        "AlexNet", lambda n, _: AlexNet(n),
        {"conv3": "features.8", "conv4": "features.11", "conv5": "features.14"},
    ),
    "mobilenet": Network(
        "MobileNet", lambda n, _: MobileNet(n),
        {"conv2": "blocks.2.9", "conv3": "blocks.3.33", "conv4": "blocks.4.9"}, both="conv3+4",
    ),
    "resnet18": resnet(
        "ResNet-18", small_images(torchvision.models.resnet18), (2, 2, 2, 2), "cifar100"
    ),
    "resnet18-short": resnet(
        "ResNet-18", small_images(torchvision.models.resnet18), (2, 2, 2, 2), "cifar100-short"
    ),
    "resnet50": resnet(
        "ResNet-50", small_images(torchvision.models.resnet50), (3, 4, 6, 3), "cifar100"
    ),
    "imagenet-resnet50": resnet(
        "ResNet-50", torchvision_model("resnet50"), (3, 4, 6, 3), "imagenet"
    ),
    "imagenet-resnet101": resnet(
        "ResNet-101", torchvision_model("resnet101"), (3, 4, 23, 3), "imagenet"
    ),
    "imagenet-resnet152": resnet(
        "ResNet-152", torchvision_model("resnet152"), (3, 8, 36, 3), "imagenet"
    ),
    "imagenet-densenet121": Network(
        "DenseNet-121", torchvision_model("densenet121"),
        {
            "conv4": "features.denseblock3.denselayer24.conv2",
            "conv5": "features.denseblock4.denselayer16.conv2",
        },
        data="imagenet",
    ),
    "small-step": Network(
        "three convolutions, step decay", three_convolutions(192), {"conv3": "6"},
        data="small-step", narrow=three_convolutions(96),
    ),
    "small-cyclic": Network(
        "three convolutions, cosine restarts", three_convolutions(192), {"conv3": "6"},
        data="small-cyclic", narrow=three_convolutions(96),
    ),
    "resnet20": Network(
        "ResNet-20", lambda n, _: cifar100.ResNet20(n), {"conv4": "layer3.*"}, data="resnet20",
        narrow=lambda n, _: cifar100.ResNet20(n, 8),
    ),
    "resnet20-small": Network(
        "ResNet-20, half as wide", lambda n, _: cifar100.ResNet20(n, 8), {"conv4": "layer3.*"},
        data="resnet20-small",
    ),
}  # fmt: skip
