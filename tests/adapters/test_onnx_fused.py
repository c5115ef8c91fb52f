"""Recurrent layers, and operators that onnxruntime fuses or that do the work of several."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
from onnx import defs, helper  # noqa: E402
from rejuvenet.adapters.onnx import load, reorganize  # noqa: E402
from rejuvenet.adapters.onnx.operators.microsoft import MICROSOFT  # noqa: E402
from rejuvenet.adapters.onnx.operators.table import OPERATORS, WITHOUT_STRUCTURE  # noqa: E402
from rejuvenet.adapters.onnx.runner import Runner  # noqa: E402
from rejuvenet.graph import Recipe  # noqa: E402

sys.path.insert(0, str(Path(__file__).parent))

from onnx_proof import prove  # noqa: E402
from test_onnx_operators import X, between, copied, integers, node, values  # noqa: E402


def fused(op, inputs, outputs, **attributes):
    return node(op, inputs, outputs, domain="com.microsoft", **attributes)


def of_microsoft(path):
    """The same file with the domain of onnxruntime's own operators."""
    message = onnx.load(path)
    message.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    onnx.save(message, path)
    return path


# --- recurrent layers -------------------------------------------------------------------------


def recurrent(kind, gates, directions=1, hidden=5, **attributes):
    """``kind`` reads the columns of a picture as a sequence of 8 steps with 64 values each."""
    direction = {1: "forward", 2: "bidirectional"}[directions]
    arrays = {
        "W": 0.2 * values(directions, gates * hidden, 64),
        "R": values(directions, gates * hidden, hidden),
        "B": values(directions, 2 * gates * hidden),
        "front": integers(0, 8, -1), "back": integers(0, 0, -1), "ends": integers(2, 3),
        "perm": integers(0),
    }  # fmt: skip
    nodes = [
        node("Transpose", ["h"], ["columns"], perm=[3, 0, 1, 2]),
        node("Reshape", ["columns", "back"], ["steps"]),
        node(kind, ["steps", "W", "R", "B"], ["Y", "last"], hidden_size=hidden,
             direction=direction, **attributes),
        node("Transpose", ["Y"], ["t"], perm=[2, 1, 3, 0]),
        node("Reshape", ["t", "flat"], ["u"]),
        node("Unsqueeze", ["u", "three"], ["z1"]),
        node("Transpose", ["last"], ["l"], perm=[1, 0, 2]),
        node("Reshape", ["l", "joined"], ["z2"]),
        node("Add", ["z1", "z2"], ["z"]),
    ]  # fmt: skip
    arrays |= {
        "flat": integers(0, directions * hidden, -1), "three": integers(3),
        "joined": integers(0, directions * hidden, 1, 1),
    }  # fmt: skip
    return nodes, arrays, directions * hidden


RECURRENT = {
    "RNN": recurrent("RNN", 1),
    "GRU": recurrent("GRU", 3),
    "GRU with the reset after the product": recurrent("GRU", 3, linear_before_reset=1),
    "LSTM": recurrent("LSTM", 4),
    "LSTM in both directions": recurrent("LSTM", 4, 2),
}


@pytest.mark.parametrize("case", RECURRENT)
def test_hidden_units_move(case, tmp_path):
    nodes, arrays, after = RECURRENT[case]
    read = {name for n in nodes for name in n.input}
    arrays = {name: array for name, array in arrays.items() if name in read}
    path = between(tmp_path / "m.onnx", nodes, arrays, 17, after=after)
    proof = prove(path, X)
    # The channels before move the columns of W; the hidden units move the rest.
    assert set(proof.changed) >= {"first", "bias", "W", "R", "B", "second"}
    read = [g for g in proof.model.groups if "R" in {m.weight for m in g.members}]
    (hidden,) = (g for g in read if g.frozen is None)
    assert hidden.channels == 5
    assert {m.weight for m in hidden.producers} >= {"W", "R"}
    assert "R" in {m.weight for m in hidden.consumers}


ROWS = [
    node("Tanh", ["h"], ["a"]), node("Reshape", ["a", "flat"], ["f"]),
    node("Transpose", ["f"], ["t"], perm=[0, 2, 1]),
    node("MatMul", ["t", "w"], ["u"]), node("Transpose", ["u"], ["v"], perm=[0, 2, 1]),
    node("Reshape", ["v", "image"], ["z"]),
]  # fmt: skip
BEHIND_ONE = {
    "LSTM": recurrent("LSTM", 4, hidden=32),
    "GRU in both directions": recurrent("GRU", 3, 2, hidden=32),
    "MatMul": (ROWS, {
        "w": 0.5 * values(1, 8, 32), "flat": integers(0, 8, 64), "image": integers(0, 32, 8, 8),
    }, 32),
}  # fmt: skip


@pytest.mark.parametrize("case", BEHIND_ONE)
def test_copies_merge_where_outputs_are_not_the_first_axis(case, tmp_path):
    """How large weights may become is judged by what is drawn for as many inputs."""
    nodes, arrays, after = BEHIND_ONE[case]
    read = {name for n in nodes for name in n.input}
    arrays = {name: array for name, array in arrays.items() if name in read}
    arrays |= {"first": copied(8, 3, 3, 3), "bias": copied(8)}
    path = between(tmp_path / "m.onnx", nodes, arrays, 17, after=after)
    recipe = Recipe.preserving(ratio=0.5, method="kmeans")
    x = np.random.default_rng(1).normal(size=(100, 3, 8, 8)).astype(np.float32)
    changed, report = reorganize(path, [(x, np.arange(100) % 5)], "first", recipe)
    assert report.groups[0].merged == 8
    before, after = (Runner(model)(x)["y"] for model in (load(path), changed))
    np.testing.assert_allclose(after, before, atol=1e-5 * np.abs(before).max())


def test_peepholes_and_first_states(tmp_path):
    nodes, arrays, after = recurrent("LSTM", 4)
    arrays |= {"P": values(1, 15), "s": values(1, 1, 5), "c": values(1, 1, 5)}
    nodes[2] = node(
        "LSTM", ["steps", "W", "R", "B", "", "s", "c", "P"], ["Y", "last"], hidden_size=5
    )
    read = {name for n in nodes for name in n.input}
    arrays = {name: array for name, array in arrays.items() if name in read}
    proof = prove(between(tmp_path / "m.onnx", nodes, arrays, 17, after=after), X[:1])
    assert set(proof.changed) >= {"W", "R", "B", "P", "s", "c"}


# --- operators of onnxruntime -----------------------------------------------------------------

TOKENS = [
    node("Transpose", ["h"], ["last"], perm=[0, 2, 3, 1]),
    node("Reshape", ["last", "rows"], ["tokens"]),
]
BACK = [
    node("Reshape", ["out", "image"], ["grid"]),
    node("Transpose", ["grid"], ["z"], perm=[0, 3, 1, 2]),
]
VIEWS = {"rows": integers(0, 64, -1), "image": integers(0, 8, 8, -1)}

FUSED = {
    "FusedConv": (
        [fused("FusedConv", ["h", "w", "b", "h"], ["z"], activation="Relu")],
        {"w": values(8, 8, 1, 1), "b": values(8)}),
    "FusedConv without a bias": (
        [fused("FusedConv", ["h", "w"], ["z"], activation="Tanh")], {"w": values(8, 8, 1, 1)}),
    "QuickGelu": ([fused("QuickGelu", ["h"], ["z"])], {}),
    "Gelu": ([fused("Gelu", ["h"], ["z"])], {}),
    "BiasGelu": (
        [*TOKENS, fused("BiasGelu", ["tokens", "b"], ["out"]), *BACK], {"b": values(8), **VIEWS}),
    "FastGelu": (
        [*TOKENS, fused("FastGelu", ["tokens", "b"], ["out"]), *BACK], {"b": values(8), **VIEWS}),
    "FusedMatMul": (
        [*TOKENS, fused("FusedMatMul", ["tokens", "w"], ["out"], transB=1, alpha=0.5), *BACK],
        {"w": values(8, 8), **VIEWS}),
    "FusedGemm": (
        [*TOKENS, node("ReduceMean", ["tokens"], ["m"], axes=[1], keepdims=0),
         fused("FusedGemm", ["m", "w", "b"], ["g"], transB=1, activation="Relu"),
         node("Unsqueeze", ["g", "two"], ["z"])],
        {"w": values(8, 8), "b": values(8), "two": integers(2, 3), **VIEWS}),
    "SkipLayerNormalization": (
        [*TOKENS, node("Tanh", ["tokens"], ["other"]),
         fused("SkipLayerNormalization", ["tokens", "other", "g", "b", "c"],
               ["n", "", "", "sum"]),
         node("Add", ["n", "sum"], ["out"]), *BACK],
        {"g": values(8), "b": values(8), "c": values(8), **VIEWS}),
    "SkipSimplifiedLayerNormalization": (
        [*TOKENS, node("Tanh", ["tokens"], ["other"]),
         fused("SkipSimplifiedLayerNormalization", ["tokens", "other", "g"], ["out"]), *BACK],
        {"g": values(8), **VIEWS}),
    "SimplifiedLayerNormalization": (
        [*TOKENS, node("SimplifiedLayerNormalization", ["tokens", "g"], ["out"], axis=-1), *BACK],
        {"g": values(8), **VIEWS}),
    "Attention": (
        [*TOKENS, fused("Attention", ["tokens", "w", "b"], ["out"], num_heads=2), *BACK],
        {"w": values(8, 24), "b": values(24), **VIEWS}),
    "MultiHeadAttention": (
        [*TOKENS, node("MatMul", ["tokens", "q"], ["Q"]), node("MatMul", ["tokens", "k"], ["K"]),
         node("MatMul", ["tokens", "v"], ["V"]),
         fused("MultiHeadAttention", ["Q", "K", "V", "b"], ["out"], num_heads=2), *BACK],
        {"q": values(8, 8), "k": values(8, 8), "v": values(8, 8), "b": values(24), **VIEWS}),
}  # fmt: skip
ALONE = {"QuickGelu", "Gelu"}  # nothing of their own to move


@pytest.mark.parametrize("case", FUSED)
def test_channels_move_through_a_fused_operator(case, tmp_path):
    nodes, arrays = FUSED[case]
    read = {name for n in nodes for name in n.input}
    arrays = {name: array for name, array in arrays.items() if name in read}
    path = of_microsoft(between(tmp_path / "m.onnx", nodes, arrays, 17))
    proof = prove(path, X)
    own = {name for name, array in arrays.items() if array.dtype == np.float32}
    assert set(proof.changed) >= {"first", "bias", "second", *own}
    assert bool(own) != (case in ALONE)
    assert proof.model.groups[0].frozen is None


STANDARD = {
    "Attention": (
        23,
        [*TOKENS, node("MatMul", ["tokens", "q"], ["Q"]), node("MatMul", ["tokens", "k"], ["K"]),
         node("MatMul", ["tokens", "v"], ["V"]),
         node("Attention", ["Q", "K", "V"], ["out"], q_num_heads=2, kv_num_heads=2), *BACK],
        {"q": values(8, 8), "k": values(8, 8), "v": values(8, 8), **VIEWS}),
    "RMSNormalization": (
        23, [*TOKENS, node("RMSNormalization", ["tokens", "g"], ["out"]), *BACK],
        {"g": values(8), **VIEWS}),
    "DeformConv": (
        19,
        [node("Conv", ["x", "o"], ["places"], pads=[1, 1, 1, 1]),
         node("DeformConv", ["h", "w", "places", "b"], ["z"], pads=[1, 1, 1, 1],
              kernel_shape=[3, 3])],
        {"o": 0.1 * values(18, 3, 3, 3), "w": values(8, 8, 3, 3), "b": values(8)}),
    "GridSample": (
        16, [node("GridSample", ["h", "places"], ["z"])],
        {"places": np.tanh(values(1, 4, 4, 2))}),
    "RoiAlign": (
        16, [node("RoiAlign", ["h", "boxes", "which"], ["z"], output_height=2, output_width=2)],
        {"boxes": np.array([[0, 0, 5, 5], [1, 2, 7, 6]], np.float32), "which": integers(0, 1)}),
    "ReverseSequence": (
        17,
        [node("Transpose", ["h"], ["t"], perm=[2, 0, 3, 1]),
         node("ReverseSequence", ["t", "lengths"], ["u"]),
         node("Transpose", ["u"], ["z"], perm=[1, 3, 0, 2])], {"lengths": integers(3, 7)}),
    "CenterCropPad": (
        18, [node("CenterCropPad", ["h", "size"], ["z"], axes=[2, 3])], {"size": integers(5, 11)}),
    "random positions of its own": (
        17, [node("Shape", ["h"], ["s"]), node("ConstantOfShape", ["s"], ["n"]),
             node("Add", ["h", "n"], ["z"])], {}),
}  # fmt: skip


@pytest.mark.parametrize("case", STANDARD)
def test_channels_move_through(case, tmp_path):
    opset, nodes, arrays = STANDARD[case]
    read = {name for n in nodes for name in n.input}
    arrays = {name: array for name, array in arrays.items() if name in read}
    path = between(tmp_path / "m.onnx", nodes, arrays, opset)
    proof = prove(path, X[:1] if case == "GridSample" else X)
    assert set(proof.changed) >= {"first", "bias", "second"}
    assert proof.model.groups[0].frozen is None
    if case == "DeformConv":
        assert {"w", "b"} <= set(proof.changed)
        offsets = next(g for g in proof.model.groups if g.name == "o")
        assert offsets.frozen == "its values are places to read"


# --- what is and is not in the tables ---------------------------------------------------------


def test_every_standard_operator_is_in_the_table():
    """A rule, or a true reason; operators with a graph of their own are not in the table."""
    standard = {schema.name for schema in defs.get_all_schemas() if schema.domain == ""}
    with_graphs = {"If", "Loop", "Scan", "SequenceMap"}
    constants = {"Constant"}
    assert standard - set(OPERATORS) == with_graphs | constants
    assert set(WITHOUT_STRUCTURE) <= standard
    assert set(OPERATORS) - standard == {"SimplifiedLayerNormalization"}


def test_reasons_say_what_an_operator_does(tmp_path):
    model = load(between(tmp_path / "m.onnx", [node("Hardmax", ["h"], ["z"], axis=1)], {}, 17))
    assert model.groups[0].frozen == "the operator Hardmax tells positions by their number"


def test_operators_of_onnxruntime_exist():
    """No name in the table is misspelt."""
    import onnxruntime.capi.onnxruntime_pybind11_state as state

    known = {s.name for s in state.get_all_operator_schema() if s.domain == "com.microsoft"}
    assert set(MICROSOFT) <= known


def test_an_unknown_fused_operator_freezes(tmp_path):
    nodes = [fused("Inverse", ["h"], ["z"])]
    path = of_microsoft(between(tmp_path / "m.onnx", nodes, {}, 17))
    group = next(g for g in load(path).groups if g.name == "first")
    assert group.frozen == "the operator com.microsoft.Inverse is not understood"
