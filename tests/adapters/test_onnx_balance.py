"""Scale moves in ONNX files as it does in PyTorch models: the function stays."""

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from rejuvenet.adapters import onnx as adapter  # noqa: E402
from rejuvenet.adapters.onnx.runner import Runner  # noqa: E402
from rejuvenet.graph import Recipe, reorganizing  # noqa: E402


def network(path, activation):
    rng = np.random.default_rng(0)
    shapes = {"v": (12, 3, 3, 3), "a": (12,), "w": (4, 12, 3, 3), "b": (4,)}
    weights = [
        numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name)
        for name, shape in shapes.items()
    ]
    nodes = [
        helper.make_node("Conv", ["x", "v", "a"], ["c"], name="first"),
        helper.make_node(activation, ["c"], ["r"]),
        helper.make_node("MaxPool", ["r"], ["p"], kernel_shape=[2, 2]),
        helper.make_node("Conv", ["p", "w", "b"], ["d"], name="second"),
        helper.make_node("GlobalAveragePool", ["d"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4, 1, 1])], weights,
    )  # fmt: skip
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), path)
    return path


@pytest.mark.parametrize(("activation", "balanced"), [("Relu", True), ("Tanh", False)])
def test_the_function_is_that_without_balance(tmp_path, monkeypatch, activation, balanced):
    path = network(tmp_path / "m.onnx", activation)
    x = np.random.default_rng(1).normal(size=(40, 3, 8, 8)).astype(np.float32)
    batches = [(x, np.arange(40) % 4)]
    recipe = Recipe.preserving(method="kmeans")
    changed, _ = adapter.reorganize(path, batches, "v", recipe)
    monkeypatch.setattr(reorganizing, "balance_plan", lambda *_: None)
    plain, _ = adapter.reorganize(path, batches, "v", recipe)
    before, after = (Runner(model)(x)["y"] for model in (plain, changed))
    assert np.linalg.norm(after - before) < 1e-6 * np.linalg.norm(before)
    moved = any(not np.array_equal(changed.weights[n], plain.weights[n]) for n in "vaw")
    assert moved == balanced
