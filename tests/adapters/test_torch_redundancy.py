"""In a trained CNN exactly the channels that give nothing up are freed."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pytest
import torch
from rejuvenet.adapters.torch import reorganize
from rejuvenet.graph import Recipe
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

CHANNELS = 24


@pytest.fixture(scope="module")
def data():
    digits = load_digits()
    x = torch.tensor(digits.images[:600], dtype=torch.float32)[:, None] / 16
    y = torch.tensor(digits.target[:600])
    return list(zip(x.split(200), y.split(200), strict=True))


@pytest.fixture(scope="module")
def trained(data):
    """A small CNN, trained on digits."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, CHANNELS, 3, padding=1, bias=False), nn.BatchNorm2d(CHANNELS), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * CHANNELS, 10),
    )  # fmt: skip
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(12):
        for images, labels in data:
            loss = F.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval()


@torch.no_grad()
def plant(model, seed):
    """Copies of some channels of the second convolution, and dead ones."""
    model = copy.deepcopy(model)
    order = np.random.default_rng(seed).permutation(CHANNELS)
    original = np.arange(CHANNELS)
    original[order[:2]] = order[5]
    original[order[2:4]] = order[6]
    dead = np.sort(order[7:10])
    convolution, norm = model[4], model[5]
    for tensor in (convolution.weight, *norm.parameters(), norm.running_mean, norm.running_var):
        tensor.copy_(tensor[original])
    norm.weight[dead], norm.bias[dead] = 0.0, -1.0
    return model, original, dead


@pytest.mark.parametrize("outgoing", ["sum", "least_squares"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_copies_and_dead_channels_are_freed_and_the_outputs_stay(trained, data, seed, outgoing):
    model, original, dead = plant(trained, seed)
    images = torch.cat([images for images, _ in data])
    before = model(images).detach()
    report = reorganize(model, data, ["4"], Recipe(ratio="redundant", outgoing=outgoing))
    plan = report.plan.groups[0]
    node = [tuple(np.flatnonzero(column)) for column in (plan.A != 0).T]
    expected = np.full(CHANNELS, -1)
    for j in range(CHANNELS):
        if j not in dead:
            expected[j] = original[j]
    for j in range(CHANNELS):
        assert node[j] == () if expected[j] < 0 else len(node[j]) == 1
        for k in range(CHANNELS):
            assert (node[j] == node[k]) == (expected[j] == expected[k])
    assert len(plan.new) == 4 + 3
    assert len(report.groups[0].to_dict()["reason"]) == 0
    change = (model(images).detach() - before).abs().max() / before.abs().max()
    assert change < 1e-5
    assert report.output_change < 1e-5


def test_a_network_without_redundancy_stays_as_it_is(trained, data):
    model = copy.deepcopy(trained)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        report = reorganize(model, data, ["4"], Recipe(ratio="redundant"))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert report.plan.groups[0].idle
    assert "nothing is redundant" in report.groups[0].reason
    assert any("4.weight" in str(warning.message) for warning in caught)
