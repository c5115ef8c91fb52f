"""A small model, inline or with external data, whose values say which version it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SHAPES = {"a": (8, 3, 3, 3), "bias": (8,), "b": (6, 8, 1, 1), "c": (4, 6, 1, 1)}


def message(version: float) -> onnx.ModelProto:
    """Three convolutions whose weights all have the value ``version``."""
    nodes = [
        helper.make_node("Conv", ["x", "a", "bias"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Conv", ["r", "b"], ["i"]),
        helper.make_node("Relu", ["i"], ["s"]),
        helper.make_node("Conv", ["s", "c"], ["y"]),
    ]
    arrays = [
        numpy_helper.from_array(np.full(shape, version, np.float32), name)
        for name, shape in SHAPES.items()
    ]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, 6, 6])], arrays,
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def write(path: Path, version: float, kind: str) -> Path:
    """The model in a file: ``"inline"``, ``"external"`` or ``"several"`` files of values.

    The bias stays in the model's own file, so that a mixture of two versions shows.
    """
    made = message(version)
    outside = {} if kind == "inline" else {"a": 0, "b": 1, "c": 2}
    contents: dict[str, bytes] = {}
    for tensor in made.graph.initializer:
        if tensor.name not in outside:
            continue
        location = f"{path.name}.data"
        if kind == "several":
            location = f"w{outside[tensor.name]}.bin"
        before = contents.get(location, b"")
        entries = {"location": location, "offset": len(before), "length": len(tensor.raw_data)}
        contents[location] = before + tensor.raw_data
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in entries.items():
            tensor.external_data.add(key=key, value=str(value))
    path.write_bytes(made.SerializeToString())
    for location, content in contents.items():
        (path.parent / location).write_bytes(content)
    return path


def version_of(path: Path) -> float:
    """The version of a whole model, by onnx's own reader; it fails for a mixture."""
    loaded = onnx.load(path)
    onnx.checker.check_model(loaded)
    arrays = {t.name: numpy_helper.to_array(t) for t in loaded.graph.initializer}
    values = {float(value) for array in arrays.values() for value in array.flat}
    assert len(values) == 1, f"a mixture of the versions {sorted(values)}"
    assert {name: array.shape for name, array in arrays.items()} == SHAPES
    return values.pop()


def locations(path: Path) -> set[str]:
    """Files that the model at ``path`` names."""
    loaded = onnx.load(path, load_external_data=False)
    entries = [entry for t in loaded.graph.initializer for entry in t.external_data]
    return {entry.value for entry in entries if entry.key == "location"}
