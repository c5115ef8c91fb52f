"""Scale moved between what makes channels and what reads them: the function stays."""

import copy
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from rejuvenet.adapters.torch import reorganize  # noqa: E402
from rejuvenet.graph import Recipe, reorganizing  # noqa: E402
from rejuvenet.graph.change.moments import squared_norms  # noqa: E402
from torch import nn  # noqa: E402

IMAGES, VECTORS = (3, 8, 8), (10,)


class Residual(nn.Module):
    """Two producers whose sum is read: both take the scale."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 12, 3), nn.Conv2d(3, 12, 3), nn.Conv2d(12, 4, 3)

    def forward(self, x):
        return self.c(torch.relu(self.a(x) + self.b(x))).mean((2, 3))


class ReadTwice(nn.Module):
    """What makes the channels is also read by something that is not homogeneous."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(10, 12), nn.Linear(12, 4), nn.Linear(12, 4)

    def forward(self, x):
        x = self.a(x)
        return self.b(torch.relu(x)) + self.c(torch.tanh(x))


class DepthwiseResidual(nn.Module):
    """A depthwise kernel reads channels, and makes channels that are added to them."""

    def __init__(self):
        super().__init__()
        self.a, self.c = nn.Conv2d(3, 12, 3), nn.Conv2d(12, 4, 1)
        self.between = nn.Conv2d(12, 12, 3, padding=1, groups=12)

    def forward(self, x):
        x = self.a(x)
        return self.c(torch.relu(x + self.between(x))).mean((2, 3))


class Divided(nn.Module):
    """Channels divided by a weight: a scale would act the other way round."""

    def __init__(self):
        super().__init__()
        self.a, self.c = nn.Linear(10, 12), nn.Linear(12, 4)
        self.by = nn.Parameter(torch.rand(12) + 1)

    def forward(self, x):
        return self.c(torch.relu(self.a(x) / self.by))


class CalledTwice(nn.Module):
    """What a layer makes in its last call is read by a normalization alone."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(10, 12), nn.Linear(12, 12, bias=False), nn.Linear(12, 4)
        self.norm = nn.LayerNorm(12)

    def forward(self, x):
        return self.c(self.norm(self.b(torch.relu(self.b(self.a(x))))))


class Added(nn.Module):
    """A number is added to every channel."""

    def forward(self, x):
        return torch.relu(x - 0.5)


def dense(between, *, bias=True):
    return nn.Sequential(nn.Linear(10, 12, bias=bias), between, nn.Linear(12, 4))


def conv(*between, flat=12):
    return nn.Sequential(nn.Conv2d(3, 12, 3), *between, nn.Flatten(), nn.Linear(flat, 4))


# Network, input, and whether scale can move.
NETWORKS = {
    "relu": (lambda: dense(nn.ReLU()), VECTORS, True),
    "no bias": (lambda: dense(nn.ReLU(), bias=False), VECTORS, True),
    "leaky": (lambda: dense(nn.LeakyReLU(0.2)), VECTORS, True),
    "prelu": (lambda: dense(nn.PReLU(12)), VECTORS, True),
    "linear": (lambda: dense(nn.Identity()), VECTORS, True),
    "max pool": (lambda: conv(nn.ReLU(), nn.MaxPool2d(2), flat=108), IMAGES, True),
    "mean": (lambda: conv(nn.ReLU(), nn.AdaptiveAvgPool2d(1)), IMAGES, True),
    "norm": (lambda: conv(nn.BatchNorm2d(12), nn.ReLU(), nn.AdaptiveAvgPool2d(1)), IMAGES, True),
    "depthwise": (
        lambda: conv(nn.ReLU(), nn.Conv2d(12, 12, 3, groups=12), nn.AdaptiveMaxPool2d(1)),
        IMAGES,
        True,
    ),
    "residual": (Residual, IMAGES, True),
    "depthwise residual": (DepthwiseResidual, IMAGES, False),
    "number added": (lambda: dense(Added()), VECTORS, False),
    "tanh": (lambda: dense(nn.Tanh()), VECTORS, False),
    "gelu": (lambda: dense(nn.GELU()), VECTORS, False),
    "relu6": (lambda: dense(nn.ReLU6()), VECTORS, False),
    "layer norm": (lambda: dense(nn.LayerNorm(12)), VECTORS, True),
    "no affine": (lambda: conv(nn.BatchNorm2d(12, affine=False), flat=432), IMAGES, False),
    "read twice": (ReadTwice, VECTORS, False),
    "divided": (Divided, VECTORS, False),
    "called twice": (CalledTwice, VECTORS, False),
}


def first_group(model):
    return next(name for name, p in model.named_parameters() if p.ndim > 1)


@pytest.mark.parametrize(
    ("name", "outgoing"),
    [*((name, "least_squares") for name in NETWORKS), ("norm", "sum"), ("residual", "sum")],
)
def test_the_function_is_that_without_balance(monkeypatch, name, outgoing):
    make, shape, balanced = NETWORKS[name]
    torch.manual_seed(0)
    model = make().double().eval()
    with torch.no_grad():
        for key, value in model.named_buffers():  # fresh statistics hide what is wrong
            if value.is_floating_point():
                value.copy_(torch.rand_like(value) + (0.5 if "var" in key else -0.5))
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    plain = copy.deepcopy(model)
    batches = [(torch.randn(40, *shape, dtype=torch.double), torch.arange(40) % 4)]
    recipe = Recipe.preserving(method="kmeans", ratio=0.5, outgoing=outgoing)
    layer = [first_group(model)]
    report = reorganize(model, batches, layer, recipe)
    monkeypatch.setattr(reorganizing, "balance_plan", lambda *_: None)
    reorganize(plain, batches, layer, recipe)
    x = batches[0][0]
    torch.testing.assert_close(model(x), plain(x), rtol=1e-12, atol=1e-12)
    weights = {key: p.detach().numpy() for key, p in model.named_parameters()}
    pairs = list(zip(model.parameters(), plain.parameters(), strict=True))
    moved = any(not torch.equal(p, q) for p, q in pairs)
    assert moved == balanced
    plan = report.plan.groups[0]
    if balanced and name not in ("norm", "layer norm", "depthwise"):
        making = [m for m in plan.members if m.kind != "consumer" and m.role != "parameter"]
        reading = [m for m in plan.members if m.kind == "consumer"]
        made, read = (squared_norms(ms, weights)[plan.survivors] for ms in (making, reading))
        np.testing.assert_allclose(made, read, rtol=1e-9)


@pytest.mark.parametrize("max_change", [None, 10.0])
def test_the_report_is_of_the_weights_that_stay(monkeypatch, max_change):
    """A balance that is wrong, of what reads channels, shows in the change of the outputs."""
    right = reorganizing.balance_plan

    def wrong(*given):
        plan = right(*given)
        return plan and replace(plan, B=np.eye(plan.channels) * 3.0)

    monkeypatch.setattr(reorganizing, "balance_plan", wrong)
    torch.manual_seed(0)
    model = dense(nn.ReLU())
    x = torch.randn(40, 10)
    plain = model(x).detach()
    batches, recipe = [(x, torch.arange(40) % 4)], Recipe.preserving(method="kmeans", ratio=0.5)
    report = reorganize(model, batches, "last", recipe, max_change=max_change)
    change = float((model(x).detach() - plain).norm() / plain.norm())
    assert change > 1.0
    assert report.output_change == pytest.approx(change, rel=0.3)  # on some of the samples


@pytest.mark.parametrize("recipe", [Recipe.paper(), Recipe.comparison("redo")])
def test_recipes_of_others_are_left_as_they_print_it(monkeypatch, recipe):
    torch.manual_seed(0)
    model = dense(nn.ReLU())
    plain = copy.deepcopy(model)
    batches = [(torch.randn(40, 10), torch.arange(40) % 4)]
    reorganize(model, batches, "last", recipe)
    monkeypatch.setattr(reorganizing, "balance_plan", lambda *_: None)
    reorganize(plain, batches, "last", recipe)
    pairs = zip(model.parameters(), plain.parameters(), strict=True)
    assert all(torch.equal(p, q) for p, q in pairs)
