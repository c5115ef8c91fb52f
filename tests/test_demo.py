"""The main job end to end, on the real digits: what must be true of its figures and files."""

import re

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
torch = pytest.importorskip("torch")


def weights(path):
    from rejuvenet.adapters.command_line.comparison import initializers

    return dict(initializers(str(path)))


def test_figures(demo_run):
    _, result = demo_run
    accuracy = result["accuracy"]
    (group,) = result["report"]["groups"]
    assert group["channels"] == 32
    assert group["survivors"] + group["new"] == 32
    assert group["survivors"] <= 16
    assert accuracy["original"] > 0.9
    # With data at hand, half of the channels are enough to keep the function ...
    assert accuracy["preserving"] > accuracy["original"] - 0.05
    # ... and fine-tuning does not lose what plain training reaches.
    assert accuracy["preserving_finetuned"] > accuracy["original_finetuned"] - 0.02
    assert accuracy["smaller"] > accuracy["original"] - 0.05
    assert set(accuracy) >= {"paper", "kmeans", "random", "l1", "l2", "paper_finetuned"}


def test_export_keeps_batchnorm_and_names(demo_run):
    from rejuvenet.adapters.command_line.demo import DigitsNet

    folder, _ = demo_run
    model = onnx.load(folder / "demo" / "original.onnx")
    operators = [node.op_type for node in model.graph.node]
    assert operators.count("Conv") == operators.count("BatchNormalization") == 4
    state = {k for k in DigitsNet().state_dict() if not k.endswith("num_batches_tracked")}
    assert state <= set(weights(folder / "demo" / "original.onnx"))


def test_only_the_deepest_group_changed(demo_run):
    folder, _ = demo_run
    old, new = (weights(folder / "demo" / f"{name}.onnx") for name in ("original", "preserving"))
    changed = {name for name in old if not np.array_equal(old[name], new[name])}
    touched = {"conv4.weight", "conv4.bias", "norm4.weight", "norm4.bias", "norm4.running_mean",
               "norm4.running_var", "classifier.weight", "classifier.bias"}  # fmt: skip
    assert {"conv4.weight", "norm4.running_var", "classifier.weight"} <= changed <= touched


def test_new_channels_learn_in_fine_tuning(demo_run):
    folder, result = demo_run
    before = weights(folder / "demo" / "preserving.onnx")
    new = ~before["classifier.weight"].any(axis=0)  # an empty node's place lies among the others
    assert new.sum() == result["report"]["groups"][0]["new"] > 0
    after = weights(folder / "demo" / "preserving_finetuned.onnx")
    assert (np.abs(after["classifier.weight"][:, new]) > 0).all()
    moved = np.abs(after["conv4.weight"][new] - before["conv4.weight"][new])
    assert (moved.reshape(len(moved), -1).max(axis=1) > 0).all()


def test_fine_tuning_changes_nothing_but_weights(demo_run):
    folder, _ = demo_run
    before, after = (
        onnx.load(folder / "demo" / f"{name}.onnx")
        for name in ("preserving", "preserving_finetuned")
    )
    assert [n.SerializeToString() for n in before.graph.node] == [
        n.SerializeToString() for n in after.graph.node
    ]
    assert before.opset_import == after.opset_import
    assert before.graph.input == after.graph.input


def test_page_shows_three_states(demo_run):
    folder, _ = demo_run
    page = (folder / "demo" / "report.html").read_text()
    for title in ("Before", "Reorganized", "Rejuvenated"):
        assert f"<b>{title}</b>" in page
    assert page.count('class="pixels"') == 4  # three states and the close-up
    first = page[: page.index("</section>")]
    assert "What to do next" in first
    assert "rejuvenet shrink" in re.sub("</?span>", "", first)


def test_the_stream_is_shown_and_events_take_place(demo_run):
    folder, result = demo_run
    plain, reorganized = result["stream"].values()
    assert len(plain) == len(reorganized) == 8
    assert plain[:2] == reorganized[:2]  # the first event follows the second task
    assert plain[2:] != reorganized[2:]
    assert min(plain + reorganized) > 0.5
    page = (folder / "demo" / "report.html").read_text()
    assert page.count("<polyline") == 2
