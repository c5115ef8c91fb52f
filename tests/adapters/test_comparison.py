"""Comparison of two ONNX files whose difference is known."""

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from rejuvenet.adapters.command_line.comparison import compare  # noqa: E402
from rejuvenet.adapters.images.image_data import ArrayFile, Batches  # noqa: E402
from rejuvenet.adapters.images.image_model import ImageModel  # noqa: E402
from rejuvenet.adapters.images.model_input import image_shape  # noqa: E402


def linear(path, weight, batch="n", name="w"):
    """``scores = flatten(x) weight``, one input of ``(batch, 1, 2, 2)``."""
    helper = onnx.helper
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["x"], ["f"]),
            helper.make_node("MatMul", ["f", name], ["scores"]),
        ],
        "linear",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [batch, 1, 2, 2])],
        [helper.make_tensor_value_info("scores", onnx.TensorProto.FLOAT, [batch, weight.shape[1]])],
        [onnx.numpy_helper.from_array(weight.astype(np.float32), name)],
    )
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), path)
    return str(path)


@pytest.fixture
def data():
    x = np.eye(4, dtype=np.float32).reshape(4, 1, 2, 2)
    return ArrayFile.of(x, np.arange(4))


def test_same_file_is_the_same(tmp_path, data):
    model = linear(tmp_path / "a.onnx", np.eye(4))
    result = compare(model, model, Batches(data, batch_size=3))
    assert result.accuracy == (1.0, 1.0)
    assert (result.top1, result.top5, result.max_difference) == (1.0, 1.0, 0.0)
    assert (result.equal, result.changed) == (1, {})
    assert result.images == 4


def test_what_is_infinite_in_both_files_is_the_same(tmp_path, data):
    weight = np.eye(4)
    weight[:, 3] = -np.inf  # -inf, and 0 * -inf
    model = linear(tmp_path / "a.onnx", weight)
    result = compare(model, model, Batches(data))
    assert result.max_difference == result.mean_difference == result.relative_difference == 0.0


def test_known_difference(tmp_path, data):
    weight = np.eye(4)
    changed = weight.copy()
    changed[0] = [0, 2, 0, 0]  # the first image now goes to class 1
    a, b = linear(tmp_path / "a.onnx", weight), linear(tmp_path / "b.onnx", changed)
    result = compare(a, b, Batches(data))
    assert result.accuracy == (1.0, 0.75)
    assert result.top1 == 0.75
    assert result.max_difference == 2.0
    assert result.mean_difference == pytest.approx(3 / 16)
    assert result.relative_difference == pytest.approx(np.sqrt(5) / 2)
    assert result.changed == {"w": 2.0}
    assert [c.accuracy for c in result.classes] == [(1.0, 0.0), *[(1.0, 1.0)] * 3]
    low, high = result.intervals[1]
    z = 1.959964  # Wilson's interval solves (p - 3/4)^2 = z^2 p (1 - p) / 4
    for p in (low, high):
        assert (p - 0.75) ** 2 == pytest.approx(z**2 * p * (1 - p) / 4, rel=1e-4)
    assert low < 0.75 < high


def test_what_each_file_costs(tmp_path, data):
    """Sizes with the files of the weights, products of one image, the batch that a file takes."""
    a = linear(tmp_path / "a.onnx", np.eye(4, 400))
    b = linear(tmp_path / "b.onnx", np.eye(4, 400), batch=3)
    onnx.save(onnx.load(b), b, save_as_external_data=True, location="b.bin", size_threshold=0)
    first, second = compare(a, b, Batches(data), threads=2).files
    assert first.cost == second.cost
    assert (first.cost.parameters, first.cost.multiply_adds) == (1600, 1600)
    assert first.bytes == (tmp_path / "a.onnx").stat().st_size
    assert second.bytes == sum((tmp_path / n).stat().st_size for n in ("b.onnx", "b.bin"))
    assert (first.latency.batch, second.latency.batch) == (1, 3)
    assert first.latency.milliseconds > 0
    assert first.latency.threads == 2


def test_weights_of_one_file_only(tmp_path, data):
    a = linear(tmp_path / "a.onnx", np.eye(4), name="w")
    b = linear(tmp_path / "b.onnx", np.eye(4), name="v")
    result = compare(a, b, Batches(data))
    assert (result.only_first, result.only_second, result.equal) == (["w"], ["v"], 0)
    assert (result.reshaped, result.alone) == (0, 2)


def test_different_outputs_are_refused(tmp_path, data):
    a = linear(tmp_path / "a.onnx", np.eye(4))
    b = linear(tmp_path / "b.onnx", np.eye(4)[:, :3])
    with pytest.raises(ValueError, match=r"different outputs: scores with 4 in .* with 3 in"):
        compare(a, b, Batches(data))


def test_images_of_another_size_than_the_second_takes(tmp_path, data):
    a = linear(tmp_path / "a.onnx", np.eye(4))
    model = onnx.load(a)
    for axis, size in (2, 4), (3, 1):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_value = size
    onnx.save(model, tmp_path / "b.onnx")
    with pytest.raises(ValueError, match=r"b.onnx takes 1x4x1, the images are 1x2x2"):
        compare(a, str(tmp_path / "b.onnx"), Batches(data))


def test_fixed_batch_size_is_filled_up(tmp_path, data):
    weight = np.random.default_rng(0).normal(size=(4, 3))
    runner = ImageModel(linear(tmp_path / "a.onnx", weight, batch=3))
    assert np.allclose(runner(data.x)["scores"], weight, atol=1e-6)
    assert runner.batch == 3


def test_labels_that_are_no_outputs_give_no_accuracy(tmp_path, data):
    data.classes = ["a", "b", "c", "d"]
    a = linear(tmp_path / "a.onnx", np.eye(4, 7))
    result = compare(a, a, Batches(data))
    assert result.accuracy is None
    assert result.note.startswith("The 4 classes of the images are not the model's 7 outputs")


def test_size_must_fit_the_model():
    with pytest.raises(ValueError, match=r"takes images of 3x32x32, got 24x24"):
        image_shape((3, 32, 32), (None, 24, 24))


def test_damaged_file(tmp_path, data):
    path = tmp_path / "a.onnx"
    path.write_bytes(b"not a model")
    with pytest.raises(ValueError, match="is not a complete ONNX model"):
        compare(str(path), str(path), Batches(data))
