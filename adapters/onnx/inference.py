"""Shapes and constants of a model that onnxruntime cannot run, as far as ONNX itself knows them.

Operators of other domains have no shapes there: what they touch is frozen.  Those that have a rule
all the same (:func:`.register_operator`) make tensors of the shapes that the file declares.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from math import prod

import numpy as np
import onnx
import onnx_ir as ir
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from .operator_names import operator
from .operators.registration import REGISTERED
from .session import light_message

UNKNOWN = -(2**62)  # a length, in values that are computed from shapes
MOVES = frozenset(["Gather", "Identity", "Slice", "Squeeze", "Unsqueeze"])  # of their first input
JOINS = frozenset(["Concat"])
# Operators whose outputs are as large, or take as long, as the values of their inputs say.
MAKERS = frozenset(
    ("ConstantOfShape", "Expand", "EyeLike", "OneHot", "Pad", "Range", "Resize", "Tile", "Upsample")
)
UNBOUNDED = MAKERS | {"If", "Loop", "Scan", "SequenceMap"}
MAX_BYTES = 1 << 29  # that may be made out of constants and shapes
SMALL = 1 << 12  # elements up to which an initializer may be a setting, and is computed with

Shape = tuple[int | None, ...]  # None for a length that is not known


def inferred(
    model: ir.Model, given: Mapping[str, Shape], constants: Mapping[str, np.ndarray]
) -> onnx.ModelProto | None:
    """The model with shapes by ONNX's inference, inputs having those ``given`` or declared.

    Nodes whose values are known are replaced by these values.  None where inference fails.
    """
    proto = light_message(model)
    sizes: dict[str, int | None] = {}  # of the lengths that have a name
    for value in proto.graph.input:
        kind = value.type.tensor_type
        if value.name in given:
            named = zip((d.dim_param for d in kind.shape.dim), given[value.name], strict=False)
            sizes |= {name: size for name, size in named if name}
            kind.ClearField("shape")
            for size in given[value.name]:
                kind.shape.dim.add(dim_value=size)
        for dimension in kind.shape.dim:
            if dimension.WhichOneof("value") == "dim_value" and dimension.dim_value <= 0:
                dimension.ClearField("dim_value")
    kept = []
    for node in proto.graph.node:
        if all(name in constants for name in node.output):
            proto.graph.initializer.extend(
                numpy_helper.from_array(constants[name], name) for name in node.output
            )
        else:
            kept.append(node)
    del proto.graph.node[:]
    proto.graph.node.extend(kept)
    declared = _declared(proto.graph, sizes)
    del proto.graph.value_info[:]
    proto.graph.value_info.extend(declared)
    del proto.functions[:]  # those that could not be inlined
    imported = {opset.domain for opset in proto.opset_import}
    for domain in {node.domain for node in kept} - imported:  # without, nothing is inferred
        proto.opset_import.add(domain=domain, version=1)
    for value in proto.graph.output:  # what an exporter declares may be stale
        value.type.tensor_type.ClearField("shape")
    try:
        return onnx.shape_inference.infer_shapes(proto, data_prop=True)
    except Exception:  # what is left unknown becomes opaque
        return None


def _declared(graph: onnx.GraphProto, sizes: Mapping[str, int | None]) -> list[onnx.ValueInfoProto]:
    """What the file says of the tensors that operators with a registered rule make."""
    own = {
        name
        for node in graph.node
        if (node.domain, node.op_type) in REGISTERED
        for name in node.output
    }
    found = [value for value in graph.value_info if value.name in own]
    for value in found:
        for dimension in value.type.tensor_type.shape.dim:
            if size := sizes.get(dimension.dim_param):
                dimension.dim_value = size
    return found


def inferred_shapes(
    model: ir.Model, given: Mapping[str, Shape], constants: Mapping[str, np.ndarray]
) -> dict[str, Shape]:
    """Shapes of :func:`inferred` by name."""
    proto = inferred(model, given, constants)
    if proto is None:
        return {}
    return {
        value.name: tuple(d.dim_value if d.dim_value > 0 else None for d in kind.shape.dim)
        for value in (*proto.graph.input, *proto.graph.value_info, *proto.graph.output)
        if (kind := value.type.tensor_type).HasField("shape")
    }


def folded(
    model: ir.Model, shapes: Mapping[str, Shape], max_bytes: int = MAX_BYTES
) -> dict[str, np.ndarray]:
    """Values of tensors that depend on initializers, constants and shapes only.

    Without those that would take more than ``max_bytes`` together, and those whose size only
    computing them would show.
    Where a shape has a length that is not known, ``UNKNOWN`` stands in its place.
    """
    values: dict[str, np.ndarray] = {
        name: value.const_value.numpy()
        for name, value in model.graph.initializers.items()
        if value.const_value is not None and value.const_value.size <= SMALL
    }
    for node in model.graph:
        read = [str(v.name) for v in node.inputs if v is not None]
        names = [str(v.name) for v in node.outputs]
        if operator(node) == "Shape" and (read[0] in shapes or read[0] in values):
            shape = shapes[read[0]] if read[0] in shapes else values[read[0]].shape
            start, end = (node.attributes.get(name) for name in ("start", "end"))
            part = slice(*(None if a is None else a.as_int() for a in (start, end)))
            lengths = [UNKNOWN if n is None else n for n in shape]
            values[names[0]] = np.array(lengths[part], np.int64)
            continue
        if operator(node) == "Size" and None not in (shape := shapes.get(read[0], (None,))):
            values[names[0]] = np.array(prod(n or 0 for n in shape), np.int64)
            continue
        if operator(node).startswith("Random") or any(name not in values for name in read):
            continue
        # Only what moves whole numbers about may see one that is not known.
        counted = read[1:] if operator(node) in MOVES else [] if operator(node) in JOINS else read
        if any(_is_unknown(values[name]) for name in counted):
            continue
        made = [shapes.get(name, (None,)) for name in filter(None, names)]
        if operator(node) in UNBOUNDED and any(None in shape for shape in made):
            continue
        size = 8 * sum(math.prod(n or 1 for n in shape) for shape in made)
        if size > max_bytes:
            continue
        max_bytes -= size
        try:
            results = ReferenceEvaluator(ir.to_proto(node)).run(None, {n: values[n] for n in read})
        except Exception:  # not a constant, then
            continue
        values |= {n: np.asarray(v) for n, v in zip(names, results, strict=False) if n}
    return values


def _is_unknown(array: np.ndarray) -> bool:
    return array.dtype == np.int64 and bool((array == UNKNOWN).any())


def fixed_values(model: ir.Model) -> dict[str, np.ndarray]:
    """Values that are the same for all inputs that the model declares to take."""
    _, values = _known(model, {})
    # From version 4 on, an initializer that is an input as well is a default.
    both = {v.name for v in model.graph.inputs} & set(model.graph.initializers)
    defaults = both if model.ir_version >= 4 else set()
    for node in model.graph:
        by_values = operator(node) not in ("Shape", "Size")
        if by_values and any(v is not None and v.name in defaults for v in node.inputs):
            defaults |= {v.name for v in node.outputs}
    return {
        name: array
        for name, array in values.items()
        if not _is_unknown(array) and name not in defaults
    }


def run_as_far_as_known(
    model: ir.Model, feeds: Mapping[str, np.ndarray], max_bytes: int
) -> tuple[dict[str, tuple[int, ...]], dict[str, np.ndarray]]:
    """Shapes of all tensors that have a known one, and the values of constants."""
    given = {name: array.shape for name, array in feeds.items()}
    shapes, values = _known(model, given, max_bytes)
    values = {name: array for name, array in values.items() if not _is_unknown(array)}
    whole = {name: tuple(n for n in shape if n is not None) for name, shape in shapes.items()}
    return {n: shape for n, shape in whole.items() if len(shape) == len(shapes[n])}, values


def _known(
    model: ir.Model, given: Mapping[str, Shape], max_bytes: int = MAX_BYTES
) -> tuple[dict[str, Shape], dict[str, np.ndarray]]:
    shapes: dict[str, Shape] = {}
    values: dict[str, np.ndarray] = {}
    while True:  # what is known to be constant may say more about shapes
        before = sum(None not in shape for shape in shapes.values()), len(values)
        known = {name: array for name, array in values.items() if not _is_unknown(array)}
        shapes |= dict(given) | inferred_shapes(model, given, known)
        values = folded(model, shapes, max_bytes)
        shapes |= {name: array.shape for name, array in values.items()}
        if (sum(None not in shape for shape in shapes.values()), len(values)) == before:
            return shapes, values
