"""A PyTorch model as a :class:`rejuvenet.graph.network.Network`."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

from ...graph.change.removal import Removal
from ...graph.find.channels import ChannelGroup, Unfit
from ...graph.find.nodes import Graph
from ...graph.network import BatchNormalization, Watch
from ...graph.side_by_side import run_for_each
from .arrays import TorchArrays
from .batches import Batches, samples
from .distributed import Processes
from .edit import Edit
from .gradients import loss_gradients
from .parametrized import refuse_parametrized
from .passes import forward, glance, leaves
from .removal import carry_out, changes, undo
from .replay import Tape, replay
from .tensors import to_numpy
from .trace import TracedModel


class TorchNetwork:
    """A traced model, for the procedures of :mod:`rejuvenet.graph`.

    Parameters
    ----------
    traced : TracedModel
    processes : Processes
        Those that hold a copy of the model each.
    """

    def __init__(self, traced: TracedModel, processes: Processes) -> None:
        self.traced, self.processes = traced, processes
        self.arrays = TorchArrays()
        self._tapes: dict[Any, Tape] = {}  # by the shapes of the batches
        self._generator = torch.Generator().manual_seed(0)

    @property
    def graph(self) -> Graph:
        return self.traced.graph

    @property
    def groups(self) -> list[ChannelGroup]:
        return self.traced.groups

    @property
    def example_samples(self) -> int:
        args, kwargs = self.traced.example_inputs
        return samples(args or kwargs)

    def samples(self, inputs: Any) -> int:
        return samples(inputs)

    def run(
        self,
        inputs: Any,
        watch: Watch,
        outputs: bool = False,
        statistics: Sequence[BatchNormalization] = (),
    ) -> list[np.ndarray]:
        taps = {name: partial(_call, callbacks) for name, callbacks in watch.items()}
        with self._own(statistics):
            if outputs:
                return floating(forward(self.traced, inputs, taps))
            glance(self.traced, inputs, taps)
        return []

    def _own(
        self, statistics: Sequence[BatchNormalization]
    ) -> contextlib.AbstractContextManager[Any]:
        return _BatchStatistics(self.traced, statistics) if statistics else contextlib.nullcontext()

    def stepwise(
        self, inputs: Any, tensors: Sequence[str], statistics: Sequence[BatchNormalization] = ()
    ) -> Iterator[tuple[torch.Tensor | None, int | None]]:
        tape = self._tape(inputs, tensors)
        if not tape.repeatable:
            return run_for_each(self, inputs, tensors, statistics)
        return replay(tape, inputs, tensors, self._own(statistics))

    def _tape(self, inputs: Any, tensors: Sequence[str]) -> Tape:
        """The operators that the model runs on a batch of these shapes."""
        parts, structure = tree_flatten(inputs)
        key = str(structure), *map(_described, parts)
        if None in key:
            return Tape(self.traced, inputs, tensors)
        tape = self._tapes.get(key)
        if tape is None or (tape.repeatable and not {*tape.tensors} >= {*tensors}):
            known = () if tape is None else tape.tensors
            tape = self._tapes[key] = Tape(self.traced, inputs, [*{*known, *tensors}])
        return tape

    @property
    def number_types(self) -> set[str]:
        tensors = (*self.traced.tensors.values(), *leaves(self.traced.example_inputs))
        return {str(tensor.dtype).removeprefix("torch.") for tensor in tensors}

    def example_outputs(self, shake: float = 0.0, weights: bool = False) -> list[np.ndarray]:
        inputs = self.traced.example_inputs
        if shake:
            inputs = tree_map(partial(self._shaken, shake), inputs)
        tensors = list(self.traced.tensors.values()) if weights else []
        kept = [tensor.data for tensor in tensors]
        try:
            for tensor in tensors:
                tensor.data = self._shaken(shake, tensor.data)
            return [x.astype(np.float64) for x in self.run(inputs, {}, outputs=True)]
        finally:
            for tensor, values in zip(tensors, kept, strict=True):
                tensor.data = values

    def _shaken(self, shake: float, x: Any) -> Any:
        """A tensor with a relative change; the random state of the program stays."""
        if not isinstance(x, torch.Tensor) or not x.is_floating_point():
            return x
        noise = torch.randn(x.shape, generator=self._generator, dtype=torch.float64)
        return (x.detach().cpu().double() * (1 + shake * noise)).to(x)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Edit]:
        """Equal parameters are expected of all processes; buffers are those of the first.

        Data-parallel training sends the first one's buffers to the others when the next forward
        pass begins, so that they differ until then.  What was written ends as in the first.
        """
        traced, processes = self.traced, self.processes
        traced.edit = edit = Edit(traced.model, caches=traced.caches)
        with edit, edit:
            if processes.world > 1:
                for buffer in traced.model.buffers():
                    value = buffer.detach().clone()
                    processes.copy_from_first([value])
                    edit.copy(buffer, value)
                processes.check_same(edit.original(n for n, _ in traced.model.named_parameters()))
            yield edit
            processes.copy_from_first(edit.tensors[name] for name in edit.written)

    @contextlib.contextmanager
    def without(self, removal: Removal) -> Iterator[None]:
        changed = changes(self.traced, removal)
        carry_out(changed)
        try:
            yield
        except (RuntimeError, TypeError, IndexError, AttributeError, AssertionError) as error:
            reason = " ".join(str(error).split())[:200]
            raise Unfit(f"the model does not run without its channels: {reason}") from error
        finally:
            undo(changed)

    def remove(self, removal: Removal) -> None:
        carry_out(changes(self.traced, removal))

    def check(self, group: ChannelGroup) -> None:
        refuse_parametrized(self.traced.model, group)

    def gradients(self, data: Any, names: Sequence[str]) -> dict[str, np.ndarray]:
        assert isinstance(data, Batches)
        return loss_gradients(self.traced, data, names, self.processes)


class _BatchStatistics(TorchDispatchMode):
    """Normalizations that take the statistics of the batch that they read."""

    def __init__(self, traced: TracedModel, statistics: Sequence[BatchNormalization]) -> None:
        super().__init__()
        tensors = traced.tensors
        # A normalization that is used several times has an entry for every use, in their order.
        self.waiting: dict[int, list[BatchNormalization]] = defaultdict(list)
        for entry in statistics:
            self.waiting[id(tensors[entry.mean])].append(entry)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if "batch_norm" in func.overloadpacket.__name__ and len(args) > 4:
            x, weight, bias, mean, variance, *rest = args
            waiting = self.waiting.get(id(mean))
            if waiting:
                args = (x, weight, bias, *_adjusted(x, mean, variance, waiting.pop(0)), *rest)
        return func(*args, **(kwargs or {}))


def _adjusted(
    x: torch.Tensor, mean: torch.Tensor, variance: torch.Tensor, entry: BatchNormalization
) -> tuple[torch.Tensor, torch.Tensor]:
    total, squares, count = TorchArrays().moments(x, 1)
    m = total / count
    v = np.maximum(squares / count - m * m, 0.0)
    values = (m + entry.offset, v * entry.factor + entry.constant)
    return tuple(  # type: ignore[return-value]
        torch.as_tensor(value).to(like.device, like.dtype)
        for value, like in zip(values, (mean, variance), strict=True)
    )


def _described(leaf: Any) -> Any:
    """What a tape depends on of a part of a batch; None where that cannot be said."""
    if isinstance(leaf, torch.Tensor):
        return tuple(leaf.shape), leaf.stride(), leaf.dtype, leaf.device
    return repr(leaf) if isinstance(leaf, (bool, int, float, str, type(None))) else None


def _call(callbacks: Sequence[Any], activation: torch.Tensor) -> None:
    for callback in callbacks:
        callback(activation)


def floating(output: Any) -> list[np.ndarray]:
    """All floating-point tensors of an output, on the host."""
    return [to_numpy(leaf) for leaf in leaves(output)]
