"""A hundred ONNX files that want something: a secret, the memory, the time, or a crash.

::

    python tests/reliability/hostile.py FOLDER      # writes them, to look at
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SECRET = b"-----BEGIN OPENSSH PRIVATE KEY----- not to be copied anywhere "
SIZE = 64  # bytes of the tensor that reads it
node = helper.make_node


def tensor(name: str, **entries: object) -> TensorProto:
    """Sixteen numbers in another file."""
    made = TensorProto(
        name=name, data_type=TensorProto.FLOAT, dims=[16], data_location=TensorProto.EXTERNAL
    )
    for key, value in entries.items():
        made.external_data.add(key=key, value=str(value))
    return made


def model(nodes=(), initializers=(), sparse=(), functions=(), opset=17, **more) -> onnx.ModelProto:
    """Two convolutions that could be arranged, and what else is given."""
    rng = np.random.default_rng(0)
    weights = {"a": rng.normal(size=(8, 3, 1, 1)), "b": rng.normal(size=(4, 8, 1, 1))}
    own = [numpy_helper.from_array(w.astype(np.float32), n) for n, w in weights.items()]
    usual = [node("Conv", ["x", "a"], ["h"]), node("Conv", ["h", "b"], ["y"])]
    graph = helper.make_graph(
        [*nodes, *usual], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, 4, 4])],
        [*own, *initializers], sparse_initializer=list(sparse),
    )  # fmt: skip
    opsets = [helper.make_opsetid("", opset)]
    if functions:
        opsets.append(helper.make_opsetid("own", 1))
    return helper.make_model(
        graph, opset_imports=opsets, ir_version=8, functions=list(functions), **more
    )


# --- where a tensor can stand --------------------------------------------------------------------


def in_initializer(t: TensorProto) -> onnx.ModelProto:
    return model([node("Identity", [t.name], ["z"])], [t])


def in_unused_initializer(t: TensorProto) -> onnx.ModelProto:
    return model([], [t])


def in_constant(t: TensorProto) -> onnx.ModelProto:
    return model([node("Constant", [], ["z"], value=t)])


def in_subgraph(t: TensorProto) -> onnx.ModelProto:
    out = [helper.make_tensor_value_info("u", TensorProto.FLOAT, [16])]
    branch = helper.make_graph([node("Identity", [t.name], ["u"])], "b", [], out, [t])
    yes = numpy_helper.from_array(np.array(True), "yes")
    return model([node("If", ["yes"], ["z"], then_branch=branch, else_branch=branch)], [yes])


def in_function(t: TensorProto) -> onnx.ModelProto:
    inner = [node("Constant", [], ["u"], value=t)]
    made = helper.make_function("own", "F", [], ["u"], inner, [helper.make_opsetid("", 17)])
    return model([node("F", [], ["z"], domain="own")], functions=[made])


def in_unused_function(t: TensorProto) -> onnx.ModelProto:
    made = in_function(t)
    del made.graph.node[0]
    return made


def in_sparse_constant(t: TensorProto) -> onnx.ModelProto:
    indices = numpy_helper.from_array(np.arange(16), "i")
    sparse = onnx.SparseTensorProto(values=t, indices=indices, dims=[64])
    return model([node("Constant", [], ["z"], sparse_value=sparse)])


def in_sparse_initializer(t: TensorProto) -> onnx.ModelProto:
    indices = numpy_helper.from_array(np.arange(16), "i")
    return model(sparse=[onnx.SparseTensorProto(values=t, indices=indices, dims=[64])])


def in_training(t: TensorProto) -> onnx.ModelProto:
    made = model()
    made.training_info.add().initialization.initializer.append(t)
    return made


def in_list_attribute(t: TensorProto) -> onnx.ModelProto:
    return model([node("Own", ["x"], ["z"], domain="own", many=[t, t])])


PLACES = {
    "initializer": in_initializer,
    "unused": in_unused_initializer,
    "constant": in_constant,
    "subgraph": in_subgraph,
    "function": in_function,
    "unused function": in_unused_function,
    "sparse constant": in_sparse_constant,
    "sparse initializer": in_sparse_initializer,
    "training": in_training,
    "list attribute": in_list_attribute,
}

# --- what a location can be ----------------------------------------------------------------------


def locations(folder: Path) -> dict[str, str]:
    """Names of places that are not the model's; links are made in ``folder``."""
    secret = folder.parent / "priv" / "id_rsa"
    links = {"link": secret, "chain": "link", "up": "..", "absolute": "/etc", "round": "round"}
    for name, target in links.items():
        (folder / name).symlink_to(target)
    (folder / "inside").mkdir()
    (folder / "inside" / "deep").symlink_to(secret)
    os.link(secret, folder / "hard")
    os.mkfifo(folder / "pipe")
    (folder / "empty.bin").touch()
    (folder / "w.bin").write_bytes(bytes(SIZE))
    return {
        "up": "../priv/id_rsa",
        "absolute": str(secret),
        "passwd": "/etc/passwd",
        "link": "link",
        "chain of links": "chain",
        "link in a folder": "inside/deep",
        "linked folder": "up/priv/id_rsa",
        "linked absolute folder": "absolute/passwd",
        "hard link": "hard",
        "pipe": "pipe",
        "device": "/dev/zero",
        "environment": "/proc/self/environ",
        "memory": "/proc/self/mem",
        "link to itself": "round",
        "round about": "inside/../../priv/id_rsa",
        "dots and slashes": ".//..//priv//id_rsa",
        "backslashes": "..\\priv\\id_rsa",
        "drive": "C:\\Windows\\win.ini",
        "share": "\\\\server\\share\\secret",
        "address": f"file://{secret}",
        "web": "http://127.0.0.1:9/secret",
        "home": "~/.ssh/id_rsa",
        "variable": "$HOME/.ssh/id_rsa",
        "nothing": "",
        "the folder": ".",
        "a folder": "inside",
        "zero byte": "w.bin\0../priv/id_rsa",
        "long": "w" * 5000,
        "other characters": "\u2024\u2024/priv/id_rsa",
        "encoded": "%2e%2e/priv/id_rsa",
        "memory of onnxruntime": "*/_ORT_MEM_ADDR_/*",
        "missing": "nowhere.bin",
    }


def entries(folder: Path) -> dict[str, list[tuple[str, str]]]:
    """What else can stand beside a location that is allowed."""
    return {
        "negative offset": [("location", "w.bin"), ("offset", "-64"), ("length", "64")],
        "offset past the end": [("location", "w.bin"), ("offset", "1"), ("length", "64")],
        "huge offset": [("location", "w.bin"), ("offset", str(2**63)), ("length", "64")],
        "negative length": [("location", "w.bin"), ("length", "-1")],
        "other length": [("location", "w.bin"), ("length", "8")],
        "huge length": [("location", "w.bin"), ("length", str(2**62))],
        "offset in words": [("location", "w.bin"), ("offset", "none")],
        "no location": [("offset", "0")],
        "two locations": [("location", "w.bin"), ("location", "../priv/id_rsa")],
        "empty file": [("location", "empty.bin"), ("length", "64")],
    }


# --- what costs memory or time -------------------------------------------------------------------


def integers(name: str, *values: int) -> TensorProto:
    return numpy_helper.from_array(np.array(values, np.int64), name)


def scalar(name: str, value: int) -> TensorProto:
    return numpy_helper.from_array(np.array(value, np.int64), name)


def doubling(n: int) -> onnx.ModelProto:
    """``n`` functions, each of which calls the next twice."""
    made = []
    for i in range(n):
        call = f"F{i + 1}" if i < n - 1 else "Neg"
        domain = "own" if i < n - 1 else ""
        inner = [node(call, ["p"], ["q"], domain=domain), node(call, ["q"], ["r"], domain=domain)]
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
        made.append(helper.make_function("own", f"F{i}", ["p"], ["r"], inner, opsets))
    return model([node("F0", ["x"], ["z"], domain="own")], functions=made)


def circle() -> onnx.ModelProto:
    """Two functions that call each other."""
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    made = [
        helper.make_function(
            "own", f"F{i}", ["p"], ["r"], [node(f"F{1 - i}", ["p"], ["r"], domain="own")], opsets
        )
        for i in range(2)
    ]
    return model([node("F0", ["x"], ["z"], domain="own")], functions=made)


def nested(depth: int) -> onnx.ModelProto:
    """``If`` in both branches of ``If`` in both branches of ``If``."""
    out = [helper.make_tensor_value_info("u", TensorProto.FLOAT, None)]
    yes = numpy_helper.from_array(np.array(True), "yes")
    graph = helper.make_graph([node("Identity", ["x"], ["u"])], "g", [], out)
    for _ in range(depth):
        inner = node("If", ["yes"], ["u"], then_branch=graph, else_branch=graph)
        graph = helper.make_graph([inner], "g", [], out)
    return model(graph.node, [yes])


def deep(depth: int) -> bytes:
    """``If`` in ``If``, so deep that protobuf itself does not write it."""

    def field(number: int, content: bytes) -> bytes:
        length, size = b"", len(content)
        while size > 127:
            length, size = length + bytes([size & 127 | 128]), size >> 7
        return bytes([number << 3 | 2]) + length + bytes([size]) + content

    content = field(1, node("Identity", ["x"], ["u"]).SerializeToString())
    for _ in range(depth):
        branch = field(1, b"then_branch") + field(6, content)
        content = field(1, field(1, b"yes") + field(2, b"u") + field(4, b"If") + field(5, branch))
    return model().SerializeToString() + field(7, content)


def loop(count: int) -> onnx.ModelProto:
    """A loop that hardly ends."""
    info = helper.make_tensor_value_info
    body = helper.make_graph(
        [node("Identity", ["c"], ["d"]), node("Add", ["v", "v"], ["w"])], "body",
        [info("i", TensorProto.INT64, []), info("c", TensorProto.BOOL, []),
         info("v", TensorProto.FLOAT, [1, 3, 4, 4])],
        [info("d", TensorProto.BOOL, []), info("w", TensorProto.FLOAT, [1, 3, 4, 4])],
    )  # fmt: skip
    yes = numpy_helper.from_array(np.array(True), "yes")
    return model([node("Loop", ["n", "yes", "x"], ["z"], body=body)], [scalar("n", count), yes])


def doubled(n: int) -> onnx.ModelProto:
    """A tensor joined with itself, again and again."""
    nodes = [
        node("Concat", [f"t{i}" if i else "x"] * 2, [f"t{i + 1}"], axis=0) for i in range(n)
    ]  # fmt: skip
    return model(nodes)


def huge_dims(dims: list[int]) -> onnx.ModelProto:
    made = TensorProto(name="big", data_type=TensorProto.FLOAT, dims=dims, raw_data=bytes(16))
    return model([node("Identity", ["big"], ["z"])], [made])


def of_size(n: int, op: str) -> onnx.ModelProto:
    """``n`` elements out of a number."""
    side = 1 << 20
    if op == "Range":
        values = [scalar("zero", 0), scalar("n", n), scalar("one", 1)]
        return model([node("Range", ["zero", "n", "one"], ["z"])], values)
    if op == "Expand":
        one = numpy_helper.from_array(np.ones(1, np.float32), "one")
        return model([node("Expand", ["one", "n"], ["z"])], [one, integers("n", n)])
    if op == "ConstantOfShape":
        return model([node("ConstantOfShape", ["n"], ["z"])], [integers("n", n)])
    if op == "computed":  # by arithmetic that only running shows
        nodes = [
            node("Pow", ["two", "forty"], ["p"]), node("Cast", ["p"], ["q"], to=TensorProto.INT64),
            node("ConstantOfShape", ["q"], ["z"]),
        ]  # fmt: skip
        exponent = np.array([np.log2(n)], np.float32)
        values = [
            numpy_helper.from_array(np.array([2.0], np.float32), "two"),
            numpy_helper.from_array(exponent, "forty"),
        ]
        return model(nodes, values)
    if op == "of the data":  # a shape that depends on the values of the input
        nodes = [
            node("ReduceMax", ["x"], ["m"], keepdims=0), node("Sub", ["m", "m"], ["zero"]),
            node("Cast", ["zero"], ["c"], to=TensorProto.INT64), node("Add", ["c", "n"], ["k"]),
            node("ConstantOfShape", ["k"], ["z"]),
        ]  # fmt: skip
        return model(nodes, [integers("n", n)])
    if op == "Tile":
        return model([node("Tile", ["x", "n"], ["z"])], [integers("n", n, 1, 1, 1)])
    if op == "Resize":
        sizes = integers("n", 1, 3, side, n // side)
        return model([node("Resize", ["x", "", "", "n"], ["z"])], [sizes])
    if op == "Pad":
        return model([node("Pad", ["x", "n"], ["z"])], [integers("n", n, 0, 0, 0, 0, 0, 0, 0)])
    if op == "OneHot":
        ends = numpy_helper.from_array(np.array([0, 1], np.float32), "ends")
        values = [integers("i", 0), scalar("n", n), ends]
        return model([node("OneHot", ["i", "n", "ends"], ["z"])], values)
    if op == "EyeLike":
        nodes = [node("ConstantOfShape", ["n"], ["c"]), node("EyeLike", ["c"], ["z"])]
        return model(nodes, [integers("n", side, n // side)])
    if op == "RandomNormal":
        return model([node("RandomNormal", [], ["z"], shape=[n])])
    if op == "outer product":
        row, column = (
            numpy_helper.from_array(np.ones(shape, np.float32), name)
            for name, shape in (("row", (1, side)), ("column", (n // side, 1)))
        )
        return model([node("MatMul", ["column", "row"], ["z"])], [row, column])
    if op == "broadcast":
        row, column = (
            numpy_helper.from_array(np.ones(shape, np.float32), name)
            for name, shape in (("row", (1, side)), ("column", (n // side, 1)))
        )
        return model([node("Add", ["column", "row"], ["z"])], [row, column])
    if op == "sparse":
        one = numpy_helper.from_array(np.ones(1, np.float32), "v")
        sparse = onnx.SparseTensorProto(values=one, indices=integers("i", 0), dims=[n])
        return model([node("Constant", [], ["z"], sparse_value=sparse)])
    if op == "Conv with pads":
        return model([node("Conv", ["x", "a"], ["z"], pads=[side, n // side, 0, 0])])
    raise ValueError(op)


SIZES = (
    "Range", "Expand", "ConstantOfShape", "computed", "of the data", "Tile", "Resize", "Pad",
    "OneHot", "EyeLike", "RandomNormal", "outer product", "broadcast", "sparse", "Conv with pads",
)  # fmt: skip


def three_large() -> onnx.ModelProto:
    """Three constants of 2 GB."""
    nodes = [node("ConstantOfShape", ["n"], [f"z{i}"]) for i in range(3)]
    return model(nodes, [integers("n", 1 << 29)])


def three_inside() -> onnx.ModelProto:
    """The same within a branch, which runs with everything else."""
    inner = three_large().graph
    out = [helper.make_tensor_value_info("z2", TensorProto.FLOAT, None)]
    branch = helper.make_graph(inner.node[:3], "b", [], out)
    yes = numpy_helper.from_array(np.array(True), "yes")
    values = [integers("n", 1 << 29), yes]
    return model([node("If", ["yes"], ["z"], then_branch=branch, else_branch=branch)], values)


def large_input() -> onnx.ModelProto:
    made = model()
    for dimension in made.graph.input[0].type.tensor_type.shape.dim[2:]:
        dimension.dim_value = 1 << 20
    return made


def unshaped(name: str) -> onnx.ModelProto:
    """An input that declares nothing but a name."""
    made = model()
    made.graph.input[0].ClearField("type")
    made.graph.input[0].name = name
    return made


def two_of_a_name() -> onnx.ModelProto:
    made = model()
    made.graph.initializer.append(made.graph.initializer[0])
    return made


def cycle() -> onnx.ModelProto:
    return model([node("Neg", ["q"], ["p"]), node("Neg", ["p"], ["q"])])


def of_type(number: int) -> onnx.ModelProto:
    made = TensorProto(name="odd", data_type=number, dims=[4], raw_data=bytes(16))
    return model([node("Identity", ["odd"], ["z"])], [made])


def with_field(**fields: object) -> onnx.ModelProto:
    made = TensorProto(name="odd", data_type=TensorProto.FLOAT, **fields)  # type: ignore[arg-type]
    return model([node("Identity", ["odd"], ["z"])], [made])


def unfinished(part: float) -> bytes:
    whole = model().SerializeToString()
    return whole[: int(len(whole) * part)]


def others() -> Iterator[tuple[str, Callable[[], onnx.ModelProto | bytes]]]:
    """Files of wrong form, and such as cost memory or time."""
    for op in SIZES:
        yield f"2^40 by {op}", lambda op=op: of_size(1 << 40, op)
    for op in ("Range", "Expand", "ConstantOfShape", "computed"):
        yield f"2^33 by {op}", lambda op=op: of_size(1 << 33, op)
    yield "three constants of 2 GB", three_large
    yield "three constants of 2 GB in a branch", three_inside
    yield "30 functions that call twice", lambda: doubling(30)
    yield "60 functions that call twice", lambda: doubling(60)
    yield "functions in a circle", circle
    yield "If 10 deep, both branches", lambda: nested(10)
    yield "If 500 deep", lambda: deep(500)
    yield "a loop without end", lambda: loop(1 << 62)
    yield "joined with itself 40 times", lambda: doubled(40)
    yield "an input of 2^40 elements", large_input
    yield "two initializers of one name", two_of_a_name
    yield "a cycle", cycle
    yield "dims of 2^64 elements", lambda: huge_dims([1 << 32, 1 << 32])
    yield "dims of 2^63 - 1", lambda: huge_dims([(1 << 63) - 1])
    yield "negative dims", lambda: huge_dims([-4])
    yield "negative dims that cancel", lambda: huge_dims([-2, -2])
    yield "no dims", lambda: huge_dims([])
    yield "type 99", lambda: of_type(99)
    yield "type 0", lambda: of_type(0)
    yield "text with bytes", lambda: of_type(TensorProto.STRING)
    yield "too few bytes", lambda: with_field(dims=[9], raw_data=bytes(16))
    yield "too many numbers", lambda: with_field(dims=[2], float_data=[0.0] * 9)
    yield "numbers of another type", lambda: with_field(dims=[2], int64_data=[0, 0])
    yield "no values", lambda: with_field(dims=[1 << 20])
    yield "half a file", lambda: unfinished(0.5)
    yield "nine tenths of a file", lambda: unfinished(0.9)


def files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Write the files, each into a folder of its own; name and path."""
    made: list[tuple[str, Callable[[], onnx.ModelProto | bytes]]] = []
    probe = folder / "probe" / "model"
    for name in _locations(probe):
        # Every location in an initializer that nothing reads, the first few everywhere.
        made.append((f"{name} in unused", lambda n=name: ("unused", n)))  # type: ignore[arg-type]
    for place in PLACES:
        for name in ("up", "link"):
            if place != "unused":
                made.append((f"{name} in {place}", lambda p=place, n=name: (p, n)))  # type: ignore
    for name in entries(probe):
        made.append((name, lambda n=name: ("entries", n)))  # type: ignore[arg-type]
    made += others()
    for number, (name, make) in enumerate(made):
        place = folder / f"{number:03}" / "model"
        given = make()
        if isinstance(given, tuple):
            found = _locations(place)
            kind, key = given
            if kind == "entries":
                t = tensor("t")
                for entry, value in entries(place)[key]:
                    t.external_data.add(key=entry, value=value)
                given = in_unused_initializer(t)
            else:
                given = PLACES[kind](tensor("t", location=found[key], offset=0, length=SIZE))
        place.mkdir(parents=True, exist_ok=True)
        path = place / "m.onnx"
        path.write_bytes(given if isinstance(given, bytes) else given.SerializeToString())
        yield name, path


def _locations(place: Path) -> dict[str, str]:
    place.mkdir(parents=True)
    (place.parent / "priv").mkdir()
    (place.parent / "priv" / "id_rsa").write_bytes(SECRET * 4)
    return locations(place)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="to write them into")
    for name, path in files(parser.parse_args().folder):
        print(f"{path}  {name}")
