"""Methods to compare with: what they drop and what they start anew, against naive twins."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rejuvenet.graph import Member, Plan, Recipe, reorganize_plan, transform
from rejuvenet.graph.plan.importance import importance, overlap
from rejuvenet.graph.plan.recipe import COMPARISONS


def naive_overlap(W):
    """Equations 1 and 2 of Prakash et al. (2019), filter by filter."""
    scores = []
    for f in range(len(W)):
        others = [abs(W[f] @ w) / (np.linalg.norm(W[f]) * np.linalg.norm(w)) for w in W]
        scores.append((sum(others) - 1.0) / len(W))
    return np.array(scores)


def naive_dormancy(h):
    """Sokar et al. (2023), definition 3.1: activations of shape (samples, neurons)."""
    size = [np.mean([abs(value) for value in column]) for column in h.T]
    return np.array([value / (sum(size) / len(size)) for value in size])


def plan_of(network, recipe, **options):
    return reorganize_plan(network.group, network.weights, recipe, network.means(), **options)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 9), st.integers(2, 12), st.integers(0, 1000))
def test_overlap_is_that_of_repr(o, d, seed):
    W = np.random.default_rng(seed).normal(size=(o, d))
    np.testing.assert_allclose(overlap(W), naive_overlap(W), atol=1e-12)
    W[0] = 0.0  # a filter without a direction is the first to go
    assert overlap(W).argmax() == 0


def test_repr_drops_the_filters_that_overlap_most(network):
    plan = plan_of(network, Recipe.comparison("repr", ratio=0.75))
    W = network.weights["first"].astype(np.float64)
    np.testing.assert_array_equal(plan.new, np.sort(np.argsort(naive_overlap(W))[9:]))


def test_redo_drops_the_least_active(network):
    recipe = Recipe.comparison("redo", ratio=0.75)
    plan = plan_of(network, recipe)
    score = naive_dormancy(network.tap().astype(np.float64))
    np.testing.assert_array_equal(plan.new, np.sort(np.argsort(score)[:3]))
    found = importance(network.group, network.weights, recipe, network.means().activity)
    np.testing.assert_allclose(found / found.mean(), score, rtol=1e-5)
    result = transform(plan, network.weights)
    assert (result["second"][:, plan.new] == 0).all()
    assert (result["first"][plan.new] != network.weights["first"][plan.new]).all()
    np.testing.assert_array_equal(result["first"][plan.survivors],
                                  network.weights["first"][plan.survivors])  # fmt: skip


def test_dsd_sets_the_smallest_to_zero_and_goes_on_from_there(network):
    plan = plan_of(network, Recipe.comparison("dsd"))
    norms = np.linalg.norm(network.weights["first"], axis=1)
    smallest = np.argsort(norms)[:6]
    np.testing.assert_array_equal(plan.new, np.sort(smallest))
    expected = {name: value.copy() for name, value in network.weights.items()}
    expected["second"][:, smallest] = 0.0
    result = {**network.weights, **transform(plan, network.weights)}
    for name in expected:
        np.testing.assert_array_equal(result[name], expected[name])
    state = {name: np.ones_like(value) for name, value in network.weights.items()}
    assert not transform(plan, state, state="linear")["second"][:, plan.new].any()


def test_rigl_grows_along_the_largest_gradient(network):
    rng = np.random.default_rng(5)
    G = rng.normal(size=(12, 6))
    W = network.weights["first"].astype(np.float64)
    plan = plan_of(network, Recipe.comparison("rigl", ratio=0.75), gradients={"first": G})
    np.testing.assert_array_equal(plan.new, np.sort(np.argsort(np.linalg.norm(W, axis=1))[:3]))
    grown = transform(plan, network.weights)["first"][plan.new]
    _, _, vectors = np.linalg.svd(G)
    size = np.sqrt((np.linalg.norm(W[plan.survivors], axis=1) ** 2).mean())
    np.testing.assert_allclose(np.abs(grown), size * np.abs(vectors[:3]), rtol=1e-4, atol=1e-5)
    for w in grown:
        change = G @ w
        assert change[np.argmax(np.abs(change))] < 0  # more of it lowers the loss
    assert (transform(plan, network.weights)["second"][:, plan.new] == 0).all()


@pytest.mark.parametrize("name", COMPARISONS)
def test_all_free_the_same_share_and_stop_what_they_drop(network, name):
    gradients = {"first": np.random.default_rng(0).normal(size=(12, 6))}
    plan = plan_of(network, Recipe.comparison(name, ratio=0.5), gradients=gradients)
    assert (len(plan.new), len(plan.survivors), plan.merged) == (6, 6, 0)
    pruned = {**network.weights, "second": network.weights["second"].copy()}
    pruned["second"][:, plan.new] = 0.0
    changed = replace(network, weights={**network.weights, **transform(plan, network.weights)})
    np.testing.assert_allclose(changed.run(), replace(network, weights=pruned).run(), rtol=1e-6)
    again = plan_of(network, Recipe.comparison(name, ratio=0.5), gradients=gradients)
    one, two = (transform(p, network.weights) for p in (plan, again))
    assert all(one[key].tobytes() == two[key].tobytes() for key in one)


@pytest.mark.parametrize("init", ["null_space", "gradient", "keep"])
def test_plans_with_filters_are_saved_whole(network, init, tmp_path):
    gradients = {"first": np.random.default_rng(0).normal(size=(12, 6))}
    plan = Plan([plan_of(network, Recipe(init=init), gradients=gradients)])
    plan.save(tmp_path / "plan.npz")
    loaded = Plan.load(tmp_path / "plan.npz")
    one, two = (transform(p, network.weights) for p in (plan, loaded))
    assert all(one[name].tobytes() == two[name].tobytes() for name in one)
    assert list(loaded.groups[0].filters) == list(plan.groups[0].filters)


def test_refusals(network):
    rigl = Recipe.comparison("rigl")
    with pytest.raises(ValueError, match="gradient of the loss for 'first'"):
        plan_of(network, rigl)
    with pytest.raises(ValueError, match=r"finite gradient of 'first' in its shape \(12, 6\)"):
        plan_of(network, rigl, gradients={"first": np.full((12, 6), np.nan)})
    with pytest.raises(ValueError, match=r"shape \(12, 6\), got shape \(6, 12\)"):
        plan_of(network, rigl, gradients={"first": np.zeros((6, 12))})
    bare = replace(network, group=replace(network.group, members=network.group.members[2:]))
    with pytest.raises(ValueError, match="which method 'correlation' ranks"):
        plan_of(bare, Recipe.comparison("repr"))
    with pytest.raises(ValueError, match="class means of group 'first'"):
        reorganize_plan(network.group, network.weights, Recipe.comparison("redo"))
    plan = plan_of(network, Recipe(init="null_space"))
    wrong = {name: rows[:1] for name, rows in plan.filters.items()}
    with pytest.raises(ValueError, match=r"filters of shape \(6, 1, 6\).*got \(1, 1, 6\)"):
        transform(replace(plan, filters=wrong), network.weights)


def test_all_producers_count(network):
    """A sum of two layers: RePr's overlaps add up."""
    other = np.random.default_rng(3).normal(size=(12, 4)).astype(np.float32)
    positions = np.arange(12)[:, None]
    member = Member("other", "producer", "weight", (12, 4), (0,), positions, "other")
    group = replace(network.group, members=(*network.group.members, member))
    weights = {**network.weights, "other": other}
    found = importance(group, weights, Recipe(method="correlation"))
    W = [weights[name].astype(np.float64) for name in ("first", "other")]
    np.testing.assert_allclose(found, -naive_overlap(W[0]) - naive_overlap(W[1]), atol=1e-6)
