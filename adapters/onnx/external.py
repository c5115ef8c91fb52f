"""Values that a model keeps in other files: which file, and whether the model may name it.

A model is data from somebody else, and what it names is copied into what is written.  So a
location is followed only to a regular file beneath the folder of the model: not by an absolute
path, not by ``..``, not by a link that leaves the folder, not to a file with a second name (a hard
link may be somebody's secret), not to a pipe or a device.  All tensors are checked before the
first file is opened (CVE-2022-25882, CVE-2024-27318).
"""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
import onnx
import onnx_ir as ir
from onnx import helper

_AS_IT_IS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


class Refused(ValueError):
    """What a file says is wrong or not allowed; the text is one sentence."""


def opened(
    message: onnx.ModelProto, path: Path | str, folders: Iterable[Path] = ()
) -> dict[str, np.ndarray]:
    """The bytes of every file that the tensors of a message name, mapped, by location.

    Parameters
    ----------
    message : onnx.ModelProto
    path : Path or str
        Of the model, for the messages.
    folders : iterable of Path, optional
        Where locations begin; by default the folder of ``path``, and where that is a link the
        folder of the file that it leads to.

    Raises
    ------
    ValueError
        A tensor without all of its values, or a file that is missing or not allowed; then none
        was opened.
    """
    folders = list(folders) or [Path(path).parent, Path(os.path.realpath(path)).parent]
    paths: dict[str, Path] = {}
    for tensor in tensors_of(message):
        check_size(tensor, path)
        if not is_external(tensor):
            continue
        location, offset, length = place(tensor)
        if location not in paths:
            paths[location] = _resolved(location, folders, path)
        held = paths[location]
        if held.stat().st_size < offset + length:
            raise Refused(f"{held} is shorter than {path} says: it is truncated")
    mapped = {held: _mapped(held) for held in dict.fromkeys(paths.values())}
    return {location: mapped[held] for location, held in paths.items()}


def place(tensor: onnx.TensorProto) -> tuple[str, int, int]:
    """Location, offset and length of the values of a tensor.

    Raises
    ------
    ValueError
        The entries are none that say so.
    """
    entries = {entry.key: entry.value for entry in tensor.external_data}
    if len(entries) < len(tensor.external_data) or "location" not in entries:
        raise Refused(
            f"the tensor {_short(tensor.name)} lies in another file: expected one location, got "
            f"{_short([entry.key for entry in tensor.external_data])}"
        )
    length = n_bytes(tensor)
    offset = _whole(tensor, "offset", entries.get("offset", "0"))
    if _whole(tensor, "length", entries.get("length", str(length))) != length:
        raise Refused(
            f"the tensor {_short(tensor.name)} of shape {_short(list(tensor.dims))} takes {length} "
            f"bytes, and its length is given as {_short(entries['length'])}"
        )
    return entries["location"], offset, length


def _whole(tensor: onnx.TensorProto, key: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 20):
        raise Refused(
            f"the tensor {_short(tensor.name)} lies in another file: expected its {key} as a "
            f"number of bytes, got {_short(text)}"
        )
    return int(text)


def n_bytes(tensor: onnx.TensorProto) -> int:
    """Bytes of the values by shape and type.

    Raises
    ------
    ValueError
        There is no such type, it has no fixed size, or an extent is negative.
    """
    known = tensor.data_type in onnx.TensorProto.DataType.values()
    dtype = ir.DataType(tensor.data_type) if known else ir.DataType.UNDEFINED
    if dtype in (ir.DataType.UNDEFINED, ir.DataType.STRING):
        raise Refused(f"the tensor {_short(tensor.name)} has the type {tensor.data_type}")
    return -(-dtype.bitwidth * n_elements(tensor) // 8)


def n_elements(tensor: onnx.TensorProto) -> int:
    """Number of elements by shape.

    Raises
    ------
    ValueError
        An extent is negative.
    """
    if any(extent < 0 for extent in tensor.dims):
        raise Refused(
            f"the tensor {_short(tensor.name)} has the shape {_short(list(tensor.dims))}"
        )
    return math.prod(tensor.dims)


def check_size(tensor: onnx.TensorProto, path: Path | str) -> None:
    """Whether a tensor in the message holds as many values as its shape says.

    Raises
    ------
    ValueError
        It holds more or fewer.
    """
    if is_external(tensor):
        return
    if tensor.data_type == onnx.TensorProto.STRING:
        expected, found = n_elements(tensor), len(tensor.string_data)
    elif tensor.HasField("raw_data"):
        expected, found = n_bytes(tensor), len(tensor.raw_data)
    else:
        expected, bits = n_bytes(tensor), ir.DataType(tensor.data_type).bitwidth
        field = getattr(tensor, helper.tensor_dtype_to_field(tensor.data_type))
        complex_ = tensor.data_type in (onnx.TensorProto.COMPLEX64, onnx.TensorProto.COMPLEX128)
        expected = expected if bits < 8 else n_elements(tensor) * (2 if complex_ else 1)
        found = len(field)
    if found != expected:
        raise Refused(
            f"{path} is not a complete ONNX model: the tensor {_short(tensor.name)} of shape "
            f"{_short(list(tensor.dims))} needs {expected} values or bytes, and has {found}"
        )


def _resolved(location: str, folders: list[Path], path: Path | str) -> Path:
    """The file of a location, without links.

    Raises
    ------
    ValueError
        It is not one that the model may name.
    """
    written = PurePosixPath(location), PureWindowsPath(location)
    if "\0" in location or any(p.anchor or ".." in p.parts or not p.parts for p in written):
        raise Refused(
            f"{path} keeps values in {_short(location)}, which does not lie beneath its folder; "
            "put the file beside the model and name it by a relative path"
        )
    roots = [os.path.realpath(folder) for folder in folders]
    found = next((f / location for f in folders if os.path.lexists(f / location)), None)
    if found is None:
        raise Refused(
            f"{path} keeps its weights in {Path(location).name[:100]}, which is missing; put it "
            "beside the model"
        )
    real = Path(os.path.realpath(found))
    if not any(real.is_relative_to(root) for root in roots):
        raise Refused(
            f"{path} keeps values in {_short(location)}, a link to a place outside of its folder; "
            "put a copy of the file itself beside the model"
        )
    try:
        held = real.stat()
    except OSError as error:
        raise Refused(f"{path} keeps values in {_short(location)}: {error.strerror}") from None
    if not stat.S_ISREG(held.st_mode):
        raise Refused(f"{path} keeps values in {_short(location)}, which is not a regular file")
    if held.st_nlink > 1:
        raise Refused(
            f"{path} keeps values in {_short(location)}, a file that has another name as well "
            "(a hard link), which may lie outside of its folder; put a copy in its place"
        )
    return real


def _mapped(path: Path) -> np.ndarray:
    """The bytes of a file, read when they are looked at."""
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | _AS_IT_IS)) as file:
        held = os.fstat(file.fileno())
        if not stat.S_ISREG(held.st_mode) or held.st_nlink > 1:
            raise Refused(f"{path} has been replaced while it was opened")
        if held.st_size == 0:
            return np.zeros(0, np.uint8)
        whole = np.memmap(file, np.uint8, mode="r")
    whole.held = _stamp(held)  # type: ignore[attr-defined]
    return whole


def _stamp(held: os.stat_result) -> tuple[int, ...]:
    return held.st_dev, held.st_ino, held.st_size, held.st_mtime_ns


def file_of(array: np.ndarray) -> tuple[Path, int] | None:
    """The file that an array maps and where in it the array begins; None if it maps none.

    None as well where that name has come to be another file's.
    """
    whole = array
    while isinstance(whole.base, np.ndarray):
        whole = whole.base
    if not isinstance(whole, np.memmap) or not hasattr(whole, "held"):
        return None
    path = Path(str(whole.filename))
    try:
        if _stamp(path.stat()) != whole.held:
            return None
    except OSError:
        return None
    start = array.__array_interface__["data"][0] - whole.__array_interface__["data"][0]
    return path, start


def is_external(tensor: onnx.TensorProto) -> bool:
    """Whether the values lie in another file."""
    return tensor.data_location == onnx.TensorProto.EXTERNAL


def tensors_of(message: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """All tensors of a message: first the initializers of its graph, in their order.

    Then those of nodes, subgraphs, functions and training.
    """
    graphs = []
    for training in message.training_info:
        graphs += [training.initialization, training.algorithm]
    graphs.append(message.graph)
    attributes: list[onnx.AttributeProto] = []
    for function in message.functions:
        attributes += function.attribute_proto
        attributes += (a for node in function.node for a in node.attribute)
    while graphs or attributes:
        while graphs:
            graph = graphs.pop()
            yield from graph.initializer
            for sparse in graph.sparse_initializer:
                yield from (sparse.values, sparse.indices)
            attributes += (a for node in graph.node for a in node.attribute)
        while attributes:
            attribute = attributes.pop()
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            if attribute.HasField("sparse_tensor"):
                yield from (attribute.sparse_tensor.values, attribute.sparse_tensor.indices)
            for sparse in attribute.sparse_tensors:
                yield from (sparse.values, sparse.indices)
            if attribute.HasField("g"):
                graphs.append(attribute.g)
            graphs += attribute.graphs


def _short(value: object) -> str:
    """What a file says, for a sentence."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."
