"""Reading and writing ONNX files: what no plan touches stays the same bytes."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
import onnx_ir as ir  # noqa: E402
from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from rejuvenet.adapters.onnx import arrange, load  # noqa: E402
from rejuvenet.adapters.onnx.runner import Runner  # noqa: E402

sys.path.insert(0, str(Path(__file__).parent))

from onnx_exports import VARIANTS, exports, flat, randomize  # noqa: E402


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("onnx")


def network():
    nn = torch.nn
    torch.manual_seed(0)
    return randomize(
        nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
            nn.Conv2d(8, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 5),
        )
    )  # fmt: skip


@pytest.fixture(scope="module")
def paths(folder):
    """The files of the network, by variant."""
    found = {}
    for exporter in ("dynamo", "script"):
        for variant, write in exports(network(), X_TORCH, exporter):
            found[variant] = folder / f"{variant.replace(', ', '_')}.onnx"
            write(found[variant])
    return found


@pytest.fixture(params=VARIANTS)
def path(request, paths):
    return paths[request.param]


def outputs(model, x):
    runner = Runner(model)
    return flat(runner, x)


X = np.random.default_rng(0).normal(size=(1, 3, 8, 8)).astype(np.float32)


def test_unchanged_model_is_the_same_message(path, tmp_path):
    load(path).save(tmp_path / "same.onnx")
    assert onnx.load(tmp_path / "same.onnx") == onnx.load(path)


def test_only_touched_initializers_differ(path, tmp_path):
    model = load(path)
    changed, report = arrange(model, groups="0", order="random")
    changed.save(tmp_path / "changed.onnx")
    before, after = onnx.load(path), onnx.load(tmp_path / "changed.onnx")
    touched = {
        a.name
        for a, b in zip(before.graph.initializer, after.graph.initializer, strict=True)
        if a.SerializeToString(deterministic=True) != b.SerializeToString(deterministic=True)
    }
    assert touched
    assert touched <= set(report.plan.weights)
    for message in (before, after):
        for tensor in message.graph.initializer:
            if tensor.name in touched:
                tensor.ClearField("raw_data")
    assert before == after
    np.testing.assert_allclose(outputs(changed, X), outputs(model, X), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(outputs(load(tmp_path / "changed.onnx"), X), outputs(changed, X))


def test_given_model_is_not_changed(path):
    model = load(path)
    before = {name: array.copy() for name, array in model.weights.items()}
    changed, _ = arrange(model, order="random")
    assert any((changed.weights[name] != before[name]).any() for name in before)
    for name, array in model.weights.items():
        np.testing.assert_array_equal(array, before[name])


def test_ir_model_is_taken(path):
    source = ir.load(path)
    changed, report = arrange(source, order="random")
    assert len(report.groups) == 2
    assert report.output_change < 1e-5
    assert ir.to_proto(source) == ir.to_proto(ir.load(path))  # as it was
    assert changed.ir is source


@pytest.fixture
def external(folder, paths):
    target = folder / "external.onnx"
    if not target.exists():
        message = onnx.load(paths[VARIANTS[3]])
        onnx.save(message, target, save_as_external_data=True, size_threshold=64,
                  location="external.bin")  # fmt: skip
    return target


X_TORCH = torch.zeros(1, 3, 8, 8)


def test_external_data_stay_external(external, tmp_path):
    model = load(external)
    changed, _ = arrange(model, order="random")
    target = tmp_path / "out.onnx"
    changed.save(target)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.onnx", "out.onnx.data"]
    was = onnx.load(external, load_external_data=False).graph.initializer
    now = onnx.load(target, load_external_data=False).graph.initializer
    assert [t.data_location for t in now] == [t.data_location for t in was]
    assert any(t.data_location == TensorProto.EXTERNAL for t in now)
    np.testing.assert_array_equal(outputs(load(target), X), outputs(changed, X))
    np.testing.assert_allclose(outputs(changed, X), outputs(model, X), rtol=1e-4, atol=1e-5)


def test_model_is_saved_over_itself(external, tmp_path):
    model = load(external)
    model.save(tmp_path / "m.onnx")
    again = load(tmp_path / "m.onnx")
    changed, _ = arrange(again, order="random")
    expected = outputs(changed, X)
    changed.save(tmp_path / "m.onnx")
    np.testing.assert_array_equal(outputs(load(tmp_path / "m.onnx"), X), expected)
    changed.save(tmp_path / "second.onnx")  # from arrays whose file was replaced
    np.testing.assert_array_equal(outputs(load(tmp_path / "second.onnx"), X), expected)


def test_missing_external_data(external, tmp_path):
    lone = tmp_path / "lone.onnx"
    lone.write_bytes(external.read_bytes())
    with pytest.raises(ValueError, match=r"external\.bin"):
        load(lone)
    (tmp_path / "external.bin").write_bytes(b"\0" * 10)
    with pytest.raises(ValueError, match="truncated"):
        load(lone)


def test_files_that_are_no_models(path, tmp_path):
    with pytest.raises(FileNotFoundError, match="no file"):
        load(tmp_path / "absent.onnx")
    content = path.read_bytes()
    bad = tmp_path / "bad.onnx"
    for broken in (b"", b"hello, this is a text\n", b"PK\x03\x04" + b"\0" * 60, content[:-50],
                   content[: len(content) // 2]):  # fmt: skip
        bad.write_bytes(broken)
        with pytest.raises(ValueError, match=r"bad\.onnx is not a complete ONNX model") as error:
            load(bad)
        assert "\n" not in str(error.value)


def test_places_that_cannot_be_written(path, tmp_path):
    model = load(path)
    with pytest.raises(OSError, match="no folder"):
        model.save(tmp_path / "absent" / "out.onnx")
    with pytest.raises(OSError, match="it is a folder"):
        model.save(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_failure_while_writing_leaves_the_old_file(path, tmp_path, monkeypatch):
    target = tmp_path / "out.onnx"
    target.write_bytes(b"old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space left on the disk"):
        load(path).save(target)
    assert target.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["out.onnx"]


def test_unknown_layer_has_near_matches(path):
    model = load(path)
    with pytest.raises(ValueError, match="no channel group is made by a layer"):
        model.group("no such thing")
    near = model.groups[0].name[:-1] + "_"
    with pytest.raises(ValueError, match="did you mean"):
        model.group(near)


def test_frozen_layer_says_why(path):
    model = load(path)
    frozen = next(group for group in model.groups if group.frozen)
    with pytest.raises(ValueError, match="reaches an output of the model"):
        arrange(model, groups=frozen.name, order="random")


def test_layers_are_found_by_module_path(path):
    model = load(path)
    assert model.group("0").name == model.groups[0].name
    assert model.group("3").name == model.groups[1].name
    assert model.group("last").name == model.groups[1].name


def test_weights_of_another_shape_are_refused(path):
    model = load(path)
    name = model.groups[0].name
    with pytest.raises(ValueError, match="shape"):
        model.with_weights({name: np.zeros(3, np.float32)})
    with pytest.raises(ValueError, match="no weight"):
        model.with_weights({"absent": np.zeros(3, np.float32)})


def test_tensors_in_typed_fields_are_written(tmp_path):
    """Values in ``float_data`` instead of ``raw_data``, and weights in ``Constant`` nodes."""
    rng = np.random.default_rng(0)
    w1 = rng.normal(size=(4, 3, 1, 1)).astype(np.float32)
    w2 = rng.normal(size=(2, 4, 1, 1)).astype(np.float32)
    first = helper.make_tensor("w1", TensorProto.FLOAT, w1.shape, w1.ravel().tolist())
    graph = helper.make_graph(
        [
            helper.make_node("Constant", [], ["w2"], value=numpy_helper.from_array(w2, "inner")),
            helper.make_node("Conv", ["x", "w1"], ["h"]),
            helper.make_node("Conv", ["h", "w2"], ["y"]),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [first],
    )
    message = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(message, tmp_path / "m.onnx")
    model = load(tmp_path / "m.onnx")
    order = np.array([2, 0, 3, 1])
    changed, _ = arrange(model, groups="w1", order=order)
    changed.save(tmp_path / "out.onnx")
    written = onnx.load(tmp_path / "out.onnx")
    np.testing.assert_array_equal(numpy_helper.to_array(written.graph.initializer[0]), w1[order])
    constant = written.graph.node[0].attribute[0].t
    assert constant.name == "inner"
    np.testing.assert_array_equal(numpy_helper.to_array(constant), w2[:, order])


def test_one_input_that_counts_beside_one_that_does_not(tmp_path):
    """A scale of one number for all: every sample was run as often as there are samples."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Mul", ["h", "g"], ["y"])],
        "g",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3]),
            helper.make_tensor_value_info("g", TensorProto.FLOAT, [1]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])],
        [numpy_helper.from_array(np.ones((3, 2), np.float32), "w")],
    )
    message = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(message, tmp_path / "m.onnx")
    runner, x = Runner(load(tmp_path / "m.onnx")), np.ones((5, 3), np.float32)
    assert (runner({"x": x, "g": np.full(1, 2.0)})["y"] == 6).all()
    with pytest.raises(ValueError, match="takes 1 in front of 'g' and any number in front of 'x'"):
        runner({"x": x, "g": np.full(5, 2.0)})
