"""Votes, the matrices of a merge, and the paper's rule as it is printed."""

from __future__ import annotations

import itertools
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rejuvenet.graph import Recipe
from rejuvenet.graph.plan.clustering import alike, coordinates
from rejuvenet.graph.plan.mapping import (
    averages,
    fingerprints,
    majority,
    map_channels,
    order_along_map,
    shares,
    slices,
    votes,
)
from rejuvenet.graph.plan.recipe import Decay, MapInit, Neighborhood

mappings = st.tuples(st.integers(1, 4), st.integers(1, 7), st.integers(1, 6)).flatmap(
    lambda size: st.tuples(
        st.just(size[2]),
        st.lists(
            st.lists(st.integers(0, size[2] - 1), min_size=size[1], max_size=size[1]),
            min_size=size[0],
            max_size=size[0],
        ).map(np.array),
    )
)


def paper(M, K, weight, axis):
    """Section 2.3 in loops: for every class move the channels, then weigh by 1/n."""
    weight = np.moveaxis(weight, axis, 0)
    result = np.zeros((K, *weight.shape[1:]))
    n = np.zeros(K)
    for c in range(M.shape[0]):
        for j in range(M.shape[1]):
            result[M[c, j]] += weight[j]
            n[M[c, j]] += 1
    for k in range(K):
        if n[k] > 0:
            result[k] /= n[k]
    return np.moveaxis(result, 0, axis)


@given(mappings, st.integers(0, 100))
def test_matrices_equal_the_printed_rule(mapping, seed):
    K, M = mapping
    s = M.shape[1]
    rng = np.random.default_rng(seed)
    W, V = rng.normal(size=(s, 3)), rng.normal(size=(2, s))
    A = averages(votes(M, K))
    np.testing.assert_allclose(A @ W, paper(M, K, W, 0), atol=1e-12)
    np.testing.assert_allclose(V @ A.T, paper(M, K, V, 1), atol=1e-12)


@given(mappings)
def test_vote_algebra(mapping):
    K, M = mapping
    C, s = M.shape
    N = votes(M, K)
    A, B = averages(N), shares(N)
    occupied = np.unique(M)
    np.testing.assert_allclose(A.sum(axis=1)[occupied], 1.0)
    assert not A[np.setdiff1d(np.arange(K), occupied)].any()
    np.testing.assert_allclose(B.sum(axis=0), 1.0)
    np.testing.assert_allclose(N.sum(axis=0), C)
    for k, j in itertools.product(range(K), range(s)):
        assert N[k, j] == sum(M[c, j] == k for c in range(C))


@given(mappings)
def test_majority_is_one_of_the_most_frequent_nodes(mapping):
    K, M = mapping
    N = votes(M, K)
    same = majority(M, K)
    assert same.shape == M.shape
    for j in range(M.shape[1]):
        assert len(set(same[:, j])) == 1
        assert N[same[0, j], j] == N[:, j].max()
        assert not (N[: same[0, j], j] == N[:, j].max()).any()


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 9), st.integers(1, 40), st.integers(0, 1000))
def test_coordinates_keep_all_distances(n, features, seed):
    X = np.random.default_rng(seed).normal(size=(n, features)).astype(np.float32)
    Y = coordinates(X)
    assert Y.shape == (n, min(n, features))
    before = ((X[:, None].astype(np.float64) - X[None]) ** 2).sum(axis=2)
    np.testing.assert_allclose(((Y[:, None] - Y[None]) ** 2).sum(axis=2), before, atol=1e-6)


def test_samples_and_their_order():
    Q = np.arange(2 * 3 * 2 * 2).reshape(2, 3, 2, 2)
    np.testing.assert_array_equal(slices(Q)[1 * 3 + 2], Q[1, 2].ravel())
    np.testing.assert_array_equal(fingerprints(Q)[2], np.r_[Q[0, 2].ravel(), Q[1, 2].ravel()])


def test_alike_numbers_as_they_come():
    X = np.array([[1.0, 0], [0, 1], [1 + 1e-7, 0], [0, 0], [0, 1]])
    assert alike(X).tolist() == [0, 1, 0, 2, 1]
    assert alike(np.zeros((3, 2))).tolist() == [0, 0, 0]


@pytest.mark.parametrize("assign", ["fingerprint", "vote", "mode"])
@pytest.mark.parametrize("method", ["sofm", "kmeans"])
def test_clusters_and_distances(method, assign):
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(4, 3, 1, 2, 2)) * 10
    source = rng.permutation(np.repeat(np.arange(4), 3))
    Q = np.concatenate([centres[source[j]] for j in range(12)], axis=1)
    Q = (Q + rng.normal(size=Q.shape) * 0.01).astype(np.float32)
    mapping = map_channels(
        Q, 4 if assign == "fingerprint" else 12, Recipe(method=method, assign=assign), 0
    )
    assert (mapping.N.sum(axis=0) == 3).all()
    np.testing.assert_array_equal(np.isfinite(mapping.distance), mapping.N > 0)
    if assign == "fingerprint":
        # The members of one node come from one centre.
        for k in mapping.occupied:
            assert method == "sofm" or len(set(source[mapping.N[k] > 0])) == 1
        node = mapping.M[0]
        for j in range(12):
            twins = source == source[j]
            assert (node[twins] == node[j]).all()


def test_medoid_is_the_nearest_member():
    rng = np.random.default_rng(1)
    Q = rng.normal(size=(2, 20, 3, 3)).astype(np.float32)
    mapping = map_channels(Q, 6, Recipe(), 0)
    for k, j in zip(mapping.occupied, mapping.medoids, strict=True):
        assert mapping.distance[k, j] == mapping.distance[k].min()


def test_votes_give_every_node_a_place_of_its_own():
    rng = np.random.default_rng(1)
    Q = rng.normal(size=(3, 8, 2, 2)).astype(np.float32)
    mapping = map_channels(Q, 8, Recipe.paper(), 0)
    assert len(set(mapping.medoids)) == len(mapping.occupied)


@pytest.mark.parametrize("method", ["sofm", "kmeans"])
def test_distinct_channels_keep_a_node_each_where_there_is_room(method):
    rng = np.random.default_rng(0)
    distinct = rng.normal(size=(3, 10, 2, 2)).astype(np.float32)
    source = rng.permutation(np.repeat(np.arange(10), 2))
    mapping = map_channels(distinct[:, source], 10, Recipe(method=method), 0)
    assert len(mapping.occupied) == 10
    for k in range(10):
        assert len(set(source[mapping.N[k] > 0])) == 1


@pytest.mark.parametrize("method", ["sofm", "kmeans"])
@pytest.mark.parametrize("s", [16, 100])
def test_every_node_gets_a_channel(method, s):
    """Of 16 and 100 channels a map alone left 2 to 5 and 14 to 38 of its nodes empty."""
    for seed, ratio in itertools.product(range(3), (0.9, 0.8, 0.5)):
        Q = np.random.default_rng(seed).gamma(1.0, size=(5, s, 2, 2)).astype(np.float32)
        K = round(ratio * s)
        mapping = map_channels(Q, K, Recipe(method=method), seed)
        assert len(mapping.occupied) == K
        assert (mapping.N.sum(axis=0) == 5).all()
        again = map_channels(Q, K, Recipe(method=method), seed)
        np.testing.assert_array_equal(again.M, mapping.M)


def test_filled_nodes_stay_in_the_order_of_the_map():
    position = np.random.default_rng(0).permutation(24)
    Q = (position / 24.0).astype(np.float32).reshape(1, 24, 1, 1) * np.ones((2, 1, 1, 3), "f4")
    mapping = map_channels(Q, 20, Recipe(), 0)
    assert len(mapping.occupied) == 20
    along = mapping.M[0, np.argsort(position)]
    assert (np.diff(along) >= 0).all() or (np.diff(along) <= 0).all()


def test_map_orders_a_line():
    position = np.random.default_rng(0).permutation(24)
    Q = (position / 24.0).astype(np.float32).reshape(1, 24, 1, 1) * np.ones((2, 1, 1, 3), "f4")
    ordered = position[order_along_map(Q, Recipe(), 0)]
    assert ordered.tolist() in (list(range(24)), list(range(23, -1, -1)))


def test_one_node_takes_all():
    Q = np.random.default_rng(0).normal(size=(2, 5, 1, 1)).astype(np.float32)
    mapping = map_channels(Q, 1, Recipe(), 0)
    np.testing.assert_allclose(averages(mapping.N), np.full((1, 5), 0.2))


@pytest.mark.parametrize("map_init", get_args(MapInit))
@pytest.mark.parametrize("decay", get_args(Decay))
@pytest.mark.parametrize("neighborhood", get_args(Neighborhood))
def test_every_option_of_the_map_is_one_that_the_map_knows(neighborhood, decay, map_init):
    Q = np.random.default_rng(0).normal(size=(2, 9, 2, 2)).astype(np.float32)
    recipe = Recipe(
        neighborhood=neighborhood, decay=decay, map_init=map_init, sigma=2.0, assign="vote"
    )
    mapping = map_channels(Q, 5, recipe, 0)
    assert mapping.N.sum() == 18
    assert len(mapping.occupied) > 1
