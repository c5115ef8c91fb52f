"""Tensors in whatever structure a model takes or returns."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping, Set
from types import FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch.utils._pytree import tree_leaves, tree_map_only

# They hold no tensor.
PLAIN = (
    bool, int, float, complex, str, bytes, type, range, type(None), type(...), np.ndarray,
    np.generic, enum.Enum, torch.dtype, torch.device, torch.layout, torch.memory_format,
    torch.Size, torch.Generator, ModuleType,
)  # fmt: skip


def tensors_within(value: Any) -> list[torch.Tensor]:
    """All tensors of a value, in order: containers, dataclasses and plain objects are looked into.

    Raises
    ------
    ValueError
        For what cannot be looked into (a generator, a function).

    Examples
    --------
    >>> pair = {"a": torch.zeros(2), "b": [torch.ones(1), "text"]}
    >>> [t.numel() for t in tensors_within(pair)]
    [2, 1]
    """
    return list(_walk(value, set()))


def apart(inputs: Any) -> Any:
    """Inputs in which no tensor stands twice, so that each says which input it is.

    >>> x = torch.zeros(2)
    >>> a, b = apart((x, x))
    >>> a is x, b is x, b.data_ptr() == x.data_ptr()
    (True, False, True)
    """
    tensors = [leaf for leaf in tree_leaves(inputs) if isinstance(leaf, torch.Tensor)]
    if len({id(tensor) for tensor in tensors}) == len(tensors):
        return inputs
    seen: set[int] = set()

    def own(tensor: torch.Tensor) -> torch.Tensor:
        found = tensor.view_as(tensor) if id(tensor) in seen else tensor
        seen.add(id(tensor))
        return found

    return tree_map_only(torch.Tensor, own, inputs)


def _walk(value: Any, seen: set[int]) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
        return
    if isinstance(value, PLAIN) or id(value) in seen:
        return
    seen.add(id(value))
    parts = _attributes(value)
    if isinstance(value, Mapping):
        parts = [*value.keys(), *value.values(), *parts]
    elif isinstance(value, (list, tuple, Set)) or type(value).__name__ == "deque":
        parts = [*value, *parts]
    elif not parts and not _is_empty_object(value):
        raise ValueError(
            f"expected tensors in containers, dataclasses or objects, got a "
            f"{type(value).__name__}, in which tensors cannot be found"
        )
    for part in parts:
        yield from _walk(part, seen)


def _attributes(value: Any) -> list[Any]:
    """Values of all attributes, those in slots included."""
    missing = object()
    held: list[Any] = []
    for kind in type(value).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__"):
                held.append(getattr(value, name, missing))
    held += getattr(value, "__dict__", {}).values()
    return [part for part in held if part is not missing]


def _is_empty_object(value: Any) -> bool:
    """An object that says what it holds, and holds nothing."""
    return hasattr(value, "__dict__") and not isinstance(value, (FunctionType, MethodType))
