"""A small network trained on scikit-learn's digits, for the tests of the adapters."""

from __future__ import annotations

import copy

import pytest

torch = pytest.importorskip("torch")


def make_network(width=8):
    """Two convolutions with normalization, the second one pooled into a linear layer."""
    nn = torch.nn
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(width, 2 * width, 3, padding=1),
        nn.BatchNorm2d(2 * width),
        nn.ReLU(),
        nn.Dropout(0.1),
        nn.Conv2d(2 * width, 2 * width, 3, padding=1, bias=False),
        nn.BatchNorm2d(2 * width),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(2 * width, 10),
    )


@pytest.fixture(scope="session")
def torch_digits():
    """Training and test images (n, 1, 8, 8) in [0, 1], and labels."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    x = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
    y = torch.tensor(digits.target)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    x, y = x[order], y[order]
    return x[:1297], y[:1297], x[1297:], y[1297:]


@pytest.fixture(scope="session")
def torch_batches(torch_digits):
    """Calibration batches of the training images."""
    x, y, _, _ = torch_digits
    return list(zip(x[:640].split(128), y[:640].split(128), strict=True))


@pytest.fixture(scope="session")
def _trained(torch_digits):
    x, y, _, _ = torch_digits
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = make_network()
        optimizer = torch.optim.Adam(network.parameters(), 3e-3)
        for _ in range(6):
            for picked in torch.randperm(len(x)).split(64):
                loss = torch.nn.functional.cross_entropy(network(x[picked]), y[picked])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    return network.eval()


@pytest.fixture
def trained_network(_trained):
    """A fresh copy of the trained network, in evaluation mode."""
    return copy.deepcopy(_trained)


@pytest.fixture(scope="session")
def _doubled(_trained):
    network = copy.deepcopy(_trained)
    conv, norm, linear = network[8], network[9], network[13]
    o = conv.out_channels
    wide = torch.nn.Conv2d(conv.in_channels, 2 * o, 3, padding=1, bias=False)
    wide_norm, wide_linear = torch.nn.BatchNorm2d(2 * o), torch.nn.Linear(2 * o, 10)
    share = torch.linspace(0.2, 0.8, o)
    with torch.no_grad():
        wide.weight.copy_(conv.weight.repeat(2, 1, 1, 1))
        for name in ("weight", "bias", "running_mean", "running_var"):
            getattr(wide_norm, name).copy_(getattr(norm, name).repeat(2))
        wide_linear.weight.copy_(
            torch.cat([linear.weight * share, linear.weight * (1 - share)], dim=1)
        )
        wide_linear.bias.copy_(linear.bias)
    network[8], network[9], network[13] = wide, wide_norm, wide_linear
    return network.eval()


@pytest.fixture
def duplicated_network(_doubled):
    """The trained network with every channel of the third convolution (layer 8) twice.

    The copies stand behind the originals and differ in nothing but their outgoing weights, of
    which each has its own share.
    """
    return copy.deepcopy(_doubled)
