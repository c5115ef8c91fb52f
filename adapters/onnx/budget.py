"""How much a file may make anyone compute: nodes by inlining, bytes by shapes and constants.

A file of a kilobyte can ask for a terabyte (``ConstantOfShape`` of 2^38) or for 2^30 nodes (30
functions, each of which calls the next twice).  Both are counted before they are made.  What
depends on the values of inputs is known only while the model runs on example inputs: that run has
a cap on its memory, and a model with a loop a limit on its time (:func:`.session.run_everything`).

The budget is ``max_bytes`` of :func:`.model.load`, or ``REJUVENET_MAX_BYTES``.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping

import numpy as np
import onnx
import onnx_ir as ir
from onnx import numpy_helper

from .example_inputs import IMAGE_EXTENT, UNKNOWN_EXTENT
from .external import Refused, is_external
from .inference import MAKERS, MAX_BYTES, SMALL, inferred, run_as_far_as_known
from .operator_names import operator

VARIABLE = "REJUVENET_MAX_BYTES"
EVERYTHING = 8  # times as much, for all tensors of a run on example inputs
WEIGHTS = 16  # bytes for each byte of weights: int4 in float32 and a transposed copy
NODE = 1 << 13  # bytes of the budget that a node of an inlined function stands for


def max_bytes_of(given: int | None) -> int:
    """The budget: what is given, what the environment says, or ``MAX_BYTES``.

    Raises
    ------
    ValueError
        It is no positive number of bytes.
    """
    text = os.environ.get(VARIABLE, "") if given is None else str(given)
    if not text:
        return MAX_BYTES
    if not (text.isascii() and text.isdecimal() and int(text) > 0):
        name = VARIABLE if given is None else "max_bytes"
        raise ValueError(f"expected {name} to be a positive number of bytes, got {text!r}")
    return int(text)


def check_nodes(model: ir.Model, max_bytes: int) -> None:
    """Refuse functions that become too many nodes when they are inlined.

    Raises
    ------
    ValueError
        With the number of nodes.
    """
    sizes: dict[ir.OperatorIdentifier, int] = {}

    def size(nodes: ir.Graph | ir.Function) -> int:
        calls = [node.op_identifier() for node in ir.traversal.RecursiveGraphIterator(nodes)]
        return len(calls) + sum(sizes[call] for call in calls if call in sizes)

    # The innermost first; those that call each other in a circle stay, and are never inlined.
    waiting = dict(model.functions)
    while waiting:
        ready = [
            name
            for name, function in waiting.items()
            if not any(
                node.op_identifier() in waiting
                for node in ir.traversal.RecursiveGraphIterator(function)
            )
        ]
        if not ready:
            break
        for name in ready:
            sizes[name] = size(waiting.pop(name))
    made = size(model.graph)
    if made > max_bytes // NODE:
        raise Refused(
            f"the functions of the model become {made:.3g} nodes, more than the "
            f"{max_bytes // NODE} allowed; {_raise(NODE * made)}"
        )


def check_inputs(model: ir.Model, max_bytes: int) -> None:
    """Refuse inputs that are declared larger than a run on example inputs may be.

    Raises
    ------
    ValueError
        With the shape.
    """
    for value in model.graph.inputs:
        declared = list(value.shape or ())
        usual = IMAGE_EXTENT if len(declared) == 4 else UNKNOWN_EXTENT
        free = (1, *(usual for _ in declared))
        sizes = [n if isinstance(n, int) else m for n, m in zip(declared, free, strict=False)]
        made, allowed = 8 * math.prod(max(n, 1) for n in sizes), EVERYTHING * max_bytes
        if made > allowed:
            raise Refused(
                f"the input {str(value.name)[:100]!r} of shape {sizes[:9]} takes {_gib(made)}, "
                f"more than the {_gib(allowed)} allowed; {_raise(-(-made // EVERYTHING))}"
            )


def check_sizes(model: ir.Model, feeds: Mapping[str, np.ndarray], max_bytes: int) -> None:
    """Refuse tensors that take too much memory, as far as shapes and constants say.

    Raises
    ------
    ValueError
        With the largest of them.
    """
    weights = sum(
        value.const_value.nbytes
        for value in model.graph.initializers.values()
        if value.const_value is not None
    )
    given = {name: array.shape for name, array in feeds.items()}
    count = _Count.of(inferred(model, given, {}), {})
    if count.unknown:
        _, values = run_as_far_as_known(model, feeds, max_bytes)
        count = _Count.of(inferred(model, given, values), values)
    for made, times, what in (
        (count.constant, 1, "constants and shapes"),
        (count.all, EVERYTHING, "example inputs"),
    ):
        allowed = times * max_bytes + WEIGHTS * weights
        if made > allowed:
            name, shape = count.largest
            raise Refused(
                f"the model makes {_gib(made)} out of {what}, {name[:100]!r} of shape {shape[:9]} "
                f"among them, more than the {_gib(allowed)} allowed; {_raise(-(-made // times))}"
            )


class _Count:
    """Bytes of the tensors that a message with inferred shapes makes."""

    def __init__(self) -> None:
        self.all = self.constant = 0
        self.unknown = False  # whether constants that are not known decide about a size
        self.largest: tuple[str, list[int]] = ("", [])
        self._most = 0

    @classmethod
    def of(cls, message: onnx.ModelProto | None, values: Mapping[str, np.ndarray]) -> _Count:
        """The count of a message; nothing where there is none."""
        count = cls()
        if message is not None:
            count._add(message, message.graph, set(), values)
        return count

    def _add(
        self,
        message: onnx.ModelProto,
        graph: onnx.GraphProto,
        fixed: set[str],
        values: Mapping[str, np.ndarray],
    ) -> None:
        """The tensors of a graph; ``fixed`` are the constants of those around it."""
        fixed = fixed | {tensor.name for tensor in graph.initializer}
        declared = {value.name: value for value in (*graph.value_info, *graph.output)}
        small = {t.name: t for t in graph.initializer if math.prod(t.dims) <= SMALL}
        for node in graph.node:
            constant = all(name in fixed for name in node.input if name)
            constant |= operator(node) in ("Shape", "Size")
            for attribute in node.attribute:
                for inner in (attribute.g, *attribute.graphs):
                    if inner.node:
                        self._add(message, _alone(message, inner, small, values), fixed, values)
            for name in filter(None, node.output):
                if constant:
                    fixed.add(name)
                size = self._size(declared.get(name))
                if size is None:
                    self.unknown |= constant and operator(node) in MAKERS
                    continue
                self.all += size
                self.constant += size if constant else 0

    def _size(self, value: onnx.ValueInfoProto | None) -> int | None:
        if value is None or not value.type.tensor_type.HasField("shape"):
            return None
        kind = value.type.tensor_type
        if any(d.WhichOneof("value") != "dim_value" for d in kind.shape.dim):
            return None
        shape = [d.dim_value for d in kind.shape.dim]
        known = kind.elem_type in onnx.TensorProto.DataType.values() and kind.elem_type
        bits = 32
        if known and kind.elem_type != onnx.TensorProto.STRING:
            bits = ir.DataType(kind.elem_type).bitwidth
        size = math.prod(max(n, 0) for n in shape) * bits // 8
        if size > self._most:
            self._most, self.largest = size, (value.name, shape)
        return size


def _alone(
    message: onnx.ModelProto,
    graph: onnx.GraphProto,
    small: Mapping[str, onnx.TensorProto],
    values: Mapping[str, np.ndarray],
) -> onnx.GraphProto:
    """A subgraph with its shapes, where the constants around it decide about them.

    ONNX's inference does not look at their values within a subgraph.
    """
    read = {name for node in graph.node for name in node.input}
    if not any(operator(node) in MAKERS for node in graph.node):
        return graph
    alone = onnx.ModelProto(ir_version=message.ir_version, opset_import=message.opset_import)
    alone.graph.CopyFrom(graph)
    for name in sorted(read - {tensor.name for tensor in graph.initializer}):
        if name in values and values[name].size <= SMALL:
            alone.graph.initializer.append(numpy_helper.from_array(values[name], name))
        elif name in small and not is_external(small[name]):
            alone.graph.initializer.append(small[name])
    try:
        return onnx.shape_inference.infer_shapes(alone, data_prop=True).graph
    except Exception:  # as it is, then
        return graph


def _gib(n: int) -> str:
    return f"{n / 2**30:.3g} GiB"


def _raise(n: int) -> str:
    return (
        f"if you trust the file, load it with max_bytes={n} or set {VARIABLE}={n} in the "
        "environment"
    )
