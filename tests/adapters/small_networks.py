"""Small networks of many kinds: segmentation, detection, super-resolution, audio, video, ...

``NETWORKS`` maps a name to a module's class and the shapes of its inputs; ``UNMOVED`` says which
convolutions cannot move, because they make the outputs.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F


def block(i: int, o: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    """Convolution, normalization, ReLU."""
    conv = nn.Conv2d(i, o, 3, stride, padding=dilation, dilation=dilation, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(o), nn.ReLU())


class FullyConvolutional(nn.Module):
    """FCN: a dilated backbone, a head on its end and an auxiliary one, resized to the input."""

    def __init__(self):
        super().__init__()
        self.first, self.second = block(3, 8, 2), block(8, 12, 1, 2)
        self.head = nn.Sequential(block(12, 6), nn.Dropout(0.1), nn.Conv2d(6, 5, 1))
        self.aux = nn.Sequential(block(8, 4), nn.Conv2d(4, 5, 1))

    def forward(self, x):
        a = self.first(x)
        b = self.second(a)
        both = {"out": self.head(b), "aux": self.aux(a)}
        return {
            name: F.interpolate(y, size=x.shape[-2:], mode="bilinear", align_corners=False)
            for name, y in both.items()
        }


class Atrous(nn.Module):
    """DeepLab's pyramid: parallel dilated convolutions and a pooled branch, concatenated."""

    def __init__(self):
        super().__init__()
        self.stem = block(3, 8, 2)
        self.branches = nn.ModuleList([block(8, 6, 1, d) for d in (1, 2, 3)])
        self.pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 6, 1), nn.ReLU())
        self.project = nn.Sequential(block(24, 10), nn.Conv2d(10, 5, 1))

    def forward(self, x):
        y = self.stem(x)
        parts = [branch(y) for branch in self.branches]
        parts.append(F.interpolate(self.pooled(y), size=y.shape[-2:], mode="bilinear"))
        return F.interpolate(self.project(torch.cat(parts, 1)), size=x.shape[-2:], mode="nearest")


class Gated(nn.Module):
    """LR-ASPP: a high-resolution path, and a low one gated by its own pooled features."""

    def __init__(self):
        super().__init__()
        self.low, self.high = block(3, 8, 2), block(8, 12, 2)
        self.cbr = nn.Sequential(nn.Conv2d(12, 6, 1, bias=False), nn.BatchNorm2d(6), nn.ReLU())
        self.scale = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(12, 6, 1, bias=False), nn.Sigmoid()
        )
        self.low_classes, self.high_classes = nn.Conv2d(8, 5, 1), nn.Conv2d(6, 5, 1)

    def forward(self, x):
        low = self.low(x)
        high = self.high(low)
        y = F.interpolate(self.cbr(high) * self.scale(high), size=low.shape[-2:], mode="bilinear")
        return self.low_classes(low) + self.high_classes(y)


class Pyramid(nn.Module):
    """Feature pyramid with a detection head that all its levels share."""

    def __init__(self):
        super().__init__()
        self.stages = nn.ModuleList([block(3, 8, 2), block(8, 12, 2), block(12, 16, 2)])
        self.inner = nn.ModuleList([nn.Conv2d(c, 10, 1) for c in (8, 12, 16)])
        self.layers = nn.ModuleList([nn.Conv2d(10, 10, 3, padding=1) for _ in range(3)])
        self.head = nn.Sequential(block(10, 9), nn.Conv2d(9, 6, 3, padding=1))

    def forward(self, x):
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        top, levels = None, []
        for inner, layer, feature in reversed(
            list(zip(self.inner, self.layers, features, strict=True))
        ):
            here = inner(feature)
            if top is not None:
                here = here + F.interpolate(top, size=here.shape[-2:], mode="nearest")
            top = here
            levels.append(self.head(layer(here)))
        return levels, F.max_pool2d(levels[0], 1, 2)


class Residual3d(nn.Module):
    """Video: 3-D convolutions with a residual sum."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv3d(3, 8, (3, 5, 5), (1, 2, 2), (1, 2, 2), bias=False), nn.BatchNorm3d(8)
        )
        self.a, self.b = nn.Conv3d(8, 8, 3, padding=1), nn.Conv3d(8, 8, 3, padding=1)
        self.norm, self.head = nn.BatchNorm3d(8), nn.Linear(8, 4)

    def forward(self, x):
        x = self.stem(x).relu()
        x = (x + self.norm(self.b(self.a(x).relu()))).relu()
        return self.head(x.mean((2, 3, 4)))


class UNet(nn.Module):
    """Two levels, transposed convolutions, skip connections by concatenation."""

    def __init__(self):
        super().__init__()
        self.down = nn.ModuleList([block(3, 8), block(8, 12)])
        self.middle = block(12, 16)
        self.up = nn.ModuleList(
            [nn.ConvTranspose2d(16, 12, 2, stride=2), nn.ConvTranspose2d(12, 8, 2, stride=2)]
        )
        self.merge = nn.ModuleList([block(24, 12), block(16, 8)])
        self.last = nn.Conv2d(8, 2, 1)

    def forward(self, x):
        skips = []
        for down in self.down:
            x = down(x)
            skips.append(x)
            x = F.max_pool2d(x, 2)
        x = self.middle(x)
        for up, merge, skip in zip(self.up, self.merge, reversed(skips), strict=True):
            x = merge(torch.cat([skip, up(x)], 1))
        return self.last(x)


class SuperResolution(nn.Module):
    """ESPCN: pixel shuffles in the middle and at the end."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 8, 5, padding=2), nn.Conv2d(8, 24, 3, padding=1)
        self.c, self.d = nn.Conv2d(6, 8, 3, padding=1), nn.Conv2d(8, 4, 3, padding=1)
        self.shuffle = nn.PixelShuffle(2)

    def forward(self, x):
        x = self.shuffle(self.b(self.a(x).tanh()).tanh())
        return self.shuffle(self.d(self.c(x).tanh())).sigmoid()


class Audio(nn.Module):
    """Raw audio: 1-D convolutions, dilated, depthwise and gated, pooled over time."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv1d(1, 8, 15, stride=4), nn.BatchNorm1d(8), nn.ReLU())
        self.gate = nn.Conv1d(8, 16, 3, padding=2, dilation=2)
        self.depthwise = nn.Conv1d(8, 8, 5, padding=2, groups=8)
        self.point = nn.Conv1d(8, 12, 1)
        self.head = nn.Linear(12, 6)

    def forward(self, x):
        x = self.stem(x)
        x = x + F.glu(self.gate(x), 1)
        return self.head(self.point(self.depthwise(x)).relu().amax(2))


class Recurrent(nn.Module):
    """Convolutions whose maps are read as a sequence by a recurrent layer."""

    def __init__(self, kind: type[nn.RNNBase]):
        super().__init__()
        self.a, self.b = block(1, 6, 2), block(6, 8)
        self.rnn = kind(8 * 4, 10, num_layers=2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(20, 5)

    def forward(self, x):
        x = self.b(self.a(x))
        return self.head(self.rnn(x.permute(0, 3, 1, 2).flatten(2))[0])


class Gru(Recurrent):
    """With gated recurrent units."""

    def __init__(self):
        super().__init__(nn.GRU)


class Lstm(Recurrent):
    """With long short-term memory."""

    def __init__(self):
        super().__init__(nn.LSTM)


class Tied(nn.Module):
    """An autoencoder whose decoder is its encoder transposed."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 12, 3, padding=1)
        self.shift = nn.Parameter(torch.randn(8))

    def forward(self, x):
        z = self.b(self.a(x).relu()).relu()
        y = F.conv_transpose2d(z, self.b.weight, self.shift, padding=1).relu()
        return F.conv_transpose2d(y, self.a.weight, padding=1)


class CalledTwice(nn.Module):
    """One block applied repeatedly, and one convolution on two paths."""

    def __init__(self):
        super().__init__()
        self.stem, self.again, self.tower = block(3, 8), block(8, 8), nn.Conv2d(8, 6, 3)
        self.head = nn.Linear(12, 3)

    def forward(self, x):
        x = self.stem(x)
        y = self.again(self.again(x))
        both = [self.tower(x).mean((2, 3)), self.tower(y).amax((2, 3))]
        return self.head(torch.cat(both, 1))


class WeightNorm(nn.Module):
    """Weights as length and direction, by a parametrization and by a hook."""

    def __init__(self):
        super().__init__()
        self.a = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 8, 3))
        self.b = nn.utils.parametrizations.weight_norm(nn.Conv2d(8, 12, 3, groups=4))
        self.up = nn.utils.parametrizations.weight_norm(nn.ConvTranspose2d(12, 6, 2))
        self.c = nn.Conv2d(6, 4, 3)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        x = self.c(self.up(self.b(self.a(x).relu()).relu()).relu())
        return self.head(x.mean((2, 3)))


class SpectralNorm(nn.Module):
    """Weights divided by their largest singular value."""

    def __init__(self):
        super().__init__()
        norm = nn.utils.parametrizations.spectral_norm
        self.a, self.b = norm(nn.Conv2d(3, 8, 3)), norm(nn.Conv2d(8, 6, 3))
        self.c = norm(nn.ConvTranspose2d(6, 6, 3))
        self.head = norm(nn.Linear(6, 3))

    def forward(self, x):
        return self.head(self.c(self.b(self.a(x).relu()).relu()).mean((2, 3)))


class SeveralInputsAndOutputs(nn.Module):
    """An image and a vector that modulates it; features, scores and a mask come out."""

    def __init__(self):
        super().__init__()
        self.a, self.b = block(3, 8, 2), block(8, 8)
        self.film = nn.Linear(5, 16)
        self.scores, self.mask = nn.Linear(8, 4), nn.Conv2d(8, 2, 1)
        self.features = nn.Conv2d(8, 6, 1)

    def forward(self, image, vector):
        x = self.a(image)
        scale, shift = self.film(vector)[:, :, None, None].chunk(2, 1)
        x = self.b(x * scale + shift)
        return self.features(x), {"scores": self.scores(x.mean((2, 3))), "mask": self.mask(x)}


class KeptBias(nn.Module):
    """Attention that looks its biases up once and keeps them (LeViT), then a GroupNorm."""

    def __init__(self):
        super().__init__()
        self.stem, self.qkv = nn.Conv2d(3, 12, 8, stride=8), nn.Conv2d(12, 48, 1)
        self.biases = nn.Parameter(torch.randn(4, 9))
        place = torch.stack(torch.meshgrid(*[torch.arange(3)] * 2, indexing="ij")).flatten(1)
        apart = (place[:, :, None] - place[:, None]).abs()
        self.register_buffer("places", 3 * apart[0] + apart[1])
        self.kept = {}
        self.proj, self.norm, self.head = nn.Conv2d(16, 12, 1), nn.GroupNorm(3, 12), block(12, 8)
        self.last = nn.Conv2d(8, 5, 1)

    def bias(self):
        if self.training or torch.jit.is_tracing():
            return self.biases[:, self.places]
        if "bias" not in self.kept:
            self.kept["bias"] = self.biases[:, self.places]
        return self.kept["bias"]

    def forward(self, x):
        q, k, v = self.qkv(self.stem(x)).view(-1, 4, 12, 9).split(4, dim=2)
        weights = (q.transpose(2, 3) @ k + self.bias()).softmax(-1)
        x = (v @ weights.transpose(2, 3)).reshape(-1, 16, 3, 3)
        return self.last(self.head(self.norm(self.proj(x))))


class ResponseNorm(nn.Module):
    """Channels scaled by how strong they are beside the others (ConvNeXt V2), behind a SiLU."""

    def __init__(self):
        super().__init__()
        self.stem, self.a = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 12, 1)
        self.weight, self.bias = (nn.Parameter(torch.randn(12)) for _ in range(2))
        self.b, self.head = nn.Conv2d(12, 6, 1), nn.Linear(6, 4)

    def forward(self, x):
        x = self.a(F.silu(self.stem(x)))
        strength = x.norm(dim=(2, 3), keepdim=True)
        strength = strength / (strength.mean(1, keepdim=True) + 1e-6)
        bias, weight = self.bias.view(1, -1, 1, 1), self.weight.view(1, -1, 1, 1)
        x = x + torch.addcmul(bias, weight, x * strength)
        return self.head(self.b(x).mean((2, 3)))


class Tokens(nn.Module):
    """A table that data look up, attention, and a gate of two halves."""

    def __init__(self):
        super().__init__()
        self.table, self.places = nn.Embedding(11, 8), nn.Parameter(torch.randn(7, 8))
        self.norm, self.qkv, self.out = nn.LayerNorm(8), nn.Linear(8, 24), nn.Linear(8, 8)
        self.wide, self.narrow, self.head = nn.Linear(8, 10), nn.Linear(5, 8), nn.Linear(8, 3)

    def forward(self, x):
        x = self.table(x.abs().mul(3).long()) + self.places
        q, k, v = self.qkv(self.norm(x)).view(-1, 7, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v)
        x = x + self.out(y.transpose(1, 2).reshape(-1, 7, 8))
        return self.head((x + self.narrow(F.glu(self.wide(x)))).mean(1))


IMAGE = (1, 3, 24, 24)
NETWORKS: dict[str, tuple[type[nn.Module], tuple[tuple[int, ...], ...]]] = {
    "fcn": (FullyConvolutional, (IMAGE,)),
    "deeplab": (Atrous, (IMAGE,)),
    "lraspp": (Gated, (IMAGE,)),
    "fpn": (Pyramid, (IMAGE,)),
    "r3d": (Residual3d, ((1, 3, 4, 12, 12),)),
    "unet": (UNet, (IMAGE,)),
    "super_resolution": (SuperResolution, ((1, 1, 12, 12),)),
    "audio": (Audio, ((1, 1, 200),)),
    "gru": (Gru, ((1, 1, 8, 20),)),
    "lstm": (Lstm, ((1, 1, 8, 20),)),
    "tied": (Tied, (IMAGE,)),
    "kept_bias": (KeptBias, (IMAGE,)),
    "response_norm": (ResponseNorm, (IMAGE,)),
    "tokens": (Tokens, ((1, 7),)),
    "called_twice": (CalledTwice, (IMAGE,)),
    "weight_norm": (WeightNorm, (IMAGE,)),
    "spectral_norm": (SpectralNorm, (IMAGE,)),
    "several_inputs_and_outputs": (SeveralInputsAndOutputs, (IMAGE, (1, 5))),
}
OUTPUT = "reaches an output of the model"
UNMOVED = {
    "fcn": {"head.2.weight", "aux.1.weight"},
    "deeplab": {"project.1.weight"},
    "lraspp": {"low_classes.weight", "high_classes.weight"},
    "fpn": {"head.1.weight"},
    "unet": {"last.weight"},
    "kept_bias": {"last.weight"},
    "super_resolution": {"d.weight"},
    "several_inputs_and_outputs": {"features.weight", "mask.weight"},
}


def small_network(name: str) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """A network of the list with random weights, in evaluation mode, and its inputs."""
    torch.manual_seed(0)
    kind, shapes = NETWORKS[name]
    model = kind().eval()
    generator = torch.Generator().manual_seed(1)
    return model, tuple(torch.randn(shape, generator=generator) for shape in shapes)
