"""Every group of a file that can be moved is moved by ``arrange``, and merged or told why not."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

from rejuvenet.adapters.onnx import arrange, collect, load, reorganize  # noqa: E402
from rejuvenet.graph import Recipe  # noqa: E402

sys.path.insert(0, str(Path(__file__).parent))

from group_networks import built, images  # noqa: E402
from onnx_exports import export  # noqa: E402

X, LABELS = images(8).float(), np.arange(8) % 4
WHY = ("is tied", "whole sets", "no weight reads")


@pytest.mark.parametrize(
    "name", ["ghost", "C2f", "depthwise multiplier", "tied autoencoder", "attention"]
)
def test_all_groups_are_arranged_and_merged_or_say_why_not(tmp_path, name):
    model = load(export(built(name).float(), X, tmp_path / "model.onnx", "script, kept"))
    free = {g.name for g in model.groups if g.exchangeable}
    _, report = arrange(model, order="random")
    assert {r.group for r in report.groups} == free
    assert report.verdict is not None
    recipe = Recipe.preserving(ratio=0.75)
    _, report = reorganize(model, [(X.numpy(), LABELS)], "all", recipe)
    assert {r.group for r in report.groups} | set(report.skipped) == {g.name for g in model.groups}
    assert all(any(why in report.skipped[name] for why in WHY) for name in free & {*report.skipped})
    assert report.output_change < 1


@pytest.mark.parametrize("batch", [1, 8])
def test_class_means_are_those_of_the_samples_where_time_comes_first(tmp_path, batch):
    net = built("attention").float()
    model = load(export(net, X[:batch], tmp_path / "model.onnx", "script, kept"))
    with torch.no_grad():
        read = net.a(X).flatten(2).numpy()  # (sample, channel, position)
    name = "a.0.weight" if "a.0.weight" in {g.name for g in model.groups} else model.groups[0].name
    means = collect(model, [(X.numpy(), LABELS)], [name])[name]
    expected = read.reshape(2, 4, 8, -1).mean(0)
    np.testing.assert_allclose(means.Q.reshape(4, 8, -1), expected, rtol=1e-4, atol=1e-5)
