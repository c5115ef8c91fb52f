"""Figures of capacity on cases that are known."""

from __future__ import annotations

import numpy as np
import pytest
from rejuvenet.graph import capacity
from rejuvenet.graph.plan.clustering import best_matching_units, coordinates
from rejuvenet.graph.plan.recipe import Recipe


def naive_effective_rank(X):
    """Roy and Vetterli (2007), from the singular values."""
    s = np.linalg.svd(X.astype(np.float64), compute_uv=False)
    p = [value / s.sum() for value in s if value > 1e-12]
    return np.exp(-sum(value * np.log(value) for value in p))


@pytest.mark.parametrize("shape", [(3, 8, 2, 2), (2, 30, 1, 1), (5, 4, 3, 3)])
def test_effective_rank_is_the_definition(shape):
    Q = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    X = np.moveaxis(Q, 1, 0).reshape(shape[1], -1)
    assert capacity(Q).effective_rank == pytest.approx(naive_effective_rank(X), rel=1e-5)


def test_duplicates_occupy_one_node_and_add_no_rank():
    Q = np.random.default_rng(0).normal(size=(3, 1, 2, 2)) * np.ones((1, 16, 1, 1))
    found = capacity(Q.astype(np.float32), 8)
    assert (found.channels, found.nodes, found.occupied) == (16, 8, 1)
    assert found.effective_rank == pytest.approx(1.0, abs=1e-4)
    distinct = np.random.default_rng(0).normal(size=(3, 16, 2, 2)).astype(np.float32)
    assert capacity(distinct, 8).occupied > 4


def test_the_map_of_a_wide_group_sees_its_leading_coordinates():
    """Equal channels stay equal, and the count is that of a map of all coordinates to 6 %."""
    rng = np.random.default_rng(0)
    left, right = (np.linalg.qr(rng.normal(size=(n, 256)))[0] for n in (256, 400))
    X = left * np.arange(1, 257) ** -0.5 @ right.T  # singular values fall as those of layers do
    Q = X.reshape(256, 4, 10, 10).swapaxes(0, 1).astype(np.float32)
    units, _ = best_matching_units(coordinates(X).astype(np.float32), 256, Recipe(), 0)
    assert capacity(Q).occupied == pytest.approx(len(np.unique(units)), rel=0.06)
    assert capacity(np.repeat(Q[:, :64], 4, axis=1)).occupied <= 64


def test_dormant_channels():
    Q = np.ones((2, 4, 1, 1), dtype=np.float32)
    Q[:, 2] = 0
    assert capacity(Q, 2).dormant == 0.25
    assert capacity(Q, 2, np.array([1.0, 0.001, 0.0, 1.0])).dormant == 0.5
    assert capacity(Q, 2, np.zeros(4)).dormant == 1.0


def test_silent_group():
    found = capacity(np.zeros((2, 4, 1, 1), dtype=np.float32), 2)
    assert (found.effective_rank, found.dormant, found.occupied) == (0.0, 1.0, 1)
    assert "100% dormant" in str(found)


def test_refusals():
    with pytest.raises(ValueError, match="classes, channels, h, w"):
        capacity(np.zeros((4, 2)))
    with pytest.raises(ValueError, match="at least one node"):
        capacity(np.zeros((2, 4, 1, 1)), 0)
