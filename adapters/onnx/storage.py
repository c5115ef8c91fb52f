"""ONNX files apart from their weights: a message that is kept as it was, and arrays.

The message is never written anew from its parsed form: what is saved is the message that was
read, with other bytes in the tensors that changed.  So nodes, names, opset, metadata, declarations
and everything that no parser knows stay what they were.

Values in ``raw_data`` are taken out of the message once, so that each is in memory once.  Values
in files beside the message are mapped, and never in memory as a whole: a changed tensor overwrites
its bytes in a copy of the file, at the offset that it had.
"""

from __future__ import annotations

import os
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from ...files import check_writable, written_beside

BLOCK = 1 << 24  # bytes that are copied at a time


@dataclass
class Stored:
    """What a file says beside the values of its initializers.

    Attributes
    ----------
    message : onnx.ModelProto
        Without the values in ``raw_data`` of initializers.
    taken : frozenset of str
        The initializers whose values were taken out.
    files : dict of str to ndarray of uint8
        Location of external data to the bytes of that file, mapped.
    """

    message: onnx.ModelProto
    taken: frozenset[str] = frozenset()
    files: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def outside(self) -> frozenset[str]:
        """The initializers whose values lie in other files."""
        return frozenset(t.name for t in self.message.graph.initializer if _is_external(t))

    @staticmethod
    def of(model: ir.Model) -> Stored:
        """The message of a model that was not read here; its values stay in the message."""
        files = {}
        for graph in model.graphs():
            for value in graph.initializers.values():
                tensor = value.const_value
                if isinstance(tensor, ir.ExternalTensor):
                    files[str(tensor.location)] = mapped(Path(tensor.path))
        return Stored(ir.to_proto(model), files=files)


def read(path: Path) -> tuple[ir.Model, Stored]:
    """A file as a model whose initializers are arrays, and as what is to be written again.

    Raises
    ------
    ValueError
        It is no ONNX model, it is truncated, or a file that holds its weights is missing.
    """
    try:
        message = onnx.ModelProto.FromString(path.read_bytes())
        empty = not message.graph.input and not message.graph.node
        files = _external_files(message, path) if not empty else {}
        arrays = _take(message, files)
        message = onnx.ModelProto.FromString(message.SerializeToString())  # gives memory back
        copy = onnx.ModelProto()
        copy.CopyFrom(message)
        model = ir.from_proto(copy)
        model.graph.sort()  # some converters forget it
        ir.external_data.set_base_dir(model.graph, path.parent)
    except _Incomplete as error:
        raise ValueError(str(error)) from None
    except Exception as error:  # protobuf and onnx_ir raise many kinds
        raise ValueError(
            f"{path} is not a complete ONNX model: it cannot be parsed ({type(error).__name__})"
        ) from error
    if empty or not model.graph.outputs:
        raise ValueError(f"{path} is not a complete ONNX model: it has no graph with outputs")
    for name, value in model.graph.initializers.items():
        if name in arrays and value.const_value is not None:
            value.const_value = tensor_like(value.const_value, arrays[name])
    inside = frozenset(
        t.name for t in message.graph.initializer if t.name in arrays and not _is_external(t)
    )
    return model, Stored(message, inside, files)


class _Incomplete(Exception):
    """Something is missing beside the file."""


def _external_files(message: onnx.ModelProto, path: Path) -> dict[str, np.ndarray]:
    """The files that hold values, mapped, after a check that they are whole."""
    files: dict[str, np.ndarray] = {}
    for sparse in message.graph.sparse_initializer:
        raise _Incomplete(
            f"{path} holds the sparse tensor {sparse.values.name!r}, which is not supported; "
            "write it as a dense one"
        )
    for tensor in tensors_of(message):
        if not _is_external(tensor):
            continue
        location, offset, length = _place(tensor)
        held = path.parent / location
        if location not in files:
            if not held.is_file():
                raise _Incomplete(
                    f"{path} keeps its weights in {held.name}, which is missing; put it beside "
                    "the model"
                )
            files[location] = mapped(held)
        if len(files[location]) < offset + length:
            raise _Incomplete(f"{held} is shorter than {path} says: it is truncated")
    return files


def _take(message: onnx.ModelProto, files: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Values of initializers as arrays; those in ``raw_data`` leave the message."""
    arrays = {}
    for tensor in message.graph.initializer:
        dtype = ir.DataType(tensor.data_type)
        if dtype in (ir.DataType.UNDEFINED, ir.DataType.STRING) or dtype.bitwidth < 8:
            continue
        if _is_external(tensor):
            location, offset, length = _place(tensor)
            content: np.ndarray = files[location][offset : offset + length]
        elif tensor.raw_data:
            content = np.frombuffer(tensor.raw_data, np.uint8)
            tensor.ClearField("raw_data")
        else:
            continue
        if not content.flags.aligned or content.ctypes.data % dtype.itemsize:
            content = content.copy()
        arrays[tensor.name] = content.view(dtype.numpy()).reshape(tuple(tensor.dims))
    return arrays


def write(path: str | os.PathLike[str], stored: Stored, values: Mapping[str, np.ndarray]) -> None:
    """Write a message with ``values`` in its initializers and ``Constant`` nodes, by name.

    ``values`` holds what was taken out and what changed; the rest is written as it was.  External
    data goes to ``<name>.data`` beside the file; where there were several files, to one for each.

    Raises
    ------
    OSError
        One sentence that says what is in the way; nothing is left behind.
    """
    target = check_writable(path)
    message = onnx.ModelProto()
    message.CopyFrom(stored.message)
    changed: dict[str, list[tuple[int, np.ndarray]]] = defaultdict(list)
    for tensor in message.graph.initializer:
        if tensor.name not in values:
            continue
        if _is_external(tensor):
            location, offset, _ = _place(tensor)
            changed[location].append((offset, values[tensor.name]))
        else:
            _fill(tensor, values[tensor.name])
    for node in message.graph.node:
        if node.op_type == "Constant" and node.output[0] in values:
            _fill_constant(node.attribute[0], values[node.output[0]])
    names = _new_locations(target.name, stored.files)
    for tensor in tensors_of(message):
        if _is_external(tensor):
            _move(tensor, names)
    with ExitStack() as files:
        beside = files.enter_context(written_beside(target))
        for location, content in stored.files.items():
            data = target.with_name(names[location])
            _copy(files.enter_context(written_beside(data)), content, changed[location])
        beside.write_bytes(message.SerializeToString())


def _new_locations(name: str, files: Mapping[str, np.ndarray]) -> dict[str, str]:
    if len(files) == 1:
        return {location: f"{name}.data" for location in files}
    return {location: f"{name}.{location.replace('/', '_')}" for location in files}


def _move(tensor: onnx.TensorProto, names: Mapping[str, str]) -> None:
    """Refer to the file's new name; a checksum of the old bytes says nothing any more."""
    for entry in tensor.external_data:
        if entry.key == "location":
            entry.value = names[entry.value]
    kept = [entry for entry in tensor.external_data if entry.key != "checksum"]
    if len(kept) < len(tensor.external_data):
        del tensor.external_data[:]
        tensor.external_data.extend(kept)


def _copy(path: Path, content: np.ndarray, changed: list[tuple[int, np.ndarray]]) -> None:
    """``content`` with other bytes at some offsets, block by block."""
    with open(path, "wb") as file:
        for start in range(0, len(content), BLOCK):
            file.write(content[start : start + BLOCK].data)
        for offset, array in changed:
            file.seek(offset)
            for block in _blocks(array):
                file.write(block.data)


def _blocks(array: np.ndarray) -> Iterator[np.ndarray]:
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    for start in range(0, len(flat), BLOCK):
        yield flat[start : start + BLOCK]


def _fill(tensor: onnx.TensorProto, array: np.ndarray) -> None:
    """Other values of a tensor, in the type that it has."""
    for name in ("float_data", "int32_data", "int64_data", "double_data", "uint64_data"):
        tensor.ClearField(name)
    tensor.raw_data = ir.Tensor(array, ir.DataType(tensor.data_type)).tobytes()


def _fill_constant(attribute: onnx.AttributeProto, array: np.ndarray) -> None:
    if attribute.HasField("t"):
        _fill(attribute.t, array)
    else:
        attribute.floats[:] = array.tolist()


def tensors_of(message: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """All tensors of a message, those of subgraphs and functions too."""
    yield from _tensors_in(message.graph)
    for function in message.functions:
        yield from _tensors_of_nodes(function.node)


def _tensors_in(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    yield from _tensors_of_nodes(graph.node)


def _tensors_of_nodes(nodes: Mapping | list) -> Iterator[onnx.TensorProto]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for graph in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                yield from _tensors_in(graph)


def _is_external(tensor: onnx.TensorProto) -> bool:
    return tensor.data_location == onnx.TensorProto.EXTERNAL


def _place(tensor: onnx.TensorProto) -> tuple[str, int, int]:
    """File, offset and length of the values of a tensor."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    bits = ir.DataType(tensor.data_type).bitwidth * int(np.prod(tensor.dims, dtype=np.int64))
    return entries["location"], int(entries.get("offset", 0)), -(-bits // 8)


def mapped(path: Path) -> np.ndarray:
    """The bytes of a file, read when they are looked at."""
    if path.stat().st_size == 0:
        return np.zeros(0, np.uint8)
    return np.memmap(path, np.uint8, mode="r")


def file_of(array: np.ndarray) -> tuple[Path, int] | None:
    """The file that an array maps and where in it the array begins; None if it maps none."""
    whole: Any = array
    while isinstance(getattr(whole, "base", None), np.ndarray):
        whole = whole.base
    if not isinstance(whole, np.memmap) or whole.filename is None:
        return None
    path = Path(whole.filename)
    if not path.is_file() or path.stat().st_size < whole.offset + whole.nbytes:
        return None
    start = array.__array_interface__["data"][0] - whole.__array_interface__["data"][0]
    return path, whole.offset + start


def tensor_like(old: ir.TensorProtocol, array: np.ndarray) -> ir.Tensor:
    """``array`` as a tensor with the name, type and documentation of ``old``.

    Raises
    ------
    ValueError
        The array has another shape.
    """
    if tuple(array.shape) != tuple(old.shape):
        raise ValueError(
            f"expected an array of shape {tuple(old.shape)} for {old.name!r}, got {array.shape}"
        )
    return ir.Tensor(
        np.asarray(array, old.dtype.numpy(), order="C"),
        dtype=old.dtype,
        name=old.name,
        doc_string=old.doc_string,
        metadata_props=dict(old.metadata_props),
    )


class OnDisk:
    """Arrays in a temporary file that has no name, mapped; it goes when they do."""

    def __init__(self) -> None:
        self.file = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the last array)

    def put(self, array: np.ndarray) -> np.ndarray:
        """The same values, whose memory the system may take back at any time."""
        start = self.file.seek(0, os.SEEK_END)
        start += -start % 4096
        self.file.seek(start)
        for block in _blocks(array):
            self.file.write(block.data)
        self.file.flush()
        return np.memmap(self.file, array.dtype, "r", start, array.shape)
