"""Kinds of networks beside classifiers, exported by PyTorch and permuted as ONNX files."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
from torch import nn  # noqa: E402

sys.path.insert(0, str(Path(__file__).parent))

from onnx_exports import export, randomize  # noqa: E402
from onnx_proof import prove  # noqa: E402


class UNet(nn.Module):
    """Down, up by a transposed convolution, with a concatenation across."""

    def __init__(self):
        super().__init__()
        self.a, self.na = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.b, self.nb = nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.up = nn.ConvTranspose2d(16, 8, 2, stride=2)
        self.c, self.out = nn.Conv2d(16, 8, 3, padding=1), nn.Conv2d(8, 2, 1)

    def forward(self, x):
        left = torch.relu(self.na(self.a(x)))
        low = torch.relu(self.nb(self.b(nn.functional.max_pool2d(left, 2))))
        return self.out(torch.relu(self.c(torch.cat([self.up(low), left], 1))))


class Pyramid(nn.Module):
    """A detection backbone: sums from above, one head for all levels."""

    def __init__(self):
        super().__init__()
        widths = (6, 8, 10)
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(i, o, 3, stride=2, padding=1), nn.BatchNorm2d(o), nn.ReLU())
            for i, o in zip((3, *widths), widths, strict=False)
        )
        self.lateral = nn.ModuleList(nn.Conv2d(o, 8, 1) for o in widths)
        self.smooth = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1) for _ in widths)
        self.head, self.scores = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 3, 1)

    def forward(self, x):
        levels = []
        for stage in self.stages:
            x = stage(x)
            levels.append(x)
        above = self.lateral[-1](levels[-1])
        found = [above]
        for level, lateral in zip(levels[-2::-1], list(self.lateral)[-2::-1], strict=True):
            above = lateral(level) + nn.functional.interpolate(above, scale_factor=2.0)
            found.append(above)
        pairs = zip(self.smooth, found, strict=True)
        return [self.scores(torch.relu(self.head(smooth(f)))) for smooth, f in pairs]


class SuperResolution(nn.Module):
    """Blocks of four channels become two by two positions."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 24, 3, padding=1)
        self.shuffle, self.c = nn.PixelShuffle(2), nn.Conv2d(6, 3, 3, padding=1)

    def forward(self, x):
        return self.c(torch.relu(self.shuffle(self.b(torch.relu(self.a(x))))))


class Sequence(nn.Module):
    """A recurrent layer behind convolutions over time."""

    def __init__(self, layer):
        super().__init__()
        self.a, self.n = nn.Conv1d(3, 8, 3, padding=1), nn.BatchNorm1d(8)
        self.b = nn.Conv1d(8, 10, 3, padding=1)
        self.layer, self.out = layer(10, 6, batch_first=True), nn.Linear(6, 4)

    def forward(self, x):
        h = torch.relu(self.b(torch.relu(self.n(self.a(x)))))
        return self.out(self.layer(h.transpose(1, 2))[0][:, -1])


class Volume(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.n = nn.Conv3d(1, 6, 3, padding=1), nn.BatchNorm3d(6)
        self.b, self.f = nn.Conv3d(6, 8, 3), nn.Linear(8 * 64, 4)

    def forward(self, x):
        h = nn.functional.max_pool3d(torch.relu(self.b(torch.relu(self.n(self.a(x))))), 2)
        return self.f(h.flatten(1))


class Twice(nn.Module):
    """A block that is called twice, and a weight that two layers share."""

    def __init__(self):
        super().__init__()
        self.a, self.block = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.n, self.b = nn.BatchNorm2d(8), nn.Conv2d(8, 6, 1)
        self.c, self.d = nn.Conv2d(6, 6, 1), nn.Conv2d(6, 6, 1)
        self.d.weight = self.c.weight
        self.out = nn.Conv2d(6, 3, 1)

    def forward(self, x):
        h = self.a(x)
        h = torch.relu(self.n(self.block(torch.relu(self.n(self.block(h))))))
        h = self.b(h)
        return self.out(torch.relu(self.d(torch.relu(self.c(h)))))


def segmentation(name):
    """Of torchvision, with a small backbone in the place of the large one."""
    models = pytest.importorskip("torchvision").models
    backbone = nn.Sequential()
    for i, (a, b) in enumerate([(3, 8), (8, 16), (16, 24)]):
        backbone.add_module(f"conv{i}", nn.Conv2d(a, b, 3, stride=2, padding=1, bias=False))
        backbone.add_module(f"norm{i}", nn.BatchNorm2d(b))
        backbone.add_module(f"relu{i}", nn.ReLU())
    inside = models._utils.IntermediateLayerGetter(backbone, {"relu2": "out"})
    if name == "fcn":
        return models.segmentation.FCN(inside, models.segmentation.fcn.FCNHead(24, 5))
    heads = models.segmentation.deeplabv3
    return models.segmentation.DeepLabV3(inside, heads.DeepLabHead(24, 5, [2, 3, 4]))


class Scores(nn.Module):
    """The tensor in the dictionary that torchvision's segmentation returns."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x)["out"]


NETWORKS = {  # network, shape of its input, convolutions that move of all, least parameters moved
    "fcn": (lambda: Scores(segmentation("fcn")), (1, 3, 32, 32), (4, 5), 5500),
    "deeplab": (lambda: Scores(segmentation("deeplab")), (1, 3, 32, 32), (10, 11), 700_000),
    "u-net": (UNet, (1, 3, 16, 16), (4, 5), 2500),
    "feature pyramid": (Pyramid, (1, 3, 32, 32), (10, 11), 3000),
    "super-resolution": (SuperResolution, (1, 3, 12, 12), (2, 3), 1500),
    "time and LSTM": (lambda: Sequence(nn.LSTM), (2, 3, 20), (2, 2), 700),
    "time and GRU": (lambda: Sequence(nn.GRU), (2, 3, 20), (2, 2), 500),
    "volumes": (Volume, (1, 1, 10, 10, 10), (2, 2), 1800),
    "called twice": (Twice, (1, 3, 10, 10), (4, 5), 700),
}  # fmt: skip


BOTH_WAYS = ("super-resolution", "time and LSTM")
LATER = ("u-net", "called twice")
CASES = [(name, "script, folded") for name in NETWORKS]
CASES += [(name, "dynamo, folded") for name in BOTH_WAYS]
CASES += [pytest.param(name, "dynamo, folded", marks=pytest.mark.nightly) for name in LATER]


@pytest.mark.parametrize(("name", "variant"), CASES)
def test_network(name, variant, tmp_path):
    build, shape, moved_of_all, least = NETWORKS[name]
    torch.manual_seed(0)
    module = randomize(build())
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    proof = prove(export(module, x, tmp_path / "m.onnx", variant), x.numpy())
    assert (proof.verdict.moved, proof.verdict.convolutions) == moved_of_all
    assert proof.parameters > least
    assert set(proof.frozen.values()) == {"reaches an output of the model"}
