"""What is redundant: the distance, the nodes, and plans that free nothing else."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rejuvenet.graph import ClassMeans, Plan, Recipe, Report, reorganize_plan, transform
from rejuvenet.graph.change.least_squares import SecondMoments, refit
from rejuvenet.graph.plan.redundancy import alike_within, distances, map_redundant
from threadpoolctl import threadpool_limits


def naive_distances(X):
    """The definition, pair by pair."""
    X = X.astype(np.float64)
    d = np.zeros((len(X), len(X)))
    for j, k in itertools.product(range(len(X)), repeat=2):
        varies = max(np.linalg.norm(x - x.mean()) for x in (X[j], X[k]))
        apart = np.linalg.norm(X[j] - X[k])
        d[j, k] = 0.0 if apart == 0.0 else apart / varies
    return d


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 9), st.integers(2, 40), st.integers(0, 1000))
def test_distances_are_the_definition_and_know_no_scale(n, features, seed):
    X = np.random.default_rng(seed).normal(2.0, 1.0, size=(n, features)).astype(np.float32)
    X[-1] = X[0]
    d = distances(X)
    np.testing.assert_allclose(d, naive_distances(X), rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(distances(X * 2.0**-20), d, rtol=1e-12)
    assert d[0, -1] == d[-1, 0] == 0.0


def test_distances_in_several_blocks():
    X = np.random.default_rng(0).normal(size=(5, 9000))
    np.testing.assert_allclose(distances(X), naive_distances(X), rtol=1e-9)


def test_an_offset_does_not_make_channels_alike():
    X = np.random.default_rng(0).normal(size=(3, 50))
    away = distances(X + 100.0)
    np.testing.assert_allclose(away, distances(X), rtol=1e-6)
    constant = distances(np.array([[1.0, 1.0], [2.0, 2.0], [1.0, 1.0]]))
    assert constant[0, 2] == 0.0
    assert constant[0, 1] > 1e6


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 12), st.floats(0.0, 1.5), st.integers(0, 1000))
def test_any_two_of_a_node_are_alike(n, tolerance, seed):
    d = distances(np.random.default_rng(seed).normal(size=(n, 3)))
    label = alike_within(d, tolerance)
    same = label[:, None] == label[None, :]
    assert d[same].max() <= tolerance
    np.testing.assert_array_equal(np.unique(label), np.arange(label.max() + 1))
    assert (np.diff(np.unique(label, return_index=True)[1]) > 0).all()  # numbered as they come
    for a, b in itertools.combinations(range(label.max() + 1), 2):  # no two nodes could be one
        assert d[np.ix_(label == a, label == b)].max() > tolerance


def planted(make_network, hidden, copies, dead, seed, dtype=np.float32):
    """A network whose channels come in ``copies``, and of which ``dead`` never respond."""
    network = make_network(hidden * copies, seed, copies, dtype)
    network.weights["scale"][dead] = 0.0
    network.weights["shift"][dead] = -1.0
    return network


@settings(max_examples=20, deadline=None)
@given(
    st.integers(2, 9),
    st.integers(1, 3),
    st.integers(0, 2),
    st.sampled_from(["sofm", "kmeans"]),
    st.sampled_from(["map", "in_place"]),
    st.integers(0, 1000),
)
def test_copies_and_dead_channels_and_no_others_are_freed(
    make_network, hidden, copies, deaths, method, placement, seed
):
    dead = np.random.default_rng(seed).permutation(hidden * copies)[:deaths]
    network = planted(make_network, hidden, copies, dead, seed, np.float64)
    tap = network.tap()
    recipe = Recipe(
        ratio="redundant", tolerance=1e-3, dormant=1e-6, method=method, placement=placement
    )
    silent = ~tap.any(axis=0)  # those that were planted, and any that happens to be
    distinct = len(np.unique(tap[:, ~silent].round(9), axis=1).T)
    plan = reorganize_plan(network.group, network.weights, recipe, network.means())
    assert len(plan.survivors) == plan.nodes == distinct
    assert set(dead) <= set(np.flatnonzero(silent))
    changed = replace(network, weights={**network.weights, **transform(plan, network.weights)})
    np.testing.assert_allclose(changed.run(), network.run(), rtol=1e-9, atol=1e-9)
    assert plan.idle == (distinct == hidden * copies)


def test_where_nothing_is_redundant_nothing_changes_and_the_reason_is_given(network):
    recipe = Recipe(ratio="redundant", tolerance=0.01)
    plan = reorganize_plan(network.group, network.weights, recipe, network.means())
    assert plan.idle
    for matrix in (plan.A, plan.B):
        np.testing.assert_array_equal(matrix, np.eye(12))
    result = transform(plan, network.weights)
    assert all(result[name].tobytes() == network.weights[name].tobytes() for name in result)
    gram = np.cov(network.tap().T)
    assert refit(plan, SecondMoments(gram, gram, gram)) is plan
    nearest = naive_distances(np.moveaxis(network.means().Q, 1, 0).reshape(12, -1))
    nearest = nearest[~np.eye(12, dtype=bool)].min()
    assert f"lie {nearest:.2g} of what they vary apart (tolerance: 0.01)" in plan.reason
    assert "least active channel has" in plan.reason
    report = Report.of(Plan([plan]))
    assert plan.reason in str(plan)
    assert plan.reason in str(report)
    assert report.to_dict()["groups"][0]["reason"] == plan.reason
    kept = reorganize_plan(network.group, network.weights, Recipe(ratio=1.0), network.means())
    assert "each of its 12 nodes has a channel of its own" in kept.reason
    freed = reorganize_plan(network.group, network.weights, Recipe(), network.means())
    assert freed.reason == ""
    assert not freed.idle


def test_one_set_may_have_nothing_redundant(make_network):
    network = make_network(copies=2)
    tap = network.tap()
    twin = [int(np.flatnonzero((tap == tap[:, [j]]).all(axis=0))[0]) for j in range(12)]
    first = [j for j in range(12) if twin[j] == j]
    sets = (np.array(first[:3]), np.array([j for j in range(12) if j not in first[:3]]))
    group = replace(network.group, exchangeable=sets)
    recipe = Recipe(ratio="redundant", tolerance=1e-3)
    plan = reorganize_plan(group, network.weights, recipe, network.means())
    np.testing.assert_array_equal(plan.A[sets[0]], np.eye(12)[sets[0]])
    # Copies of the first three channels lie in the other set, where they are alone.
    assert (len(plan.new), plan.nodes) == (3, 9)


def test_the_recycling_of_dormant_neurons_frees_these_only(make_network):
    dead = np.array([2, 7])
    network = planted(make_network, 6, 2, dead, 0)
    recipe = Recipe.comparison("redo", ratio="redundant")
    plan = reorganize_plan(network.group, network.weights, recipe, network.means())
    activity = network.means().activity
    np.testing.assert_array_equal(plan.new, np.flatnonzero(activity <= 0.025 * activity.mean()))
    assert set(dead) <= set(plan.new)
    network.weights["shift"][:] = 3.0
    network.weights["scale"][:] = 0.1
    alive = reorganize_plan(network.group, network.weights, recipe, network.means())
    assert alive.idle
    assert "of the mean activity (dormant: 0.025)" in alive.reason
    assert "most alike" not in alive.reason


@pytest.mark.parametrize("method", ["sofm", "kmeans"])
def test_a_share_is_freed_exactly_and_dormant_channels_are_told_apart(make_network, method):
    network = planted(make_network, 12, 1, np.array([2, 7]), 0)
    network.weights["shift"][np.setdiff1d(np.arange(12), [2, 7])] += 2.0
    assert len(np.unique(network.tap().round(9), axis=1).T) == 11  # the dead two are alike
    for ratio, survivors, merged in ((0.75, 9, 2), (0.5, 6, None)):
        recipe = Recipe(method=method, ratio=ratio)
        plan = reorganize_plan(network.group, network.weights, recipe, network.means())
        assert len(plan.survivors) == survivors
        assert plan.dropped.tolist() == [2, 7]
        assert plan.merged == merged or merged is None
        assert not plan.note
        assert "2 dropped" in str(plan)
        assert Report.of(Plan([plan])).to_dict()["groups"][0]["dropped"] == 2
    most = Recipe(method=method, ratio=11 / 12)
    plan = reorganize_plan(network.group, network.weights, most, network.means())
    assert (len(plan.survivors), plan.merged) == (10, 0)
    assert "1 more freed than asked for" in plan.note


def test_a_cap_leaves_what_would_be_missed_most(make_network):
    network = planted(make_network, 6, 2, np.array([2, 7]), 0)
    for recipe in (
        Recipe(ratio="redundant"), Recipe(ratio=0.1), Recipe(ratio=0.5, method="kmeans"),
        Recipe(ratio=0.1, method="random"), Recipe.comparison("redo", ratio="redundant"),
    ):  # fmt: skip
        whole, *capped = (
            reorganize_plan(
                network.group, network.weights, replace(recipe, max_new=most), network.means()
            )
            for most in (None, 1, 2, 12)
        )
        assert [len(plan.new) for plan in capped] == [1, min(2, len(whole.new)), len(whole.new)]
        np.testing.assert_array_equal(capped[-1].A, whole.A)
        if recipe.method in ("sofm", "kmeans"):
            assert capped[0].dropped.size == 1  # a silent one
            assert capped[0].merged == 0
    with pytest.raises(ValueError, match="max_new needs"):
        Recipe.paper(max_new=3)


def test_a_silent_group_starts_anew(network):
    network.weights["scale"][:] = 0.0
    network.weights["shift"][:] = -1.0
    for recipe in (Recipe(ratio="redundant", placement="in_place"), Recipe(ratio=0.5)):
        plan = reorganize_plan(network.group, network.weights, recipe, network.means())
        np.testing.assert_array_equal(plan.new, np.arange(12))
        before = network.run()
        after = replace(network, weights={**network.weights, **transform(plan, network.weights)})
        np.testing.assert_array_equal(after.run(), before)


def noisy_copies(seed, n=256, classes=10):
    """Class means of channels of which every fourth is nearly a copy of the one before."""
    rng = np.random.default_rng(seed)
    Q = rng.normal(size=(classes, n, 7, 7)).astype(np.float32)
    Q[:, 3::4] = Q[:, 2::4] + 0.05 * rng.normal(size=Q[:, 3::4].shape)
    Q[:, ::32] *= 1e-3
    return Q


def test_the_same_for_every_number_of_threads():
    Q = noisy_copies(0)
    dormant = np.abs(Q).mean(axis=(0, 2, 3)) < 0.1
    found = []
    for threads in (1, 2, 4):
        with threadpool_limits(threads):
            mapping = map_redundant(Q, dormant, Recipe(ratio="redundant"), 0)
            found.append((mapping.M.tobytes(), mapping.N.tobytes(), mapping.distance.tobytes()))
    assert len(set(found)) == 1
    assert len(mapping.occupied) == 256 - 8 - 64


@pytest.mark.parametrize("recipe", [Recipe(ratio="redundant"), Recipe(), Recipe.paper()])
def test_plans_are_the_same_for_every_number_of_threads(make_network, make_member, recipe):
    network = make_network(256)
    network.weights["scale"][::8] = 0.0
    Q = noisy_copies(1)
    means = ClassMeans(Q.astype(np.float64), np.ones(10), list(range(10)))
    plans = []
    for threads in (1, 2, 4):
        with threadpool_limits(threads):
            plan = reorganize_plan(network.group, network.weights, recipe, means)
            plans.append((plan.A.tobytes(), plan.B.tobytes(), plan.capacity))
    assert plans.count(plans[0]) == 3
