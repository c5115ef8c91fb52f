"""Inputs to measure a model with: what it declares, and sizes to try where it declares none.

A dimension is fixed where it is declared as a positive number.  Where it is missing, 0, -1 or a
name, it is free: the batch in front, a usual extent elsewhere.  Equal names are equal sizes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx_ir as ir

IMAGE_EXTENT = 224  # of a free axis of an input of rank four
UNKNOWN_EXTENT = 64  # of another free axis
# Tried in this order where a model does not run on these: lines of text, images, sound.
OTHER_EXTENTS = (32, 48, 64, 128, 256, 320, 416, 512, 576, 640, 1024, 4096, 16000)
MOST_ELEMENTS = 1 << 22  # of an input whose size is a guess

Shapes = Mapping[str, Sequence[int]]
Dimension = int | str | None


def example_inputs(
    model: ir.Model, batch: int = 1, shapes: Shapes | None = None
) -> Iterator[dict[str, np.ndarray]]:
    """Inputs by name on which a model may run, the likeliest first.

    Parameters
    ----------
    model : onnx_ir.Model
    batch : int
        Length of a free first axis.
    shapes : mapping of input name to sequence of int, optional
        Whole shapes; an empty name stands for the only input.

    Raises
    ------
    ValueError
        An input that is no tensor or declares no shape, or a shape for an input that the model
        does not have or declares otherwise.
    """
    initializers = model.graph.initializers
    inputs = {str(v.name): v for v in model.graph.inputs if v.name not in initializers}
    given = _checked(shapes or {}, inputs)
    declared = {name: _declared(value) for name, value in inputs.items()}
    for name, shape in given.items():
        if declared[name] is None:
            declared[name] = list(shape)
    for name, axes in declared.items():
        if axes is None:
            raise ValueError(
                f"the input {name!r} of the model declares no shape; give one, such as "
                f"input_shapes={{{name!r}: (1, 3, 224, 224)}} "
                f"(--input-shape {name.encode('unicode_escape').decode()}:1,3,224,224)"
            )
    whole = {name: axes for name, axes in declared.items() if axes is not None}
    types = {name: _dtype(value) for name, value in inputs.items()}
    integers = any(dtype.kind in "iu" for dtype in types.values())
    free = any(not isinstance(n, int) for name in whole if name not in given for n in whole[name])
    tried = set()
    for extent, state, zeros in itertools.product(
        (None, *OTHER_EXTENTS) if free else (None,),
        (False, True) if len(whole) > 1 else (False,),
        (False, True) if integers else (False,),
    ):
        made = _shapes(whole, given, batch, extent, state)
        key = (*made.values(), zeros)
        too_large = max((np.prod(s, dtype=float) for s in made.values()), default=0) > MOST_ELEMENTS
        if key not in tried and (extent is None or not too_large):
            tried.add(key)
            rng = np.random.default_rng(0)
            yield {name: _values(rng, types[name], shape, zeros) for name, shape in made.items()}


def _checked(shapes: Shapes, inputs: Mapping[str, ir.Value]) -> dict[str, tuple[int, ...]]:
    """Shapes that were asked for, by the names that the model has."""
    found = {}
    for asked, shape in shapes.items():
        name = asked
        if not asked and len(inputs) == 1:
            (name,) = inputs
        if name not in inputs:
            what = f"no input {asked!r}" if asked else "several inputs"
            raise ValueError(f"the model has {what}: give shapes by name, of {list(inputs)}")
        sizes: list = list(shape) if isinstance(shape, (list, tuple, np.ndarray)) else [shape]
        if not all(isinstance(n, (int, np.integer)) and n > 0 for n in sizes):
            raise ValueError(f"expected positive whole numbers as shape of {name!r}, got {shape!r}")
        axes = _declared(inputs[name])
        if axes is not None and (
            len(sizes) != len(axes)
            or any(isinstance(n, int) and n != m for n, m in zip(axes, sizes, strict=True))
        ):
            said = ["any" if n is None else n for n in axes]
            raise ValueError(f"the input {name!r} has the shape {said}, got {sizes}")
        found[name] = tuple(int(n) for n in sizes)
    return found


def _declared(value: ir.Value) -> list[Dimension] | None:
    """Dimensions of an input: a positive number, a name, or None; None where there are none."""
    if value.type is not None and not isinstance(value.type, ir.TensorType):
        kind = type(value.type).__name__.removesuffix("Type").lower()
        raise ValueError(f"expected tensors as inputs, got a {kind} as input {value.name!r}")
    if value.shape is None:
        return None
    return [n if isinstance(n, int) and n > 0 else _symbol(n) for n in value.shape]


def _symbol(dimension: int | ir.SymbolicDim) -> str | None:
    named = isinstance(dimension, ir.SymbolicDim) and dimension.value not in (None, "", "?")
    return str(dimension.value) if named else None  # type: ignore[union-attr]


def _shapes(
    declared: Mapping[str, list[Dimension]],
    given: Mapping[str, tuple[int, ...]],
    batch: int,
    extent: int | None,
    state: bool,
) -> dict[str, tuple[int, ...]]:
    """A shape for every input; equal names get equal sizes.

    Free axes of the first input get ``extent``, and so do those of others unless these are a
    ``state``, whose free axis is the batch wherever it stands.
    """
    sizes: dict[str, int] = {}
    for name, shape in given.items():
        sizes |= {d: n for d, n in zip(declared[name], shape, strict=True) if isinstance(d, str)}
    for axes in declared.values():
        if axes and isinstance(axes[0], str):
            sizes.setdefault(axes[0], batch)
    made: dict[str, tuple[int, ...]] = {}
    for name, axes in declared.items():
        usual = extent or (IMAGE_EXTENT if len(axes) == 4 else UNKNOWN_EXTENT)
        usual = batch if state and made else usual
        lengths = []
        for axis, d in enumerate(axes):
            if isinstance(d, int):
                lengths.append(d)
            elif d is None:
                lengths.append(batch if axis == 0 else usual)
            else:
                lengths.append(sizes.setdefault(d, usual))
        made[name] = given.get(name, tuple(lengths))
    return made


def _dtype(value: ir.Value) -> np.dtype:
    """numpy's type of an input, float32 where it declares none."""
    if value.dtype is None or value.dtype == ir.DataType.UNDEFINED:
        return np.dtype(np.float32)
    if value.dtype == ir.DataType.STRING:
        return np.dtype(object)
    return np.dtype(value.dtype.numpy())


def _values(
    rng: np.random.Generator, dtype: np.dtype, shape: tuple[int, ...], zeros: bool
) -> np.ndarray:
    """Random values; integers may be pixels, places in a table, or lengths, never 0 if possible."""
    if dtype.kind == "O":
        return np.full(shape, "a", dtype)
    if dtype.kind == "b":
        return np.ones(shape, dtype)
    if dtype == np.uint8:
        return rng.integers(0, 256, shape).astype(dtype)
    if dtype.kind in "iu":
        return np.zeros(shape, dtype) if zeros else rng.integers(1, 3, shape).astype(dtype)
    return rng.normal(size=shape).astype(dtype)
