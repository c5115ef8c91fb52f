"""Writing a model together with the files that hold its large weights.

A file is replaced by renaming, several files are not.  So new values get a file of a new name, and
the renaming of the model, which says that name, is the one step that counts: before it the old
model is whole with its old values, after it the new one with the new.  The old values go last.

What a killed process leaves behind is in its list, a partial file like others (:mod:`...files`):
of the names in it, those that the model does not say are removed when it is next written.
"""

from __future__ import annotations

import os
import re
import shutil
from collections import defaultdict
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from itertools import count
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError

from ...files import (
    abandoned,
    check_writable,
    flush,
    flush_folder,
    hold,
    is_held,
    one_sentence,
    partial,
    written_beside,
)
from .external import is_external, place, tensors_of
from .operator_names import operator
from .storage import BLOCK, Stored, blocks

ALIGNMENT = 4096  # of values that are put at the end of a file, so that they can be mapped

Change = tuple[int, np.ndarray]


def write(path: str | os.PathLike[str], stored: Stored, values: Mapping[str, np.ndarray]) -> None:
    """Write a message with ``values`` in its initializers and ``Constant`` nodes, by name.

    ``values`` holds what was taken out and what changed; the rest is written as it was.  External
    data goes to ``<name>.data`` beside the file, and where that is taken, or there are several
    files, to ``<name>.1.data`` and so on.

    Raises
    ------
    OSError
        One sentence that says what is in the way; nothing is left behind.
    """
    target = check_writable(path)
    message = onnx.ModelProto()
    message.CopyFrom(stored.message)
    filled(message, values)
    contents = list({id(content): content for content in stored.files.values()}.values())
    journal = target.with_name(f"{target.name}.files")
    with one_sentence(path):
        for left in abandoned(journal):
            _tidy(target, left)
            with suppress(OSError):  # somebody else's
                left.unlink()
        replaced = sorted(_said(target)) if _data_files(target) else []
        with partial(journal) as listed:
            try:
                with ExitStack() as held:
                    data = _new_files(target, len(contents), listed, replaced, held)
                    names = {id(c): file.name for c, file in zip(contents, data, strict=True)}
                    changes = _place_anew(message, stored.files, names, values)
                    with written_beside(target) as beside:
                        beside.write_bytes(message.SerializeToString())
                        for content, file in zip(contents, data, strict=True):
                            if replaced:
                                shutil.copymode(target.with_name(replaced[0]), file)
                            _copy(file, content, changes[id(content)])
                            flush(file)
                        flush_folder(target.parent)
            finally:
                _tidy(target, listed)


def _new_files(
    target: Path, n: int, journal: Path, replaced: list[str], held: ExitStack
) -> list[Path]:
    """Empty files whose names nothing else has; each is in the journal before it is there."""
    files: list[Path] = []
    journal.write_text("\n".join(replaced))
    flush(journal)
    for number in count():
        if len(files) == n:
            break
        file = target.with_name(f"{target.name}{f'.{number}' if number else ''}.data")
        if os.path.lexists(file):
            continue
        journal.write_text("\n".join([*(f.name for f in files), file.name, *replaced]))
        flush(journal)
        lock = hold(file)
        if lock is not None:
            held.enter_context(lock)
            files.append(file)
    return files


def _data_files(target: Path) -> set[str]:
    """Names beside ``target`` such as its values have."""
    named = re.compile(re.escape(target.name) + r"(\.\d+)?\.data")
    return {entry for entry in os.listdir(target.parent) if named.fullmatch(entry)}


def _said(target: Path) -> set[str]:
    """Those of them that the model at ``target`` says; none where there is no model.

    Raises
    ------
    OSError
        It cannot be read, so that nobody knows.
    """
    try:
        message = onnx.ModelProto.FromString(target.read_bytes())
    except (FileNotFoundError, DecodeError):
        return set()
    locations = {
        entry.value
        for tensor in tensors_of(message)
        if is_external(tensor)
        for entry in tensor.external_data
        if entry.key == "location"
    }
    return locations & _data_files(target)


def _tidy(target: Path, journal: Path) -> None:
    """Remove the files of a journal, but not those of the model that is there, nor held ones."""
    with suppress(OSError):
        listed = journal.read_text(errors="replace").splitlines()
        names = _data_files(target).intersection(listed)
        for name in names - _said(target) if names else ():
            if not is_held(target.with_name(name)):
                target.with_name(name).unlink()


def filled(message: onnx.ModelProto, values: Mapping[str, np.ndarray]) -> None:
    """Put values, which may have other shapes, into the message itself where they lie in it."""
    for tensor in message.graph.initializer:
        if tensor.name in values and not is_external(tensor):
            _fill(tensor, values[tensor.name])
    for node in message.graph.node:
        if operator(node) == "Constant" and node.output[0] in values:
            attribute, array = node.attribute[0], values[node.output[0]]
            if attribute.HasField("t"):
                _fill(attribute.t, array)
            elif attribute.name == "value_int":
                attribute.i = int(array)
            else:
                listed = attribute.ints if attribute.name == "value_ints" else attribute.floats
                listed[:] = array.tolist()


def _fill(tensor: onnx.TensorProto, array: np.ndarray) -> None:
    """Other values of a tensor, in the type that it has."""
    for name in ("float_data", "int32_data", "int64_data", "double_data", "uint64_data"):
        tensor.ClearField(name)
    del tensor.external_data[:]
    tensor.ClearField("data_location")
    tensor.raw_data = _encoded(tensor, array).tobytes()
    tensor.dims[:] = array.shape


def _encoded(tensor: onnx.TensorProto, array: np.ndarray) -> np.ndarray:
    """``array`` as the file has it: of the tensor's type, 4 bits packed."""
    dtype = ir.DataType(tensor.data_type)
    array = np.asarray(array, dtype.numpy(), order="C")
    if dtype.bitwidth >= 8:
        return array
    return np.frombuffer(ir.Tensor(array, dtype).tobytes(), np.uint8)


def _place_anew(
    message: onnx.ModelProto,
    files: Mapping[str, np.ndarray],
    names: Mapping[int, str],
    values: Mapping[str, np.ndarray],
) -> dict[int, list[Change]]:
    """Say the new names of files; what is to be written where in each.

    A tensor stays at its offset.  One whose bytes another tensor reads as well goes to the end.
    """
    own = len(message.graph.initializer)
    outside = [(n, t) for n, t in enumerate(tensors_of(message)) if is_external(t)]
    spans = defaultdict(list)
    for number, tensor in outside:
        location, offset, length = place(tensor)
        spans[id(files[location])].append((offset, offset + length, number))
    shared = {number for found in spans.values() for number in _overlapping(found)}
    ends = {id(content): len(content) for content in files.values()}
    changes: dict[int, list[Change]] = defaultdict(list)
    for number, tensor in outside:
        location, offset, length = place(tensor)
        key = id(files[location])
        _set(tensor, location=names[key])
        if number >= own or tensor.name not in values:
            continue
        if number in shared:
            offset = ends[key] + -ends[key] % ALIGNMENT
            ends[key] = offset + length
            _set(tensor, offset=str(offset))
        changes[key].append((offset, _encoded(tensor, values[tensor.name])))
    return changes


def _overlapping(spans: list[tuple[int, int, int]]) -> set[int]:
    """Those of ``(start, end, number)`` that have bytes in common with another."""
    found, last, reached = set(), 0, 0
    for start, end, number in sorted(span for span in spans if span[0] < span[1]):
        if start < reached:
            found |= {number, last}
        if end > reached:
            last, reached = number, end
    return found


def _set(tensor: onnx.TensorProto, **entries: str) -> None:
    """Say another place; a checksum or a packed copy of the old bytes says nothing any more."""
    said = {entry.key: entry.value for entry in tensor.external_data} | entries
    kept = {key: said[key] for key in ("location", "offset", "length") if key in said}
    del tensor.external_data[:]
    for key, value in kept.items():
        tensor.external_data.add(key=key, value=value)


def _copy(path: Path, content: np.ndarray, changed: list[Change]) -> None:
    """``content`` with other bytes at some offsets, block by block."""
    with open(path, "rb+") as file:
        for start in range(0, len(content), BLOCK):
            file.write(content[start : start + BLOCK].data)
        for offset, array in changed:
            file.seek(offset)
            for block in blocks(array):
                file.write(block.data)
