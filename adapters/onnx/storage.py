"""ONNX files apart from their weights: a message that is kept as it was, and arrays.

The message is never written anew from its parsed form: what is saved is the message that was
read, with other bytes in the tensors that changed.  So nodes, names, opset, metadata, declarations
and everything that no parser knows stay what they were.

Values in ``raw_data`` are taken out of the message once, so that each is in memory once.  Values
in files beside the message are mapped, and never in memory as a whole (:mod:`.external`); how they
are written is in :mod:`.saving`.
"""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from .external import Refused, is_external, opened, place, tensors_of

BLOCK = 1 << 24  # bytes that are copied at a time
OPTIONAL = onnx.defs.OpSchema.FormalParameterOption.Optional


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
        return frozenset(t.name for t in self.message.graph.initializer if is_external(t))

    def bytes_of(self, tensor: onnx.TensorProto) -> np.ndarray:
        """The bytes of a tensor that lies in another file."""
        return _bytes_of(tensor, self.files)

    @staticmethod
    def of(model: ir.Model) -> Stored:
        """The message of a model that was not read here; its values stay in the message.

        Raises
        ------
        ValueError
            Values lie in a file that is missing or not allowed.
        """
        outside = list(_external_tensors(model))
        folders = {Path(tensor.base_dir) for tensor in outside}
        if len(folders) > 1:
            raise ValueError(
                "expected the external data of the model in one folder, got "
                f"{', '.join(sorted(map(str, folders)))}; bring the files together"
            )
        own = {id(v.const_value) for v in model.graph.initializers.values()}
        for tensor in outside:
            if id(tensor) not in own:
                raise ValueError(
                    f"the tensor {tensor.name!r} of a node or subgraph lies in another file; give "
                    "the path of the model instead"
                )
        message = ir.to_proto(model)
        return Stored(message, files=opened(message, "the model", folders or [Path()]))


def is_outside(model: ir.Model) -> bool:
    """Whether values of a model lie in other files."""
    return any(True for _ in _external_tensors(model))


def _external_tensors(model: ir.Model) -> Iterator[ir.ExternalTensor]:
    for graph in model.graphs():
        for value in graph.initializers.values():
            if isinstance(value.const_value, ir.ExternalTensor):
                yield value.const_value
    graphs = [model.graph, *(function.graph for function in model.functions.values())]
    for graph in graphs:
        for node in ir.traversal.RecursiveGraphIterator(graph):
            for attribute in node.attributes.values():
                if isinstance(attribute.value, ir.ExternalTensor):
                    yield attribute.value


def read(path: str | os.PathLike[str]) -> tuple[ir.Model, Stored]:
    """A file as a model whose initializers are arrays, and as what is to be written again.

    No tensor of the model refers to a file: nobody who is given it opens one.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        It is no ONNX model, it is truncated, or a file that holds its weights is missing or not
        one that it may name.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path}")
    if not path.is_file():
        what = "a folder" if path.is_dir() else "no regular file"
        raise ValueError(f"{path} is {what}; expected an ONNX file")
    try:
        message = onnx.ModelProto.FromString(path.read_bytes())
        if not message.graph.output or not (message.graph.input or message.graph.node):
            raise Refused(f"{path} is not a complete ONNX model: it has no graph with outputs")
        _check_names(message, path)
        _check_types(message, path)
        return unpacked(message, opened(message, path), path)
    except Refused:
        raise
    except Exception as error:  # protobuf and onnx_ir raise many kinds
        raise ValueError(
            f"{path} is not a complete ONNX model: it cannot be parsed ({type(error).__name__})"
        ) from error


def unpacked(
    message: onnx.ModelProto, files: dict[str, np.ndarray], path: Path | str
) -> tuple[ir.Model, Stored]:
    """A message as a model whose initializers are arrays, and as what is to be written again.

    Parameters
    ----------
    message : onnx.ModelProto
        Its values in ``raw_data`` are taken out.
    files : dict of str to ndarray of uint8
        Location of external data to the bytes of that file.
    path : path or str
        For what is said of it.
    """
    arrays = _take(message, files)
    message = onnx.ModelProto.FromString(message.SerializeToString())  # gives memory back
    copy = onnx.ModelProto()
    copy.CopyFrom(message)
    _bring_in(copy, files, arrays)
    model = ir.from_proto(copy)
    _sort(model, path)
    _check_counts(model, path)
    for name, value in model.graph.initializers.items():
        if name in arrays and value.const_value is not None:
            value.const_value = tensor_like(value.const_value, arrays[name])
    inside = frozenset(
        t.name for t in message.graph.initializer if t.name in arrays and not is_external(t)
    )
    return model, Stored(message, inside, files)


def _sort(model: ir.Model, path: Path | str) -> None:
    """Nodes in the order of execution; some converters forget it."""
    try:
        model.graph.sort()
    except ValueError:
        raise Refused(
            f"{path} is not a complete ONNX model: some of its nodes wait for one another (a cycle)"
        ) from None


def _check_counts(model: ir.Model, path: Path | str) -> None:
    """Nodes make something, and have what their operators need in their version of ONNX."""
    bodies: list[ir.Graph | ir.Function] = [model.graph, *model.functions.values()]
    for body in bodies:
        versions = body.opset_imports
        for node in ir.traversal.RecursiveGraphIterator(body):
            inputs = [value is not None for value in node.inputs]
            outputs = [bool(value.name) for value in node.outputs]
            needed = [("output", int(any(outputs)), 1)]
            version = versions.get(node.domain)
            if version is not None and onnx.defs.has(node.op_type, node.domain):
                with suppress(onnx.defs.SchemaError):  # not in this version: nobody knows it
                    schema = onnx.defs.get_schema(node.op_type, version, node.domain)
                    i, o = schema.min_input, schema.min_output
                    # A loop may go without its number of turns, or without its condition.
                    given = [
                        here or formal.option == OPTIONAL
                        for here, formal in zip(inputs[:i], schema.inputs, strict=False)
                    ]
                    needed += [("input", sum(given), i), ("output", sum(outputs[:o]), o)]
            for what, found, least in needed:
                if found < least:
                    raise Refused(
                        f"{path} is not a complete ONNX model: the node {(node.name or '')[:100]!r}"
                        f" ({node.op_type[:100]}) has {found} of the {least} {what}s it needs"
                    )


def _check_names(message: onnx.ModelProto, path: Path) -> None:
    """Names say one thing each."""
    for sparse in message.graph.sparse_initializer:
        raise Refused(
            f"{path} holds the sparse tensor {sparse.values.name!r}, which is not supported; "
            "write it as a dense one"
        )
    seen = set()
    for tensor in message.graph.initializer:
        if tensor.name in seen:
            raise Refused(f"{path} holds two initializers with the name {tensor.name[:100]!r}")
        seen.add(tensor.name)


def _check_types(message: onnx.ModelProto, path: Path) -> None:
    """What goes in and out are tensors, or sequences of tensors."""
    for value in (*message.graph.input, *message.graph.output):
        kind, held = value.type.WhichOneof("value"), value.type
        while kind in ("sequence_type", "optional_type"):
            held = getattr(held, kind).elem_type
            kind = held.WhichOneof("value")
        if kind == "map_type":
            raise Refused(
                f"{path} has {value.name[:100]!r}, which holds maps, as ZipMap makes them for "
                "probabilities; expected tensors: convert the model again without (zipmap=False)"
            )


def _bring_in(
    message: onnx.ModelProto, files: Mapping[str, np.ndarray], arrays: Mapping[str, np.ndarray]
) -> None:
    """Values from files that are not at hand as arrays: of subgraphs, ``Constant`` nodes, int4."""
    own = len(message.graph.initializer)
    for number, tensor in enumerate(tensors_of(message)):
        if is_external(tensor) and not (number < own and tensor.name in arrays):
            tensor.raw_data = _bytes_of(tensor, files).tobytes()
            del tensor.external_data[:]
            tensor.ClearField("data_location")


def _take(message: onnx.ModelProto, files: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Values of initializers as arrays; those in ``raw_data`` leave the message."""
    arrays = {}
    for tensor in message.graph.initializer:
        dtype = ir.DataType(tensor.data_type)
        if dtype in (ir.DataType.UNDEFINED, ir.DataType.STRING) or dtype.bitwidth < 8:
            continue
        if is_external(tensor):
            content = _bytes_of(tensor, files)
        elif tensor.raw_data:
            content = np.frombuffer(tensor.raw_data, np.uint8)
            tensor.ClearField("raw_data")
        else:
            continue
        if not content.flags.aligned or content.ctypes.data % dtype.itemsize:
            content = content.copy()
        arrays[tensor.name] = content.view(dtype.numpy()).reshape(tuple(tensor.dims))
    return arrays


def _bytes_of(tensor: onnx.TensorProto, files: Mapping[str, np.ndarray]) -> np.ndarray:
    location, offset, length = place(tensor)
    return files[location][offset : offset + length]


def blocks(array: np.ndarray) -> Iterator[np.ndarray]:
    """The bytes of an array, in parts."""
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    for start in range(0, len(flat), BLOCK):
        yield flat[start : start + BLOCK]


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
        self.file = tempfile.TemporaryFile()  # noqa: SIM115 (closed below; arrays keep their maps)
        weakref.finalize(self, self.file.close)

    def put(self, array: np.ndarray) -> np.ndarray:
        """The same values, whose memory the system may take back at any time."""
        start = self.file.seek(0, os.SEEK_END)
        start += -start % 4096
        self.file.seek(start)
        for block in blocks(array):
            self.file.write(block.data)
        self.file.flush()
        return np.memmap(self.file, array.dtype, "r", start, array.shape)
