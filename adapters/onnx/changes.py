"""What changed in a model, apart from it: the arrays that are others, to be put into the original.

They are a safetensors file, keyed by the names that the arrays have in the model.  Its header holds
a checksum of the model that they were changed from, so that they go into no other one.  Arrays are
read, compared and written one at a time; those that a model keeps in another file never fill the
memory.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator

import numpy as np

from ...files import write_safetensors
from .model import OnnxModel
from .operator_names import operator
from .storage import OnDisk, blocks

ORIGINAL = "rejuvenet.original"  # the entry of the header


def save_changes(original: OnnxModel, changed: OnnxModel, path: str | os.PathLike[str]) -> int:
    """Write the arrays of ``changed`` that are others in ``original``; how many these are.

    Parameters
    ----------
    original : OnnxModel
        As its file is.
    changed : OnnxModel
        Read from the file that was made of it.
    path : path-like
        The safetensors file to write, all or nothing.

    Raises
    ------
    ValueError
        A shape changed, or an array has a type that safetensors does not have.
    OSError
        What the file system says; nothing is then written.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import onnx_ir
    >>> from rejuvenet.adapters.onnx import apply_changes, arrange, load, save_changes
    >>> temporary = tempfile.TemporaryDirectory()
    >>> folder = Path(temporary.name)
    >>> model = load(onnx_ir.from_onnx_text('''
    ...     <ir_version: 8, opset_import: ["": 17]>
    ...     example (float[n, 1] x) => (float[n, 2] y)
    ...     <float[1, 4] a = {1, -1, 2, -2}, float[4, 2] b = {1, 0, 0, 1, 1, 1, 1, 2}>
    ...     { h = MatMul(x, a)  r = Relu(h)  y = MatMul(r, b) }'''))
    >>> arrange(model, order={"a": [2, 3, 0, 1]})[0].save(folder / "changed.onnx")
    >>> save_changes(model, load(folder / "changed.onnx"), folder / "changes.safetensors")
    2
    >>> apply_changes(model, folder / "changes.safetensors").weights["a"].tolist()
    [[2.0, -2.0, 1.0, -1.0]]
    >>> temporary.cleanup()
    """
    held = dict(_arrays(changed))
    found: dict[str, np.ndarray] = {}
    uses = {name: copy.original for name, copy in original.copies.items()}
    before = dict(_arrays(original))
    for name in (*before, *uses):
        old = before[uses.get(name, name)]
        new = held.get(name, held.get(uses.get(name, name)))
        if new is None or new.shape != old.shape:
            raise ValueError(
                f"the array {name!r} has another shape now, so that arrays alone do not say what "
                "changed; keep the whole file"
            )
        if not _equal(old, new):
            found[name] = np.ascontiguousarray(new)
    described = {name: (x.dtype.name, x.shape, x.nbytes) for name, x in found.items()}
    write_safetensors(path, described, found.values(), {ORIGINAL: checksum(original)})
    return len(found)


def apply_changes(model: OnnxModel, path: str | os.PathLike[str]) -> OnnxModel:
    """The model with the arrays of a file of :func:`save_changes`.

    Parameters
    ----------
    model : OnnxModel
        As its file is.
    path : path-like
        The safetensors file.

    Raises
    ------
    ValueError
        It is no such file, or its arrays were changed from another model.

    See Also
    --------
    save_changes : Has an example of both.
    """
    from safetensors import safe_open

    disk, own = OnDisk(), checksum(model)
    found: dict[str, np.ndarray] = {}
    old = dict(_arrays(model))
    uses = {name: copy.original for name, copy in model.copies.items()}
    try:
        with safe_open(path, "np") as file:
            made_from = (file.metadata() or {}).get(ORIGINAL)
            if made_from == own:
                for name in file.keys():  # noqa: SIM118 (no mapping)
                    array = file.get_tensor(name)
                    found[name] = disk.put(array) if name in model.outside else array
    except Exception as error:  # a damaged file can end in any error of its parts
        raise ValueError(
            f"{path} cannot be read as a safetensors file of changed arrays: {error}"
        ) from error
    if made_from is None:
        raise ValueError(
            f"{path} does not say which model its arrays were changed from; give a file that "
            "--changes has written"
        )
    for name, array in found.items():
        place = old.get(uses.get(name, name))
        if place is None or (place.shape, place.dtype) != (array.shape, array.dtype):
            made_from = None  # a header that was written by somebody else
    if made_from != own:
        raise ValueError(
            f"the arrays of {path} were changed from another model than this one; give the file "
            "that they were made from"
        )
    return model.with_weights(found)


def checksum(model: OnnxModel) -> str:
    """SHA-256 of what a file computes: its nodes, and every initializer by name.

    Metadata of the file and the place of its values do not count.
    """
    made = hashlib.sha256()
    message = model.stored.message
    for part in (*message.graph.node, *message.functions):
        made.update(hashlib.sha256(part.SerializeToString(deterministic=True)).digest())
    for name, value in sorted(model.ir.graph.initializers.items()):
        tensor = value.const_value
        if tensor is None:
            continue
        made.update(repr((name, str(tensor.dtype), tensor.shape.numpy())).encode())
        array = tensor.numpy()
        if array.dtype.kind == "O":  # strings
            made.update(repr(array.tolist()).encode())
            continue
        for block in blocks(array):
            made.update(block.data)
    return made.hexdigest()


def _arrays(model: OnnxModel) -> Iterator[tuple[str, np.ndarray]]:
    """Initializers of the file, and what its ``Constant`` nodes of tensors or floats hold."""
    for name, value in model.ir.graph.initializers.items():
        if value.const_value is not None:
            yield str(name), value.const_value.numpy()
    for node in model.ir.graph:
        if operator(node) == "Constant":
            attribute = next(iter(node.attributes.values()))
            if attribute.name == "value":
                yield str(node.outputs[0].name), attribute.value.numpy()
            elif attribute.name == "value_floats":
                yield str(node.outputs[0].name), np.asarray(attribute.value, np.float32)


def _equal(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two arrays of one shape hold the same bytes."""
    if a.dtype != b.dtype or a.dtype.kind == "O":
        return a.dtype == b.dtype and np.array_equal(a, b)
    return all((x == y).all() for x, y in zip(blocks(a), blocks(b), strict=True))
