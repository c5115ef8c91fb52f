"""ONNX models in float16 and bfloat16 move exactly: their weights keep their bits."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
from onnx import TensorProto, numpy_helper  # noqa: E402
from onnxruntime.transformers.float16 import convert_float_to_float16  # noqa: E402
from rejuvenet.adapters.onnx import arrange, load  # noqa: E402

sys.path.insert(0, str(Path(__file__).parent))

from onnx_exports import export, exports, randomize  # noqa: E402
from onnx_proof import differing, prove  # noqa: E402
from test_onnx_quantized import Network, X  # noqa: E402


@pytest.fixture(scope="module", params=["script, kept", "dynamo, folded"])
def single(request, tmp_path_factory):
    """The file of a network in float32."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("single") / "m.onnx"
    return export(randomize(Network()), torch.zeros(1, 3, 12, 12), path, request.param)


@pytest.mark.parametrize("keep", [True, False])
def test_half_precision(single, keep, tmp_path):
    """The converter writes casts of inputs at the end of the file, behind what reads them."""
    path = tmp_path / "m.onnx"
    onnx.save(convert_float_to_float16(onnx.load(single), keep_io_types=keep), path)
    proof = prove(path, X[:1] if keep else X[:1].astype(np.float16))
    assert proof.verdict.moved == proof.verdict.convolutions == 6
    assert list(proof.frozen.values()) == ["reaches an output of the model"]
    assert {array.dtype for array in proof.changed.values()} == {np.dtype(np.float16)}
    assert proof.parameters > 1900


def in_single_precision(path: Path) -> onnx.ModelProto:
    """The same network in float32, which holds every bfloat16 number exactly."""
    message = onnx.load(path)

    def convert(tensor):
        if tensor.data_type == TensorProto.BFLOAT16:
            values = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))

    for tensor in message.graph.initializer:
        convert(tensor)
    for node in message.graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                convert(attribute.t)
            if attribute.name == "to" and attribute.i == TensorProto.BFLOAT16:
                attribute.i = TensorProto.FLOAT
    for value in (*message.graph.input, *message.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT
    del message.graph.value_info[:]
    return message


def outputs(message, x):
    session = onnxruntime.InferenceSession(message.SerializeToString())
    return session.run(None, {session.get_inputs()[0].name: x})[0]


@pytest.fixture(scope="module")
def brain(tmp_path_factory):
    """The files of a network in bfloat16, by variant."""
    module, paths = randomize(Network(), seed=1).bfloat16(), {}
    for variant, write in exports(module, torch.zeros(1, 3, 12, 12).bfloat16(), "dynamo"):
        paths[variant] = tmp_path_factory.mktemp("brain") / "m.onnx"
        write(paths[variant])
    return paths


@pytest.mark.parametrize("variant", ["dynamo, kept", "dynamo, folded"])
def test_brain_floats(variant, brain, tmp_path):
    """onnxruntime has no kernels for them on a CPU: shapes are inferred."""
    path = brain[variant]
    model = load(path)
    moved, report = arrange(model, order="random")
    assert report.output_change is None
    moved.save(tmp_path / "moved.onnx")
    onnx.checker.check_model(str(tmp_path / "moved.onnx"))
    changed = differing(onnx.load(path), onnx.load(tmp_path / "moved.onnx"))
    types = [str(old.dtype) for old, _ in changed.values()]
    assert types.count("bfloat16") >= 11  # folding leaves a bias or two in float32
    assert sum(int((old != new).sum()) for old, new in changed.values()) > 1900
    assert [g.frozen for g in model.groups if g.frozen] == ["reaches an output of the model"]
    before = outputs(in_single_precision(path), X[:1])
    twin = in_single_precision(tmp_path / "moved.onnx")
    error = np.abs(outputs(twin, X[:1]) - before).max() / np.abs(before).max()
    shaken = outputs(in_single_precision(path), X[:1] * np.float32(1 + 3e-7))
    assert error < max(1e-5, 100 * np.abs(shaken - before).max() / np.abs(before).max())
    # The negative control: one weight as it was.
    for tensor in twin.graph.initializer:
        if tensor.name == "c.weight":
            old = changed["c.weight"][0].astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(old, tensor.name))
    control = np.abs(outputs(twin, X[:1]) - before).max() / np.abs(before).max()
    assert control > 30 * max(error, 1e-7)
