"""Quantized ONNX models: scales, zero points and integer biases move with their channels.

Weights have seven bits (``reduce_range``): on processors without VNNI the 8-bit kernels of
onnxruntime saturate sums of two products at 16 bits, so that the order of the channels matters
there whatever a model says.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
from onnx import numpy_helper  # noqa: E402
from onnxruntime import InferenceSession, quantization  # noqa: E402
from rejuvenet.adapters.onnx import load, reorganize, shrink  # noqa: E402
from rejuvenet.graph import Recipe  # noqa: E402
from torch import nn  # noqa: E402

sys.path.insert(0, str(Path(__file__).parent))

from onnx_exports import export, randomize  # noqa: E402
from onnx_proof import prove  # noqa: E402

X = np.random.default_rng(9).normal(size=(4, 3, 12, 12)).astype(np.float32)
FORMAT, TYPE = quantization.QuantFormat, quantization.QuantType


class Network(nn.Module):
    """A depthwise convolution, a sum, a concatenation and a linear layer."""

    def __init__(self):
        super().__init__()
        self.a, self.n = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.b, self.c = nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Conv2d(8, 8, 1)
        self.d, self.g = nn.Conv2d(8, 12, 3, stride=2), nn.Conv2d(8, 8, 3, stride=2)
        self.e, self.f = nn.Conv2d(20, 10, 1), nn.Linear(10, 5)

    def forward(self, x):
        h = torch.relu(self.n(self.a(x)))
        h = h + self.c(torch.relu(self.b(h)))
        j = torch.cat([torch.relu(self.d(h)), torch.relu(self.g(h))], 1)
        return self.f(torch.relu(self.e(j)).mean((2, 3)))


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("quantized") / "plain.onnx"
    axes = {"dynamic_axes": {"x": {0: "n"}}, "input_names": ["x"]}
    return export(randomize(Network()), torch.zeros(1, 3, 12, 12), path, "script, folded", **axes)


class Calibration(quantization.CalibrationDataReader):
    def __init__(self):
        self.batches = iter([{"x": X[i : i + 1]} for i in range(4)])

    def get_next(self):
        return next(self.batches, None)


STATIC = {
    "activations of 8 bits": {"activation_type": TYPE.QUInt8},
    "signed activations": {"activation_type": TYPE.QInt8},
    "activations of 16 bits": {"activation_type": TYPE.QUInt16},
    "quantized when it runs": {"extra_options": {"AddQDQPairToWeight": True}},
    "operators on integers": {"quant_format": FORMAT.QOperator},
}


@pytest.mark.parametrize("case", STATIC)
def test_static_quantization(case, plain, tmp_path):
    path = tmp_path / "m.onnx"
    logging.disable(logging.WARNING)
    quantization.quantize_static(
        plain, path, Calibration(), per_channel=True, reduce_range=True, weight_type=TYPE.QInt8,
        **STATIC[case],
    )  # fmt: skip
    logging.disable(logging.NOTSET)
    proof = prove(path, X)
    assert proof.verdict.moved == proof.verdict.convolutions == 6
    assert len(proof.frozen) == 1
    assert "reaches an output" in next(iter(proof.frozen.values()))
    assert proof.parameters > 2000
    last = [g.name[0] for g in proof.model.groups if g.name[0] in "dgef"]
    if case != "quantized when it runs":
        assert last == list("dgef")  # in the order of use, not of dequantization
    types = {array.dtype for array in proof.changed.values()}
    # Weights of 8 bits, or floats that a node quantizes; biases of 32; scales.
    assert types >= {np.dtype(np.int32), np.dtype(np.float32)}
    scales = {n for n in proof.changed if n.endswith("weight_scale")}
    assert scales >= {"b.weight_scale", "c.weight_scale", "d.weight_scale", "e.weight_scale"}


@pytest.mark.parametrize("kind", [TYPE.QInt8, TYPE.QUInt8])
def test_dynamic_quantization(kind, plain, tmp_path):
    path = tmp_path / "m.onnx"
    quantization.quantize_dynamic(
        plain, path, per_channel=True, reduce_range=True, weight_type=kind
    )
    assert any(n.op_type == "ConvInteger" for n in onnx.load(path).graph.node)
    proof = prove(path, X)
    assert proof.verdict.moved == proof.verdict.convolutions == 6
    assert proof.parameters > 1900


def test_weights_that_are_only_dequantized(plain, tmp_path):
    """8-bit weights in a model that computes in floats, scales and zero points by channel."""
    message = onnx.load(plain)
    rng = np.random.default_rng(0)
    for tensor in list(message.graph.initializer):
        values = numpy_helper.to_array(tensor)
        if values.ndim != 4:
            continue
        name, o = tensor.name, len(values)
        scale = np.abs(values).reshape(o, -1).max(1) / rng.uniform(60, 100, o)
        zero = rng.integers(-20, 20, o).astype(np.int8)
        stored = np.rint(values / scale[:, None, None, None]) + zero[:, None, None, None]
        tensor.CopyFrom(numpy_helper.from_array(stored.astype(np.int8), f"{name}_stored"))
        message.graph.initializer.extend([
            numpy_helper.from_array(scale.astype(np.float32), f"{name}_scale"),
            numpy_helper.from_array(zero, f"{name}_zero"),
        ])  # fmt: skip
        parts = [f"{name}_stored", f"{name}_scale", f"{name}_zero"]
        message.graph.node.insert(
            0, onnx.helper.make_node("DequantizeLinear", parts, [name], axis=0)
        )
    path = tmp_path / "m.onnx"
    onnx.save(message, path)
    proof = prove(path, X)
    assert proof.verdict.moved == proof.verdict.convolutions == 6
    moved = set(proof.changed)
    assert {"c.weight_stored", "c.weight_scale", "c.weight_zero"} <= moved
    assert proof.parameters > 2000


def test_integers_are_not_averaged(plain, tmp_path):
    path = tmp_path / "m.onnx"
    logging.disable(logging.WARNING)
    quantization.quantize_static(plain, path, Calibration(), per_channel=True)
    logging.disable(logging.NOTSET)
    name = next(g.name for g in load(path).groups if g.frozen is None)
    with pytest.raises(ValueError, match="quantized weights can be arranged") as error:
        reorganize(path, None, name, Recipe.comparison("l2"))
    assert "\n" not in str(error.value)


def test_zero_points_that_several_nodes_read_become_shorter(tmp_path):
    """Weights that are rounded on their way, as quantization-aware training leaves them."""
    rng = np.random.default_rng(0)
    arrays = {name: rng.normal(size=size) for name, size in {"a": (8, 5), "b": (8, 8)}.items()}
    arrays |= {"c": rng.normal(size=(8, 3)), "s": rng.uniform(0.01, 0.02, 8), "t": np.full(8, 0.02)}
    stored = [numpy_helper.from_array(np.float32(array), name) for name, array in arrays.items()]
    stored.append(numpy_helper.from_array(np.zeros(8, np.int8), "zero"))
    node, nodes, read = onnx.helper.make_node, [], "x"
    for weight, scale in (("a", "s"), ("b", "t")):
        nodes += [
            node("QuantizeLinear", [weight, scale, "zero"], [f"{weight}q"], axis=0),
            node("DequantizeLinear", [f"{weight}q", scale, "zero"], [f"{weight}w"], axis=0),
            node("Gemm", [read, f"{weight}w"], [f"{weight}y"], transB=1),
            node("Relu", [f"{weight}y"], [f"{weight}r"]),
        ]
        read = f"{weight}r"
    nodes.append(node("MatMul", [read, "c"], ["y"]))
    shapes = {"x": ["n", 5], "y": ["n", 3]}
    x, y = (onnx.helper.make_tensor_value_info(k, 1, shape) for k, shape in shapes.items())
    graph = onnx.helper.make_graph(nodes, "aware", [x], [y], stored)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.save(model, tmp_path / "m.onnx")
    data = np.float32(rng.normal(size=(40, 5)))
    batches = [(data, np.arange(40) % 4)]
    smaller, report = shrink(tmp_path / "m.onnx", batches, ratio={"a": 0.5, "b": 0.75})
    assert [group.removed for group in report.groups] == [4, 2]
    smaller.save(tmp_path / "s.onnx")
    (made,) = InferenceSession(tmp_path / "s.onnx").run(None, {"x": data})
    assert made.shape == (40, 3)
    assert 0 < report.output_change < 1
