"""Batch normalizations that take the statistics of the batch that they read.

In a message, before it is given to onnxruntime, over all axes but that of the channels::

    mean      =  ReduceMean(x) + offset
    variance  =  ReduceMean((x - ReduceMean(x))^2) * factor + constant

``offset``, ``factor`` and ``constant`` become inputs of the model, one value for each channel
(:class:`rejuvenet.graph.network.BatchNormalization`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import onnx
from onnx import helper

from ...graph.network import BatchNormalization
from .operator_names import operator

PARTS = ("offset", "factor", "constant")
AXES_ARE_AN_INPUT = 18  # of ReduceMean, from this opset on


def adapt(message: onnx.ModelProto, shapes: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """Let the normalizations that read some tensors adapt, in place.

    Parameters
    ----------
    message : ModelProto
    shapes : mapping of tensor name to its shape

    Returns
    -------
    dict of str to int
        The ONNX element type of the new inputs, by the tensor that is read.
    """
    graph = message.graph
    opset = max(o.version for o in message.opset_import if o.domain in ("", "ai.onnx"))
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    nodes: list[onnx.NodeProto] = []
    found: dict[str, int] = {}
    for node in graph.node:
        if operator(node) == "BatchNormalization" and node.input[0] in shapes:
            x = node.input[0]
            if x not in found:
                found[x] = types.get(node.input[3], onnx.TensorProto.FLOAT)
                nodes += _statistics(x, len(shapes[x]), found[x], opset)
            node.input[3], node.input[4] = f"{x}/mean", f"{x}/variance"
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    for x, kind in found.items():
        channels = [shapes[x][1]]
        graph.input.extend(helper.make_tensor_value_info(n, kind, channels) for n in inputs([x]))
    return found


def feeds(entries: Sequence[BatchNormalization], types: Mapping[str, int]) -> dict[str, np.ndarray]:
    """The values of the new inputs."""
    return {
        name: value.astype(helper.tensor_dtype_to_np_dtype(types[entry.tensor]))
        for entry in entries
        if entry.tensor in types
        for name, value in zip(
            inputs([entry.tensor]), (entry.offset, entry.factor, entry.constant), strict=True
        )
    }


def inputs(tensors: Iterable[str]) -> list[str]:
    """Names of the new inputs."""
    return [f"{x}/{part}" for x in tensors for part in PARTS]


def _statistics(x: str, rank: int, kind: int, opset: int) -> Iterator[onnx.NodeProto]:
    """The nodes that make ``x/mean`` and ``x/variance``."""
    offset, factor, constant = inputs([x])
    others = [axis for axis in range(rank) if axis != 1]

    def named(part: str) -> str:
        return f"{x}/{part}"

    def mean(source: str, target: str) -> Iterator[onnx.NodeProto]:
        if opset >= AXES_ARE_AN_INPUT:
            axes = helper.make_tensor(named("axes"), onnx.TensorProto.INT64, [len(others)], others)
            yield helper.make_node("Constant", [], [f"{target}/axes"], value=axes)
            yield helper.make_node("ReduceMean", [source, f"{target}/axes"], [target], keepdims=1)
        else:
            yield helper.make_node("ReduceMean", [source], [target], axes=others, keepdims=1)

    def flat(source: str, target: str) -> Iterator[onnx.NodeProto]:
        shape = helper.make_tensor(named("shape"), onnx.TensorProto.INT64, [1], [-1])
        yield helper.make_node("Constant", [], [f"{target}/shape"], value=shape)
        yield helper.make_node("Reshape", [source, f"{target}/shape"], [target])

    yield helper.make_node("Cast", [x], [named("x")], to=kind)
    yield from mean(named("x"), named("m"))
    yield helper.make_node("Sub", [named("x"), named("m")], [named("centred")])
    yield helper.make_node("Mul", [named("centred")] * 2, [named("squares")])
    yield from mean(named("squares"), named("v"))
    yield from flat(named("m"), named("m_1"))
    yield from flat(named("v"), named("v_1"))
    yield helper.make_node("Add", [named("m_1"), offset], [named("mean")])
    yield helper.make_node("Mul", [named("v_1"), factor], [named("scaled")])
    yield helper.make_node("Add", [named("scaled"), constant], [named("variance")])
