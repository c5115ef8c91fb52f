"""Files that other exporters wrote: what they declare, leave out and keep in unusual places.

Each form is loaded, arranged and reorganized; onnxruntime runs the given file and the written one.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from rejuvenet.adapters.command_line.app import app  # noqa: E402
from rejuvenet.adapters.onnx import arrange, collect, load, reorganize  # noqa: E402
from rejuvenet.adapters.report.network.layers import network_of  # noqa: E402
from rejuvenet.graph import Recipe  # noqa: E402
from typer.testing import CliRunner  # noqa: E402

RNG = np.random.default_rng(0)
node = helper.make_node
ort.set_default_logger_severity(4)


def values(*shape, low=None, dtype=np.float32):
    found = RNG.normal(size=shape).astype(dtype)
    return found if low is None else (low + np.abs(found)).astype(dtype)


def ints(*numbers):
    return np.array(numbers, np.int64)


class Form(NamedTuple):
    """A file, the shapes that it runs on, and the weights that must move.

    ``declared`` is what the file says of its input ``x``, None for no shape at all.
    """

    nodes: list
    arrays: dict
    moved: set
    runs: tuple = ((2, 3, 8, 8), (3, 3, 9, 7))
    declared: list | None = ["n", 3, "h", "w"]  # noqa: RUF012
    opset: int = 13
    given: dict | None = None
    also_inputs: bool = False
    dtype: type = np.float32


A, B, C = values(8, 3, 3, 3), values(6, 8, 1, 1), values(4, 6, 1, 1)
CONVS = {"a": A, "bias": values(8), "b": B}
PLAIN = [
    node("Conv", ["x", "a", "bias"], ["h"], pads=[1, 1, 1, 1]),
    node("Relu", ["h"], ["r"]),
    node("Conv", ["r", "b"], ["y"]),
]
MOVED = {"a", "bias", "b"}


def between(*middle, head=(), after=8):
    """``middle`` reads ``h`` of 8 channels behind a convolution and makes ``z`` before another."""
    return [
        *head,
        node("Conv", ["x", "a", "bias"], ["h"], pads=[1, 1, 1, 1]),
        *middle,
        node("Conv", ["z", "b"], ["y"]),
    ]


def old_opset(opset):
    """Attributes of before opset 10: Upsample, Slice, Pad, Clip, Dropout, normalization."""
    up = (
        node("Upsample", ["t4"], ["t5"], mode="nearest", scales=[1.0, 1.0, 2.0, 2.0])
        if opset < 9
        else node("Upsample", ["t4", "scales"], ["t5"], mode="nearest")
    )
    arrays = {"s": values(8), "t": values(8), "m": values(8), "v": values(8, low=0.5)}
    if opset == 9:
        arrays["scales"] = np.array([1, 1, 2, 2], np.float32)
    nodes = between(
        node("BatchNormalization", ["h", "s", "t", "m", "v"], ["t1"]),
        node("Clip", ["t1"], ["t2"], min=-1.0, max=2.0),
        node("Slice", ["t2"], ["t3"], axes=[2], starts=[1], ends=[9223372036854775807]),
        node("Pad", ["t3"], ["t4"], pads=[0, 0, 1, 0, 0, 0, 0, 1], mode="reflect"),
        up,
        node("Dropout", ["t5"], ["t6"], ratio=0.5),
        node("PRelu", ["t6", "slope"], ["z"]),
    )
    arrays["slope"] = values(8, 1, 1, low=0.1)
    return Form(nodes, CONVS | arrays, MOVED | {"s", "t", "m", "v", "slope"}, opset=opset)


CONSTANTS = [
    node("Constant", [], ["a"], value=numpy_helper.from_array(A, "inner")),
    node("Constant", [], ["bias"], value_floats=[float(v) for v in values(8)]),
]

NHWC = [
    node("Transpose", ["x"], ["x0"], perm=[0, 3, 1, 2]),
    node("Conv", ["x0", "a"], ["x1"], auto_pad="SAME_UPPER", strides=[2, 2]),
    node("Transpose", ["x1"], ["x2"], perm=[0, 2, 3, 1]),
    node("Mul", ["x2", "scale"], ["x3"]),
    node("Add", ["x3", "shift"], ["x4"]),
    node("Relu", ["x4"], ["x5"]),
    node("Transpose", ["x5"], ["x6"], perm=[0, 3, 1, 2]),
    node("MaxPool", ["x6"], ["x7"], kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER"),
    node("Conv", ["x7", "b"], ["x8"], auto_pad="SAME_UPPER"),
    node("Transpose", ["x8"], ["x9"], perm=[0, 2, 3, 1]),
    node("Add", ["x9", "bias"], ["x10"]),
    node("ReduceMean", ["x10"], ["x11"], axes=[1, 2], keepdims=0),
    node("MatMul", ["x11", "dense"], ["x12"]),
    node("Add", ["x12", "last"], ["y"]),
]
VIEW = [  # torch: x.view(x.size(0), -1)
    node("Shape", ["h"], ["s1"]),
    node("Gather", ["s1", "zero"], ["s2"], axis=0),
    node("Unsqueeze", ["s2", "front"], ["s3"]),
    node("Concat", ["s3", "rest"], ["s4"], axis=0),
    node("Reshape", ["h", "s4"], ["flat"]),
]
FORMS = {
    "symbolic": Form(PLAIN, CONVS, MOVED),
    "missing": Form(PLAIN, CONVS, MOVED, declared=[None, 3, None, None]),
    "minus one": Form(PLAIN, CONVS, MOVED, declared=[-1, 3, -1, -1]),
    "zero": Form(PLAIN, CONVS, MOVED, declared=[0, 3, 0, 0]),
    "question marks": Form(PLAIN, CONVS, MOVED, declared=["?", 3, "?", "?"]),
    "equal names": Form(
        [*PLAIN[:2], node("Transpose", ["r"], ["q"], perm=[0, 1, 3, 2]),
         node("Add", ["r", "q"], ["p"]), node("Conv", ["p", "b"], ["y"])],
        CONVS, MOVED, ((2, 3, 8, 8),), ["n", 3, "side", "side"]),
    "no shape": Form(PLAIN, CONVS, MOVED, declared=None, given={"x": (1, 3, 12, 12)}),
    "no shape, only input": Form(PLAIN, CONVS, MOVED, declared=None, given={"": (1, 3, 12, 12)}),
    "given": Form(PLAIN, CONVS, MOVED, declared=[-1, 3, 0, "w"], given={"x": (2, 3, 6, 5)}),
    # A recognizer of text lines: the height must be 48, and the file does not say it.
    "one height only": Form(
        [node("Conv", ["x", "tall"], ["h"]), node("Squeeze", ["h", "two"], ["i"]),
         node("Transpose", ["i"], ["j"], perm=[0, 2, 1]), node("MatMul", ["j", "dense"], ["k"]),
         node("Relu", ["k"], ["l"]), node("MatMul", ["l", "last"], ["y"])],
        {"tall": values(8, 3, 48, 3), "two": ints(2), "dense": values(8, 6),
         "last": values(6, 5)},
        {"tall", "dense", "last"}, ((2, 3, 48, 20), (1, 3, 48, 33)), [-1, 3, "?", "?"]),
    # A spectrogram: sounds shorter than the window make a negative length.
    "a least length": Form(
        [node("Unsqueeze", ["x", "one"], ["w"]), node("Conv", ["w", "window"], ["s"], strides=[16]),
         node("Mul", ["s", "s"], ["p"]), node("Conv", ["p", "mel"], ["m"]),
         node("Reshape", ["m", "shape"], ["v"]), node("MatMul", ["v", "dense"], ["y"])],
        {"one": ints(1), "window": values(10, 1, 400), "mel": values(6, 10, 1),
         "shape": ints(0, 6, -1, 1), "dense": values(1, 2)},
        {"window", "mel"}, ((2, 500), (1, 800)), ["batch", "samples"]),
    "reshape with 0 and -1": Form(
        between(node("Reshape", ["h", "s1"], ["u"]), node("Relu", ["u"], ["v"]),
                node("Reshape", ["v", "s2"], ["z"])),
        CONVS | {"s1": ints(0, 0, -1), "s2": ints(0, -1, 8, 8)}, MOVED, ((2, 3, 8, 8),),
        ["n", 3, 8, 8]),
    "flatten by shapes": Form(
        [*between(*VIEW)[:-1], node("Gemm", ["flat", "dense"], ["y"])],
        {"a": A, "bias": values(8), "zero": np.int64(0), "front": ints(0), "rest": ints(-1),
         "dense": values(8 * 64, 5)},
        {"a", "bias", "dense"}, ((2, 3, 8, 8),), ["n", 3, 8, 8]),
    "broadcasting": Form(
        between(node("Mul", ["h", "scale"], ["t"]), node("Add", ["shift", "t"], ["u"]),
                node("GlobalAveragePool", ["u"], ["g"]), node("Sigmoid", ["g"], ["gate"]),
                node("Mul", ["gate", "u"], ["v"]), node("Div", ["v", "two"], ["w"]),
                node("Add", ["w", "row"], ["z"])),
        CONVS | {"scale": values(8, 1, 1), "shift": values(1, 8, 1, 1), "two": np.float32(2),
                 "row": values(1, 1, 1, 8)},
        MOVED | {"scale", "shift"}, ((2, 3, 8, 8),), ["n", 3, "h", 8]),
    "opset 7": old_opset(7),
    "opset 8": old_opset(8),
    "opset 9": old_opset(9),
    "constants": Form([*CONSTANTS, *PLAIN], {"b": B}, MOVED),
    "constants of shape": Form(
        [node("ConstantOfShape", ["eight"], ["zeros"]),
         node("ConstantOfShape", ["kernel"], ["same"],
              value=numpy_helper.from_array(np.float32([0.5]))),
         node("Conv", ["x", "same", "zeros"], ["x1"]), node("Relu", ["x1"], ["x2"]),
         node("Conv", ["x2", "a8", "zeros"], ["h"]), node("Relu", ["h"], ["r"]),
         node("Conv", ["r", "b"], ["y"])],
        {"eight": ints(8), "kernel": ints(8, 3, 1, 1), "a8": values(8, 8, 1, 1), "b": B},
        {"a8", "b"}),
    "initializers that are inputs": Form(
        [*PLAIN[:2], node("Conv", ["r", "wide"], ["s"]), node("Conv", ["s", "c"], ["y"])],
        {"a": A, "bias": values(8), "wide": values(64, 8, 1, 1), "c": values(4, 64, 1, 1)},
        {"a", "bias", "wide", "c"}, also_inputs=True),
    "NHWC of TensorFlow": Form(
        NHWC,
        {"a": values(8, 3, 3, 3), "scale": values(8), "shift": values(8), "b": values(6, 8, 3, 3),
         "bias": values(6), "dense": values(6, 5), "last": values(5)},
        {"a", "scale", "shift", "b", "bias", "dense"}, ((2, 9, 11, 3), (1, 16, 16, 3)),
        ["unk__1", "h", "w", 3]),
    "split normalization": Form(
        between(node("Mul", ["h", "scale"], ["t"]), node("Add", ["t", "shift"], ["u"]),
                node("Relu", ["u"], ["z"])),
        CONVS | {"scale": values(1, 8, 1, 1), "shift": values(8, 1, 1)},
        MOVED | {"scale", "shift"}),
    "normalization from statistics": Form(
        between(node("Sub", ["h", "mean"], ["t"]), node("Add", ["var", "eps"], ["u"]),
                node("Sqrt", ["u"], ["v"]), node("Div", ["t", "v"], ["w"]),
                node("Mul", ["w", "scale"], ["z"])),
        CONVS | {"mean": values(8, 1, 1), "var": values(8, 1, 1, low=0.5),
                 "eps": np.float32(1e-3), "scale": values(8, 1, 1)},
        MOVED | {"mean", "var", "scale"}),
    "SAME_UPPER": Form(
        [node("Conv", ["x", "a", "bias"], ["h"], auto_pad="SAME_UPPER", strides=[2, 2]),
         node("AveragePool", ["h"], ["z"], kernel_shape=[2, 2], auto_pad="SAME_LOWER"),
         node("Conv", ["z", "b"], ["y"], auto_pad="VALID")], CONVS, MOVED),
    "transposed weights": Form(
        [*between(node("GlobalAveragePool", ["h"], ["g"]), node("Flatten", ["g"], ["f"]),
                  node("Transpose", ["dense"], ["t"], perm=[1, 0]))[:-1],
         node("MatMul", ["f", "t"], ["y"])],
        {"a": A, "bias": values(8), "dense": values(5, 8)}, {"a", "bias", "dense"}),
    "double": Form(
        [node("MatMul", ["x", "d"], ["h"]), node("Relu", ["h"], ["r"]),
         node("MatMul", ["r", "e"], ["y"])],
        {"d": values(3, 8, dtype=np.float64), "e": values(8, 4, dtype=np.float64)}, {"d", "e"},
        ((5, 3),), ["n", 3], dtype=np.float64),
    "half": Form(PLAIN, {k: v.astype(np.float16) for k, v in CONVS.items()}, MOVED,
                 dtype=np.float16),
    "stale shapes": Form(PLAIN, CONVS, MOVED),
}  # fmt: skip


def save(path: Path, form: Form, outputs=("y",), **more) -> Path:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(form.dtype))
    inputs = [helper.make_tensor_value_info("x", kind, form.declared)]
    if form.also_inputs:
        inputs += [helper.make_tensor_value_info(k, kind, v.shape) for k, v in form.arrays.items()]
    graph = helper.make_graph(
        form.nodes, "g", inputs,
        [helper.make_tensor_value_info(name, kind, None) for name in outputs],
        [numpy_helper.from_array(v, k) for k, v in form.arrays.items()], **more,
    )  # fmt: skip
    opsets = [helper.make_opsetid("", form.opset)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path


def run(path: Path, x: np.ndarray) -> list[np.ndarray]:
    """What onnxruntime makes of a file, whose declared sizes it does not hold against ``x``."""
    message = onnx.load(path)
    message.graph.input[0].type.tensor_type.ClearField("shape")
    session = ort.InferenceSession(message.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})


def weights(path: Path) -> dict[str, np.ndarray]:
    graph = onnx.load(path).graph
    found = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    for n in graph.node:
        if n.op_type == "Constant":
            given = n.attribute[0]
            is_tensor = given.HasField("t")
            found[n.output[0]] = (
                numpy_helper.to_array(given.t) if is_tensor else np.array(given.floats)
            )
    return found


TOLERANCE = {np.float64: 1e-12, np.float32: 2e-5, np.float16: 2e-2}


@pytest.mark.parametrize("name", FORMS)
def test_form(name, tmp_path):
    form = FORMS[name]
    path = save(tmp_path / "m.onnx", form)
    if name == "stale shapes":
        message = onnx.load(path)
        message.graph.output[0].type.CopyFrom(
            helper.make_tensor_type_proto(TensorProto.FLOAT, [-1, 6, 0, 7])
        )
        message.graph.value_info.append(helper.make_tensor_value_info("h", 1, [-1, 8, -1, -1]))
        onnx.save(message, path)
    model = load(path, input_shapes=form.given)
    assert network_of(model.graph, model.groups).units
    moved, report = arrange(model, order="random")
    assert report.verdict is not None, report
    assert report.verdict.within
    moved.save(tmp_path / "moved.onnx")
    before, after = weights(path), weights(tmp_path / "moved.onnx")
    assert {n for n in before if (before[n] != after[n]).any()} == form.moved
    batches = [(values(*shape, dtype=form.dtype), np.arange(shape[0]) % 2) for shape in form.runs]
    batches = batches if len({shape[1:] for shape in form.runs}) == 1 else batches[:1]
    changed, _ = reorganize(model, batches, layers="all", recipe=Recipe.preserving(ratio=0.5))
    changed.save(tmp_path / "changed.onnx")
    for shape in form.runs:
        x = values(*shape, dtype=form.dtype)
        for old, new in zip(run(path, x), run(tmp_path / "moved.onnx", x), strict=True):
            tolerance = TOLERANCE[form.dtype] * np.abs(old).max()
            np.testing.assert_allclose(new, old, rtol=0, atol=tolerance)
        assert all(np.isfinite(y).all() for y in run(tmp_path / "changed.onnx", x))


@pytest.mark.parametrize(
    ("declared", "shapes", "said"),
    [
        (["n", 3, "h", "w"], {"z": (1, 3, 8, 8)}, "no input 'z'"),
        (["n", 3, "h", "w"], {"x": (1, 4, 8, 8)}, r"has the shape \['n', 3, 'h', 'w'\], got"),
        ([-1, 3, 0, None], {"x": (1, 3, 8)}, r"has the shape \['any', 3, 'any', 'any'\], got"),
        (["n", 3, "h", "w"], {"x": (1, 3, 0, 8)}, "positive whole numbers"),
        (["n", 3, "h", "w"], {"x": (1, 3, "8", 8)}, "positive whole numbers"),
        (None, None, "declares no shape; give one"),
        (["n", 3, "h", "w"], {"x": (1, 3, 2, 2)}, "cannot run on example inputs of the shapes"),
    ],
)
def test_shapes_that_cannot_be_are_one_sentence(declared, shapes, said, tmp_path):
    wide = CONVS | {"a": values(8, 3, 9, 9)}
    path = save(tmp_path / "m.onnx", Form(PLAIN, wide, MOVED, declared=declared))
    with pytest.raises(ValueError, match=said) as error:
        load(path, input_shapes=shapes).groups  # noqa: B018
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("opset", [1, 6, 13])
def test_shapes_that_do_not_agree_freeze_and_nothing_else(opset, tmp_path):
    """onnxruntime does not know the operator; the Reshape after it cannot be as it says."""
    nodes = [
        *PLAIN[:2],
        node("Unknown", ["r"], ["u"], domain="elsewhere"),
        node("Reshape", ["r", "wrong"], ["v"]),
        node("Add", ["u", "v"], ["w"]),
        node("Conv", ["w", "b"], ["i"]),
        node("Conv", ["i", "c"], ["y"]),
    ]
    form = Form(nodes, CONVS | {"c": C, "wrong": ints(7, 5)}, set(), opset=opset)
    path = save(tmp_path / "m.onnx", form)
    message = onnx.load(path)
    message.opset_import.append(helper.make_opsetid("elsewhere", 1))
    onnx.save(message, path)
    model = load(path)
    assert network_of(model.graph, model.groups).units
    assert {group.name for group in model.groups if group.frozen} >= {"a"}
    assert "onnxruntime cannot run the model" in model.structure.not_run


def test_legacy_broadcasting_is_along_its_axis(tmp_path):
    """Before opset 7, ``axis=1`` put a bias along the channels, also where the width is equal."""
    nodes = [
        node("Conv", ["x", "a"], ["h"], pads=[1, 1, 1, 1]),
        node("Add", ["h", "bias"], ["t"], broadcast=1, axis=1),
        node("PRelu", ["t", "slope"], ["u"]),
        node("Mul", ["u", "row"], ["z"], broadcast=1),
        node("Conv", ["z", "b"], ["y"]),
    ]
    arrays = CONVS | {"slope": values(8), "row": values(8)}
    form = Form(nodes, arrays, MOVED, declared=[1, 3, 8, 8], opset=6)
    model = load(save(tmp_path / "m.onnx", form))
    (group,) = (g for g in model.groups if g.frozen is None)
    assert {m.weight for m in group.members} == MOVED | {"slope"}


@pytest.mark.parametrize("fixed", [1, 4])
def test_a_fixed_batch_takes_any_number_of_samples(fixed, tmp_path):
    """As the same file with a free batch does, the last samples too."""
    any_path = save(tmp_path / "any.onnx", Form(PLAIN, CONVS, MOVED))
    path = save(tmp_path / "m.onnx", Form(PLAIN, CONVS, MOVED, declared=[fixed, 3, 8, 8]))
    x, labels = values(41, 3, 8, 8), np.arange(41) % 3
    batches = [(x[:30], labels[:30]), (x[30:], labels[30:])]
    found, expected = (collect(load(p), batches) for p in (path, any_path))
    np.testing.assert_allclose(found["a"].Q, expected["a"].Q, rtol=1e-5, atol=1e-6)
    recipe = Recipe.preserving(ratio=0.5)
    for p in (path, any_path):
        changed, report = reorganize(load(p), batches, layers="all", recipe=recipe)
        changed.save(p.with_suffix(".new.onnx"))
        assert np.isfinite(report.output_change)
    one, other = weights(path.with_suffix(".new.onnx")), weights(any_path.with_suffix(".new.onnx"))
    for name in one:
        np.testing.assert_allclose(one[name], other[name], rtol=1e-3, atol=1e-4)


def test_a_fixed_batch_whose_samples_lie_elsewhere_is_refused(tmp_path):
    nodes = [
        node("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
        node("MatMul", ["t", "d"], ["h"]),
        node("Relu", ["h"], ["r"]),
        node("MatMul", ["r", "e"], ["y"]),
    ]
    form = Form(nodes, {"d": values(3, 8), "e": values(8, 4)}, set(), declared=[4, 5, 3])
    path = save(tmp_path / "m.onnx", form)
    with pytest.raises(ValueError, match="takes 4 samples at a time, and its tensor"):
        collect(load(path), [(values(7, 5, 3), np.arange(7) % 2)])


def choice(condition, then, other):
    """``If`` that makes ``z``; the branches' nodes read ``r``."""
    branches = {
        f"{name}_branch": helper.make_graph(
            nodes, name, [], [helper.make_tensor_value_info("z0", TensorProto.FLOAT, None)]
        )
        for name, nodes in (("then", then), ("else", other))
    }
    return node("If", [condition], ["z"], **branches)


SQUEEZE = [node("Squeeze", ["r"], ["z0"], axes=[2])]
CONDITIONS = {  # the condition, what else it reads, and whether it is the same for all inputs
    "constant": ([node("Constant", [], ["one"], value_int=1), node("Cast", ["one"], ["yes"], to=9)],
                 {}, True),
    "initializer": ([], {"yes": np.array(True)}, True),
    "channels": ([node("Shape", ["r"], ["s"]), node("Gather", ["s", "place"], ["n"]),
                  node("Equal", ["n", "eight"], ["yes"])],
                 {"place": np.int64(1), "eight": np.int64(8)}, True),
    "rank": ([node("Shape", ["r"], ["s"]), node("Shape", ["s"], ["n"]),
              node("Equal", ["n", "four"], ["yes"])], {"four": ints(4)}, True),
    "a free size": ([node("Shape", ["r"], ["s"]), node("Gather", ["s", "place"], ["n"]),
                     node("Greater", ["n", "eight"], ["yes"])],
                    {"place": np.int64(2), "eight": np.int64(4)}, False),
    "a free size, clipped": (
        [node("Shape", ["r"], ["s"]), node("Gather", ["s", "place"], ["n"]),
         node("Min", ["n", "eight"], ["m"]), node("Equal", ["m", "eight"], ["yes"])],
        {"place": np.int64(3), "eight": np.int64(4)}, False),
    "data": ([node("ReduceSum", ["r"], ["s"], keepdims=0),
              node("Greater", ["s", "least"], ["yes"])],
             {"least": np.float32(-1e9)}, False),
}  # fmt: skip


@pytest.mark.parametrize("name", CONDITIONS)
def test_a_branch_that_always_runs_takes_part(name, tmp_path):
    """Both branches hold a constant of the same name; a second choice uses it again."""
    before, arrays, always = CONDITIONS[name]
    scale = numpy_helper.from_array(np.full((1,), 0.5, np.float32))
    then = [
        node("Constant", [], ["c0"], value=scale),
        node("Mul", ["r", "c0"], ["z0"]),
    ]
    other = [node("Constant", [], ["c0"], value=scale), node("Transpose", ["r"], ["z0"])]
    added = [node("Constant", [], ["c0"], value=scale), node("Add", ["z", "c0"], ["z0"])]
    again = choice("yes", added, [node("Identity", ["z"], ["z0"])])
    again.output[0] = "z2"
    nodes = [
        *PLAIN[:2], *before, choice("yes", then, other), again, node("Conv", ["z2", "b"], ["y"])
    ]  # fmt: skip
    path = save(tmp_path / "m.onnx", Form(nodes, CONVS | arrays, MOVED))
    if not always:
        reasons = {group.name: group.frozen for group in load(path).groups}
        assert "holds a graph of its own" in reasons["a"]
        return
    moved, report = arrange(path, order="random")
    assert report.verdict.within
    moved.save(tmp_path / "moved.onnx")
    old, new = weights(path), weights(tmp_path / "moved.onnx")
    assert {n for n in old if (old[n] != new[n]).any()} == MOVED
    for shape in ((2, 3, 8, 8), (1, 3, 5, 9)):
        x = values(*shape)
        for one, two in zip(run(path, x), run(tmp_path / "moved.onnx", x), strict=True):
            np.testing.assert_allclose(two, one, rtol=0, atol=2e-5 * np.abs(one).max())


def test_weights_inside_a_branch_that_always_runs_stay(tmp_path):
    """What is computed with them keeps its order; the output of the model may come from there."""
    own = numpy_helper.from_array(values(8, 8, 1, 1))
    then = [
        node("Constant", [], ["w0"], value=own),
        node("Conv", ["r", "w0"], ["z1"]),
        node("Conv", ["z1", "b"], ["z0"]),
    ]
    nodes = [*PLAIN[:2], choice("yes", then, [node("Identity", ["r"], ["z0"])])]
    nodes[-1].output[0] = "y"
    form = Form(nodes, CONVS | {"yes": np.array(True)}, MOVED)
    path = save(tmp_path / "m.onnx", form)
    reasons = {group.name: group.frozen for group in load(path).groups}
    assert "order is fixed" in reasons["a"]
    assert load(path).example_inputs


def test_a_large_weight_that_only_a_branch_reads(tmp_path):
    """onnxruntime does not look inside branches for weights that are handed over as arrays."""
    then = [node("Conv", ["r", "wide"], ["z1"]), node("Conv", ["z1", "back"], ["z0"])]
    nodes = [
        *PLAIN[:2], node("ReduceSum", ["r"], ["s"], keepdims=0),
        node("Greater", ["s", "l"], ["yes"]),
        choice("yes", then, [node("Identity", ["r"], ["z0"])]),
        node("Conv", ["z", "b"], ["i"]), node("Conv", ["i", "c"], ["y"]),
    ]  # fmt: skip
    arrays = CONVS | {"c": C, "l": np.float32(0), "wide": values(64, 8, 1, 1),
                      "back": values(8, 64, 1, 1)}  # fmt: skip
    model = load(save(tmp_path / "m.onnx", Form(nodes, arrays, MOVED)))
    assert model.structure.not_run is None
    _, report = arrange(model, order="random")
    assert report.verdict.within


def test_a_recurrent_state_gets_the_batch_wherever_it_stands(tmp_path):
    """Nobody names its axes: the sound in samples, the state in layers, batch and channels."""
    nodes = [
        node("Unsqueeze", ["x", "one"], ["w"]), node("Conv", ["w", "window"], ["s"]),
        node("ReduceMax", ["s"], ["p"], axes=[2], keepdims=0),
        node("Split", ["state"], ["h0", "c0"], axis=0), node("Squeeze", ["h0", "zero"], ["h"]),
        node("Concat", ["p", "h"], ["u"], axis=1), node("MatMul", ["u", "dense"], ["y"]),
    ]  # fmt: skip
    arrays = {"one": ints(1), "zero": ints(0), "window": values(6, 1, 500), "dense": values(12, 3)}
    path = save(tmp_path / "m.onnx", Form(nodes, arrays, set(), declared=[None, None]))
    message = onnx.load(path)
    message.graph.input.append(helper.make_tensor_value_info("state", 1, [2, None, 6]))
    onnx.save(message, path)
    model = load(path)
    assert model.structure.not_run is None
    assert model.example_inputs["state"].shape == (2, 1, 6)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ([node("ConstantOfShape", ["k"], ["w"]), node("Conv", ["x", "w"], ["y"])],
         "1 convolutions and products come from ConstantOfShape"),
        ([node("Relu", ["x"], ["y"])], "holds no convolution and no product"),
        ([node("Conv", ["x", "x"], ["y"])], "come from an input"),
    ],
)  # fmt: skip
def test_no_groups_without_a_reason(made, said, tmp_path):
    form = Form(made, {"k": ints(8, 3, 1, 1)}, set(), declared=[3, 3, 1, 1])
    path = save(tmp_path / "m.onnx", form)
    assert said in load(path).without_groups
    for change in (arrange, reorganize):
        with pytest.raises(ValueError, match=said):
            change(path, [(values(3, 3, 1, 1), np.arange(3) % 2)])
    shown = CliRunner().invoke(app, ["inspect", str(path)])
    assert shown.exit_code == 0
    assert said in " ".join(shown.stdout.split())


def test_weights_inside_a_branch_are_shown_with_the_reason(tmp_path):
    """Silero's detector holds all its weights in constants of both branches."""
    then = [node("Constant", [], ["w0"], value=numpy_helper.from_array(values(8, 3, 1, 1))),
            node("Conv", ["x", "w0"], ["z0"])]  # fmt: skip
    nodes = [
        node("ReduceSum", ["x"], ["s"], keepdims=0), node("Greater", ["s", "l"], ["yes"]),
        choice("yes", then, [node("Neg", ["x"], ["z0"])]), node("Relu", ["z"], ["y"]),
    ]  # fmt: skip
    path = save(tmp_path / "m.onnx", Form(nodes, {"l": np.float32(0)}, set()))
    (group,) = load(path).groups
    assert (group.name, group.channels) == ("w0", 8)
    assert "holds a graph of its own" in group.frozen
