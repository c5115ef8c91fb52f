"""Writing into a live model: everything or nothing, and never a new parameter object.

Optimizers, data-parallel buckets, compiled graphs and schedules all hold the parameters of a
model, so values are copied into them.  An :class:`Edit` keeps what was there until it is closed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from typing import Any

import numpy as np
import torch
from torch import nn

from .caches import Caches, restore
from .tensors import named_tensors, to_numpy


class Edit:
    """Changes of the tensors of one model, undone where the block fails.

    Parameters
    ----------
    model : torch.nn.Module
    caches : mapping, optional
        Places where the model keeps what it made from its weights, and what to put there.

    Notes
    -----
    ``with edit, edit:`` also undoes where an interrupt comes between the end of the block and the
    first line of what ends it.

    Examples
    --------
    >>> net = torch.nn.Linear(2, 1, bias=False)
    >>> with Edit(net) as edit:
    ...     edit.write({"weight": np.ones((1, 2), np.float32)})
    >>> net.weight.tolist()
    [[1.0, 1.0]]
    """

    def __init__(self, model: nn.Module, caches: Caches | None = None) -> None:
        self.tensors = named_tensors(model)
        self.caches = caches or {}
        self._model = model
        self.closed = False
        self._kept: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._homes: dict[int, torch.Tensor] = {}  # memory of the tensors
        self._numbers: list[tuple[MutableMapping[Any, Any], Any, Any]] = []

    def __enter__(self) -> Edit:
        self._gradients = torch.is_grad_enabled()
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        torch.set_grad_enabled(self._gradients)  # an interrupt may have skipped the end of a block
        if error is None or self.closed:  # closed: an interrupt came after everything was done
            self.close()
        else:
            self.undo()

    def close(self) -> None:
        """Keep the changes.

        The gradients of all parameters are dropped: those that were gathered for the model before
        do not fit what it is now.
        """
        self.closed = True
        if self.written:
            for parameter in self._model.parameters():
                parameter.grad = None
            restore(self._model, self.caches)

    def undo(self) -> None:
        """Put everything back, also after an interrupt at any moment."""
        with torch.no_grad():
            for key, (tensor, values) in self._kept.items():
                tensor.data = self._homes[key]
                tensor.copy_(values)
        for mapping, key, number in reversed(self._numbers):
            mapping[key] = number

    @property
    def written(self) -> list[str]:
        """Names of the model's tensors that were written."""
        return [name for name, tensor in self.tensors.items() if id(tensor) in self._kept]

    def original(self, names: Iterable[str]) -> dict[str, np.ndarray]:
        """Values from before this edit as arrays, apart from the model's memory."""
        found = dict.fromkeys(names)
        return {name: np.array(to_numpy(self.before(self.tensors[name]))) for name in found}

    def read(self, names: Iterable[str]) -> dict[str, np.ndarray]:
        """Present values as arrays, apart from the model's memory."""
        return {name: np.array(to_numpy(self.tensors[name])) for name in dict.fromkeys(names)}

    def before(self, tensor: torch.Tensor) -> torch.Tensor:
        """The values of a tensor before this edit."""
        kept = self._kept.get(id(tensor))
        return tensor.detach() if kept is None else kept[1]

    def write(self, values: Mapping[str, np.ndarray | torch.Tensor]) -> None:
        """Copy values into the tensors of these names."""
        for name, value in values.items():
            self.copy(self.tensors[name], value)

    def copy(self, tensor: torch.Tensor, value: np.ndarray | torch.Tensor) -> None:
        """Copy values into any tensor (of the model or of what goes along with it)."""
        self._keep(tensor)
        source = torch.from_numpy(value) if isinstance(value, np.ndarray) else value
        with torch.no_grad():
            tensor.copy_(source)

    def put(self, mapping: MutableMapping[Any, Any], key: Any, value: float) -> None:
        """Set a number in a mapping (of an optimizer's state), be it held by a tensor or not."""
        present = mapping[key]
        if isinstance(present, torch.Tensor):
            self.copy(present, torch.full_like(present, value))
            return
        self._numbers.append((mapping, key, present))
        mapping[key] = type(present)(value)

    def _keep(self, tensor: torch.Tensor) -> None:
        """Remember the values of a tensor before the first write."""
        key = id(tensor)
        if key in self._kept:
            return
        if any(n > 1 and step == 0 for n, step in zip(tensor.shape, tensor.stride(), strict=True)):
            name = next((name for name, own in self.tensors.items() if own is tensor), "a tensor")
            raise ValueError(
                f"{name!r} repeats the same numbers in memory, as expand() makes it, so that they "
                "cannot be changed one by one: give it memory of its own with clone()"
            )
        self._homes[key] = tensor.data
        self._kept[key] = (tensor, tensor.detach().clone())

    @contextlib.contextmanager
    def undone(self) -> Iterator[None]:
        """The model as it was before the edit, for as long as the block lasts; no copies."""
        try:
            for tensor, values in self._kept.values():
                tensor.data = values
            yield
        finally:
            for key, (tensor, _) in self._kept.items():
                tensor.data = self._homes[key]


def refuse_unwritable(model: nn.Module) -> None:
    """Raise ValueError for tensors that no change can be written into.

    Those that are spread over processes (FSDP2, tensor parallel), or were made in inference mode.
    """
    for name, tensor in named_tensors(model).items():
        if not torch.nn.parameter.is_lazy(tensor) and tensor.is_inference():
            raise ValueError(
                f"{name!r} was made in inference mode, so that nothing can be written into it: "
                "make the model outside of torch.inference_mode(), or give copy.deepcopy(model) "
                "made outside of it"
            )
    for name, parameter in model.named_parameters():
        if type(parameter.data).__name__ == "DTensor" or type(parameter).__name__ == "DTensor":
            raise ValueError(
                f"the parameter {name!r} is sharded over processes (DTensor): gather the model, "
                "reorganize it, and shard it again, or train with DistributedDataParallel"
            )
        if type(parameter).__name__ == "FlatParameter":
            raise ValueError(
                f"the parameter {name!r} is flattened by FSDP: reorganize the module inside "
                "FullyShardedDataParallel.summon_full_params, or train with "
                "DistributedDataParallel"
            )
