"""``--input-shape``: files that leave the shape of their input open, through every command."""

import json
from pathlib import Path

import numpy as np
import pytest
from rejuvenet.adapters.command_line.app import app
from typer.testing import CliRunner

onnx = pytest.importorskip("onnx")
torch = pytest.importorskip("torch")

MODULE = """
from torch import nn

def make():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(8, 2))
"""
SHAPE = ("--input-shape", "x:1,3,12,10")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a model that declares no shape, its module, and data."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(MODULE)
    names: dict = {}
    exec(MODULE, names)
    torch.manual_seed(0)
    torch.onnx.export(
        names["make"]().eval(), torch.randn(1, 3, 12, 10), "m.onnx", dynamo=False,
        input_names=["x"], dynamic_axes={"x": {0: "n", 2: "h", 3: "w"}},
    )  # fmt: skip
    message = onnx.load("m.onnx")
    message.graph.input[0].type.tensor_type.ClearField("shape")
    del message.graph.value_info[:]
    onnx.save(message, "m.onnx")
    x = np.random.default_rng(0).normal(size=(21, 3, 12, 10)).astype("f")
    np.savez("data.npz", x=x, y=np.arange(21) % 2)


def call(*words):
    return CliRunner().invoke(app, list(words))


def said(done):
    return " ".join(done.stderr.replace("│", " ").split())


def test_without_it_every_command_says_what_to_give(place):
    for words in (
        ("inspect", "m.onnx"),
        ("reorganize", "m.onnx", "--arrange", "--order", "random", "-o", "n.onnx"),
        ("compare", "m.onnx", "m.onnx", "--data", "data.npz"),
    ):
        done = call(*words)
        assert done.exit_code == 1, done.output
        assert "declares no shape" in said(done)
        assert "--input-shape" in said(done)


def test_every_command_takes_it(place):
    shown = json.loads(call("inspect", "m.onnx", *SHAPE, "--json").stdout)
    assert [group["channels"] for group in shown["groups"]] == [8, 8, 2]
    only = ("--input-shape", "1x3x12x10", "--data", "data.npz", "--json")
    figures = call("inspect", "m.onnx", *only)
    assert json.loads(figures.stdout)["groups"][0]["occupied"] >= 1
    done = call("reorganize", "m.onnx", *SHAPE, "--arrange", "--data", "data.npz", "-o", "n.onnx")
    assert done.exit_code == 0, done.output
    assert "within the network's own noise" in " ".join(done.stdout.split())
    same = call("compare", "m.onnx", "n.onnx", *SHAPE, "--data", "data.npz", "--json")
    assert json.loads(same.stdout)["top1"] == 1
    done = call(
        "finetune", "m.onnx", *SHAPE, "--data", "data.npz", "-o", "t.onnx", "--module",
        "net.py:make", "--epochs", "1", "--json",
    )  # fmt: skip
    assert done.exit_code == 0, done.output


def test_everything_is_counted_at_the_size_of_the_data(place):
    """Of a file with free axes: no size is guessed where there are data."""
    message = onnx.load("m.onnx")
    for size in ("n", 3, "h", "w"):
        axis = message.graph.input[0].type.tensor_type.shape.dim.add()
        setattr(axis, "dim_param" if isinstance(size, str) else "dim_value", size)
    onnx.save(message, "free.onnx")
    on = ("--data", "data.npz")
    done = call("shrink", "free.onnx", *on, "-o", "s.onnx", "--target-flops", "0.7", "--json")
    report = json.loads(done.stdout)
    files = json.loads(call("compare", "free.onnx", "s.onnx", *on, "--json").stdout)["files"]
    assert [report[name] for name in ("cost_before", "cost")] == [file["cost"] for file in files]
    assert files[0]["cost"]["multiply_adds"] == 10 * 8 * 27 * 8 + 8 * 6 * 72 * 8 + 8 * 2
    for words in (
        ("inspect", "free.onnx"),
        ("compare", "free.onnx", "s.onnx"),
        ("reorganize", "free.onnx", "-o", "r.onnx"),
        ("finetune", "m.onnx", *SHAPE, "-o", "t.onnx", "--module", "net.py:make", "--epochs", "1"),
        ("rejuvenate", "free.onnx", "-o", "j.onnx", "--epochs", "1", "--no-control"),
    ):
        done = call(*words, *on, "--html", f"{words[0]}.html")
        assert done.exit_code == 0, done.output
        assert "10\N{MULTIPLICATION SIGN}8" in Path(f"{words[0]}.html").read_text()


@pytest.mark.parametrize(
    ("given", "status", "words"),
    [
        (["z:1,3,12,10"], 1, "no input 'z'"),
        (["x:1,3,12"], 1, "cannot run"),
        (["x:1,0,12,10"], 2, "positive whole numbers"),
        (["x:n,3,12,10"], 2, "positive whole numbers"),
        (["x:1,3,12,10", "x:1,3,9,9"], 2, "given twice"),
    ],
)
def test_a_wrong_one_is_one_sentence(place, given, status, words):
    options = [part for shape in given for part in ("--input-shape", shape)]
    done = call("reorganize", "m.onnx", *options, "--arrange", "--order", "random", "-o", "n.onnx")
    assert done.exit_code == status, done.output
    assert words in said(done)
    assert "Traceback" not in done.output
