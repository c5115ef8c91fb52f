"""Which channels may move and why the others may not: the same for a module and for its file."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

from rejuvenet.adapters import onnx as onnx_adapter  # noqa: E402
from rejuvenet.adapters.torch import arrange, reorganize, trace  # noqa: E402
from rejuvenet.graph import Recipe  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

sys.path.insert(0, str(Path(__file__).parent))

from group_networks import Net  # noqa: E402
from onnx_exports import export  # noqa: E402

OUTPUT = "reaches an output of the model"
X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def conv(n_in, n_out, kernel=3):
    return nn.Conv2d(n_in, n_out, kernel, padding=kernel // 2)


def boxes(m, x):
    """YOLO: columns of each anchor decoded one by one, then all levels."""
    y = m.b(m.a(x).relu())
    n, _, h, w = y.shape
    y = y.view(n, 3, 5, h, w).permute(0, 1, 3, 4, 2)
    parts = y[..., :2].sigmoid() * 2, y[..., 2:4].sigmoid() ** 2, y[..., 4:]
    return torch.cat([torch.cat(parts, -1).reshape(n, -1, 5)], 1)


def columns(m, x):
    """The same along the axis of channels, in any order of the parts."""
    y = m.b(m.a(x)).view(len(x), 3, 5, -1)
    y = torch.cat([y[:, :, 4:], y[:, :, 2:4].exp(), y[:, :, :2].sigmoid()], 2)
    return torch.cat([y, y], 1)


def beside(m, x):
    """Parts over (3, 5) as one axis of channels, beside parts over 3 and over 2 of their own."""
    y = m.b(m.a(x)).view(len(x), 3, 5, -1)
    z = m.c(x).view(len(x), 3, 1, -1) * m.d(x).view(len(x), 1, 2, -1)
    return m.l(torch.cat([y, z], 2).permute(0, 2, 3, 1)).mean(2)


def wider(m, x):
    """PyramidNet: a shortcut with fewer channels than what it is added to."""
    short = torch.cat([m.a(x), torch.zeros(len(x), 8, 8, 8, dtype=x.dtype)], 1)
    return m.l((m.b(x) + short).relu().mean((2, 3)))


def marked(m, x):
    """The same with ones that were cut out, joined with others along another axis, and moved."""
    one = torch.ones(len(x), 9, 4, 8, dtype=x.dtype)[:, 1:]
    one = torch.cat([one, 2 * one], 2).permute(0, 2, 3, 1)
    short = torch.cat([m.a(x).permute(0, 2, 3, 1), one], -1)
    return m.l((m.b(x).permute(0, 2, 3, 1) + short).relu().mean((1, 2)))


def numbered(m, x):
    """Beside channels of one value each: these are not equal."""
    row = torch.arange(8, dtype=x.dtype).view(1, 8, 1, 1).expand(len(x), 8, 8, 8)
    return m.l((m.b(x) + torch.cat([m.a(x), row], 1)).relu().mean((2, 3)))


def states(m, x):
    """ConvLSTM: a first state of zeros."""
    h = torch.zeros(len(x), 4, 8, 8, dtype=x.dtype)
    for _ in range(2):
        h = m.b(torch.cat([m.a(x), h], 1)).tanh()
    return m.l(h.mean((2, 3)))


def shortcut():
    return {"a": conv(3, 8), "b": conv(3, 16), "l": nn.Linear(16, 5)}


def transformed(m, x):
    """A matrix whose rows one tensor scales, and whose columns another."""
    matrix = m.t(x.mean((2, 3))).view(-1, 8, 8)
    matrix = matrix + m.r(x).mean((2, 3))[:, :, None] * m.s(x).mean((2, 3))[:, None, :]
    return m.l(m.a(x).flatten(2).transpose(1, 2) @ matrix)


def sampled(m, x):
    grid = m.b(x).permute(0, 2, 3, 1).tanh()
    return m.l(F.grid_sample(m.a(x), grid, align_corners=False).mean((2, 3)))


def distant(m, x):
    a, b = m.a(x).flatten(2).transpose(1, 2), m.b(x).flatten(2).transpose(1, 2)
    return torch.cdist(a, b), m.l(a)


def quantized(m, x):
    """Distances to rows of a table, whose columns move with the channels."""
    a = m.a(x).mean((2, 3))
    return torch.cdist(a, m.c.weight), m.l(a)


def chosen(m, x):
    """Rows along the axis of samples, then positions, both chosen by data."""
    y = m.a(x).flatten(2)
    y = y[y.mean((1, 2)).argsort()][:, :, y.mean((0, 1)).argmax().view(1, 1)]
    return m.l(y.flatten(2).mean(2))


def unfolded(m, x):
    blocks = F.unfold(m.a(x), 4, stride=2, padding=1)
    return m.l(F.fold(blocks.relu(), (8, 8), 4, stride=2, padding=1).mean((2, 3)))


def unpooled(m, x):
    y, places = F.max_pool2d(m.a(x), 2, return_indices=True)
    return m.l(F.max_unpool2d(m.b(y), places, 2).mean((2, 3)))


def regions(m, x):
    """More regions than samples: what reads them has channels, and no axis of samples."""
    from torchvision.ops import roi_align

    boxes = torch.tensor([[0, 1, 1, 6, 6], [0, 2, 3, 7, 7], [1, 2, 3, 7, 7]], dtype=x.dtype)
    return m.l(m.b(roi_align(m.a(x), boxes, (3, 3), 1.0, 2).flatten(1)).relu())


def gram(m, x):
    """Bilinear pooling: products of all pairs of channels, flattened."""
    y = m.a(m.b(x)).flatten(2)
    return m.l((y @ y.transpose(1, 2)).flatten(1))


# By the name of each layer: why its channels stay, or None; a list for several groups.
NETWORKS = {
    "boxes": (lambda: Net(boxes, a=conv(3, 8), b=conv(8, 15, 1)), {"a": None, "b": OUTPUT}),
    "columns": (lambda: Net(columns, a=conv(3, 8), b=conv(8, 15, 1)), {"a": None, "b": OUTPUT}),
    "beside": (
        lambda: Net(
            beside, a=conv(3, 8), b=conv(8, 15), c=conv(3, 3), d=conv(3, 2), l=nn.Linear(3, 6)
        ),
        {"a": None, "b": OUTPUT, "c": "order is fixed", "d": OUTPUT, "l": OUTPUT},
    ),
    "wider": (lambda: Net(wider, **shortcut()), {"a": None, "b": None, "l": OUTPUT}),
    "marked": (lambda: Net(marked, **shortcut()), {"a": None, "b": None, "l": OUTPUT}),
    "numbered": (
        lambda: Net(numbered, **shortcut()), {"a": None, "b": [None, "order is fixed"], "l": OUTPUT}
    ),
    "transformed": (
        lambda: Net(transformed, t=nn.Linear(3, 64), **{k: conv(3, 8) for k in "rsa"},
                    l=nn.Linear(8, 4)),
        {"t": None, "r": None, "a": None, "s": "order is fixed", "l": OUTPUT},
    ),
    "sampled": (
        lambda: Net(sampled, a=conv(3, 8), b=conv(3, 2), l=nn.Linear(8, 5)),
        {"a": None, "b": "places to read", "l": OUTPUT},
    ),
    "distant": (
        lambda: Net(distant, a=conv(3, 8), b=conv(3, 8), l=nn.Linear(8, 5)),
        {"a": None, "b": None, "l": OUTPUT},
    ),
    "quantized": (
        lambda: Net(quantized, a=conv(3, 8), c=nn.Embedding(6, 8), l=nn.Linear(8, 5)),
        {"a": None, "l": OUTPUT},
    ),
    "chosen": (lambda: Net(chosen, a=conv(3, 8), l=nn.Linear(8, 5)), {"a": None, "l": OUTPUT}),
    "unfolded": (lambda: Net(unfolded, a=conv(3, 8), l=nn.Linear(8, 5)), {"a": None, "l": OUTPUT}),
    "unpooled": (
        lambda: Net(unpooled, a=conv(3, 8), b=conv(8, 8), l=nn.Linear(8, 5)),
        {"a": None, "b": None, "l": OUTPUT},
    ),
    "regions": (
        lambda: Net(regions, a=conv(3, 8), b=nn.Linear(72, 10), l=nn.Linear(10, 5)),
        {"a": None, "b": None, "l": OUTPUT},
    ),
    "gram": (
        lambda: Net(gram, b=conv(3, 6), a=conv(6, 8), l=nn.Linear(64, 5)),
        {"b": None, "a": "each pair", "l": OUTPUT},
    ),
    "states": (
        lambda: Net(states, a=conv(3, 8), b=conv(12, 4), l=nn.Linear(4, 5)),
        {"a": None, "b": None, "l": OUTPUT},
    ),
}  # fmt: skip

IN_FILES = {"numbered": {"b": None}}  # constants of a file are weights: they move along


def check(groups, why):
    """Every layer is in a group, and it is frozen for the reason given, or free as a whole."""
    for layer, reasons in why.items():
        own = [g for g in groups if any(m.weight == f"{layer}.weight" and m.kind == "producer"
                                        for m in g.members)]  # fmt: skip
        assert own, layer
        reasons = reasons if isinstance(reasons, list) else [reasons] * len(own)
        for group, reason in zip(own, reasons, strict=True):
            if reason is None:
                assert sorted(np.concatenate(group.exchangeable)) == [*range(group.channels)], layer
            else:
                assert reason in (group.frozen or ""), (layer, group.frozen)


def built(name):
    if name == "regions":
        pytest.importorskip("torchvision")
    torch.manual_seed(0)
    return NETWORKS[name][0]().eval()


@pytest.mark.parametrize("name", NETWORKS)
def test_channels_of_a_module(name):
    model = built(name).double()
    check(trace(model, X.double()).groups, NETWORKS[name][1])
    with torch.no_grad():
        before = model(X.double())
        arrange(model, X.double(), order="random")
        torch.testing.assert_close(model(X.double()), before, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "unpooled"])  # no exporter
def test_channels_of_its_file(name, tmp_path):
    path = export(built(name), X, tmp_path / "model.onnx", "script, kept")
    model = onnx_adapter.load(path)
    check(model.groups, NETWORKS[name][1] | IN_FILES.get(name, {}))
    assert onnx_adapter.arrange(model, order="random")[1].verdict is not None


def test_a_layer_whose_samples_nothing_tells_says_so():
    model = built("regions")
    report = reorganize(model, [(X, torch.arange(2))], "all", Recipe.preserving(ratio=0.5))
    assert [r.group for r in report.groups] == ["a.weight"]
    assert "the samples along another" in report.skipped["b.weight"]


class Scaled(nn.Module):
    """A kernel that is divided by what the pass reads before it."""

    def __init__(self):
        super().__init__()
        self.variance = nn.Parameter(torch.rand(8) + 0.2)
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1)

    def forward(self, x):
        scale = (self.variance + 1e-3).rsqrt()[:, None, None, None]
        return self.b(F.conv2d(x, scale * self.a.weight, self.a.bias).relu()).mean((2, 3))


@pytest.mark.parametrize("file", [False, True])
def test_new_channels_of_a_scaled_kernel_get_filters_of_their_own(file, tmp_path):
    torch.manual_seed(0)
    x, y = torch.randn(40, 3, 8, 8), torch.arange(40) % 4
    model, recipe = Scaled().eval(), Recipe.preserving(ratio=0.5)
    if file:
        path = export(model, x, tmp_path / "model.onnx", "script, kept")
        changed, report = onnx_adapter.reorganize(path, [(x.numpy(), y.numpy())], "all", recipe)
        weight, variance = changed.weights["a.weight"], changed.weights["variance"]
    else:
        report = reorganize(model, [(x, y)], "all", recipe)
        weight, variance = model.a.weight.detach().numpy(), model.variance.detach().numpy()
    assert [(r.group, r.new) for r in report.groups] == [("a.weight", 4)]
    assert 0 < report.output_change < 1
    new = report.plan.groups[0].new
    assert len(np.unique(weight[new].reshape(4, -1)[:, 0])) == 4
    assert (variance > 0).all()
