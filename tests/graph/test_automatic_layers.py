"""Layers and ratios chosen from capacity figures, and ratios by name."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from rejuvenet.graph import Capacity, Recipe, capacity, reorganize_plan
from rejuvenet.graph.plan.automatic_layers import least_used, used_share
from rejuvenet.graph.plan.selection import fits, ratio_of


def figures(occupied=40, rank=40.0, dormant=0.0, channels=64, features=640):
    return Capacity(channels, channels, occupied, rank, dormant, features)


def test_the_scarcest_share_counts():
    assert used_share(figures(occupied=16)) == 0.25
    assert used_share(figures(rank=16.0)) == 0.25
    assert used_share(figures(dormant=0.75)) == 0.25
    # Ten classes of one value have no more than ten directions.
    assert used_share(figures(rank=10.0, features=10)) == 40 / 64


def test_deepest_first_and_no_more_than_asked():
    found = {f"layer{i}": figures(rank=20.0 + i) for i in range(4)} | {"full": figures()}
    assert list(least_used(found)) == ["layer3", "layer2"]
    assert list(least_used(found, most=None)) == ["layer3", "layer2", "layer1", "layer0"]
    assert least_used(found, most=1) == {"layer3": 23 / 64}
    assert least_used({"dead": figures(dormant=1.0)}) == {"dead": 0.25}
    assert least_used({}) == {}


def test_a_layer_of_copies_is_chosen_and_one_of_distinct_channels_is_not():
    rng = np.random.default_rng(0)
    distinct = rng.normal(size=(5, 32, 4, 4)).astype(np.float32)
    found = {"copies": capacity(distinct[:, np.arange(32) % 6]), "distinct": capacity(distinct)}
    chosen = least_used(found)
    assert list(chosen) == ["copies"]
    assert chosen["copies"] == 0.25


def test_ratio_by_name(network):
    group = replace(network.group, name="layer4.0.conv1.weight")
    members = tuple(
        replace(m, weight=group.name) if m.weight == "first" else m for m in group.members
    )
    group = replace(group, members=members)
    for name in (group.name, "layer4.0.conv1", "layer4.*", "*.conv1", "*"):
        assert fits(group, name)
        assert ratio_of(group, {"layer3.*": 0.1, name: 0.25, "*.weight": 0.75}) == 0.25
    assert not fits(group, "conv1")
    assert not fits(group, "bias")
    part = replace(group, name="layer4.0.conv1.weight[0:8]")
    assert ratio_of(part, {"layer4.0.conv1.weight[0:8]": 0.1, "*": 0.5}) == 0.1
    assert ratio_of(group, 0.5) == 0.5
    with pytest.raises(ValueError, match=r"ratio for group 'layer4.*ratios for 'layer3.\*'; add"):
        ratio_of(group, {"layer3.*": 0.5})


def test_plans_take_the_ratio_of_their_group(network):
    recipe = Recipe(ratio={"other": 0.5, "first": 0.25, "*": "redundant"})
    plan = reorganize_plan(network.group, network.weights, recipe, network.means())
    assert plan.nodes == 3
    recipe = Recipe(ratio={"other": 0.5, "*": "redundant"}, tolerance=1e-3)
    assert reorganize_plan(network.group, network.weights, recipe, network.means()).idle
