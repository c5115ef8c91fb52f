"""A module and its ONNX file have the same channel groups."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

from rejuvenet.adapters.onnx import load  # noqa: E402
from rejuvenet.adapters.torch import trace  # noqa: E402

sys.path.insert(0, str(Path(__file__).parent))

from agreement import agreement  # noqa: E402
from onnx_exports import export, randomize  # noqa: E402
from small_networks import small_network  # noqa: E402


def both(name, folder):
    model, inputs = small_network(name)
    randomize(model)
    file = load(export(model, inputs, folder / "model.onnx", "script, kept"))
    traced = trace(model, inputs)
    return (traced.groups, traced.weights), (file.groups, file.weights)


@pytest.mark.parametrize(
    "name",
    [
        "audio", "called_twice", "fpn", "gru", "kept_bias", "lraspp", "lstm",
        "response_norm", "several_inputs_and_outputs", "tied", "tokens", "unet",
        "weight_norm",
    ],
)  # fmt: skip
def test_groups_of_a_module_and_of_its_file_are_the_same(name, tmp_path):
    module, file = both(name, tmp_path)
    found = agreement(*module, *file)
    assert found.difference is None
    assert found.compared == found.weights


def test_differences_are_found(tmp_path):
    (groups, weights), file = both("unet", tmp_path)
    frozen = [replace(groups[0], frozen="held"), *groups[1:]]
    assert "exchangeable sets differ" in agreement(frozen, weights, *file).difference
    first, _, *others = groups[0].members
    fewer = [replace(groups[0], members=(first, *others)), *groups[1:]]
    assert "in the second only" in agreement(fewer, weights, *file).difference
    inexact = [replace(groups[0], exact_merge="so it is said"), *groups[1:]]
    assert "(role, exact)" in agreement(inexact, weights, *file).difference
    turned = replace(groups[0].members[0], positions=groups[0].members[0].positions[::-1])
    crossed = [replace(groups[0], members=(turned, *groups[0].members[1:])), *groups[1:]]
    assert "channels differ" in agreement(crossed, weights, *file).difference
