"""Files with several inputs: an ``.npz`` file with one array for each, labels or none."""

import json

import numpy as np
import pytest
from rejuvenet.adapters.command_line.app import app
from typer.testing import CliRunner

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

RNG = np.random.default_rng(0)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A picture and two numbers make 3 scores through 16 channels; 64 samples of them."""
    monkeypatch.chdir(tmp_path)
    arrays = {
        "conv": RNG.normal(size=(16, 1, 3, 3)), "side": RNG.normal(size=(2, 16)),
        "last": RNG.normal(size=(16, 3)),
    }  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["a/picture", "conv"], ["h"]),
        helper.make_node("GlobalAveragePool", ["h"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("MatMul", ["numbers:0", "side"], ["s"]),
        helper.make_node("Add", ["f", "s"], ["t"]),
        helper.make_node("Relu", ["t"], ["r"]),
        helper.make_node("MatMul", ["r", "last"], ["scores"]),
    ]
    inputs = {"a/picture": ["n", 1, 6, 6], "numbers:0": ["n", 2]}
    graph = helper.make_graph(
        nodes, "two inputs",
        [helper.make_tensor_value_info(k, TensorProto.FLOAT, v) for k, v in inputs.items()],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(v.astype("f4"), k) for k, v in arrays.items()],
    )  # fmt: skip
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), "two.onnx")
    y = np.arange(64) % 3
    numbers = np.stack([y == 1, y == 2], axis=1) + 0.1 * RNG.normal(size=(64, 2))
    data = {"a/picture": RNG.normal(size=(64, 1, 6, 6)), "numbers:0": numbers}
    np.savez("data.npz", **data)
    np.savez("labelled.npz", **data, y=y)
    return tmp_path


def call(*words):
    done = CliRunner().invoke(app, [*map(str, words), "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout), done.stderr


def test_without_labels(place):
    report, said = call("shrink", "two.onnx", "--data", "data.npz", "-o", "small.onnx",
                        "--ratio", 0.5)  # fmt: skip
    assert report["groups"][0]["removed"] == 8
    assert "labels" not in said
    report, _ = call("reorganize", "two.onnx", "--arrange", "--data", "data.npz", "-o", "new.onnx")
    assert report["verdict"]["within"]
    groups, _ = call("inspect", "two.onnx", "--data", "data.npz")
    assert groups["groups"][0]["effective_rank"] > 1
    found, _ = call("compare", "two.onnx", "new.onnx", "--data", "data.npz")
    assert found["relative_difference"] < 1e-5
    assert found["files"][0]["cost"]["multiply_adds"] == 16 * 16 * 9 + 2 * 16 + 16 * 3


def test_training(place):
    pytest.importorskip("onnx2fx")
    how = ("two.onnx", "--epochs", 8, "--lr", 0.02, "--batch-size", 16)
    found, _ = call("finetune", *how, "--data", "labelled.npz", "-o", "tuned.onnx")
    assert found["trained"]["epochs"][-1]["loss"] < found["trained"]["epochs"][1]["loss"]
    words = ("finetune", *how, "--data", "data.npz", "--augment", "flip", "-o", "n.onnx")
    done = CliRunner().invoke(app, [*map(str, words)])
    assert done.exit_code == 2
    assert "--augment does nothing" in done.stderr
    taught = ("--teacher", "tuned.onnx", "--data", "data.npz", "-o", "taught.onnx")
    found, _ = call("finetune", *how, *taught)
    assert found["trained"]["epochs"][-1]["loss"] < found["trained"]["epochs"][1]["loss"]


@pytest.mark.parametrize(
    ("arrays", "options", "said"),
    [
        ({"a/picture": np.zeros((4, 1, 6, 6))}, [], "found none for numbers:0"),
        ({"numbers:0": np.zeros((3, 2))}, [], "4 in a/picture, 3 in numbers:0"),
        ({"numbers:0": np.full((4, 2), np.nan)}, [], "numbers:0 holds NaN"),
        ({"numbers:0": np.zeros((4, 2)), "y": np.zeros((4, 4))}, [], "one label for each"),
        ({"numbers:0": np.zeros((4, 2))}, ["--mean", "0.5"], "leave out --size, --mean"),
    ],
)
def test_what_does_not_fit_is_said(place, arrays, options, said):
    np.savez("bad.npz", **{"a/picture": np.zeros((4, 1, 6, 6)), **arrays})
    words = ["inspect", "two.onnx", "--data", "bad.npz", *options]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == (2 if options else 1)
    assert said in " ".join(done.stderr.replace("│", " ").split())


def test_one_input_needs_no_labels(place, demo_run):
    """An .npz file with x alone, where no labels are needed."""
    made = demo_run[0] / "demo"
    np.savez("x.npz", x=np.load(made / "digits_train.npz")["x"][:200])
    words = ["shrink", made / "original.onnx", "--data", "x.npz", "-o", "small.onnx"]
    report, said = call(*words, "--ratio", 0.75)
    assert report["agreement"] > 0.5
    assert "labels" not in said
    done = CliRunner().invoke(app, ["finetune", *map(str, words[1:])])
    assert "The images have no labels" in done.stderr
