"""Any bytes, and any change to a whole model, give a model or one sentence.

By hand, for longer, in seconds of processor time::

    python tests/reliability/test_load_fuzz.py 3600
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
import traceback
from pathlib import Path

import pytest

pytest.importorskip("onnx")
import numpy as np
import onnx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from rejuvenet.adapters.onnx import load

sys.path.insert(0, str(Path(__file__).parent))

import hostile

WHOLE = [
    hostile.model().SerializeToString(),
    hostile.doubling(3).SerializeToString(),
    hostile.nested(2).SerializeToString(),
    hostile.loop(3).SerializeToString(),
    hostile.of_size(9, "Expand").SerializeToString(),
    hostile.in_constant(hostile.tensor("t", location="w.bin", offset=0, length=64))
    .SerializeToString(),
]


def use(content: bytes, folder: Path) -> str:
    """What came of some bytes: ``"read"`` or the reason why not."""
    (folder / "w.bin").write_bytes(bytes(64))
    path = folder / "m.onnx"
    path.unlink(missing_ok=True)  # to overwrite it may wait for the disk
    path.write_bytes(content)
    said = "read"
    try:
        model = load(path, max_bytes=1 << 20)
        _ = model.groups
    except (ValueError, OSError) as error:
        said = str(error)
    assert said
    assert "\n" not in said
    return said


@st.composite
def damaged(draw) -> bytes:
    """A whole model with a few pieces changed, dropped or doubled."""
    content = bytearray(draw(st.sampled_from(WHOLE)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(content) - 1))
        kind = draw(st.sampled_from(("bit", "byte", "drop", "double", "insert")))
        n = draw(st.integers(1, 12))
        if kind == "bit":
            content[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "byte":
            content[at] = draw(st.integers(0, 255))
        elif kind == "drop":
            del content[at : at + n]
        elif kind == "double":
            content[at:at] = content[at : at + n]
        else:
            content[at:at] = draw(st.binary(min_size=1, max_size=8))
        if not content:
            break
    return bytes(content)


OPERATORS = (
    "Conv", "Relu", "Add", "Mul", "Concat", "Reshape", "Transpose", "Slice", "Gather", "Flatten",
    "MatMul", "Gemm", "Split", "Pad", "Expand", "Tile", "Cast", "Shape", "ReduceMean", "Softmax",
    "BatchNormalization", "MaxPool", "Constant", "Squeeze", "Unsqueeze", "Resize", "Own",
)  # fmt: skip
ATTRIBUTES = ("axis", "axes", "pads", "group", "to", "perm", "value")
NAMES = ("x", "a", "b", "h", "y", "p", "q", "", "k")


@st.composite
def assembled(draw) -> bytes:
    """Nodes, tensors and attributes put together at will: well-formed, and mostly nonsense."""
    names = st.sampled_from(NAMES)
    nodes = []
    for _ in range(draw(st.integers(0, 4))):
        made = helper.make_node(
            draw(st.sampled_from(OPERATORS)), draw(st.lists(names, max_size=4)),
            draw(st.lists(names, min_size=1, max_size=2)),
            domain=draw(st.sampled_from(("", "", "own", "com.microsoft"))),
        )  # fmt: skip
        for key in draw(st.lists(st.sampled_from(ATTRIBUTES), max_size=2)):
            value = draw(
                st.one_of(st.integers(-9, 9), st.lists(st.integers(-9, 9), min_size=1, max_size=4),
                          st.floats(), st.just("text"))
            )  # fmt: skip
            made.attribute.append(helper.make_attribute(key, value))
        nodes.append(made)
    message = hostile.model(nodes)
    for name in draw(st.lists(names, max_size=2)):
        shape = draw(st.lists(st.integers(0, 4), max_size=4))
        array = np.full(shape, draw(st.integers(-3, 9)), draw(st.sampled_from(("f4", "i8", "?"))))
        message.graph.initializer.append(numpy_helper.from_array(array, name))
    if draw(st.booleans()) and message.graph.initializer:
        tensor = message.graph.initializer[draw(st.integers(0, 1))]
        tensor.data_type = draw(st.integers(0, 30))
    if draw(st.booleans()):
        for dimension in message.graph.input[0].type.tensor_type.shape.dim:
            dimension.dim_value = draw(st.integers(-1, 5))
    if draw(st.booleans()):
        message.graph.output.append(
            helper.make_tensor_value_info(draw(names), TensorProto.FLOAT, None)
        )
    return message.SerializeToString()


ANY = st.one_of(damaged(), assembled(), st.binary(max_size=200))


@settings(
    max_examples=60, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
@given(content=ANY)
def test_any_bytes(content, tmp_path):
    use(content, tmp_path)


FINDS = [  # by hand, each once an error of another kind
    # A name that is no UTF-8.
    hostile.model([hostile.node("Neg", ["x"], ["q"])]).SerializeToString()
    .replace(b"\x0a\x01x\x12\x01q", b"\x0a\x01\xf0\x12\x01q"),
    # An If without one of its branches.
    hostile.nested(1).SerializeToString().replace(b"then_branch", b"then_brancH"),
    # A branch of a branch that reads what nothing makes.
    hostile.nested(2).SerializeToString().replace(b"\n\x01x\x12\x01u", b"\n\x01w\x12\x01u"),
    # An operator without its input.
    hostile.model([hostile.node("Relu", [""], ["z"]), hostile.node("Conv", ["x"], ["w"])])
    .SerializeToString(),
    # A size of nothing, and a shape for nobody; in a function as well.
    hostile.model([hostile.node("Size", [], ["q"])]).SerializeToString(),
    hostile.model([hostile.node("Shape", ["x"], [])]).SerializeToString(),
    hostile.model(
        [hostile.node("F", ["x"], ["z"], domain="own")],
        functions=[helper.make_function(
            "own", "F", ["p"], ["r"], [hostile.node("Size", [], ["r"])],
            [helper.make_opsetid("", 17)],
        )],
    ).SerializeToString(),
    # Another domain's operator of the same name, which needs no input.
    hostile.model([hostile.node("Shape", [""], ["q"], domain="own")]).SerializeToString(),
    # A node that makes nothing, and reads what others read.
    hostile.model([hostile.node("Own", ["b"], [], domain="own")]).SerializeToString(),
    # An input whose name has a line break and that declares no shape.
    hostile.unshaped("a\nb").SerializeToString(),
]  # fmt: skip


@pytest.mark.parametrize("content", FINDS)
def test_finds(content, tmp_path):
    use(content, tmp_path)


def search(seconds: float, folder: Path, counts, kinds: set[str], found) -> None:
    """Inputs for so much processor time; what fails goes to the queue ``found``."""
    until = time.process_time() + seconds

    @settings(max_examples=200, deadline=None, database=None,
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(content=ANY)
    def some(content):
        if time.process_time() > until:
            return
        counts[0] += 1
        try:
            counts[1] += use(content, folder) == "read"
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            kind = f"{type(error).__name__} in {Path(where.filename).name}:{where.lineno}"
            if kind not in kinds:
                kinds.add(kind)
                found.put({"kind": kind, "error": str(error)[:200], "hex": content.hex()})
        counts[2] = int(1e3 * (time.process_time() - until + seconds))

    while time.process_time() < until:
        some()


def main(seconds: float) -> None:
    """As many inputs as the time allows, in children that may crash; to ``results/fuzz.json``."""
    context = multiprocessing.get_context("fork")
    counts, found, finds = context.Array("q", 3), context.SimpleQueue(), []
    used = 0.0
    with tempfile.TemporaryDirectory() as folder:
        while used < seconds - 1:
            counts[2] = 0
            kinds = {find["kind"] for find in finds}
            child = context.Process(
                target=search, args=(seconds - used, Path(folder), counts, kinds, found)
            )
            child.start()
            child.join()
            used += counts[2] / 1e3
            while not found.empty():
                finds.append(found.get())
            if child.exitcode:
                content = (Path(folder) / "m.onnx").read_bytes()
                finds.append({"kind": f"exit status {child.exitcode}", "hex": content.hex()})
            print(used, [find["kind"] for find in finds], flush=True)
    result = {"seconds": round(used), "inputs": counts[0], "read": counts[1], "finds": finds}
    out = Path(__file__).parent / "results" / "fuzz.json"
    out.write_text(json.dumps(result, indent=0) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("seconds", type=float, help="of processor time")
    assert onnx
    main(**vars(parser.parse_args()))
