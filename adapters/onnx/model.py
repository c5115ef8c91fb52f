"""ONNX files: read, changed by the name of an initializer, written back as they were.

Nothing is exported again: nodes, names, opset, metadata and every initializer that no plan touches
stay byte for byte what they were.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx_ir as ir

from ...graph.channels import ChannelGroup
from ...graph.nodes import Graph
from ...graph.selection import find_group
from ...graph.solve import find_groups
from ..files import check_writable, written_beside
from .session import session, swapped
from .structure import Structure


class OnnxModel:
    """An ONNX model, its structural graph and its channel groups.

    Parameters
    ----------
    model : onnx_ir.Model
    changed : mapping of str to ndarray, optional
        New values of weights, by name.
    structure : Structure, optional
        Of the same model, when it is known.
    """

    def __init__(
        self,
        model: ir.Model,
        changed: Mapping[str, np.ndarray] | None = None,
        structure: Structure | None = None,
    ):
        self.ir = model
        self.changed = dict(changed or {})
        self._given = structure

    @cached_property
    def structure(self) -> Structure:
        """The model as structural nodes; needs one run of the model."""
        return self._given or Structure(self.ir)

    @property
    def graph(self) -> Graph:
        """Structural nodes, named after the values of the model."""
        return self.structure.graph

    @cached_property
    def groups(self) -> list[ChannelGroup]:
        """Channel groups in the order of execution."""
        return find_groups(self.graph)

    def group(self, name: str) -> ChannelGroup:
        """The channel group that a layer makes.

        Raises
        ------
        ValueError
            No such group; near matches are named.
        """
        return find_group(self.groups, name)

    @property
    def weights(self) -> dict[str, np.ndarray]:
        """Name to array for every weight of the graph."""
        return {name: self.weight(name) for name in dict.fromkeys(self.graph.weights.values())}

    def weight(self, name: str) -> np.ndarray:
        """The present values of one weight."""
        found = self.changed.get(name)
        return self.structure.known[name] if found is None else found

    def with_weights(self, weights: Mapping[str, np.ndarray]) -> OnnxModel:
        """The same model with other values of some weights; this one stays as it is.

        Raises
        ------
        ValueError
            For a name that is no weight of the model, or an array of another shape.
        """
        for name, array in weights.items():
            if name not in self.ir.graph.initializers and name not in self.structure.known:
                raise ValueError(f"the model has no weight {name!r}")
            shape = self.weight(name).shape
            if tuple(array.shape) != tuple(shape):
                raise ValueError(
                    f"expected an array of shape {tuple(shape)} for the weight {name!r}, "
                    f"got {tuple(array.shape)}"
                )
        return OnnxModel(self.ir, {**self.changed, **weights}, self.structure)

    def session(self, outputs: tuple[str, ...] = ()) -> object:
        """An onnxruntime session that also returns some intermediate tensors."""
        with swapped(self.ir, self.changed) as model:
            return session(model, outputs)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model; a failure leaves what was at ``path`` as it was.

        Weights that the file kept in another file are written into ``<name>.data`` beside it.

        Raises
        ------
        OSError
            One sentence that says what is in the way.
        """
        target = check_writable(path)
        external = any(
            isinstance(v.const_value, ir.ExternalTensor)
            for v in self.ir.graph.initializers.values()
        )
        with swapped(self.ir, self.changed) as model:
            if not external:
                with written_beside(target) as beside:
                    ir.save(model, beside)
                return
            data = target.with_name(target.name + ".data")
            with written_beside(data) as beside_data, written_beside(target) as beside:
                ir.save(model, beside, external_data=beside_data.name)
                _point_to(beside, beside_data.name, data.name)


def load(source: str | os.PathLike[str] | ir.Model) -> OnnxModel:
    """Read an ONNX file.

    Parameters
    ----------
    source : path or onnx_ir.Model

    Returns
    -------
    OnnxModel

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        It is no ONNX model, it is truncated, or the file that holds its weights is missing.
    """
    if isinstance(source, ir.Model):
        return OnnxModel(source)
    path = Path(source)
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path}")
    if path.is_dir():
        raise ValueError(f"{path} is a folder; expected an ONNX file")
    try:
        model = ir.load(path)
        empty = len(model.graph.inputs) == 0 and model.graph.num_nodes() == 0
    except Exception as error:  # protobuf and onnx_ir raise many kinds
        raise ValueError(
            f"{path} is not a complete ONNX model: it cannot be parsed ({type(error).__name__})"
        ) from error
    if empty or not model.graph.outputs:
        raise ValueError(f"{path} is not a complete ONNX model: it has no graph with outputs")
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if isinstance(tensor, ir.ExternalTensor):
            held = Path(tensor.path)
            if not held.exists():
                raise ValueError(
                    f"{path} keeps its weights in {held.name}, which is missing; put it beside "
                    "the model"
                )
            if held.stat().st_size < (tensor.offset or 0) + (tensor.length or 0):
                raise ValueError(f"{held} is shorter than {path} says: it is truncated")
    return OnnxModel(model)


def _point_to(path: Path, old: str, new: str) -> None:
    """Rename the file that the external tensors of a model point to."""
    import onnx

    proto = onnx.load(path, load_external_data=False)
    for tensor in proto.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location" and entry.value == old:
                entry.value = new
    path.write_bytes(proto.SerializeToString())
