"""Shapes and constants of a model that onnxruntime cannot run, as far as ONNX itself knows them.

Operators of other domains have no shapes there: what they touch is frozen.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import onnx_ir as ir
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from .session import light_message

SMALL = 1 << 12  # elements up to which an initializer may be a setting, and is computed with


def inferred_shapes(
    model: ir.Model, feeds: Mapping[str, np.ndarray], constants: Mapping[str, np.ndarray]
) -> dict[str, tuple[int, ...]]:
    """Shapes by ONNX's inference, inputs having the shapes of ``feeds``.

    Nodes whose values are known are replaced by these values.
    """
    proto = light_message(model)
    for value in proto.graph.input:
        if value.name in feeds:
            kind = value.type.tensor_type
            kind.ClearField("shape")
            for size in feeds[value.name].shape:
                kind.shape.dim.add(dim_value=size)
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
    del proto.graph.value_info[:]
    del proto.functions[:]  # those that could not be inlined
    imported = {opset.domain for opset in proto.opset_import}
    for domain in {node.domain for node in kept} - imported:  # without, nothing is inferred
        proto.opset_import.add(domain=domain, version=1)
    for value in proto.graph.output:  # what an exporter declares may be stale
        value.type.tensor_type.ClearField("shape")
    try:
        proto = onnx.shape_inference.infer_shapes(proto, data_prop=True)
    except Exception:  # what is left unknown becomes opaque
        return {}
    found = {}
    for value in (*proto.graph.value_info, *proto.graph.output):
        kind = value.type.tensor_type
        dims = list(kind.shape.dim)
        if kind.HasField("shape") and all(d.dim_value > 0 for d in dims):
            found[value.name] = tuple(d.dim_value for d in dims)
    return found


def folded(
    model: ir.Model, shapes: Mapping[str, tuple[int, ...]], feeds: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Values of tensors that depend on initializers, constants and shapes only."""
    values: dict[str, np.ndarray] = {}
    for name, value in model.graph.initializers.items():
        if value.const_value is not None and value.const_value.size <= SMALL:
            values[name] = value.const_value.numpy()
    # Only the shape of what is not constant is looked at.
    empty = {name: np.broadcast_to(np.int8(0), shape) for name, shape in shapes.items()}
    empty |= {name: np.broadcast_to(np.int8(0), array.shape) for name, array in feeds.items()}
    for node in model.graph:
        read = [str(v.name) for v in node.inputs if v is not None]
        by_shape = node.op_type in ("Shape", "Size") and read[0] in {**empty, **values}
        if node.op_type.startswith("Random") or not (by_shape or all(n in values for n in read)):
            continue
        given = {name: values[name] if name in values else empty[name] for name in read}
        try:
            results = ReferenceEvaluator(ir.to_proto(node)).run(None, given)
        except Exception:  # not a constant, then
            continue
        names = [str(v.name) for v in node.outputs]
        values |= {n: np.asarray(v) for n, v in zip(names, results, strict=False) if n}
    return values


def run_as_far_as_known(
    model: ir.Model, feeds: Mapping[str, np.ndarray]
) -> tuple[dict[str, tuple[int, ...]], dict[str, np.ndarray]]:
    """Shapes of all tensors that have a known one, and the values of constants."""
    given = {name: array.shape for name, array in feeds.items()}
    shapes: dict[str, tuple[int, ...]] = {}
    values: dict[str, np.ndarray] = {}
    while True:  # what is known to be constant may say more about shapes
        before = len(shapes), len(values)
        shapes |= given | inferred_shapes(model, feeds, values)
        values = folded(model, shapes, feeds)
        shapes |= {name: array.shape for name, array in values.items()}
        if (len(shapes), len(values)) == before:
            return shapes, values
