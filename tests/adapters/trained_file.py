"""A small network as an ONNX file, in many forms, and pictures to train it on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper
from rejuvenet.adapters.finetune.training import Settings
from rejuvenet.adapters.images.image_data import ArrayFile, Batches

RNG = np.random.default_rng(0)
WEIGHTS = {
    "conv/w.1": RNG.normal(size=(4, 1, 3, 3)).astype("f4"),
    "conv_w/1": RNG.normal(size=(4, 4, 1, 1)).astype("f4"),  # spelled as the first in Python
    "bn.scale": RNG.uniform(0.5, 1.5, 4).astype("f4"),
    "bn.shift": RNG.normal(size=4).astype("f4"),
    "bn.mean": RNG.normal(size=4).astype("f4"),
    "bn.var": RNG.uniform(0.5, 1.5, 4).astype("f4"),
    "last": RNG.normal(size=(4, 3)).astype("f4"),
    "last.bias": RNG.normal(size=3).astype("f4"),
    "pixels": np.full(1, 0.5, "f4"),
    "flat": np.array([0, 4], np.int64),
}
SETTINGS = Settings(epochs=3, lr=0.02, augment="none", smoothing=0.0)


def model(
    path: Path, *, end=None, batch="n", kind="f4", shared=False, constants=False, shape=(0, 4)
) -> Path:
    """Pictures of 1 x 6 x 6, two convolutions with BatchNorm between, three classes."""
    weights = {k: v.astype(kind) if v.dtype == "f4" else v for k, v in WEIGHTS.items()}
    weights["flat"] = np.array(shape, np.int64)
    second = "conv_w/1"
    node = helper.make_node
    nodes = [
        node("Sub", ["x", "pixels"], ["centred"]),
        node("Conv", ["centred", "conv/w.1"], ["h1"], name="first"),
        node("BatchNormalization", ["h1", *(f"bn.{s}" for s in ("scale", "shift", "mean", "var"))],
             ["h2"]),
        node("Conv", ["h2", second], ["h3"]),
        node("Relu", ["h3"], ["h4"]),
        *([node("Conv", ["h4", second], ["h5"])] if shared else []),
        node("GlobalAveragePool", ["h5" if shared else "h4"], ["h6"]),
        node("Reshape", ["h6", "flat"], ["h7"]),
        node("MatMul", ["h7", "last"], ["h8"]),
        node("Add", ["h8", "last.bias"], ["h9" if end else "y"]),
        *([node(end, ["h9"], ["y"])] if end else []),
    ]  # fmt: skip
    given = [numpy_helper.from_array(v, k) for k, v in weights.items()]
    if constants:
        nodes = [node("Constant", [], [t.name], value=t, name=f"c{t.name}") for t in given] + nodes
        given = []
    number = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    graph = helper.make_graph(
        nodes, "net", [helper.make_tensor_value_info("x", number, [batch, 1, 6, 6])],
        [helper.make_tensor_value_info("y", number, [batch, 3])], given,
    )  # fmt: skip
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    made.metadata_props.add(key="made by", value="hand")
    onnx.save(made, path)
    return path


def data(n: int = 48, labels: bool = True, batch_size: int = 16) -> Batches:
    """Three classes by the column that is bright."""
    rng = np.random.default_rng(1)
    y = np.arange(n) % 3
    x = rng.normal(size=(n, 1, 6, 6)).astype("f4")
    x[np.arange(n), :, :, 2 * y] += 2
    made = ArrayFile.of(x, y)
    made.labelled = labels
    return Batches(made, batch_size)


def arrays(path: Path) -> dict[str, np.ndarray]:
    """All arrays of a file by name, those in ``Constant`` nodes too."""
    graph = onnx.load(path).graph
    held = {t.name: t for t in graph.initializer}
    held |= {n.output[0]: n.attribute[0].t for n in graph.node if n.op_type == "Constant"}
    return {name: numpy_helper.to_array(tensor) for name, tensor in held.items()}


def folded(path: Path) -> Path:
    """Pictures of 1 x 6 x 6, four convolutions whose normalization is folded, a gate, a head."""
    rng, node = np.random.default_rng(0), helper.make_node
    shapes = {"a": (8, 1), "b": (8, 8), "c": (8, 1), "gate": (8, 8), "head": (3, 8)}
    arrays = {n: rng.normal(size=(*s, 1, 1), scale=0.5).astype("f4") for n, s in shapes.items()}
    arrays["b"] = rng.normal(size=(8, 8, 3, 3), scale=0.3).astype("f4")
    arrays |= {f"{n}.bias": rng.normal(size=len(w)).astype("f4") for n, w in arrays.items()}
    nodes = [
        node("Conv", ["x", "a", "a.bias"], ["h1"]),
        node("Relu", ["h1"], ["h2"]),
        node("Conv", ["h2", "b", "b.bias"], ["h3"], pads=[1, 1, 1, 1]),
        node("Relu", ["h3"], ["h4"]),
        node("Conv", ["h4", "c", "c.bias"], ["h5"], group=8),
        node("GlobalAveragePool", ["h5"], ["g1"]),
        node("Conv", ["g1", "gate", "gate.bias"], ["g2"]),
        node("Sigmoid", ["g2"], ["g3"]),
        node("Mul", ["h5", "g3"], ["h6"]),
        node("Conv", ["h6", "head", "head.bias"], ["h7"]),
        node("GlobalAveragePool", ["h7"], ["h8"]),
        node("Flatten", ["h8"], ["y"]),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "folded", [value("x", onnx.TensorProto.FLOAT, ["n", 1, 6, 6])],
        [value("y", onnx.TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(v, k) for k, v in arrays.items()],
    )  # fmt: skip
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)
    return path
