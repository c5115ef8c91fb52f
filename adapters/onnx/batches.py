"""Calibration data for an ONNX model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from ...graph import batches as calibration
from ...graph.batches import SameBatches, Unpack, paired
from .model import OnnxModel

Inputs = dict[str, np.ndarray]


class OnnxBatches(calibration.Batches):
    """Batches as ``(inputs, labels)``; inputs are a dict of arrays by name.

    A model that takes a fixed number of samples gets as many at a time, or fewer at the end.
    Batches that fit in memory are read from the source once.

    Parameters
    ----------
    source : iterable
        Yields ``(inputs, labels)``, ``inputs`` an array for a model with one input or a dict by
        input name.
    model : OnnxModel
    unpack, max_batches, progress
        As in :class:`rejuvenet.graph.batches.Batches`.
    """

    def __init__(
        self,
        source: Iterable[Any],
        model: OnnxModel,
        unpack: Unpack | None = None,
        max_batches: int | None = None,
        progress: bool = False,
    ) -> None:
        super().__init__(source, unpack or unpack_batch, max_batches, progress)
        self._model, self._same = model, SameBatches()
        self._kept: list[tuple[Inputs, np.ndarray | None]] | None = None

    def made(self, purpose: str) -> Iterator[tuple[Inputs, np.ndarray | None]]:
        if self._kept is not None:
            yield from self.shown(purpose, self._kept)
            return
        keeping: list[tuple[Inputs, np.ndarray | None]] = []
        held = count = 0
        for number, batch in enumerate(self.shown(purpose)):
            for inputs, labels in self._parts(number, batch):
                self._same.check(count, (*inputs.values(), labels))
                held += sum(value.nbytes for value in inputs.values())
                if held <= calibration.KEPT_BYTES:
                    keeping.append((inputs, labels))
                else:
                    keeping.clear()
                count += 1
                yield inputs, labels
        self._same.end(count)
        if held <= calibration.KEPT_BYTES:
            self._kept = keeping

    def _parts(self, number: int, batch: Any) -> Iterator[tuple[Inputs, np.ndarray | None]]:
        """A batch, in parts of the size that the model takes."""
        inputs, labels = self.unpack(batch)
        if not isinstance(inputs, dict):
            names = list(self._model.example_inputs)
            if len(names) != 1:
                raise ValueError(
                    f"the model has the inputs {names}: give each batch as a dict by name"
                )
            inputs = {names[0]: inputs}
        inputs = {name: np.asarray(values) for name, values in inputs.items()}
        n = samples(inputs)
        labels = paired(number, n, None if labels is None else np.asarray(labels))
        size = self._model.fixed_batch or n
        if n == size:
            yield inputs, labels
            return
        for start in range(0, n, size):
            rows = slice(start, start + size)
            part = {k: x[rows] if x.ndim and len(x) == n else x for k, x in inputs.items()}
            yield part, None if labels is None else labels[rows]


def samples(inputs: Any) -> int:
    """Length of the first axis of the first input that has one; 0 where none has."""
    arrays = inputs.values() if isinstance(inputs, dict) else [inputs]
    return next((len(values) for values in arrays if np.ndim(values)), 0)


def unpack_batch(batch: Any) -> tuple[Any, Any]:
    """Inputs and labels of ``(inputs, labels)``, or of inputs alone."""
    if isinstance(batch, (tuple, list)) and len(batch) == 2:
        return batch[0], batch[1]
    return batch, None
