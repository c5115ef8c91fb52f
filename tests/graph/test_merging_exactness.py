"""Duplicated channels of random networks merge without a trace wherever a merge is called exact.

A group is chosen, some of its channels become copies of others on every member that makes or scales
them (consumers read the copies with weights of their own), and a plan merges the copies again.  The
class means that the plan is made of tell the copies from the others and nothing else.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis import strategies as st
from rejuvenet.graph import ClassMeans, Recipe, find_groups, reorganize_plan, transform

sys.path.insert(0, str(Path(__file__).parent))

from interpreter import run
from networks import networks

LENIENT = {"deadline": None, "suppress_health_check": list(HealthCheck)}
X = np.random.default_rng(1).normal(size=(2, 3, 4, 4))


def outputs(graph, weights):
    values = run(graph, weights, {"x": X})
    return np.concatenate([values[name].ravel() for name in graph.outputs])


def unsaturated(weights):
    """Weights so small that no bounded function is at its bounds, where nothing would show."""
    return {name: w / np.sqrt(16 * w[0].size) if w.ndim > 1 else w for name, w in weights.items()}


def original_of(group, draw):
    """For every channel the one that it copies, itself as a rule."""
    original = np.arange(group.channels)
    for indices in group.exchangeable:
        chosen = draw(st.lists(st.integers(0, len(indices) - 1), min_size=1, max_size=6))
        original[indices[chosen]] = indices[0]
    return original


def with_copies(group, weights, original):
    """The weights with the producers' and per-channel rows of each channel's original."""
    weights = dict(weights)
    for member in group.members:
        if member.kind != "consumer":
            rows = np.array(member.rows(weights[member.weight]))
            rows[member.positions] = rows[member.positions[original]]
            weights[member.weight] = member.restore(rows, weights[member.weight].shape)
    return weights


def means_of(original):
    """Class means in which every original lights up a position of its own."""
    return ClassMeans.of(np.eye(len(original))[original][None, :, None], np.array([0]))


def merge(network, draw):
    """A group of the network and its plan, the weights before and those after it."""
    graph, weights = network.graph, unsaturated(network.weights)
    groups = [g for g in find_groups(graph) if g.frozen is None]
    assume(groups)
    group = draw(st.sampled_from(groups))
    original = original_of(group, draw)
    distinct = [len(np.unique(original[indices])) for indices in group.exchangeable]
    share = max(n / len(s) for n, s in zip(distinct, group.exchangeable, strict=True))
    recipe = Recipe(
        ratio=draw(st.sampled_from(["redundant", share])),
        merge=draw(st.sampled_from(["mean", "medoid"])),
        placement=draw(st.sampled_from(["map", "in_place"])),
        outgoing="sum",
    )
    before = with_copies(group, weights, original)
    kinds = {(m.weight, m.view, m.axes): set() for m in group.members}
    for member in group.members:
        kinds[member.weight, member.view, member.axes].add(member.kind == "consumer")
    assume(all(len(roles) == 1 for roles in kinds.values()))  # rows both made and read are refused
    plan = reorganize_plan(group, before, recipe, means_of(original))
    freed = sum(len(s) for s in group.exchangeable) - sum(distinct)
    assert len(plan.new) == freed or recipe.ratio == share
    return group, plan, before, {**before, **transform(plan, before)}


def check_merge(network, data):
    """Whether the plan freed something and is called exact, which is then shown."""
    group, plan, before, after = merge(network, data.draw)
    if group.exact_merge is not None:
        event("approximate")
        assert plan.note.startswith(f"approximate: {group.exact_merge}")
        return False
    expected, found = (outputs(network.graph, weights) for weights in (before, after))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9 * abs(expected).max())
    event("exact" if plan.new.size else "nothing to merge")
    return bool(plan.new.size)


def test_copies_merge_without_a_trace():
    exact = []

    @settings(max_examples=60, derandomize=True, **LENIENT)
    @given(networks(), st.data())
    def check(network, data):
        exact.append(check_merge(network, data))

    check()
    assert sum(exact) >= 18


def test_consumers_that_are_averaged_leave_a_trace():
    """The negative control: the paper's literal rule halves what two copies contribute."""
    changed = []

    @settings(max_examples=25, derandomize=True, **LENIENT)
    @given(networks(), st.data())
    def check(network, data):
        group, plan, before, _ = merge(network, data.draw)
        if group.exact_merge is None and plan.new.size and group.consumers:
            averaged = plan.B / np.maximum(plan.B.sum(axis=1, keepdims=True), 1)
            wrong = {**before, **transform(replace(plan, B=averaged), before)}
            expected = outputs(network.graph, before)
            difference = outputs(network.graph, wrong) - expected
            changed.append(np.abs(difference).max() > 1e-6 * np.abs(expected).max())

    check()
    assert len(changed) >= 6
    assert np.mean(changed) > 0.5


@pytest.mark.nightly
@settings(max_examples=2000, derandomize=True, **LENIENT)
@given(networks(length=12), st.data())
def test_copies_of_many_networks_merge_without_a_trace(network, data):
    check_merge(network, data)
