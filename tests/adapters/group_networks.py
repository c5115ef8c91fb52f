"""Networks whose channels lie in several places, in halves, behind time, or in tied weights."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F


class Net(nn.Module):
    """A model from a function of its modules and its input."""

    def __init__(self, function, **modules):
        super().__init__()
        self.function = function
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, x):
        return self.function(self, x)


def conv(n_in, n_out, groups=1):
    return nn.Sequential(
        nn.Conv2d(n_in, n_out, 3, padding=1, groups=groups), nn.BatchNorm2d(n_out), nn.PReLU(n_out)
    )


def head(channels):
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 5))


def ghost(m, x):
    a = m.a(x)
    return m.h(m.b(torch.cat([a, m.c(a)], 1)))


def c2f(m, x):
    parts = list(m.a(x).chunk(2, 1))
    for block in m.m:
        parts.append(parts[-1] + block(parts[-1]))
    return m.h(m.b(torch.cat(parts, 1)))


def shuffled(m, x):
    """Two halves that are treated differently, a gate from the mean, and a channel shuffle."""
    left, right = m.a(x).chunk(2, 1)
    right = right + m.c(left)
    right = right * torch.sigmoid(m.g(right.mean((2, 3), keepdim=True)))
    y = torch.cat([left, right], 1)
    n, c, h, w = y.shape
    return m.h(m.t(y.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)))


def expanded(m, x):
    """A gate for each channel times one for each position, both expanded."""
    a = m.a(x)
    gate = m.l(a.mean((2, 3)))[..., None, None].expand_as(a)
    return m.h(a * torch.sigmoid(gate) * torch.sigmoid(m.p(a).expand_as(a)).exp())


def tied(m, x):
    return m.h(F.conv_transpose2d(F.relu(F.conv2d(m.a(x), m.e.weight)), m.e.weight))


def recurrent(m, x):
    h = c = x.new_zeros(1) * m.a(x).mean((2, 3))
    for _ in range(2):
        h, c = m.g(m.a(x).mean((2, 3)), (h, c))
    return m.l(h)


def pyramid(m, x):
    """ESPNet: the same reduced channels through several dilations, summed up step by step."""
    a = m.a(x)
    parts = [b(a) for b in m.m]
    sums = [parts[0], parts[0] + parts[1]]
    return m.h(m.b(torch.cat(sums, 1) + torch.cat([a, a], 1)))


def blocks(n, channels):
    return nn.ModuleList(conv(channels, channels) for _ in range(n))


MODELS = {
    "ghost": lambda: Net(ghost, a=conv(3, 8), c=conv(8, 8, 8), b=conv(16, 8), h=head(8)),
    "C2f": lambda: Net(c2f, a=conv(3, 16), m=blocks(2, 8), b=conv(32, 8), h=head(8)),
    "concat(x, x)": lambda: Net(
        lambda m, x: m.h(m.b(torch.cat([a := m.a(x), a], 1))),
        a=conv(3, 8), b=conv(16, 8), h=head(8),
    ),
    "depthwise multiplier": lambda: nn.Sequential(conv(3, 8), conv(8, 24, 8), conv(24, 8), head(8)),
    "flattened": lambda: nn.Sequential(
        conv(3, 8), conv(8, 16, 8), nn.Flatten(), nn.Linear(1024, 5)
    ),
    "halves and shuffle": lambda: Net(
        shuffled, a=nn.Sequential(conv(3, 16), conv(16, 32, 2)), c=nn.Conv2d(16, 16, 1),
        g=nn.Conv2d(16, 16, 1), t=nn.ConvTranspose2d(32, 8, 2, 2), h=head(8),
    ),
    "expanded gates": lambda: Net(
        expanded, a=conv(3, 8), l=nn.Linear(8, 8), p=nn.Conv2d(8, 1, 1), h=head(8)
    ),
    "tied autoencoder": lambda: Net(
        tied, a=nn.Sequential(conv(3, 6), conv(6, 8)), e=nn.Conv2d(8, 6, 3), h=head(8)
    ),
    "recurrent gates": lambda: Net(
        recurrent, a=conv(3, 10), g=nn.LSTMCell(10, 10), l=nn.Linear(10, 5)
    ),
    "pyramid": lambda: Net(pyramid, a=conv(3, 8), m=blocks(2, 8), b=conv(16, 8), h=head(8)),
    "attention": lambda: Net(
        lambda m, x: m.l(m.m(y := m.a(x).flatten(2).transpose(1, 2), y, y)[0].mean(1)),
        a=conv(3, 8), m=nn.MultiheadAttention(8, 2, batch_first=True), l=nn.Linear(8, 5),
    ),
    "einsum": lambda: Net(
        lambda m, x: m.h(torch.einsum("bchw,oc->bohw", m.a(x), m.l.weight)),
        a=conv(3, 8), l=nn.Linear(8, 6), h=head(6),
    ),
}  # fmt: skip


def built(name):
    torch.manual_seed(0)
    model = MODELS[name]().double().eval()
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            if tensor.is_floating_point():
                tensor.add_(0.1 * torch.rand_like(tensor))
    return model


def images(n=8):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, 3, 8, 8, dtype=torch.double, generator=generator)
