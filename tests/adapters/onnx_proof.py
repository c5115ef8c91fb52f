"""The whole way of an ONNX file: arranged, written, checked, read again, run again.

:func:`rejuvenet.adapters.onnx.arrange` permutes all movable groups at random.  The written file
must pass ``onnx.checker`` if the given one does, differ from it in the values of the planned
weights and in nothing else, and give the same outputs bit by bit as the model in memory.  That
these are the outputs of the given file is what :func:`onnx_exports.verify` finds.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
from onnx import numpy_helper
from onnx_exports import Verdict, flat, verify
from rejuvenet.adapters.onnx import OnnxModel, arrange, load
from rejuvenet.adapters.onnx.runner import Runner
from rejuvenet.adapters.onnx.storage import tensors_of

VALUES = ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data")


class Proof(NamedTuple):
    """What was found on the way.

    ``parameters`` counts the numbers that changed their place, ``changed`` the weights that hold
    them.
    """

    verdict: Verdict
    model: OnnxModel
    changed: dict[str, np.ndarray]
    parameters: int
    saved: Path

    @property
    def frozen(self) -> dict[str, str]:
        """Reason of every group that stays."""
        return self.verdict.frozen


def prove(path: Path, x: np.ndarray | dict[str, np.ndarray], seed: int = 0) -> Proof:
    """Arrange a file, write it, and hold it against the given one."""
    content = path.read_bytes()
    verdict = verify(path, x, seed)
    assert verdict.outcome == "right", verdict
    model = load(path)
    moved, report = arrange(model, order="random", seed=seed)
    saved = path.with_name(f"{path.stem}_moved.onnx")
    moved.save(saved)
    assert path.read_bytes() == content
    assert complaint(saved) == complaint(path)
    before, after = onnx.load(path), onnx.load(saved)
    changed = differing(before, after)
    assert set(changed) <= set(report.plan.weights)
    without_values(before, changed)
    without_values(after, changed)
    assert before == after
    expected, again = Runner(moved), Runner(load(saved))
    np.testing.assert_array_equal(flat(again, x), flat(expected, x))
    count = sum(int((a != b).sum()) for a, b in changed.values())
    return Proof(verdict, model, {n: b for n, (_, b) in changed.items()}, count, saved)


def complaint(path: Path) -> str:
    """What ``onnx.checker`` says about a file; nothing about a valid one."""
    try:
        onnx.checker.check_model(str(path))
    except onnx.checker.ValidationError as error:
        return str(error).splitlines()[0]
    return ""


def named_tensors(message: onnx.ModelProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    """Tensors of the outermost graph by the name of the value that they are."""
    for tensor in message.graph.initializer:
        yield tensor.name, tensor
    for node in message.graph.node:
        if node.op_type == "Constant" and node.attribute[0].HasField("t"):
            yield node.output[0], node.attribute[0].t
        elif node.op_type == "Constant" and node.attribute[0].floats:
            yield node.output[0], numpy_helper.from_array(np.array(node.attribute[0].floats))


def differing(
    before: onnx.ModelProto, after: onnx.ModelProto
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Values of the tensors that are not the same."""
    found = {}
    for (name, a), (same, b) in zip(named_tensors(before), named_tensors(after), strict=True):
        assert name == same
        old, new = numpy_helper.to_array(a), numpy_helper.to_array(b)
        if old.tobytes() != new.tobytes():
            found[name] = old, new
    return found


def without_values(message: onnx.ModelProto, names: dict) -> None:
    """Forget the values of some tensors, and where external ones lie."""
    for name, tensor in named_tensors(message):
        if name in names:
            for field in VALUES:
                tensor.ClearField(field)
    for node in message.graph.node:
        if node.op_type == "Constant" and node.output[0] in names:
            del node.attribute[0].floats[:]
    for tensor in tensors_of(message):
        del tensor.external_data[:]
