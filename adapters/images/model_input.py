"""What a model takes: its input of images, their layout and their type, or several inputs."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from .batch_inputs import Inputs
from .image_data import Batch

_TYPES = ("FLOAT", "FLOAT16", "DOUBLE", "BOOL", "UINT8", "INT8", "UINT16", "INT16", "UINT32",
          "INT32", "UINT64", "INT64")  # fmt: skip
_FIRST = frozenset({  # operators that have the channels in axis 1
    "Conv", "ConvTranspose", "ConvInteger", "MaxPool", "AveragePool", "LRN", "BatchNormalization",
    "InstanceNormalization", "GroupNormalization", "DepthToSpace", "SpaceToDepth", "QLinearConv",
})  # fmt: skip
_OTHER = frozenset({"Reshape", "Flatten", "Gemm", "MatMul", "Shape", "Size", "Squeeze"})


@dataclass(frozen=True)
class ImageInput:
    """The input of a model.

    Attributes
    ----------
    name : str
    shape : tuple of int or None
        Of one image, ``(channels, height, width)`` in this order whatever the model's; None where
        it takes any.  Of anything else, what is declared behind the batch.
    dtype : numpy.dtype
    channels_last : bool
        The model takes ``(n, height, width, channels)``.
    batch : int or None
        The number of images that it takes at a time, where that is fixed.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: np.dtype
    channels_last: bool = False
    batch: int | None = None

    @property
    def levels(self) -> bool:
        """Whether images enter as they are stored, 0 to 255, and not in [0, 1]."""
        return self.dtype.kind != "f"

    @property
    def holds_levels(self) -> bool:
        """Whether it is an integer type that goes up to 255."""
        return self.levels and self.dtype not in (np.dtype(np.int8), np.dtype(bool))

    def __str__(self) -> str:
        layout = ", channels last" if self.channels_last else ""
        return f"{self.dtype} images{layout}"

    @classmethod
    def of(cls, path: str | Path, given: Sequence[int | None] | None = None) -> ImageInput:
        """The input of an ONNX file.

        Parameters
        ----------
        path : path-like
        given : sequence of int or None, optional
            Sizes behind the batch, in the model's order, where the file leaves them open.

        Raises
        ------
        ValueError
            It is no ONNX file, has several inputs, or one that is no tensor of numbers.
        """
        graph, inputs = _inputs(path)
        if len(inputs) != 1:
            names = ", ".join(value.name for value in inputs) or "none"
            raise ValueError(
                f"Expected a model with one input of images, {path} has {len(inputs)}: {names}."
            )
        (value,) = inputs
        dtype = _dtype(value, path)
        tensor = value.type.tensor_type
        sizes = [axis.dim_value if axis.dim_value > 0 else None for axis in tensor.shape.dim]
        batch, shape = (sizes[0] if sizes else None), tuple(sizes[1:])
        if given is not None:
            shape = image_shape(shape, given)
        last = len(shape) == 3 and _channels_last(graph, value.name, shape)
        if last:
            shape = shape[2], *shape[:2]
        return cls(value.name, shape, dtype, last, batch)


def input_types(path: str | Path) -> dict[str, np.dtype]:
    """Names and types of all inputs of an ONNX file, in their order.

    Raises
    ------
    ValueError
        It is no ONNX file, or an input is no tensor of numbers.
    """
    return {value.name: _dtype(value, path) for value in _inputs(path)[1]}


def input_sizes(path: str | Path) -> dict[str, tuple[int | None, ...]]:
    """Sizes behind the first axis of every input that declares its axes; None where it takes any.

    Raises
    ------
    ValueError
        It is no ONNX file.
    """
    found = {}
    for value in _inputs(path)[1]:
        axes = value.type.tensor_type.shape.dim
        if axes:
            found[value.name] = tuple(axis.dim_value or None for axis in axes[1:])
    return found


def fits(sizes: Sequence[int | None], wanted: Sequence[int | None]) -> bool:
    """Whether sizes are those that a model takes; None is any.

    >>> fits((3, 8, 8), (3, None, None)), fits((1, 8, 8), (3, None, None))
    (True, False)
    """
    pairs = zip(sizes, wanted, strict=False)
    return len(sizes) == len(wanted) and all(None in pair or len({*pair}) == 1 for pair in pairs)


def sample_shapes(path: str | Path, batches: Iterable[Batch]) -> dict[str, tuple[int, ...]]:
    """Shape of every input for one sample of some data, or for as many as the file takes at a time.

    Inputs whose first axis is fixed otherwise are left out.
    """
    given: Inputs = next(iter(batches), ({}, None))[0]
    values = _inputs(path)[1]
    first = {str(v.name): next(iter(v.type.tensor_type.shape.dim), None) for v in values}
    fixed = {name: axis.dim_value for name, axis in first.items() if axis and axis.dim_value > 0}
    n = fixed.get(next(iter(first), ""), 1)
    arrays = given if isinstance(given, Mapping) else dict.fromkeys(first, given)
    return {
        name: (n, *x.shape[1:]) if x.ndim else ()
        for name, x in arrays.items()
        if fixed.get(name, n) == n
    }


def _inputs(path: str | Path) -> tuple[onnx.GraphProto, list[onnx.ValueInfoProto]]:
    """The graph of a file, and the inputs that have no value of their own."""
    try:
        graph = onnx.load_model(path, load_external_data=False).graph
    except Exception as error:  # protobuf raises many kinds
        raise ValueError(f"{path} is not a complete ONNX model: it cannot be parsed") from error
    known = {initializer.name for initializer in graph.initializer}
    return graph, [value for value in graph.input if value.name not in known]


def _dtype(value: onnx.ValueInfoProto, path: str | Path) -> np.dtype:
    kind = value.type.WhichOneof("value")
    if kind == "tensor_type":
        kind = onnx.TensorProto.DataType.Name(value.type.tensor_type.elem_type)
    if kind not in _TYPES:
        said = str(kind).removesuffix("_type").lower()
        raise ValueError(
            f"Expected a model that takes a tensor of images, the input {value.name!r} of "
            f"{path} has the type {said}."
        )
    return onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)


def image_shape(
    model: Sequence[int | None], wanted: Sequence[int | None] | None
) -> tuple[int | None, ...]:
    """What the model takes, with free axes filled in from ``wanted``.

    Raises
    ------
    ValueError
        If both are fixed and differ, or neither says anything.

    Examples
    --------
    >>> image_shape((3, None, None), (None, 224, 224))
    (3, 224, 224)
    """
    if not model:
        if wanted is None:
            raise ValueError(
                "The model declares no shape of its input; give one with --input-shape 1,3,224,224."
            )
        return tuple(wanted)
    if wanted is None:
        return tuple(model)
    if not fits(wanted, model):
        raise ValueError(
            f"The model takes images of {'x'.join(str(n or 'any') for n in model)}, "
            f"got {'x'.join(str(n) for n in wanted if n)}."
        )
    return tuple(m if w is None else w for m, w in zip(model, wanted, strict=True))


def _channels_last(graph: onnx.GraphProto, name: str, shape: tuple[int | None, ...]) -> bool:
    """By the first operator that says where channels are; else by the number of channels."""
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for read in node.input:
            readers.setdefault(read, []).append(node)
    seen, waiting = {name}, deque([name])
    while waiting:
        for node in readers.get(waiting.popleft(), ()):
            attributes = {a.name: a for a in node.attribute}
            if node.op_type == "Transpose" and "perm" in attributes:
                perm = list(attributes["perm"].ints)
                if perm in ([0, 3, 1, 2], [0, 2, 3, 1]):
                    return perm == [0, 3, 1, 2]
            if node.op_type == "NhwcConv":
                return True
            if node.op_type in _FIRST:
                return bool("channels_last" in attributes and attributes["channels_last"].i)
            if node.op_type not in _OTHER:
                fresh = [made for made in node.output if made and made not in seen]
                seen.update(fresh)
                waiting.extend(fresh)
    return shape[2] in (1, 3, 4) and shape[0] not in (1, 3, 4)
