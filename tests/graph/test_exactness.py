"""Whatever the channel graph calls exchangeable keeps the function of random networks."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from rejuvenet.graph import arrange_plan, find_groups, transform

sys.path.insert(0, str(Path(__file__).parent))

from interpreter import run
from networks import networks

LENIENT = {"deadline": None, "suppress_health_check": list(HealthCheck)}
X = np.random.default_rng(1).normal(size=(2, 3, 4, 4))


def outputs(graph, weights):
    values = run(graph, weights, {"x": X})
    return np.concatenate([values[name].ravel() for name in graph.outputs])


def check_arrangement(graph, weights):
    groups = find_groups(graph)
    plan = arrange_plan(groups, order="random", seed=3)
    moved = {**weights, **transform(plan, weights)}
    before, after = outputs(graph, weights), outputs(graph, moved)
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-9 * max(1, abs(before).max()))
    return groups, moved


@settings(max_examples=60, derandomize=True, **LENIENT)
@given(networks())
def test_random_permutations_of_all_groups_keep_the_outputs(network):
    check_arrangement(*network)


@pytest.mark.nightly
@settings(max_examples=5000, derandomize=True, **LENIENT)
@given(networks(length=12))
def test_random_permutations_of_many_networks(network):
    check_arrangement(*network)
