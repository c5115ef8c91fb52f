"""A model without some of its channels: the file as it was, with smaller arrays and lengths.

The message is copied and changed in place: tensors get other dimensions and values, attributes and
constants other lengths (:mod:`.lengths`), declarations of shapes those that the tensors have now.
Nodes, names, opset and metadata stay.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx

from ...graph.change.removal import Removal
from ...graph.find.channels import Unfit
from .external import is_external
from .lengths import Lengths
from .model import OnnxModel
from .operator_names import operator
from .saving import ALIGNMENT, filled
from .shared import Copy, with_copies
from .storage import OnDisk, Stored, blocks, unpacked

LOCATION = "weights"  # of external data, until the model is saved


def without_channels(model: OnnxModel, removal: Removal) -> OnnxModel:
    """The model without the channels of a removal; the given one stays.

    Raises
    ------
    Unfit
        What would have to change lies in a function or in a branch of the file.
    """
    stored = model.stored
    lengths = Lengths(model.structure, removal)
    disk = OnDisk()
    arrays = {
        name: disk.put(taken) if name in model.outside else taken
        for name, kept in removal.weights.items()
        for taken in [removal.taken(model.weight(name), kept)]
    }
    arrays = {**model.changed, **arrays}
    copies = list(model.own_copies(arrays))
    inside, further = _literals(model, stored.message, lengths)
    arrays |= inside
    message = onnx.ModelProto()
    message.CopyFrom(with_copies(stored.message, [*copies, *further]))
    _set_attributes(message, lengths.attributes)
    own = {t.name for t in message.graph.initializer}
    own |= {n.output[0] for n in message.graph.node if operator(n) == "Constant"}
    missing = [name for name in removal.weights if name not in own and name not in model.copies]
    if missing:
        raise Unfit(f"the weight {missing[0]!r} lies in a function or in a branch of the file")
    own_values = {
        name: value.const_value.numpy()
        for name, value in model.ir.graph.initializers.items()
        if name in stored.taken and value.const_value is not None
    }
    values = own_values | arrays
    for name, array in values.items():
        _declare(message, name, dict(enumerate(array.shape)))
    for name, kept in removal.kept.items():
        _declare(message, name, {axis: len(positions) for axis, positions in kept.items()})
    content = _outside(message, stored, values)
    filled(message, values)
    files = {} if content is None else {LOCATION: content}
    return model.like(*unpacked(message, files, "the model"))


def _literals(
    model: OnnxModel, message: onnx.ModelProto, lengths: Lengths
) -> tuple[dict[str, np.ndarray], list[tuple[str, Copy, np.ndarray]]]:
    """Constants that change for all that read them, and copies for some of their uses."""
    nodes = {node.output[0]: node for node in message.graph.node if node.output}
    everyone: dict[str, int] = defaultdict(int)
    for node in model.analysed.graph.all_nodes():
        for value in node.inputs:
            if value is not None:
                everyone[str(value.name)] += 1
    wanted: dict[str, dict[tuple[str, int], np.ndarray]] = defaultdict(dict)
    for use, (name, array) in lengths.uses.items():
        if use[0] not in nodes or use[1] >= len(nodes[use[0]].input):
            raise Unfit("a length that would change lies in a function or in a branch of the file")
        wanted[name][use] = array
    inside: dict[str, np.ndarray] = {}
    further = []
    taken = {value for node in message.graph.node for value in (*node.input, *node.output)}
    for name, uses in wanted.items():
        values = list(uses.values())
        if len(uses) == everyone[name] and all(np.array_equal(values[0], v) for v in values):
            inside[name] = values[0]
            continue
        for number, (use, array) in enumerate(uses.items(), 1):
            copy = f"{name}_{number}"
            while copy in taken:
                copy += "_"
            taken.add(copy)
            further.append((copy, Copy(name, *use), array))
    return inside, further


def _set_attributes(message: onnx.ModelProto, attributes: Mapping[str, Mapping[str, Any]]) -> None:
    nodes = {node.output[0]: node for node in message.graph.node if node.output}
    for output, own in attributes.items():
        if output not in nodes:
            raise Unfit("a length that would change lies in a function or in a branch of the file")
        for attribute in nodes[output].attribute:
            if attribute.name in own:
                found = own[attribute.name]
                if isinstance(found, int):
                    attribute.i = found
                else:
                    attribute.ints[:] = found


def _declare(message: onnx.ModelProto, name: str, lengths: Mapping[int, int]) -> None:
    """Other lengths where the file declares the shape of a tensor."""
    for value in (*message.graph.value_info, *message.graph.input):
        if value.name == name and value.type.HasField("tensor_type"):
            dims = value.type.tensor_type.shape.dim
            for axis, n in lengths.items():
                if axis < len(dims):
                    dims[axis].dim_value = n


def _outside(
    message: onnx.ModelProto, stored: Stored, values: Mapping[str, np.ndarray]
) -> np.ndarray | None:
    """What lies in other files, written one after the other into one that has no name."""
    tensors = [t for t in message.graph.initializer if is_external(t)]
    if not tensors:
        return None
    with tempfile.TemporaryFile() as file:  # the map outlives it
        for tensor in tensors:
            start = file.tell()
            array = values.get(tensor.name)
            for block in blocks(stored.bytes_of(tensor) if array is None else array):
                file.write(block.data)
            length = file.tell() - start
            del tensor.external_data[:]
            for key, value in (("location", LOCATION), ("offset", start), ("length", length)):
                tensor.external_data.add(key=key, value=str(value))
            file.write(b"\0" * (-file.tell() % ALIGNMENT))
            if array is not None:
                tensor.dims[:] = array.shape
        file.flush()
        return np.memmap(file, np.uint8, "r")
