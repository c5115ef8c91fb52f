"""Filters of new channels that follow from the layer's filters or gradient."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rejuvenet.graph import Recipe, reorganize_plan, transform
from rejuvenet.graph.change.new_filters import steepest_directions, unused_directions
from scipy.linalg import null_space

sizes = st.tuples(st.integers(1, 8), st.integers(1, 8), st.integers(1, 12))


@settings(max_examples=60, deadline=None)
@given(sizes, st.integers(0, 1000))
def test_new_filters_are_orthogonal_to_as_much_as_there_is_room_for(size, seed):
    rows, n, d = size
    rng = np.random.default_rng(seed)
    W = rng.normal(size=(rows, d))
    if rows > 1:
        W[1] = W[0]
    found = unused_directions(W, rng.normal(size=(n, d)))
    m = min(n, d)
    np.testing.assert_allclose(found @ found.T, np.eye(m), atol=1e-9)
    free = null_space(W, rcond=1e-6)
    if free.shape[1] >= m:  # in the null space of the layer
        np.testing.assert_allclose(W @ found.T, 0.0, atol=1e-7)
    else:  # in the span of the m directions that it uses least
        _, _, vectors = np.linalg.svd(W)
        least = vectors[d - m :]
        np.testing.assert_allclose(found @ least.T @ least, found, atol=1e-6)


def test_the_choice_among_unused_directions_is_that_of_the_seed():
    W = np.random.default_rng(0).normal(size=(3, 9))
    first, again, other = (
        unused_directions(W, np.random.default_rng(seed).normal(size=(2, 9))) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.1


@settings(max_examples=60, deadline=None)
@given(sizes, st.integers(0, 1000))
def test_steepest_directions_are_the_singular_vectors_of_the_gradient(size, seed):
    rows, n, d = size
    G = np.random.default_rng(seed).normal(size=(rows, d))
    found = steepest_directions(G, n)
    assert len(found) == min(n, rows, d)
    _, _, vectors = np.linalg.svd(G, full_matrices=False)
    cosines = np.abs((found * vectors[: len(found)]).sum(axis=1))
    np.testing.assert_allclose(cosines, 1.0, atol=1e-6)
    response = G @ found.T
    for column in response.T:
        assert column[np.argmax(np.abs(column))] <= 0.0


def test_no_gradient_gives_no_direction():
    assert steepest_directions(np.zeros((3, 4)), 2).shape == (0, 4)


@pytest.mark.parametrize("init", ["null_space", "gradient"])
def test_filters_of_a_convolution(make_network, make_member, init):
    """More new channels than directions: the rest is drawn; norms are those of the survivors."""
    network = make_network(40)
    gradients = {"first": np.random.default_rng(0).normal(size=(40, 6))}
    recipe = Recipe(method="l2", init=init, outgoing="sum")
    plan = reorganize_plan(network.group, network.weights, recipe, None, gradients=gradients)
    result = transform(plan, network.weights)["first"][plan.new].astype(np.float64)
    size = np.sqrt((network.weights["first"][plan.survivors] ** 2).sum(axis=1).mean())
    np.testing.assert_allclose(result[:6] @ result[:6].T, size**2 * np.eye(6), atol=1e-4)
    assert np.linalg.matrix_rank(result[6:]) == 6
    spread = network.weights["first"][plan.survivors].std()
    assert result[6:].std() == pytest.approx(spread, rel=0.3)


def test_new_filters_are_orthogonal_to_kept_and_dropped_ones(make_network):
    network = make_network(4)
    network.weights["first"] = network.weights["first"].astype(np.float64)
    before = network.weights["first"].copy()
    plan = reorganize_plan(network.group, network.weights, Recipe.comparison("repr"), None)
    assert len(plan.new) == 2
    fresh = transform(plan, network.weights)["first"][plan.new]
    np.testing.assert_allclose(fresh @ before.T, 0.0, atol=1e-9)
    assert abs(fresh[0] @ fresh[1]) < 1e-9
