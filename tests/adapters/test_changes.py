"""Changed arrays in a file of their own make the changed model of the original, and no other."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from rejuvenet.adapters.command_line.app import app
from rejuvenet.adapters.onnx import apply_changes, load, reorganize, save_changes, shrink
from rejuvenet.graph import Recipe
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parent))

from trained_file import model

RANDOM = Recipe.comparison("random")


def shared_statistics(path):
    """One array for the shift and the mean of the normalization, as fresh ones have it."""
    message = onnx.load(path)
    for tensor in message.graph.initializer:
        if tensor.name == "bn.shift":
            tensor.raw_data = np.zeros(4, np.float32).tobytes()
    message.graph.node[2].input[3] = "bn.shift"
    onnx.save(message, path)


@pytest.mark.parametrize("form", ["inside", "outside", "constants", "halves", "shared"])
def test_changes_make_the_changed_file(tmp_path, form):
    given = model(tmp_path / "in.onnx", constants=form == "constants",
                  kind="f2" if form == "halves" else "f4")  # fmt: skip
    if form == "outside":
        onnx.save(onnx.load(given), given, save_as_external_data=True, location="w",
                  size_threshold=0)  # fmt: skip
    if form == "shared":
        shared_statistics(given)
    changed, _ = reorganize(given, layers="conv/w.1", recipe=RANDOM)
    if form == "shared":  # a copy for one of the two uses
        changed = changed.with_weights({next(iter(changed.copies)): np.ones(4, "f4")})
    changed.save(tmp_path / "out.onnx")
    changes = tmp_path / "new.safetensors"
    n = save_changes(load(given), load(tmp_path / "out.onnx"), changes)
    arrays = load_file(changes)
    assert 0 < n == len(arrays) < 8
    assert "conv_w/1" in arrays
    assert ("bn.shift_1" in arrays) == (form == "shared")
    done = CliRunner().invoke(app, ["apply", str(given), str(changes), "-o", str(tmp_path / "2")])
    assert done.exit_code == 0, done.output
    names = ("out.onnx", "2") if form != "outside" else ("out.onnx.data", "2.data")
    assert len({(tmp_path / name).read_bytes() for name in names}) == 1


def test_they_go_into_no_other_file(tmp_path):
    given, changes = model(tmp_path / "in.onnx"), tmp_path / "new.safetensors"
    reorganize(given, layers="conv/w.1", recipe=RANDOM)[0].save(tmp_path / "out.onnx")
    save_changes(load(given), load(tmp_path / "out.onnx"), changes)
    words = ["apply", str(tmp_path / "out.onnx"), str(changes), "-o", str(tmp_path / "no.onnx")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 1
    assert "were changed from another model than this one" in done.stderr
    arrays, header = load_file(changes), b"rejuvenet.original"
    for damage, said in (
        (lambda kept: kept[: len(kept) // 2], "cannot be read"),
        (lambda kept: kept.replace(header, b"somebody.original!"[: len(header)]), "not say which"),
        (lambda kept: kept.replace(b"conv_w/1", b"conv_w/2"), "another model"),
        (lambda kept: kept.replace(b'"F32"', b'"I32"'), "another model"),
    ):
        (tmp_path / "damaged").write_bytes(damage(changes.read_bytes()))
        with pytest.raises(ValueError, match=said):
            apply_changes(load(given), tmp_path / "damaged")
    save_file(arrays, changes)
    with pytest.raises(ValueError, match="does not say which model"):
        apply_changes(load(given), changes)


def test_other_shapes_are_no_changes(tmp_path):
    given = model(tmp_path / "in.onnx")
    shrink(given, recipe=Recipe.shrinking(method="random"), ratio=0.5)[0].save(tmp_path / "s.onnx")
    with pytest.raises(ValueError, match="another shape now"):
        save_changes(load(given), load(tmp_path / "s.onnx"), tmp_path / "c.safetensors")
    assert not (tmp_path / "c.safetensors").exists()
