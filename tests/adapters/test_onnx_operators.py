"""Every operator of the table: channels that flow through it move, or say why not.

Small files are written by hand between two convolutions, in the opsets in which the form of the
operator changed; everything is permuted, and the outputs are compared by onnxruntime.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from rejuvenet.adapters.onnx import arrange, load, reorganize  # noqa: E402
from rejuvenet.adapters.onnx.runner import Runner  # noqa: E402
from rejuvenet.graph import Recipe  # noqa: E402

sys.path.insert(0, str(Path(__file__).parent))

from onnx_exports import export, randomize, verify  # noqa: E402

RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 3, 8, 8)).astype(np.float32)
node = helper.make_node


def values(*shape, low=None):
    found = RNG.normal(size=shape).astype(np.float32)
    return found if low is None else low + np.abs(found)


def integers(*numbers):
    return np.array(numbers, np.int64)


def write(path, nodes, arrays, opset, inputs=None, functions=()):
    """A file that reads ``x`` of shape (n, 3, 8, 8) and makes ``y``."""
    inputs = inputs or {"x": ["n", 3, 8, 8]}
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info(k, TensorProto.FLOAT, v) for k, v in inputs.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(v, k) for k, v in arrays.items()],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", opset)]
    if functions:
        opsets.append(helper.make_opsetid("own", 1))
    version = 10 if opset > 19 else 8
    onnx.save(
        helper.make_model(graph, opset_imports=opsets, ir_version=version, functions=functions),
        path,
    )
    return path


def between(path, nodes, arrays=None, opset=17, channels=8, after=8):
    """``nodes`` read ``h`` of 8 channels behind a convolution, and make ``z`` before another."""
    arrays = {
        "first": values(channels, 3, 3, 3), "bias": values(channels),
        "second": values(4, after, 1, 1), **(arrays or {}),
    }  # fmt: skip
    nodes = [
        node("Conv", ["x", "first", "bias"], ["h"], pads=[1, 1, 1, 1]),
        *nodes,
        node("Conv", ["z", "second"], ["y"]),
    ]
    return write(path, nodes, arrays, opset)


CASES = {
    "unary": ([node("Tanh", ["h"], ["t"]), node("HardSigmoid", ["t"], ["z"])], {}, 17),
    "clip 11": ([node("Clip", ["h", "", "six"], ["z"])], {"six": np.float32(0.6)}, 11),
    "prelu": ([node("PRelu", ["h", "slope"], ["z"])], {"slope": values(8, 1, 1)}, 16),
    "scale and shift": (
        [node("Mul", ["h", "s"], ["t"]), node("Add", ["t", "b"], ["z"])],
        {"s": values(1, 8, 1, 1), "b": values(8, 1, 1)}, 17),
    "where": (
        [node("Greater", ["h", "zero"], ["c"]), node("Where", ["c", "h", "low"], ["z"])],
        {"zero": np.float32(0), "low": values(8, 1, 1)}, 17),
    "batch normalization": (
        [node("BatchNormalization", ["h", "s", "b", "m", "v"], ["z"])],
        {"s": values(8), "b": values(8), "m": values(8), "v": values(8, low=0.5)}, 15),
    "instance normalization": (
        [node("InstanceNormalization", ["h", "s", "b"], ["z"])],
        {"s": values(8), "b": values(8)}, 17),
    "layer normalization": (
        [node("Transpose", ["h"], ["t"], perm=[0, 2, 3, 1]),
         node("LayerNormalization", ["t", "s", "b"], ["u"], axis=-1),
         node("Transpose", ["u"], ["z"], perm=[0, 3, 1, 2])],
        {"s": values(8), "b": values(8)}, 17),
    "lp normalization": ([node("LpNormalization", ["h"], ["z"], axis=1)], {}, 17),
    "softmax 11": ([node("Softmax", ["h"], ["z"], axis=1)], {}, 11),
    "softmax 13": ([node("Softmax", ["h"], ["z"], axis=1)], {}, 13),
    "pools": (
        [node("MaxPool", ["h"], ["t"], kernel_shape=[2, 2], strides=[2, 2]),
         node("AveragePool", ["t"], ["z"], kernel_shape=[2, 2])], {}, 17),
    "global pool": ([node("GlobalAveragePool", ["h"], ["z"])], {}, 17),
    "reduce 13": ([node("ReduceMax", ["h"], ["z"], axes=[2, 3])], {}, 13),
    "reduce 18": (
        [node("ReduceMean", ["h", "axes"], ["t"], keepdims=0),
         node("Unsqueeze", ["t", "axes"], ["z"])], {"axes": integers(2, 3)}, 18),
    "squeeze 11": (
        [node("GlobalMaxPool", ["h"], ["t"]), node("Squeeze", ["t"], ["u"], axes=[2, 3]),
         node("Unsqueeze", ["u"], ["z"], axes=[2, 3])], {}, 11),
    "split 11": (
        [node("Split", ["h"], ["a", "b"], axis=1, split=[4, 4]),
         node("Concat", ["b", "a"], ["z"], axis=1)], {}, 11),
    "split 18": (
        [node("Split", ["h"], ["a", "b"], axis=1, num_outputs=2),
         node("Mul", ["a", "b"], ["t"]), node("Concat", ["t", "t"], ["z"], axis=1)], {}, 18),
    "slice": (
        [node("Slice", ["h", "s", "e", "a", "k"], ["z"])],
        {"s": integers(7, 1), "e": integers(-100, 7), "a": integers(1, 3),
         "k": integers(-1, 2)}, 13),
    "gather": (
        [node("Gather", ["h", "i"], ["z"], axis=1)],
        {"i": integers(3, 1, 0, 2, 7, 6, 5, 4)}, 13),
    "gather nd": (
        [node("Transpose", ["h"], ["t"], perm=[2, 3, 1, 0]), node("GatherND", ["t", "i"], ["u"]),
         node("Unsqueeze", ["u", "front"], ["v"]),
         node("Transpose", ["v"], ["z"], perm=[3, 2, 0, 1])],
        {"i": integers(0, 1, 2, 3, 4, 5).reshape(3, 2), "front": integers(0)}, 13),
    "pad 11": (
        [node("Pad", ["h", "p"], ["z"])], {"p": integers(0, 0, 1, 2, 0, 0, 0, 1)}, 11),
    "pad reflect 18": (
        [node("Pad", ["h", "p", "", "a"], ["z"], mode="reflect")],
        {"p": integers(1, 1, 2, 2), "a": integers(2, 3)}, 18),
    "expand": (
        [node("GlobalAveragePool", ["h"], ["t"]), node("Shape", ["h"], ["s"]),
         node("Expand", ["t", "s"], ["z"])], {}, 17),
    "resize": (
        [node("Resize", ["h", "", "scales"], ["z"], mode="linear")],
        {"scales": np.array([1, 1, 2, 2], np.float32)}, 17),
    "upsample from a constant": (
        [node("Constant", [], ["c"],
              value=numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32))),
         node("Resize", ["h", "", "c"], ["z"])], {}, 13),
    "shape arithmetic": (
        [node("Shape", ["h"], ["s"]), node("Gather", ["s", "zero"], ["n"]),
         node("Unsqueeze", ["n"], ["m"], axes=[0]), node("Concat", ["m", "rest"], ["r"], axis=0),
         node("Reshape", ["h", "r"], ["t"]), node("Transpose", ["t"], ["u"], perm=[0, 2, 1, 3]),
         node("Reshape", ["u", "s"], ["z"])],
        {"zero": integers(0)[0], "rest": integers(2, 4, -1)}, 11),
    "sum over channels": (
        [node("ReduceSum", ["h", "one"], ["t"]), node("Mul", ["h", "t"], ["z"])],
        {"one": integers(1)}, 13),
    "transposed convolution": (
        [node("ConvTranspose", ["h", "w", "c"], ["z"], strides=[2, 2])],
        {"w": values(8, 8, 2, 2), "c": values(8)}, 17),
    "grouped convolutions": (
        [node("Conv", ["h", "w"], ["t"], group=8), node("Conv", ["t", "v"], ["z"], group=2)],
        {"w": values(8, 1, 3, 3), "v": values(8, 4, 1, 1)}, 17),
    "blur kernels that two layers share": (
        [node("Conv", ["h", "w"], ["t"], group=8), node("Conv", ["t", "w"], ["z"], group=8)],
        {"w": np.full((8, 1, 3, 3), 1 / 9, np.float32)}, 17),
    "rows filled with one value": (
        [node("ScatterND", ["c", "i", "u"], ["d"]), node("Conv", ["h", "w", "d"], ["z"])],
        {"w": values(8, 8, 1, 1), "c": values(8), "i": integers(1, 2, 3).reshape(3, 1),
         "u": np.zeros(3, np.float32)}, 18),
    "einsum": (
        [node("Einsum", ["h", "w"], ["z"], equation="nchw,cd->ndhw")], {"w": values(8, 8)}, 17),
    "per-axis quantized weights": (
        [node("DequantizeLinear", ["w", "s", "p"], ["d"], axis=0),
         node("Conv", ["h", "d"], ["z"])],
        {"w": RNG.integers(-99, 99, (8, 8, 1, 1)).astype(np.int8), "s": values(8, low=0.01),
         "p": RNG.integers(-9, 9, 8).astype(np.int8)}, 13),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_channels_move_through(case, tmp_path):
    nodes, arrays, opset = CASES[case]
    path = between(tmp_path / "m.onnx", nodes, arrays, opset)
    verdict = verify(path, X)
    assert verdict.outcome == "right", verdict
    groups = load(path).groups
    assert groups[0].name == "first"
    assert groups[0].frozen is None, groups[0].frozen
    assert verdict.moved >= 1


def copied(*shape, axis=0):
    """Values of pairs of equal slices."""
    half = list(shape)
    half[axis] //= 2
    return np.concatenate([values(*half)] * 2, axis)


def product(op, *bias, **attributes):
    """``op`` between what a convolution makes, without its places, and another convolution."""
    domain = "" if op == "Gemm" else "com.microsoft"
    return [
        node("GlobalAveragePool", ["h"], ["p"]), node("Flatten", ["p"], ["f"]),
        node(op, ["f", "w", *bias], ["g"], domain=domain, **attributes),
        node("LeakyRelu", ["g"], ["r"]), node("Unsqueeze", ["r", "places"], ["z"]),
    ]  # fmt: skip


PRODUCTS = {
    "a factor": product("Gemm", "b", alpha=0.5),
    "a factor without a bias": product("Gemm", alpha=0.5),
    "a factor of the bias": product("Gemm", "b", beta=2.0),
    "one number as bias": product("Gemm", "one"),
    "one number in two axes as bias": product("Gemm", "ones"),
    "FusedGemm": product("FusedGemm", "b", activation="Tanh"),
    "FusedMatMul": product("FusedMatMul", alpha=0.5),
    "FusedConv": [
        node("FusedConv", ["h", "k", "b"], ["z"], domain="com.microsoft", activation="Tanh"),
    ],
}  # fmt: skip


@pytest.mark.parametrize("case", PRODUCTS)
def test_copies_merge_without_a_trace_around(case, tmp_path):
    """What reads them is fitted to the product alone; scale moves through nothing but factors."""
    nodes = PRODUCTS[case]
    arrays = {
        "first": copied(8, 3, 3, 3), "bias": copied(8), "w": copied(8, 8, axis=1),
        "b": copied(8), "k": copied(8, 8, 1, 1), "one": values(1), "ones": values(1, 1),
        "places": integers(2, 3),
    }  # fmt: skip
    read = {"first", "bias"}.union(*(n.input for n in nodes))
    arrays = {name: array for name, array in arrays.items() if name in read}
    path = between(tmp_path / "m.onnx", nodes, arrays)
    message = onnx.load(path)
    message.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    onnx.save(message, path)
    x = np.random.default_rng(1).normal(size=(200, 3, 8, 8)).astype(np.float32)
    recipe = Recipe.preserving(ratio=0.5, method="kmeans")
    changed, report = reorganize(path, [(x, np.arange(200) % 5)], "all", recipe)
    assert [group.new for group in report.groups] == [4, 4]
    before, after = (Runner(model)(x)["y"] for model in (load(path), changed))
    np.testing.assert_allclose(after, before, atol=1e-5 * np.abs(before).max())


def test_channels_that_are_cut_off_are_not_those_that_stay(tmp_path):
    nodes = [node("Pad", ["h", "p"], ["z"])]
    arrays = {"p": integers(0, -1, 0, 0, 0, -2, 0, 0)}
    path = between(tmp_path / "m.onnx", nodes, arrays, 13, after=5)
    assert verify(path, X).outcome == "right"
    moving = [group.channels for group in load(path).groups if group.frozen is None]
    assert moving == [3, 5]


REFUSED = {
    "sorting": ([node("TopK", ["h", "k"], ["z", "i"], axis=1)], {"k": integers(8)}, "TopK"),
    "an operator nobody knows": (
        [node("Det", ["h"], ["d"]), node("Unsqueeze", ["d", "two"], ["z"])],
        {"two": integers(2, 3)}, "Det"),
    "places that are read": (
        [node("MaxPool", ["h"], ["t", "i"], kernel_shape=[1, 1]),
         node("Cast", ["i"], ["f"], to=TensorProto.FLOAT), node("Add", ["t", "f"], ["z"])],
        {}, "further output"),
    "a neighbourhood of channels": ([node("LRN", ["h"], ["z"], size=3)], {}, ""),
    "scatter": (
        [node("ScatterND", ["h", "i", "u"], ["z"])],
        {"i": integers(0).reshape(1, 1), "u": values(1, 8, 8, 8)}, "ScatterND"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_understood_stays(case, tmp_path):
    nodes, arrays, reason = REFUSED[case]
    model = load(between(tmp_path / "m.onnx", nodes, arrays))
    group = next(g for g in model.groups if g.name == "first")
    assert group.frozen is not None
    assert reason in group.frozen


def test_a_tensor_read_by_a_subgraph_stays(tmp_path):
    branch = helper.make_graph(
        [node("Identity", ["h"], ["r"])], "b", [],
        [helper.make_tensor_value_info("r", TensorProto.FLOAT, None)],
    )  # fmt: skip
    nodes = [
        node("ReduceSum", ["x"], ["s"], keepdims=0),
        node("Greater", ["s", "zero"], ["c"]),
        node("If", ["c"], ["z"], then_branch=branch, else_branch=branch),
    ]
    model = load(between(tmp_path / "m.onnx", nodes, {"zero": np.float32(0)}))
    assert "If holds a graph" in model.groups[0].frozen


def test_operators_of_other_domains_freeze_what_they_touch(tmp_path):
    """onnxruntime cannot run such a model; it is described from inferred shapes."""
    arrays = {
        "a": values(8, 3, 1, 1), "b": values(6, 8, 1, 1), "c": values(4, 6, 1, 1),
    }  # fmt: skip
    nodes = [
        node("Conv", ["x", "a"], ["h"]),
        node("Relu", ["h"], ["r"]),
        node("Conv", ["r", "b"], ["i"]),
        node("Strange", ["i"], ["j"], domain="own"),
        node("Conv", ["j", "c"], ["y"]),
    ]
    path = write(tmp_path / "m.onnx", nodes, arrays, 17)
    message = onnx.load(path)
    message.opset_import.append(helper.make_opsetid("own", 1))
    onnx.save(message, path)
    model = load(path)
    frozen = {group.name: group.frozen for group in model.groups}
    assert frozen["a"] is None
    assert "own.Strange" in frozen["b"]
    changed, report = arrange(model, order="random")
    assert [line.group for line in report.groups] == ["a"]
    assert (changed.weights["a"] != model.weights["a"]).any()
    np.testing.assert_array_equal(changed.weights["c"], model.weights["c"])


def test_operators_of_other_domains_are_not_those_of_the_same_name(tmp_path):
    """An ``Identity`` that somebody else made may do anything with a weight."""
    arrays = {"a": values(8, 3, 1, 1), "b": values(6, 8, 1, 1), "c": values(4, 6, 1, 1)}
    nodes = [
        node("Conv", ["x", "a"], ["h"]),
        node("Conv", ["h", "b"], ["i"]),
        node("Identity", ["c"], ["d"], domain="own"),
        node("Conv", ["i", "d"], ["y"]),
    ]
    path = write(tmp_path / "m.onnx", nodes, arrays, 17)
    message = onnx.load(path)
    message.opset_import.append(helper.make_opsetid("own", 1))
    message.graph.value_info.append(
        helper.make_tensor_value_info("d", TensorProto.FLOAT, (4, 6, 1, 1))
    )
    onnx.save(message, path)
    model = load(path)
    changed, report = arrange(model, order="random")
    assert [line.group for line in report.groups] == ["a"]
    np.testing.assert_array_equal(changed.weights["c"], model.weights["c"])


def test_functions_are_inlined(tmp_path):
    function = helper.make_function(
        "own", "Block", ["u", "w"], ["v"],
        [node("Relu", ["u"], ["t"]), node("Conv", ["t", "w"], ["v"])],
        [helper.make_opsetid("", 17)],
    )  # fmt: skip
    nodes = [
        node("Conv", ["x", "a"], ["h"]),
        node("Block", ["h", "b"], ["i"], domain="own"),
        node("Block", ["i", "c"], ["y"], domain="own"),
    ]
    arrays = {"a": values(8, 3, 1, 1), "b": values(6, 8, 1, 1), "c": values(4, 6, 1, 1)}
    path = write(tmp_path / "m.onnx", nodes, arrays, 17, functions=[function])
    verdict = verify(path, X)
    assert verdict.outcome == "right"
    changed, _ = arrange(load(path), order="random")
    changed.save(tmp_path / "out.onnx")
    before, after = onnx.load(path), onnx.load(tmp_path / "out.onnx")
    assert before.functions == after.functions
    assert before.graph.node == after.graph.node
    assert before.graph.initializer != after.graph.initializer


def test_equal_constants_tie_nothing(tmp_path):
    """A GroupNorm exported as InstanceNormalization shares its ones; two layers of one width."""
    arrays = {
        "a": values(8, 3, 1, 1), "b": values(8, 8, 1, 1), "c": values(4, 8, 1, 1),
        "ones": np.ones(8, np.float32), "zeros": np.zeros(8, np.float32),
    }  # fmt: skip
    nodes = [
        node("Conv", ["x", "a"], ["h"]),
        node("InstanceNormalization", ["h", "ones", "zeros"], ["i"]),
        node("Conv", ["i", "b", "zeros"], ["j"]),
        node("InstanceNormalization", ["j", "ones", "zeros"], ["k"]),
        node("Conv", ["k", "c"], ["y"]),
    ]
    path = write(tmp_path / "m.onnx", nodes, arrays, 17)
    groups = [group for group in load(path).groups if group.frozen is None]
    assert [group.name for group in groups] == ["a", "b"]
    assert verify(path, X).outcome == "right"


def test_ones_of_a_group_tie_no_channels(tmp_path):
    """A GroupNorm exported as InstanceNormalization between reshapes, alone in its file."""
    arrays = {
        "a": values(8, 3, 1, 1), "c": values(4, 8, 1, 1), "split": integers(0, 4, -1),
        "ones": np.ones(4, np.float32), "zeros": np.zeros(4, np.float32),
    }  # fmt: skip
    nodes = [
        node("Conv", ["x", "a"], ["h"]),
        node("Shape", ["h"], ["whole"]),
        node("Reshape", ["h", "split"], ["i"]),
        node("InstanceNormalization", ["i", "ones", "zeros"], ["j"]),
        node("Reshape", ["j", "whole"], ["k"]),
        node("Conv", ["k", "c"], ["y"]),
    ]
    path = write(tmp_path / "m.onnx", nodes, arrays, 17)
    found = {g.name: [len(s) for s in g.exchangeable] for g in load(path).groups if not g.frozen}
    assert found == {"a": [2, 2, 2, 2], "a:sets": [4]}
    assert verify(path, X).outcome == "right"


def test_trained_weights_that_are_shared_are_tied(tmp_path):
    arrays = {
        "a": values(8, 3, 1, 1), "shared": values(8, 8, 1, 1), "c": values(4, 8, 1, 1),
    }  # fmt: skip
    nodes = [
        node("Conv", ["x", "a"], ["h"]),
        node("Conv", ["h", "shared"], ["i"]),
        node("Identity", ["shared"], ["same"]),
        node("Conv", ["i", "same"], ["j"]),
        node("Conv", ["j", "c"], ["y"]),
    ]
    path = write(tmp_path / "m.onnx", nodes, arrays, 17)
    groups = [group for group in load(path).groups if group.frozen is None]
    assert [group.name for group in groups] == ["a"]
    assert {m.weight for m in groups[0].members} == {"a", "shared", "c"}
    assert verify(path, X).outcome == "right"


def test_several_inputs_and_dynamic_axes(tmp_path):
    arrays = {"a": values(8, 3, 1, 1), "b": values(8, 2, 1, 1), "c": values(4, 8, 1, 1)}
    nodes = [
        node("Conv", ["x", "a"], ["h"]),
        node("Conv", ["other", "b"], ["i"]),
        node("Add", ["h", "i"], ["j"]),
        node("Conv", ["j", "c"], ["y"]),
    ]
    inputs = {"x": ["n", 3, "h", "w"], "other": ["n", 2, "h", "w"]}
    path = write(tmp_path / "m.onnx", nodes, arrays, 17, inputs)
    shapes = {"x": (2, 3, 5, 7), "other": (2, 2, 5, 7)}
    model = load(path, input_shapes=shapes)
    assert model.graph.shapes["j"] == (2, 8, 5, 7)
    assert load(path, batch=2).graph.shapes["j"][0] == 2
    changed, report = arrange(model, order="random")
    assert {m.weight for m in model.groups[0].members} == {"a", "b", "c"}
    assert report.output_change < 1e-6
    assert (changed.weights["a"] != model.weights["a"]).any()
    with pytest.raises(ValueError, match="no input 'z'"):
        load(path, input_shapes={"z": (1,)})
    with pytest.raises(ValueError, match=r"has the shape"):
        load(path, input_shapes={"x": (2, 4, 5, 7)})


def of_torchvision(name):
    """A network of its kind with every kind of block, once or twice."""
    models = pytest.importorskip("torchvision").models
    if name == "shufflenet":
        return models.ShuffleNetV2([2, 1, 1], [12, 16, 24, 32, 40], num_classes=5)
    block = partial(models.mobilenetv3.InvertedResidualConfig, width_mult=1.0)
    blocks = [
        block(8, 3, 16, 16, True, "RE", 2, 1), block(16, 3, 24, 16, False, "RE", 1, 1),
        block(16, 5, 32, 24, True, "HS", 2, 1),
    ]  # fmt: skip
    return models.MobileNetV3(blocks, 40, num_classes=5)


@pytest.mark.parametrize(
    ("name", "variant"),
    [
        ("mobilenet", "dynamo, folded"),
        ("mobilenet", "script, kept"),
        ("shufflenet", "dynamo, kept"),
        ("shufflenet", "script, folded"),
    ],
)
def test_torchvision(name, variant, tmp_path):
    torch.manual_seed(0)
    module = randomize(of_torchvision(name))
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    verdict = verify(export(module, x, tmp_path / "m.onnx", variant), x.numpy())
    assert verdict.outcome == "right", verdict
    assert verdict.moved >= 0.95 * verdict.convolutions
    assert (verdict.normalizations > 0) == variant.endswith("kept")
