"""Presets and refusals of recipes."""

from __future__ import annotations

import json

import pytest
from rejuvenet.graph import Recipe


def test_presets_are_those_of_the_design():
    preserving, paper = Recipe.preserving(), Recipe.paper()
    assert (preserving.assign, preserving.outgoing) == ("fingerprint", "least_squares")
    assert (preserving.init, preserving.new_outgoing) == ("match", "zero")
    assert (preserving.neighborhood, preserving.map_init) == ("gaussian", "pca")
    assert (paper.assign, paper.outgoing) == ("vote", "mean")
    assert (paper.init, paper.new_outgoing) == ("kaiming", "random")
    assert (paper.neighborhood, paper.map_init) == ("exponential", "random")
    assert paper.optimizer == "reset"


def test_round_trip_through_json():
    recipe = Recipe.paper(ratio=0.25, sigma=3.0, seed=7)
    assert Recipe(**json.loads(json.dumps(recipe.to_dict()))) == recipe


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "som"}, "method to be one of .*'sofm'.*got 'som'"),
        ({"assign": 3}, "assign"),
        ({"ratio": 0.0}, "ratio"),
        ({"ratio": 1.5}, "ratio"),
        ({"ratio": float("nan")}, "ratio"),
        ({"sigma": -1.0}, "sigma"),
        ({"epochs": 0}, "epochs"),
        ({"stop": 2.0}, "stop"),
        ({"seed": -1}, "seed"),
        ({"rate": 0.5}, "an option of the recipe .*got 'rate'"),
    ],
)
def test_refusals_name_the_option(changes, message):
    with pytest.raises(ValueError, match=message):
        Recipe.preserving(**changes)
