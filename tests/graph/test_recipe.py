"""Presets and refusals of recipes."""

from __future__ import annotations

import json
import re
from ast import literal_eval
from dataclasses import fields
from pathlib import Path

import pytest
import rejuvenet
from rejuvenet.graph import Recipe
from rejuvenet.graph.plan.recipe import COMPARISONS


def test_presets_are_those_of_the_design():
    preserving, paper = Recipe.preserving(), Recipe.paper()
    assert (preserving.assign, preserving.outgoing) == ("fingerprint", "least_squares")
    assert (preserving.init, preserving.new_outgoing) == ("match", "zero")
    assert (preserving.neighborhood, preserving.map_init) == ("gaussian", "pca")
    assert (paper.assign, paper.outgoing) == ("vote", "mean")
    assert (paper.init, paper.new_outgoing) == ("kaiming", "random")
    assert (paper.neighborhood, paper.map_init) == ("exponential", "random")
    assert paper.optimizer == "reset"


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe.paper(ratio=0.25, sigma=3.0, seed=7),
        Recipe(ratio="redundant", tolerance=0.05),
        Recipe(ratio={"layer4.*": 0.5, "*": "redundant"}),
        *map(Recipe.comparison, COMPARISONS),
    ],
)
def test_round_trip_through_json(recipe):
    assert Recipe(**json.loads(json.dumps(recipe.to_dict()))) == recipe


def test_every_option_is_documented():
    for option in fields(Recipe):
        assert f"\n    {option.name} : " in Recipe.__doc__


def test_the_table_of_options_in_the_readme_is_true():
    text = (Path(rejuvenet.__file__).parent / "README.md").read_text()
    text = text[text.index("| option | values, `preserving` first | `paper` |") :]
    rows = [line.split(" | ") for line in text[: text.index("\n\n")].splitlines()[2:]]
    quoted = [[re.findall(r"`([^`]+)`", cell) for cell in row] for row in rows]
    named = [name for names, _, _ in quoted for name in names]
    assert sorted([*named, "seed"]) == sorted(option.name for option in fields(Recipe))
    for names, values, paper in quoted:
        for number, name in enumerate(names):
            shown = values[number]
            default = getattr(Recipe.preserving(), name)
            assert shown in ("K/2", "None") if default is None else literal_eval(shown) == default
        if len(names) == 1 and paper:
            assert literal_eval(paper[0]) == getattr(Recipe.paper(), names[0])
        elif len(names) == 2:
            for name in names:
                same = getattr(Recipe.paper(), name) == getattr(Recipe.preserving(), name)
                assert same or name == "stop"


def test_methods_to_compare_with():
    for name in COMPARISONS:
        assert f'``"{name}"``' in Recipe.comparison.__doc__
        assert Recipe.comparison(name).outgoing == "sum"
        assert Recipe.comparison(name).new_outgoing == "zero"
    assert Recipe.comparison("redo", init="orthogonal").init == "orthogonal"
    assert Recipe.comparison("redo").needs_means
    assert not Recipe.comparison("repr").needs_means
    assert [name for name in COMPARISONS if Recipe.comparison(name).needs_gradients] == ["rigl"]
    with pytest.raises(ValueError, match=r"compare with .*'redo'.* got 'sofm'"):
        Recipe.comparison("sofm")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "som"}, "method to be one of .*'sofm'.*got 'som'"),
        ({"assign": 3}, "assign"),
        ({"ratio": 0.0}, "ratio"),
        ({"ratio": 1.5}, "ratio"),
        ({"ratio": float("nan")}, "ratio"),
        ({"ratio": "some"}, "or 'redundant', got 'some'"),
        ({"ratio": {}}, "name at least one layer"),
        ({"ratio": {"*": 2}}, "for every name, got 2"),
        ({"ratio": "redundant", "method": "l2"}, "got method 'l2'"),
        ({"ratio": {"*": "redundant"}, "method": "random"}, "got method 'random'"),
        ({"tolerance": -1.0}, "tolerance"),
        ({"dormant": float("inf")}, "dormant"),
        ({"sigma": -1.0}, "sigma"),
        ({"epochs": 0}, "epochs"),
        ({"stop": 2.0}, "stop"),
        ({"seed": -1}, "seed"),
        ({"refit": "products", "outgoing": "sum"}, "needs outgoing='least_squares'.*got 'sum'"),
        ({"refit": "products", "new_outgoing": "random"}, "needs .*got .* and 'random'"),
        ({"method": "l2", "sigma": 2.0}, "sigma does nothing with method 'l2'"),
        ({"method": "kmeans", "map_init": "random"}, "map_init does nothing with method 'kmeans'"),
        ({"method": "random", "merge": "medoid"}, "merge does nothing with method 'random'"),
        ({"rate": 0.5}, "an option of the recipe .*got 'rate'"),
    ],
)
def test_refusals_name_the_option(changes, message):
    with pytest.raises(ValueError, match=message):
        Recipe.preserving(**changes)


def test_what_a_preset_has_no_use_for_is_refused():
    with pytest.raises(ValueError, match="init does nothing where free places are removed"):
        Recipe.shrinking(init="kaiming")
    with pytest.raises(ValueError, match="assign does nothing with method 'subset'"):
        Recipe.shrinking(assign="vote")
    assert Recipe.paper(method="kmeans", epochs=20).epochs == 20  # as it is anyhow
