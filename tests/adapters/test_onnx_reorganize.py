"""Class means by onnxruntime, and reorganizing an ONNX file."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
from rejuvenet.adapters.onnx import arrange, collect, load, reorganize, shrink  # noqa: E402
from rejuvenet.adapters.onnx import session as session_module  # noqa: E402
from rejuvenet.adapters.onnx.runner import Runner  # noqa: E402
from rejuvenet.graph import Recipe  # noqa: E402
from rejuvenet.graph import batches as batches_module  # noqa: E402

sys.path.insert(0, str(Path(__file__).parent))

from onnx_exports import VARIANTS, export  # noqa: E402

KEPT, FOLDED = VARIANTS[3], VARIANTS[2]
DYNAMIC = {"dynamic_axes": {"x": {0: "n"}, "y": {0: "n"}}, "input_names": ["x"],
           "output_names": ["y"]}  # fmt: skip


def write(network, folder, variant=KEPT):
    return export(network, torch.zeros(2, 1, 8, 8), folder / "m.onnx", variant, **DYNAMIC)


@pytest.fixture
def batches(torch_batches):
    return [(x.numpy(), y.numpy()) for x, y in torch_batches]


def accuracy(model, torch_digits):
    _, _, x, y = torch_digits
    scores = Runner(model)(x.numpy())["y"]
    return float((scores.argmax(1) == y.numpy()).mean())


def test_class_means_are_those_of_the_module(trained_network, torch_batches, batches, tmp_path):
    model = load(write(trained_network, tmp_path))
    means = collect(model, batches, ["0", "4"])
    with torch.no_grad():
        x = torch.cat([x for x, _ in torch_batches])
        y = torch.cat([y for _, y in torch_batches])
        first = trained_network[:3](x)
        second = trained_network[:7](x)
    # The slices are taken before a pooling only where its result has no extent.
    pooled = trained_network[3](first)
    for name, activation in (("0.weight", pooled), ("4.weight", second)):
        expected = torch.stack([activation[y == c].mean(0) for c in range(10)])
        np.testing.assert_allclose(means[name].Q, expected.numpy(), rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(means[name].counts, torch.bincount(y).numpy())


def test_class_means_do_not_depend_on_the_batches(trained_network, batches, tmp_path):
    model = load(write(trained_network, tmp_path))
    x = np.concatenate([x for x, _ in batches])
    y = np.concatenate([y for _, y in batches])
    whole = collect(model, [(x, y)], "8")["8.weight"].Q
    parts = collect(model, ((x[i : i + 7], y[i : i + 7]) for i in range(0, len(x), 7)), "8")
    np.testing.assert_allclose(parts["8.weight"].Q, whole, rtol=1e-4, atol=1e-5)
    soft = collect(model, [(x, np.eye(10)[y])], "8", classes=list(range(10)))
    np.testing.assert_allclose(soft["8.weight"].Q, whole, rtol=1e-4, atol=1e-5)


def test_equal_channels_merge_where_normalizations_are_folded(
    duplicated_network, batches, torch_digits, tmp_path
):
    model = load(write(duplicated_network, tmp_path, FOLDED))
    changed, report = reorganize(model, batches, "last", Recipe.preserving())
    line = report.groups[0]
    assert line.channels == 32
    assert line.survivors == line.new == 16
    assert line.merged == 32
    assert report.output_change < 1e-5
    assert accuracy(changed, torch_digits) == accuracy(model, torch_digits) > 0.9
    changed.save(tmp_path / "out.onnx")
    assert accuracy(load(tmp_path / "out.onnx"), torch_digits) == accuracy(model, torch_digits)


def test_merging_half_keeps_most_of_the_accuracy(trained_network, batches, torch_digits, tmp_path):
    model = load(write(trained_network, tmp_path))
    before = accuracy(model, torch_digits)
    kept, report = reorganize(model, batches)
    paper, _ = reorganize(model, batches, recipe=Recipe.paper())
    assert before > 0.9
    assert report.groups[0].group == "8.weight"
    assert report.groups[0].survivors <= 8
    assert accuracy(kept, torch_digits) > 0.75 * before
    assert accuracy(kept, torch_digits) > accuracy(paper, torch_digits)
    assert report.groups[0].before is not None
    assert report.groups[0].after is not None


def test_only_touched_statistics_are_estimated_again(trained_network, batches, tmp_path):
    model = load(write(trained_network, tmp_path))
    changed, report = reorganize(model, batches, "4")
    moved = {n for n in model.weights if (model.weights[n] != changed.weights[n]).any()}
    assert moved <= {"9.running_mean", "9.running_var", *report.plan.weights}
    assert {"5.running_mean", "5.running_var", "4.weight", "8.weight"} <= moved
    merged, _ = reorganize(model, batches, "4", Recipe.preserving(batchnorm="merge"))
    assert (merged.weights["9.running_var"] == model.weights["9.running_var"]).all()


def test_statistics_of_wide_layers_are_estimated_too(
    trained_network, batches, tmp_path, monkeypatch
):
    """From 1 KiB on arrays are handed over apart, those that adapting leaves unread included."""
    model = load(write(trained_network, tmp_path))
    small, _ = reorganize(model, batches, "4")
    monkeypatch.setattr(session_module, "LARGE", 1)
    handed_over, _ = reorganize(load(write(trained_network, tmp_path)), batches, "4")
    assert all((small.weights[n] == handed_over.weights[n]).all() for n in model.weights)


@pytest.mark.parametrize("variant", [KEPT, FOLDED])
def test_arrange_by_the_map_keeps_the_outputs(variant, trained_network, batches, tmp_path):
    model = load(write(trained_network, tmp_path, variant))
    changed, report = arrange(model, batches=batches)
    assert sum(line.moved for line in report.groups) > 20
    assert report.output_change < 1e-5
    x = batches[0][0]
    np.testing.assert_allclose(
        Runner(changed)(x)["y"], Runner(model)(x)["y"], rtol=1e-3, atol=1e-4
    )
    again, _ = arrange(model, batches=batches)
    assert all((again.weights[n] == changed.weights[n]).all() for n in model.weights)


def test_bad_data_gets_one_sentence(trained_network, batches, tmp_path):
    model = load(write(trained_network, tmp_path))
    x, y = batches[0]
    few = y != 3
    bad = x.copy()
    bad[0] = np.nan
    for what, given in {
        "none of 3": [(x[few], y[few])],
        "NaN": [(bad, y)],
        "do not pair": [(x, y[:-1])],
        "cannot run on inputs": [(x[:, :, :0], y)],
    }.items():
        with pytest.raises(ValueError, match=what) as error:
            reorganize(model, given)
        assert "\n" not in str(error.value)


class Changing:
    """Its own random numbers, which no one puts back."""

    def __init__(self, batch, what):
        self.batch, self.what, self.pass_ = batch, what, 0

    def __iter__(self):
        x, y = self.batch
        self.pass_ += 1
        n = self.pass_
        yield x + n * (self.what == "inputs"), np.roll(y, n * (self.what == "labels"))
        if self.what == "length" and self.pass_ > 1:
            yield x, y


@pytest.mark.parametrize("what", ["inputs", "labels", "length"])
def test_data_that_change_between_passes_are_refused(
    what, trained_network, batches, tmp_path, monkeypatch
):
    model = load(write(trained_network, tmp_path))
    reorganize(model, Changing(batches[0], what))  # in memory they are one thing
    monkeypatch.setattr(batches_module, "KEPT_BYTES", 0)
    with pytest.raises(ValueError, match="must be the same in every pass"):
        reorganize(model, Changing(batches[0], what))


def test_odd_batches_are_refused_in_one_sentence(trained_network, batches, tmp_path):
    model = load(write(trained_network, tmp_path))
    x, y = batches[0]
    for odd, said in (
        ((x[:0], y[:0]), "batch 1 holds no sample"),
        ((np.float32(1), None), "batch 1 holds no sample"),
        (({}, None), "batch 1 holds no sample"),
        ((x, None), "some batches have labels and some have none"),
        ((x[:2], ["cat", "dog"]), "number the classes from 0 on"),
    ):
        with pytest.raises(ValueError, match=said):
            reorganize(model, [(x, y), odd])


def test_a_warning_is_said_once_and_points_at_the_line_of_the_user(tmp_path, recwarn):
    torch.manual_seed(0)
    layers = [torch.nn.Linear(n, 32) for n in (64, *8 * [32])]
    parts = [part for layer in layers for part in (layer, torch.nn.Tanh())]
    model = load(write(torch.nn.Sequential(torch.nn.Flatten(), *parts), tmp_path))
    recwarn.clear()  # of the exporter
    shrink(model, [(torch.randn(8, 1, 8, 8).numpy(), np.arange(8) % 2)], ratio=0.75)
    (few,) = recwarn
    assert "and too few for" in str(few.message)
    assert "and 2 more: give 250 samples or more" in str(few.message)
    assert few.filename == __file__


def test_bad_requests_get_one_sentence(trained_network, batches, tmp_path):
    model = load(write(trained_network, tmp_path))
    with pytest.raises(ValueError, match="reaches an output"):
        reorganize(model, batches, "13")
    with pytest.raises(ValueError, match="did you mean"):
        reorganize(model, batches, "8.weigth")
    with pytest.raises(ValueError, match="no activations to collect"):
        collect(model, batches, ["13"])
    with pytest.raises(ValueError, match="needs batches"):
        arrange(model)
    with pytest.raises(ValueError, match="name one layer"):
        arrange(model, order=np.arange(8))
    with pytest.raises(ValueError, match="permutation"):
        arrange(model, "0", order=np.zeros(8, int))
