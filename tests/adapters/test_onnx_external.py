"""External data: its layout is kept, the given files stay, and large ones never fill the memory."""

from __future__ import annotations

import gc
import os
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from rejuvenet.adapters.onnx import (  # noqa: E402
    apply_changes,
    arrange,
    load,
    save_changes,
    shrink,
)  # fmt: skip
from rejuvenet.adapters.onnx.runner import Runner  # noqa: E402

sys.path.insert(0, str(Path(__file__).parent))

from onnx_proof import prove  # noqa: E402
from test_onnx_operators import X, node, values, write  # noqa: E402

ARRAYS = {
    "a": values(8, 3, 3, 3), "bias": values(8), "b": values(6, 8, 1, 1), "c": values(4, 6, 1, 1),
}  # fmt: skip
NODES = [
    node("Conv", ["x", "a", "bias"], ["h"]), node("Relu", ["h"], ["r"]),
    node("Conv", ["r", "b"], ["i"]), node("Relu", ["i"], ["s"]), node("Conv", ["s", "c"], ["y"]),
]  # fmt: skip


def placed(path):
    """File, offset and length of every tensor that lies outside."""
    graph = onnx.load(path, load_external_data=False).graph
    return {
        t.name: {e.key: e.value for e in t.external_data}
        for t in graph.initializer
        if t.data_location == TensorProto.EXTERNAL
    }


@pytest.fixture(params=["one file", "a file for each"])
def external(request, tmp_path):
    folder = tmp_path / "given"
    folder.mkdir()
    message = onnx.load(write(tmp_path / "inside.onnx", NODES, ARRAYS, 17))
    together = request.param == "one file"
    onnx.save(
        message, folder / "m.onnx", save_as_external_data=True, size_threshold=40,
        all_tensors_to_one_file=together, location="weights.bin" if together else None,
    )  # fmt: skip
    return folder / "m.onnx"


def test_layout_is_kept_and_the_given_files_stay(external):
    before = {p.name: p.read_bytes() for p in external.parent.iterdir()}
    proof = prove(external, X)
    assert {name: (external.parent / name).read_bytes() for name in before} == before
    assert set(proof.changed) == set(ARRAYS)
    old, new = placed(external), placed(proof.saved)
    assert old.keys() == new.keys()
    assert {n: (p.get("offset"), p.get("length")) for n, p in old.items()} == {
        n: (p.get("offset"), p.get("length")) for n, p in new.items()
    }
    files = {p["location"] for p in old.values()}, {p["location"] for p in new.values()}
    assert len(files[0]) == len(files[1])
    assert not files[0] & files[1]
    assert not [p for p in external.parent.iterdir() if "partial" in p.name]


def test_weights_outside_are_arranged_as_those_inside(external, tmp_path):
    moved, _ = arrange(load(external), order="random")
    inside = write(tmp_path / "same.onnx", NODES, ARRAYS, 17)
    other, _ = arrange(load(inside), order="random")
    for name in ARRAYS:
        np.testing.assert_array_equal(moved.weight(name), other.weight(name))


def inner_tensor(message):
    """The weight inside the first branch."""
    branches = {a.name: a.g for a in message.graph.node[-1].attribute}
    return branches["then_branch"].initializer[0]


def test_no_file_is_left_open(external, tmp_path):
    changed = tmp_path / "changed.safetensors"
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        model = load(external)
        moved, _ = arrange(model, order="random")
        save_changes(model, moved, changed)
        apply_changes(model, changed).save(tmp_path / "moved.onnx")
        shrink(model, [X], ratio=0.5)[0].save(tmp_path / "small.onnx")
        del model, moved
        gc.collect()
    assert not [str(w.message) for w in told if issubclass(w.category, ResourceWarning)]


def test_external_data_of_a_subgraph_goes_along(tmp_path):
    own = numpy_helper.from_array(values(8, 8, 1, 1), "own")
    inner = helper.make_graph(
        [node("Conv", ["h", "own"], ["u"])], "then", [],
        [helper.make_tensor_value_info("u", TensorProto.FLOAT, None)], [own],
    )  # fmt: skip
    other = helper.make_graph(
        [node("Neg", ["h"], ["v"])], "else", [],
        [helper.make_tensor_value_info("v", TensorProto.FLOAT, None)],
    )  # fmt: skip
    nodes = [
        node("Conv", ["x", "k"], ["h0"]), node("Relu", ["h0"], ["h1"]),
        node("Conv", ["h1", "a"], ["h"]), node("ReduceSum", ["x"], ["s"], keepdims=0),
        node("Cast", ["s"], ["yes"], to=TensorProto.BOOL),
        node("If", ["yes"], ["y"], then_branch=inner, else_branch=other),
    ]  # fmt: skip
    arrays = {"k": values(6, 3, 1, 1), "a": values(8, 6, 1, 1)}
    message = onnx.load(write(tmp_path / "inside.onnx", nodes, arrays, 17))
    folder = tmp_path / "given"
    folder.mkdir()
    onnx.save(message, folder / "m.onnx", save_as_external_data=True, size_threshold=40,
              location="weights.bin")  # fmt: skip
    message = onnx.load(folder / "m.onnx", load_external_data=False)
    tensor = inner_tensor(message)
    offset = (folder / "weights.bin").stat().st_size
    with open(folder / "weights.bin", "ab") as file:
        file.write(own.raw_data)
    tensor.ClearField("raw_data")
    del tensor.external_data[:]
    tensor.data_location = TensorProto.EXTERNAL
    place = {"location": "weights.bin", "offset": offset, "length": len(own.raw_data)}
    for key, value in place.items():
        tensor.external_data.add(key=key, value=str(value))
    (folder / "m.onnx").write_bytes(message.SerializeToString())
    moved, _ = arrange(load(folder / "m.onnx"), order="random")
    moved.save(tmp_path / "out.onnx")
    again = onnx.load(tmp_path / "out.onnx", load_external_data=False)
    entries = {e.key: e.value for e in inner_tensor(again).external_data}
    assert entries["location"] == "out.onnx.data"
    written = (tmp_path / "out.onnx.data").read_bytes()[int(entries["offset"]) :]
    assert written[: int(entries["length"])] == own.raw_data


def test_a_failure_while_data_is_written_leaves_nothing(external, tmp_path, monkeypatch):
    moved, _ = arrange(load(external), order="random")
    target = tmp_path / "out.onnx"
    target.write_bytes(b"old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    names = sorted(p.name for p in tmp_path.iterdir())
    with pytest.raises(OSError, match="no space left on the disk"):
        moved.save(target)
    assert target.read_bytes() == b"old"
    assert sorted(p.name for p in tmp_path.iterdir()) == names


def test_a_session_keeps_what_it_was_lent(tmp_path):
    """onnxruntime does not keep the arrays alive that it is given."""
    wide = {"a": values(64, 3, 3, 3), "b": values(4, 64, 1, 1)}
    nodes = [node("Conv", ["x", "a"], ["h"]), node("Conv", ["h", "b"], ["y"])]
    path = write(tmp_path / "m.onnx", nodes, wide, 17)
    model = load(path)
    runner = Runner(model.with_weights({n: -model.weight(n) for n in wide}))
    other = [np.full((64, 3, 3, 3), np.nan, np.float32) for _ in range(200)]
    assert len(other) == 200
    np.testing.assert_allclose(runner(X)["y"], Runner(model)(X)["y"], rtol=1e-4, atol=1e-4)


def outside(path, name, location, offset=0, n=1):
    """Say of an initializer that its values lie in ``location``, ``n`` floats."""
    message = onnx.load(path, load_external_data=False)
    (tensor,) = [t for t in message.graph.initializer if t.name == name]
    tensor.ClearField("raw_data")
    del tensor.external_data[:]
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": offset, "length": 4 * n}.items():
        tensor.external_data.add(key=key, value=str(value))
    path.write_bytes(message.SerializeToString())


def test_links_within_the_folder_and_those_of_a_cache_are_followed(tmp_path):
    """Hugging Face keeps files under their checksums and links to them by name."""
    store, names = tmp_path / "blobs", tmp_path / "snapshots" / "main"
    store.mkdir()
    names.mkdir(parents=True)
    path = write(store / "0123", NODES, ARRAYS, 17)
    (store / "4567").write_bytes(ARRAYS["a"].tobytes())
    outside(path, "a", "w.bin", n=ARRAYS["a"].size)
    (names / "m.onnx").symlink_to("../../blobs/0123")
    (names / "w.bin").symlink_to("../../blobs/4567")
    np.testing.assert_array_equal(load(names / "m.onnx").weight("a"), ARRAYS["a"])
    (names / "w.bin").unlink()
    (names / "w.bin").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").write_bytes(ARRAYS["a"].tobytes())
    with pytest.raises(ValueError, match="a link to a place outside of its folder"):
        load(names / "m.onnx")


def test_a_model_saved_through_a_link_is_read_through_it(external, tmp_path):
    real = tmp_path / "real"
    real.mkdir()
    (real / "out.onnx").touch()
    (tmp_path / "link.onnx").symlink_to(real / "out.onnx")
    load(external).save(tmp_path / "link.onnx")
    np.testing.assert_array_equal(load(tmp_path / "link.onnx").weight("a"), ARRAYS["a"])


def test_tensors_that_share_bytes_are_parted_when_one_changes(tmp_path):
    path = write(tmp_path / "m.onnx", NODES, {**ARRAYS, "bias2": ARRAYS["bias"]}, 17)
    (tmp_path / "w.bin").write_bytes(ARRAYS["bias"].tobytes())
    outside(path, "bias", "w.bin", n=8)
    outside(path, "bias2", "./w.bin", n=8)
    load(path).with_weights({"bias": np.arange(8, dtype=np.float32)}).save(tmp_path / "out.onnx")
    again = load(tmp_path / "out.onnx")
    np.testing.assert_array_equal(again.weight("bias"), np.arange(8))
    stored = {t.name: t for t in onnx.load(tmp_path / "out.onnx").graph.initializer}
    np.testing.assert_array_equal(numpy_helper.to_array(stored["bias2"]), ARRAYS["bias"])
    assert len(list(tmp_path.glob("out.onnx*"))) == 2


def test_a_file_of_somebody_else_is_not_overwritten(external, tmp_path):
    (tmp_path / "out.onnx.data").write_bytes(b"mine")
    moved, _ = arrange(load(external), order="random")
    for _ in range(2):
        moved.save(tmp_path / "out.onnx")
        assert (tmp_path / "out.onnx.data").read_bytes() == b"mine"
        np.testing.assert_array_equal(load(tmp_path / "out.onnx").weight("a"), moved.weight("a"))
    several = len({p["location"] for p in placed(external).values()})
    assert len(list(tmp_path.glob("out.onnx.*.data"))) == several


def test_a_model_stays_what_it_was_when_its_files_are_replaced(external):
    """It is saved over itself twice; the first object still has, and runs with, its own values."""
    first = load(external)
    before = {name: first.weight(name).copy() for name in ARRAYS}
    outputs = Runner(first)(X)["y"]
    for _ in range(2):
        arrange(load(external), order="random")[0].save(external)
        load(external).with_weights({"bias": np.full(8, 9.0, np.float32)}).save(external)
    for name, array in before.items():
        np.testing.assert_array_equal(first.weight(name), array)
    np.testing.assert_array_equal(Runner(first)(X)["y"], outputs)
    np.testing.assert_array_equal(load(external).weight("bias"), 9.0)


def test_a_model_of_onnx_ir_is_held_to_the_same(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    path = write(folder / "m.onnx", NODES, ARRAYS, 17)
    (tmp_path / "secret").write_bytes(bytes(32))
    outside(path, "bias", "../secret", n=8)
    import onnx_ir

    with pytest.raises(ValueError, match="does not lie beneath its folder"):
        load(onnx_ir.load(path))


def test_external_data_of_a_constant_is_read_once_and_written(tmp_path):
    nodes = [node("Add", ["x", "k"], ["x2"]), node("Conv", ["x2", "a", "bias"], ["h"]), *NODES[1:]]
    path = write(tmp_path / "m.onnx", nodes, ARRAYS, 17)
    message = onnx.load(path)
    constant = TensorProto(name="t", data_type=TensorProto.FLOAT, dims=[3, 1, 1],
                           data_location=TensorProto.EXTERNAL)  # fmt: skip
    constant.external_data.add(key="location", value="k.bin")
    (tmp_path / "k.bin").write_bytes(np.array([1, 2, 3], np.float32).tobytes())
    message.graph.node.insert(0, node("Constant", [], ["k"], value=constant))
    path.write_bytes(message.SerializeToString())
    moved, report = arrange(load(path), order="random")
    assert report.output_change is not None
    assert report.output_change < 1e-5
    moved.save(tmp_path / "out.onnx")
    again = onnx.load(tmp_path / "out.onnx").graph.node[0].attribute[0].t
    np.testing.assert_array_equal(numpy_helper.to_array(again).ravel(), [1, 2, 3])


def test_a_save_removes_what_nobody_holds_and_nothing_else(external, tmp_path):
    from rejuvenet.files import partial

    left = tmp_path / ".out.01234567.partial.onnx"
    other = tmp_path / ".other.01234567.partial.onnx"
    for path in (left, other):
        path.write_bytes(b"half")
    with partial(tmp_path / "out.onnx") as held:  # as another process would
        load(external).save(tmp_path / "out.onnx")
        assert held.exists()
    assert not left.exists()
    assert other.exists()
