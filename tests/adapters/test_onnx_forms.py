"""Forms of ONNX files: subgraphs, functions, shared and constant weights, opsets 11 to 22."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from rejuvenet.adapters.onnx import arrange, load  # noqa: E402

sys.path.insert(0, str(Path(__file__).parent))

from onnx_proof import differing, prove  # noqa: E402
from test_onnx_operators import X, integers, node, values, write  # noqa: E402

FLOAT = TensorProto.FLOAT


def tensor(name, *shape, kind=FLOAT):
    return helper.make_tensor_value_info(name, kind, shape or None)


def scalar(name, kind):
    return helper.make_tensor_value_info(name, kind, [])


def moved_and_frozen(proof):
    """Names of the weights that changed, and reasons by weight for those that stay."""
    reasons = {m.weight: g.frozen for g in proof.model.groups for m in g.producers if g.frozen}
    return set(proof.changed), reasons


# --- subgraphs --------------------------------------------------------------------------------

CHAIN = {
    "a": values(8, 3, 1, 1), "bias": values(8), "b": values(6, 8, 1, 1), "c": values(5, 6, 1, 1),
    "d": values(4, 5, 1, 1), "other": values(6, 6, 1, 1), "zero": np.float32(0),
    "true": np.array(True), "three": np.int64(3),
}  # fmt: skip


def chain(middle):
    """Two convolutions, what ``middle`` makes of ``i`` as ``j``, two more."""
    return [
        node("Conv", ["x", "a", "bias"], ["h"]),
        node("Relu", ["h"], ["r"]),
        node("Conv", ["r", "b"], ["i"]),
        *middle,
        node("Conv", ["j", "c"], ["k"]),
        node("Relu", ["k"], ["l"]),
        node("Conv", ["l", "d"], ["y"]),
    ]


def branch():
    """Reads ``i`` from outside, with one weight of its own and one from outside."""
    own = numpy_helper.from_array(values(6, 6, 1, 1), "own")
    nodes = [
        node("Conv", ["i", "own"], ["p"]),
        node("Relu", ["p"], ["q"]),
        node("Conv", ["q", "other"], ["r1"]),
    ]
    return helper.make_graph(nodes, "then", [], [tensor("r1")], [own])


def both_branches():
    other = helper.make_graph([node("Neg", ["i"], ["r2"])], "else", [], [tensor("r2")])
    return [
        node("ReduceSum", ["x"], ["s"], keepdims=0),
        node("Greater", ["s", "zero"], ["yes"]),
        node("If", ["yes"], ["j"], then_branch=branch(), else_branch=other),
    ]


def loop(turns="three", condition="true"):
    body = helper.make_graph(
        [node("Identity", ["go"], ["on"]), node("Conv", ["state", "other"], ["m"]),
         node("Tanh", ["m"], ["next"])],
        "body",
        [scalar("n", TensorProto.INT64), scalar("go", TensorProto.BOOL), tensor("state")],
        [scalar("on", TensorProto.BOOL), tensor("next")],
    )  # fmt: skip
    return [node("Loop", [turns, condition, "i"], ["j"], body=body)]


def counted():
    return loop(condition="")


def scan():
    """Along the batch: the weights are read inside only."""
    body = helper.make_graph(
        [node("Unsqueeze", ["each", "front"], ["u"]), node("Conv", ["u", "other"], ["m"]),
         node("Squeeze", ["m", "front"], ["out"])],
        "body", [tensor("each")], [tensor("out")],
        [numpy_helper.from_array(integers(0), "front")],
    )  # fmt: skip
    return [node("Scan", ["i"], ["j"], body=body, num_scan_inputs=1)]


@pytest.mark.parametrize("make", [both_branches, loop, counted, scan])
def test_what_meets_a_subgraph_stays_and_the_rest_moves(make, tmp_path):
    path = write(tmp_path / "m.onnx", chain(make()), CHAIN, 17)
    moved, frozen = moved_and_frozen(prove(path, X))
    assert moved == {"a", "bias", "b", "c", "d"}  # b by its input, c by its output
    inner = {"other", "own"} if make is both_branches else {"other"}
    assert set(frozen) == {"b", "d", *inner}
    for name in ("b", *inner):
        assert "holds a graph of its own" in frozen[name]
    assert frozen["d"] == "reaches an output of the model"


# --- weights in unusual places ----------------------------------------------------------------


def test_a_bias_that_two_layers_share_ties_them(tmp_path):
    arrays = {
        "a": values(8, 3, 1, 1), "b": values(8, 8, 1, 1), "c": values(4, 8, 1, 1),
        "bias": values(8),
    }  # fmt: skip
    nodes = [
        node("Conv", ["x", "a", "bias"], ["h"]),
        node("Relu", ["h"], ["r"]),
        node("Conv", ["r", "b", "bias"], ["i"]),
        node("Relu", ["i"], ["s"]),
        node("Conv", ["s", "c"], ["y"]),
    ]
    proof = prove(write(tmp_path / "m.onnx", nodes, arrays, 17), X)
    assert set(proof.changed) == {"a", "b", "c", "bias"}
    assert [g.channels for g in proof.model.groups if g.frozen is None] == [8]


def test_constants_that_two_layers_share_tie_nothing(tmp_path):
    """Ones and zeros written once, as scale and shift of one layer and as bias of another."""
    arrays = {
        "a": values(8, 3, 1, 1), "b": values(8, 8, 1, 1), "c": values(4, 8, 1, 1),
        "ones": np.ones(8, np.float32), "zeros": np.zeros(8, np.float32), "m": values(8),
        "v": values(8, low=0.5),
    }  # fmt: skip
    nodes = [
        node("Conv", ["x", "a", "zeros"], ["h"]),
        node("Mul", ["h", "slope"], ["n"]),
        node("Conv", ["n", "b", "zeros"], ["i"]),
        node("Add", ["i", "slope"], ["s"]),
        node("Conv", ["s", "c"], ["y"]),
    ]
    arrays["slope"] = np.ones((8, 1, 1), np.float32)
    proof = prove(write(tmp_path / "m.onnx", nodes, arrays, 17), X)
    assert set(proof.changed) == {"a", "b", "c"}
    assert [g.channels for g in proof.model.groups if g.frozen is None] == [8, 8]


def test_initializers_that_are_inputs_too(tmp_path):
    """Before IR version 4 every initializer had to be an input as well."""
    arrays = {"a": values(8, 3, 3, 3), "bias": values(8), "b": values(4, 8, 1, 1)}
    nodes = [node("Conv", ["x", "a", "bias"], ["h"]), node("Conv", ["h", "b"], ["y"])]
    path = write(tmp_path / "m.onnx", nodes, arrays, 11)
    message = onnx.load(path)
    message.ir_version = 3
    message.graph.input.extend(tensor(k, *v.shape) for k, v in arrays.items())
    onnx.save(message, path)
    proof = prove(path, X)
    assert set(proof.changed) == {"a", "bias", "b"}
    assert list(proof.model.example_inputs) == ["x"]


def test_weights_in_constant_nodes(tmp_path):
    """As a tensor, and as a list of floats."""
    bias = [float(v) for v in values(8)]
    nodes = [
        node("Constant", [], ["a"], value=numpy_helper.from_array(values(8, 3, 1, 1), "inner")),
        node("Constant", [], ["bias"], value_floats=bias),
        node("Conv", ["x", "a", "bias"], ["h"]),
        node("Identity", ["h"], ["g"]),
        node("Conv", ["g", "b"], ["y"]),
    ]
    path = write(tmp_path / "m.onnx", nodes, {"b": values(4, 8, 1, 1)}, 17)
    proof = prove(path, X)
    assert {"a", "b", "bias"} == set(proof.changed)
    (group,) = (g for g in proof.model.groups if g.frozen is None)
    assert {m.weight for m in group.members} == {"a", "bias", "b"}


def test_constants_inside_a_function_stay(tmp_path):
    """A function is written once and called twice: its constants cannot change for one call."""
    inner = numpy_helper.from_array(values(8, 1, 1), "slope")
    function = helper.make_function(
        "own", "Scaled", ["u"], ["v"],
        [node("Constant", [], ["s"], value=inner), node("Mul", ["u", "s"], ["v"])],
        [helper.make_opsetid("", 17)],
    )  # fmt: skip
    nodes = [
        node("Conv", ["x", "a"], ["h"]),
        node("Scaled", ["h"], ["i"], domain="own"),
        node("Conv", ["i", "b"], ["j"]),
        node("Relu", ["j"], ["k"]),
        node("Conv", ["k", "c"], ["l"]),
        node("Scaled", ["l"], ["m"], domain="own"),
        node("Conv", ["m", "d"], ["y"]),
    ]
    arrays = {
        "a": values(8, 3, 1, 1), "b": values(6, 8, 1, 1), "c": values(8, 6, 1, 1),
        "d": values(4, 8, 1, 1),
    }  # fmt: skip
    path = write(tmp_path / "m.onnx", nodes, arrays, 17, functions=[function])
    moved, frozen = moved_and_frozen(prove(path, X))
    assert moved == {"b", "c"}
    assert "order is fixed" in frozen["a"]
    assert "order is fixed" in frozen["c"]


def test_functions_that_call_themselves_are_refused_by_name(tmp_path):
    again = helper.make_function(
        "own", "Again", ["u"], ["v"],
        [helper.make_node("Again", ["u"], ["v"], domain="own")],
        [helper.make_opsetid("own", 1)],
    )  # fmt: skip
    middle = [node("Again", ["i"], ["j"], domain="own")]
    path = write(tmp_path / "m.onnx", chain(middle), CHAIN, 17, functions=[again])
    model = load(path)
    frozen = {g.name: g.frozen for g in model.groups}
    assert frozen["a"] is None
    assert "own.Again is not understood" in frozen["b"]
    moved, report = arrange(model, order="random")
    assert report.output_change is None
    moved.save(tmp_path / "moved.onnx")
    changed = differing(onnx.load(path), onnx.load(tmp_path / "moved.onnx"))
    assert {"a", "bias", "b"} <= set(changed)


def test_sparse_initializers_are_refused_by_name(tmp_path):
    path = write(tmp_path / "m.onnx", chain([node("Identity", ["i"], ["j"])]), CHAIN, 17)
    message = onnx.load(path)
    held = numpy_helper.from_array(np.ones(1, np.float32), "thin")
    places = numpy_helper.from_array(integers(3), "thin_indices")
    message.graph.sparse_initializer.append(helper.make_sparse_tensor(held, places, [8]))
    onnx.save(message, path)
    with pytest.raises(ValueError, match="sparse tensor 'thin'") as error:
        load(path)
    assert "\n" not in str(error.value)


def test_nothing_but_values_is_written(tmp_path):
    """Documentation, properties, producers, domains and annotations of the file."""
    path = write(tmp_path / "m.onnx", chain([node("Identity", ["i"], ["j"])]), CHAIN, 17)
    message = onnx.load(path)
    message.doc_string, message.producer_name, message.model_version = "of a model", "hand", 7
    helper.set_model_props(message, {"author": "nobody", "classes": "a, b"})
    message.opset_import.append(helper.make_opsetid("com.example", 3))
    message.graph.doc_string = "of a graph"
    message.graph.node[0].doc_string = "of a node"
    message.graph.node[0].name = "first layer"
    message.graph.node[0].metadata_props.add(key="layer", value="1")
    message.graph.initializer[0].doc_string = "of a tensor"
    message.graph.initializer[0].metadata_props.add(key="trained", value="yes")
    note = message.graph.quantization_annotation.add(tensor_name="h")
    note.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="zero")
    message.graph.value_info.append(tensor("h", "n", 8, 8, 8))
    message.metadata_props.add(key="more", value="kept")
    message.training_info.add().initialization.name = "of training"
    onnx.save(message, path)
    proof = prove(path, X)
    written = onnx.load(proof.saved)
    assert written.graph.initializer[0].doc_string == "of a tensor"
    assert written.graph.quantization_annotation[0].tensor_name == "h"
    assert written.training_info[0].initialization.name == "of training"
    assert {"a", "bias", "b", "c", "d"} == set(proof.changed)


def test_several_inputs_and_outputs(tmp_path):
    """One output in the middle, one that no layer makes, an input of integers."""
    arrays = {
        "a": values(8, 3, 1, 1), "b": values(8, 2, 1, 1), "c": values(6, 8, 1, 1),
        "d": values(5, 6, 1, 1), "e": values(4, 5, 1, 1), "table": values(10, 8),
        "spatial": integers(2, 3),
    }  # fmt: skip
    nodes = [
        node("Conv", ["x", "a"], ["h"]),
        node("Conv", ["second", "b"], ["i"]),
        node("Gather", ["table", "token"], ["t"]),
        node("Unsqueeze", ["t", "spatial"], ["u"]),
        node("Sum", ["h", "i", "u"], ["j"]),
        node("Conv", ["j", "c"], ["middle"]),
        node("Relu", ["middle"], ["k"]),
        node("Conv", ["k", "d"], ["l"]),
        node("GlobalAveragePool", ["l"], ["pooled"]),
        node("Conv", ["pooled", "e"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes, "g",
        [tensor("x", "n", 3, "h", "w"), tensor("second", "n", 2, "h", "w"),
         tensor("token", "n", kind=TensorProto.INT64)],
        [tensor("y"), tensor("middle")],
        [numpy_helper.from_array(v, k) for k, v in arrays.items()],
    )  # fmt: skip
    path = tmp_path / "m.onnx"
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path
    )
    feeds = {
        "x": X, "second": values(2, 2, 8, 8), "token": integers(3, 7),
    }  # fmt: skip
    moved, frozen = moved_and_frozen(prove(path, feeds))
    assert moved == {"a", "b", "c", "d", "e", "table"}
    assert frozen == dict.fromkeys(("c", "e"), "reaches an output of the model")


# --- opsets -----------------------------------------------------------------------------------


def every_form(opset):
    """Operators whose settings were attributes in one opset and are inputs in another."""
    old = opset < 13
    arrays = {
        "a": values(8, 3, 3, 3), "bias": values(8), "s": values(8), "t": values(8),
        "m": values(8), "v": values(8, low=0.5), "b": values(6, 8, 1, 1), "f": values(6, 5),
        "low": np.float32(-1), "high": np.float32(1.5), "starts": integers(1), "ends": integers(7),
        "axis": integers(2), "step": integers(1), "pads": integers(0, 0, 1, 0, 0, 0, 0, 1),
        "scales": np.array([1, 1, 2, 2], np.float32), "half": integers(4, 4),
        "spatial": integers(2, 3), "last": integers(2), "ratio": np.float32(0.3),
        "none": np.array([], np.float32), "g": values(5),
    }  # fmt: skip

    def unsettled(op, x, y, axes, name):
        """Axes as an attribute, or as an input."""
        return node(op, [x], [y], axes=axes) if old else node(op, [x, name], [y])

    reduced = (
        node("ReduceMean", ["p"], ["q"], axes=[2, 3], keepdims=1)
        if opset < 18
        else node("ReduceMean", ["p", "spatial"], ["q"], keepdims=1)
    )
    halves = (
        node("Split", ["z3"], ["h1", "h2"], axis=1, split=[4, 4])
        if old
        else node("Split", ["z3", "half"], ["h1", "h2"], axis=1)
        if opset < 18
        else node("Split", ["z3"], ["h1", "h2"], axis=1, num_outputs=2)
    )
    dropout = (
        node("Dropout", ["p1"], ["p"], ratio=0.3)
        if opset < 12
        else node("Dropout", ["p1", "ratio"], ["p"])
    )
    nodes = [
        node("Conv", ["x", "a", "bias"], ["h"], pads=[1, 1, 1, 1]),
        node("BatchNormalization", ["h", "s", "t", "m", "v"], ["n"]),
        node("Clip", ["n", "low", "high"], ["z1"]),
        node("Slice", ["z1", "starts", "ends", "axis", "step"], ["z2"]),
        node("Pad", ["z2", "pads"], ["z3"]),
        halves,
        node("Concat", ["h2", "h1"], ["z4"], axis=1),
        node("Resize", ["z4", "none" if opset < 13 else "", "scales"], ["z5"], mode="nearest"),
        node("Softmax", ["z5"], ["z6"], axis=1),
        node("Conv", ["z6", "b"], ["p1"]),
        dropout,
        reduced,
        unsettled("Squeeze", "q", "w", [2, 3], "spatial"),
        unsettled("Unsqueeze", "w", "w1", [2], "last"),
        unsettled("Squeeze", "w1", "w2", [2], "last"),
        node("Gemm", ["w2", "f", "g"], ["y"]),
    ]
    read = {name for n in nodes for name in n.input}
    return nodes, {name: array for name, array in arrays.items() if name in read}


@pytest.mark.parametrize("opset", range(11, 23))
def test_opset(opset, tmp_path):
    nodes, arrays = every_form(opset)
    proof = prove(write(tmp_path / "m.onnx", nodes, arrays, opset), X)
    names = {"a", "bias", "s", "t", "m", "v", "b", "f"}
    assert set(proof.changed) == names
    assert proof.parameters > 200
    assert list(proof.frozen.values()) == ["reaches an output of the model"]


def test_outputs_that_are_maps_are_named(tmp_path):
    """As converters of classifiers write probabilities; such a file was called incomplete."""
    h = onnx.helper
    maps = h.make_map_type_proto(
        onnx.TensorProto.INT64, h.make_tensor_type_proto(onnx.TensorProto.FLOAT, None)
    )
    graph = h.make_graph(
        [
            h.make_node("MatMul", ["x", "w"], ["y"]),
            h.make_node("ZipMap", ["y"], ["z"], domain="ai.onnx.ml", classlabels_int64s=[0, 1]),
        ],
        "g",
        [h.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 3])],
        [h.make_value_info("z", h.make_sequence_type_proto(maps))],
        [onnx.numpy_helper.from_array(np.ones((3, 2), np.float32), "w")],
    )
    opsets = [h.make_opsetid("", 17), h.make_opsetid("ai.onnx.ml", 3)]
    path = tmp_path / "m.onnx"
    path.write_bytes(h.make_model(graph, opset_imports=opsets).SerializeToString())
    with pytest.raises(ValueError, match="'z', which holds maps, as ZipMap makes them"):
        load(path)
