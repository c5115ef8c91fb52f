"""Methods to compare with on a trained network, depthwise convolutions included."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from rejuvenet.adapters.torch import reorganize
from rejuvenet.graph import Recipe
from rejuvenet.graph.plan.recipe import COMPARISONS


@pytest.fixture(scope="module")
def separable(_trained):
    """The trained network with a depthwise convolution behind its second one."""
    layers = list(copy.deepcopy(_trained))
    with torch.random.fork_rng():
        torch.manual_seed(1)
        layers.insert(7, torch.nn.Conv2d(16, 16, 3, padding=1, groups=16))
    return torch.nn.Sequential(*layers).eval()


@pytest.mark.parametrize("name", COMPARISONS)
@pytest.mark.parametrize("layer", ["4", "9"])
def test_dropped_channels_contribute_nothing_and_are_ready_to_learn(
    separable, torch_batches, layer, name
):
    """What the network computes right after is what it computes without the dropped channels."""
    recipe = Recipe.comparison(name, ratio=0.75, batchnorm="merge")
    model = copy.deepcopy(separable)
    plan = reorganize(model, torch_batches, [layer], recipe).plan.groups[0]
    assert len(plan.new) == 4
    pruned = copy.deepcopy(separable)
    reader = {"4": pruned[9], "9": pruned[14]}[layer]
    with torch.no_grad():
        reader.weight[:, plan.new] = 0.0
    images, labels = torch_batches[0]
    after, expected = model(images), pruned(images)
    np.testing.assert_allclose(after.detach(), expected.detach(), rtol=1e-4, atol=1e-4)
    torch.nn.functional.cross_entropy(after, labels).backward()
    reader = {"4": model[9], "9": model[14]}[layer]
    assert (reader.weight.grad[:, plan.new] != 0).flatten(1).any(1).any()


def test_one_seed_draws_one_network(separable, torch_batches):
    drawn = set()
    for seed in (0, 0, 1):
        model = copy.deepcopy(separable)
        recipe = Recipe.comparison("repr", ratio=0.75, seed=seed)
        reorganize(model, torch_batches, ["9"], recipe)
        drawn.add(model[9].weight.detach().numpy().tobytes())
    assert len(drawn) == 2
