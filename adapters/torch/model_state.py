"""All that a model holds, so that a forward pass of ours leaves nothing behind.

Models count their calls, keep the shape that a grid was made for, move a minimum or observe a
range, in evaluation mode as well.  A pass on calibration data, or one without values, is none of
the user's: afterwards every attribute of every module is what it was, with the values that its
tensors had, and so are the inputs and PyTorch's random state.
"""

from __future__ import annotations

import functools
import operator
import sys
from collections import OrderedDict, deque
from collections.abc import Collection, Iterable
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from .tensors import storage_of

ATOMS = frozenset(
    (bool, int, float, complex, str, bytes, type(None), type, FunctionType, MethodType,
     BuiltinFunctionType, ModuleType, torch.dtype, torch.device, torch.Size)
)  # fmt: skip
# Objects of these packages work on their own (loaders, trainers, loggers): they are left alone.
FOREIGN = frozenset(
    (*sys.stdlib_module_names, "torch", "lightning", "pytorch_lightning", "accelerate", "numpy")
)
DEPTH = 3  # of objects that are no modules
ARRAY_LIMIT = 2**20  # bytes of an array that is copied
LONG = 10_000  # entries of a container that are looked into: a longer one is data


class ModelState:
    """Attributes and tensors of a model before a pass.

    Parameters
    ----------
    model : torch.nn.Module
    tensors : iterable of Tensor
        Others that the pass must not change: its inputs.
    """

    def __init__(self, model: nn.Module, tensors: Iterable[torch.Tensor]) -> None:
        self._held: dict[int, tuple[Any, Any]] = {}  # a container, and a copy of it
        self._empty: dict[int, Any] = {}
        self._visited: dict[int, Any] = {}
        self._tensors: dict[int, torch.Tensor] = {id(t): t for t in tensors}
        self._arrays: list[tuple[np.ndarray, np.ndarray]] = []
        self._written: dict[int, list[tuple[torch.Tensor, torch.Tensor]]] = {}
        self._visit(model, 0)
        self._data = [(t, t.data) for t in self._tensors.values() if type(t) in _ORDINARY]
        self._random = torch.get_rng_state()
        self._devices = {t.device for t in self._tensors.values() if t.device.type == "cuda"}
        self._cuda = {device: torch.cuda.get_rng_state(device) for device in self._devices}

    @functools.cached_property
    def _by_storage(self) -> dict[int, list[torch.Tensor]]:
        found: dict[int, list[torch.Tensor]] = {}
        for tensor in self._tensors.values():
            found.setdefault(storage_of(tensor), []).append(tensor)
        return found

    def holds(self, tensor: torch.Tensor) -> bool:
        """Whether the model held this tensor before the pass."""
        return id(tensor) in self._tensors

    def before(self, container: Any) -> Any:
        """What a container held before the pass; None for one that was not there."""
        if id(container) in self._empty:
            return {}
        held = self._held.get(id(container))
        return None if held is None else held[1]

    def about_to_write(self, tensor: torch.Tensor) -> None:
        """Keep the values of what shares its memory with a tensor that is now written in place."""
        storage = storage_of(tensor)
        if storage in self._by_storage and storage not in self._written:
            held = self._by_storage[storage]
            self._written[storage] = [(t, t.detach().clone()) for t in held]

    def restore(self) -> None:
        """Put everything back."""
        for container in self._empty.values():
            if container:
                container.clear()
        for held, before in self._held.values():
            _put_back(held, before)
        for array, values in self._arrays:
            if not np.array_equal(array, values, equal_nan=array.dtype.kind in "fc"):
                array[...] = values
        with torch.no_grad():
            for tensor, data in self._data:
                if storage_of(tensor) != storage_of(data):
                    tensor.data = data
            for written in self._written.values():
                for tensor, before in written:
                    tensor.copy_(before)
        torch.set_rng_state(self._random)
        for device, state in self._cuda.items():
            torch.cuda.set_rng_state(state, device)

    def _visit(self, value: Any, depth: int) -> None:
        kind = type(value)
        if kind in ATOMS or id(value) in self._visited:
            return
        if isinstance(value, torch.Tensor):
            self._tensors[id(value)] = value
            return
        self._visited[id(value)] = value
        parts: Collection[Any]
        if isinstance(value, (dict, list, set, deque)):
            self._hold(value)
            parts = value.values() if isinstance(value, dict) else value
        elif isinstance(value, (tuple, frozenset)):
            parts = value
        elif isinstance(value, np.ndarray):
            if value.nbytes <= ARRAY_LIMIT and value.flags.writeable:
                self._arrays.append((value, value.copy()))
            return
        elif isinstance(value, nn.Module) or (
            depth < DEPTH and kind.__module__.partition(".")[0] not in FOREIGN
        ):
            depth += not isinstance(value, nn.Module)
            attributes = getattr(value, "__dict__", None)
            if not isinstance(attributes, dict):
                return
            self._hold(attributes)
            parts = attributes.values()
        else:
            return
        for part in parts if len(parts) <= LONG else ():
            if type(part) in (dict, OrderedDict) and not part:  # most of a module's own
                self._empty[id(part)] = part
            elif type(part) not in ATOMS:
                self._visit(part, depth)

    def _hold(self, container: Any) -> None:
        kind = next(k for k in (dict, set, list, deque) if isinstance(container, k))
        self._held[id(container)] = container, (list if kind is deque else kind)(container)


class Guarded(TorchDispatchMode):
    """A pass that says what it is about to write in place."""

    def __init__(self, state: ModelState) -> None:
        super().__init__()
        self.state = state

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        self.keep_written(func, args, kwargs)
        return func(*args, **kwargs)

    def keep_written(self, func: Any, args: Any, kwargs: Any) -> list[torch.Tensor]:
        """The tensors that a call writes, whose values are kept where the model held them."""
        written = []
        for place, name in written_arguments(func):
            value = args[place] if place < len(args) else kwargs.get(name)
            for tensor in value if isinstance(value, (list, tuple)) else (value,):
                if isinstance(tensor, torch.Tensor):
                    self.state.about_to_write(tensor)
                    written.append(tensor)
        return written


@functools.cache
def written_arguments(func: Any) -> tuple[tuple[int, str], ...]:
    """Places and names of the arguments that an operator writes."""
    schema = getattr(func, "_schema", None)
    return tuple(
        (place, argument.name)
        for place, argument in enumerate(schema.arguments if schema else ())
        if argument.alias_info is not None and argument.alias_info.is_write
    )


_ORDINARY = frozenset((torch.Tensor, nn.Parameter, nn.Buffer))


def _put_back(held: Any, before: Any) -> None:
    """The entries that a container had, in their order."""
    if isinstance(held, set):
        same = held == before
    else:
        same = len(held) == len(before) and all(map(operator.is_, held, before))
        if same and isinstance(held, dict):
            same = all(map(operator.is_, held.values(), before.values()))
    if same:
        return
    for name in held.keys() - before.keys() if isinstance(held, dict) else ():
        del held[name]
    if not isinstance(held, dict) or list(held) != list(before):
        held.clear()
    (held.extend if isinstance(held, (list, deque)) else held.update)(before)
