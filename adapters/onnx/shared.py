"""Initializers that an exporter shares because they are equal: the ones and zeros of fresh layers.

Each use gets a value of its own while the model is analysed and changed, so that equal ones tie
nothing.  A file gets such a copy only where its value has become another one: there the node reads
the copy, and everything else stays as it was.  Weights that differ along all their axes are shared
on purpose, by a layer that is called twice, and stay one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
import onnx
import onnx_ir as ir

from ...graph.find.nodes import uniform_axes
from .operator_names import operator

SMALL = 1 << 20  # elements; larger ones are no ones and zeros of a layer


class Copy(NamedTuple):
    """One use of a shared value.

    Attributes
    ----------
    original : str
        The initializer, or the output of a ``Constant`` node.
    output : str
        The first output of the node that reads it.  Of an ``Identity`` (exporters that share
        equal values keep their other names so) it is the name of the copy, which takes its place.
    place : int
        Which of its inputs that is.
    """

    original: str
    output: str
    place: int


def separated(model: ir.Model) -> tuple[ir.Model, dict[str, Copy]]:
    """The model with a copy of shared equal values for every use but one, by the copy's name.

    Where a graph within the model reads the value too, for every use.  A model without such
    values is returned as it is.
    """
    found = _shared(model)
    if not found:
        return model, {}
    model = model.clone()
    model.ir_version = max(model.ir_version, 4)  # before, initializers had to be inputs as well
    made_by = {str(v.name): node for node in model.graph for v in node.outputs}
    taken = {str(name) for name in model.graph.initializers} | set(made_by)
    copies: dict[str, Copy] = {}
    for (name, uses), tensor in found:
        for number, (output, place) in enumerate(uses, 1):
            node = made_by[output]
            renames = operator(node) == "Identity" and not node.outputs[0].is_graph_output()
            copy = output if renames else f"{name}_{number}"
            while copy in taken and not renames:
                copy += "_"
            taken.add(copy)
            value = ir.Value(
                name=copy,
                shape=ir.Shape(tensor.shape.numpy()),
                type=ir.TensorType(tensor.dtype),
                const_value=ir.Tensor(tensor.numpy(), tensor.dtype, name=copy),
            )
            if renames:
                ir.convenience.replace_all_uses_with(node.outputs[0], value)
                model.graph.remove(node, safe=True)
            else:
                node.replace_input_with(place, value)
            model.graph.initializers[copy] = value
            copies[copy] = Copy(name, output, place)
    return model, copies


def _shared(
    model: ir.Model,
) -> list[tuple[tuple[str, list[tuple[str, int]]], ir.TensorProtocol]]:
    """Names of values with the uses that get a copy, and their tensors."""
    nodes = list(model.graph)
    order = {node: i for i, node in enumerate(nodes)}
    constants = [
        (node.outputs[0], node.attributes["value"].value)
        for node in nodes
        if operator(node) == "Constant" and "value" in node.attributes
    ]
    given = [(value, value.const_value) for value in model.graph.initializers.values()]
    found = []
    for value, tensor in [*given, *constants]:
        uses = value.uses()
        if len(uses) < 2 or tensor is None or not _is_equal(tensor):
            continue
        # What reads it by its own name keeps it.
        placed = sorted(
            (operator(u.node) == "Identity", order[u.node], u.idx) for u in uses if u.node in order
        )
        firsts = [(nodes[i].outputs[0].name, idx) for _, i, idx in placed]
        own = [(str(output), idx) for output, idx in firsts if output]
        everywhere = len(own) == len(uses) and not value.is_graph_output()
        found.append(((str(value.name), own[everywhere:]), tensor))
    return found


def _is_equal(tensor: ir.TensorProtocol) -> bool:
    """Whether it holds floats of which all slices along some axis are equal."""
    size = int(np.prod(tensor.shape.numpy(), dtype=np.int64))
    if not 1 < size <= SMALL or not tensor.dtype.is_floating_point() or tensor.dtype.bitwidth < 8:
        return False
    array = tensor.numpy()
    return any(array.shape[axis] > 1 for axis in uniform_axes(array))


def with_copies(
    message: onnx.ModelProto, copies: Iterable[tuple[str, Copy, np.ndarray]]
) -> onnx.ModelProto:
    """The message with some copies in it, which their nodes read; ``message`` where there are none.

    Parameters
    ----------
    message : onnx.ModelProto
    copies : iterable of (str, Copy, ndarray)
        Names of copies and their values.
    """
    listed = list(copies)
    if not listed:
        return message
    changed = onnx.ModelProto()
    changed.CopyFrom(message)
    made_by: Mapping[str, onnx.NodeProto] = {
        name: node for node in changed.graph.node for name in node.output[:1]
    }
    for name, copy, array in listed:
        if name == copy.output:
            changed.graph.node.remove(made_by[name])
        else:
            made_by[copy.output].input[copy.place] = name
        tensor = ir.to_proto(ir.Tensor(array, name=name))
        changed.graph.initializer.append(tensor)
        if changed.ir_version < 4:
            changed.graph.input.append(
                onnx.helper.make_tensor_value_info(name, tensor.data_type, array.shape)
            )
    return changed
