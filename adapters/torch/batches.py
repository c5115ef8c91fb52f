"""Calibration data: any iterable of batches, read several times without a trace.

A pass over the data must not disturb the training around it: the random streams of torch, numpy
and Python, the loader's own generator and its samplers' count of epochs are put back afterwards, so
that a run with a pass in it continues as one without, and every pass sees the same batches.
"""

from __future__ import annotations

import contextlib
import logging
import math
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils._pytree import tree_flatten, tree_map_only

from ...graph import batches as calibration
from ...graph.batches import LOOKED_AT, SameBatches, Unpack, paired
from .nested import apart
from .sample_order import in_canonical_order
from .tensors import to_numpy

log = logging.getLogger("rejuvenet")

Inputs = tuple[Any, ...] | dict[str, Any]
LONG = 100  # batches that an event reads by default, of a loader that knows its length

LABEL_KEYS = ("labels", "label", "targets", "target", "y")


class Batches(calibration.Batches):
    """Batches on the model's device, as ``(inputs, labels)``.

    ``inputs`` is a tuple of positional arguments of the model, or a dict of keyword arguments.

    Parameters
    ----------
    source : iterable
        Yields ``(inputs, labels)``, ``inputs`` alone (a tensor or an array), or a mapping with a
        key such as ``"labels"``, the rest of which is the model's keyword arguments (or, where it
        is one tensor, its positional one).  An iterator, which can be read once only, is kept in
        memory.
    model : torch.nn.Module
        Gives the device, and the floating type that inputs are cast to.
    unpack, max_batches, progress
        As in :class:`rejuvenet.graph.batches.Batches`.
    device : torch.device or str, optional
        Where batches go; the device of the model's first parameter by default.
    """

    def __init__(
        self,
        source: Iterable[Any],
        model: nn.Module,
        unpack: Unpack | None = None,
        max_batches: int | None = None,
        progress: bool = False,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__(source, unpack or unpack_batch, max_batches, progress)
        self._model, self._device = model, device
        self._kept: list[tuple[Any, Any]] | None = None
        self._limit = 0
        self._same: SameBatches | None = None

    @property
    def device(self) -> torch.device:
        """Where batches go: as given, or where the model is at present."""
        if self._device is not None:
            return torch.device(self._device)
        parameter = next(self._model.parameters(), None)
        return torch.device("cpu") if parameter is None else parameter.device

    def __iter__(self) -> Iterator[tuple[Inputs, np.ndarray | None]]:
        return self.read("reading batches")

    def made(self, purpose: str) -> Iterator[tuple[Inputs, np.ndarray | None]]:
        if self._limit and self._kept is None:
            self._kept = self._gathered(purpose)
            self._limit = 0
        same = self._same if self._kept is None else None
        count = 0
        with preserved_randomness(self.source):
            batches = self.shown(purpose, self._kept)
            for inputs, labels in batches if self._kept is not None else map(self.unpack, batches):
                if same is not None:
                    same.check(count, _looked_at((inputs, labels)))
                inputs = self.prepared(inputs)
                labels = None if labels is None else to_numpy(as_numbers(labels))
                yield inputs, paired(count, samples(inputs), labels)
                count += 1
        if same is not None:
            same.end(count)

    def _gathered(self, purpose: str) -> list[tuple[Any, Any]] | None:
        """All batches, their samples in the order of their content; None if they do not fit.

        In whatever order a loader shuffles its samples, an event thus sees the same batches, and a
        training that was resumed ends as one that was not.
        """
        found: list[tuple[Any, Any]] = []
        held = 0.0
        with preserved_randomness(self.source):
            for inputs, labels in map(self.unpack, self.shown(purpose)):
                held += _host_bytes((inputs, labels))
                if held > self._limit:
                    return None
                # Tensors of worker processes hold a file each, and may be used again.
                found.append(tree_map_only(torch.Tensor, torch.clone, (inputs, labels)))
        return in_canonical_order(found)

    @contextlib.contextmanager
    def remembered(self) -> Iterator[None]:
        """Within this block batches are read from the source once, if they fit in KEPT_BYTES.

        Those that do not must be the same in every pass.
        """
        self._same = SameBatches()
        if not isinstance(self.source, (list, tuple)):
            self._limit = calibration.KEPT_BYTES
        try:
            yield
        finally:
            self._kept, self._limit, self._same = None, 0, None

    def example(self, n: int | None = 2) -> Inputs:
        """The first ``n`` samples of the first batch, or all, to trace a model with."""
        with preserved_randomness(self.source):
            first = next(iter(self.source), None)
        if first is None:
            raise ValueError("batches is empty: give at least one batch of calibration data")
        inputs = self.prepared(self.unpack(first)[0])
        rows = samples(inputs)
        if not rows:
            raise ValueError("batch 0 holds no sample: leave empty batches out")

        def cut(value: Any) -> Any:
            whole = isinstance(value, torch.Tensor) and value.ndim and len(value) == rows
            return value[:n] if whole else value

        if isinstance(inputs, dict):
            return {name: cut(value) for name, value in inputs.items()}
        return tuple(cut(value) for value in inputs)

    def prepared(self, inputs: Any) -> Inputs:
        """Inputs in one form, on the device."""
        inputs = apart(inputs)
        parameter = next(self._model.parameters(), None)
        dtype = torch.float32 if parameter is None else parameter.dtype
        if isinstance(inputs, Mapping):
            return {str(name): self._moved(value, dtype) for name, value in inputs.items()}
        inputs = inputs if isinstance(inputs, tuple) else (inputs,)
        return tuple(self._moved(value, dtype) for value in inputs)

    def _moved(self, value: Any, dtype: torch.dtype) -> Any:
        if isinstance(value, np.ndarray):
            value = torch.as_tensor(value)
        if not isinstance(value, torch.Tensor):
            return value
        if value.is_inference():  # the model may write into it
            value = value.clone()
        if value.is_floating_point() and dtype.is_floating_point:
            return value.to(self.device, dtype, non_blocking=True)
        return value.to(self.device, non_blocking=True)


def unpack_batch(batch: Any) -> tuple[Any, Any]:
    """Inputs and labels of a batch in one of the usual forms.

    >>> unpack_batch({"pixel_values": 1, "labels": 2})
    (1, 2)
    """
    if isinstance(batch, Mapping):
        key = next((key for key in LABEL_KEYS if key in batch), None)
        rest = {name: batch[name] for name in batch if name != key}
        if not rest:
            raise ValueError(
                f"a batch with the keys {sorted(map(str, batch))} has no input beside its labels; "
                "pass unpack=function that returns (inputs, labels)"
            )
        inputs = next(iter(rest.values())) if len(rest) == 1 else rest
        return inputs, None if key is None else batch[key]
    if isinstance(batch, (torch.Tensor, np.ndarray)):
        return batch, None
    if isinstance(batch, Sequence) and len(batch) in (1, 2):
        inputs = tuple(batch[0]) if isinstance(batch[0], list) else batch[0]
        return inputs, batch[1] if len(batch) == 2 else None
    raise ValueError(
        f"a batch must be (inputs, labels), inputs alone, or a mapping; got {type(batch).__name__}"
        f"{f' of length {len(batch)}' if isinstance(batch, Sequence) else ''}; pass "
        "unpack=function that returns (inputs, labels)"
    )


def at_most(source: Any, max_batches: int | None) -> int | None:
    """How many batches an event reads: of a long loader ``LONG``, where nothing else was said.

    >>> at_most(range(1000), None), at_most(range(1000), 500), at_most(range(9), None)
    (100, 500, None)
    """
    if max_batches is None and isinstance(source, Sized) and len(source) > LONG:
        log.info("of %d batches the first %d are read; max_batches sets it", len(source), LONG)
        return LONG
    return max_batches


def as_numbers(labels: Any) -> torch.Tensor:
    """Labels as a tensor; raises ValueError where they are no numbers.

    >>> as_numbers([0, 2]).tolist()
    [0, 2]
    """
    try:
        return torch.as_tensor(labels)
    except (TypeError, ValueError, RuntimeError):
        first = labels[0] if isinstance(labels, Sequence) and len(labels) else labels
        raise ValueError(
            f"expected labels as whole numbers from 0 on, one for each input, got {first!r}: "
            "number the classes, or pass unpack=function that does"
        ) from None


def samples(inputs: Inputs) -> int:
    """Length of the first axis of the first tensor of ``inputs``."""
    for value in inputs.values() if isinstance(inputs, dict) else inputs:
        if isinstance(value, torch.Tensor) and value.ndim:
            return len(value)
    raise ValueError("a batch holds no tensor with a first axis of samples")


def _looked_at(batch: Any) -> Iterator[Any]:
    """What a checksum is made of: of large tensors a part, on the host."""
    for leaf in tree_flatten(batch)[0]:
        if isinstance(leaf, torch.Tensor):
            flat = leaf.detach().reshape(-1)
            part = flat[:: max(1, flat.numel() // LOOKED_AT)].cpu()
            yield (part.float() if part.is_floating_point() else part).numpy()
        else:
            yield leaf


def _host_bytes(batch: Any) -> float:
    """Memory of a batch; infinite where a part of it cannot be kept."""
    total = 0.0
    for leaf in tree_flatten(batch)[0]:
        on_host = isinstance(leaf, torch.Tensor) and leaf.device.type == "cpu"
        if on_host or isinstance(leaf, np.ndarray):
            total += leaf.nbytes
        elif leaf is not None:
            return math.inf
    return total


@contextlib.contextmanager
def preserved_randomness(source: Any = None) -> Iterator[None]:
    """Put the random states of torch, numpy and Python back on leaving.

    Of a data loader ``source``, also its own generator, and the epoch that its samplers count
    (Accelerate's do, when they are read).
    """
    cuda = torch.cuda.is_available() and torch.cuda.is_initialized()
    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002
    state = torch.get_rng_state()
    device_states = torch.cuda.get_rng_state_all() if cuda else []
    parts = _parts(source)
    own = [(p, p.generator.get_state()) for p in parts if _own_generator(p)]
    counts = [
        (p, name, getattr(p, name))
        for p in parts
        for name in ("epoch", "iteration")
        if type(getattr(p, name, None)) is int
    ]
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)  # noqa: NPY002
        torch.set_rng_state(state)
        if cuda:
            torch.cuda.set_rng_state_all(device_states)
        for part, generator_state in own:
            part.generator.set_state(generator_state)
        for part, name, count in counts:
            setattr(part, name, count)


def _own_generator(part: Any) -> bool:
    return isinstance(getattr(part, "generator", None), torch.Generator)


def _parts(source: Any) -> list[Any]:
    """A data loader, its samplers and theirs."""
    found: list[Any] = []
    pending = [source]
    while pending:
        part = pending.pop()
        if part is not None and all(part is not known for known in found):
            found.append(part)
            pending += [getattr(part, name, None) for name in ("sampler", "batch_sampler")]
    return found
