"""Calibration data for an ONNX model: any iterable of batches, read several times."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from ..same_batches import SameBatches
from .model import OnnxModel

KEPT_BYTES = 2**30  # of batches that are decoded once

Unpack = Callable[[Any], tuple[Any, Any]]


class OnnxBatches:
    """Batches as ``(inputs, labels)``; inputs are a dict of arrays by name.

    A model that takes a fixed number of samples gets as many at a time, or fewer at the end.

    Parameters
    ----------
    source : iterable
        Yields ``(inputs, labels)``, ``inputs`` an array for a model with one input or a dict by
        input name.  What can be read once only is kept in memory.
    model : OnnxModel
    unpack : callable, optional
        Turns one batch of the source into ``(inputs, labels)``; labels may be None.
    max_batches : int, optional
        Read no more than this many.
    progress : bool
        Show a progress bar (tqdm).
    """

    def __init__(
        self,
        source: Iterable[Any],
        model: OnnxModel,
        unpack: Unpack | None = None,
        max_batches: int | None = None,
        progress: bool = False,
    ) -> None:
        if isinstance(source, (str, bytes, np.ndarray)) or not hasattr(source, "__iter__"):
            raise ValueError(
                "batches must be an iterable that yields (inputs, labels), such as a list; got "
                f"{type(source).__name__}"
            )
        if max_batches is not None and max_batches < 1:
            raise ValueError(f"max_batches must be at least 1, got {max_batches}")
        self.source = list(source) if isinstance(source, Iterator) else source
        self.max_batches, self.progress = max_batches, progress
        self._unpack, self._model = unpack or unpack_batch, model
        self._labels: list[np.ndarray] | None = None
        self._kept: list[tuple[Any, Any]] | None = None
        self._same = SameBatches()

    def read(self, purpose: str) -> Iterator[tuple[dict[str, np.ndarray], np.ndarray | None]]:
        """Iterate; ``purpose`` stands beside the progress bar.

        Raises
        ------
        ValueError
            If there is no batch, an empty one, or one whose inputs and labels do not pair; where
            a batch is not what it was in an earlier pass.
        """
        from tqdm.auto import tqdm

        number = 0
        batches = self._parts() if self._kept is None else self._kept
        keeping: list[tuple[Any, Any]] | None = [] if self._kept is None else None
        held = 0
        for inputs, labels in tqdm(
            batches, desc=purpose, unit="batch", leave=False, disable=not self.progress
        ):
            if self._kept is None:
                self._same.check(number, (*inputs.values(), labels))
            if keeping is not None:
                held += sum(value.nbytes for value in inputs.values())
                keeping = [*keeping, (inputs, labels)] if held <= KEPT_BYTES else None
            yield inputs, labels if self._labels is None else self._labels[number]
            number += 1
        if not number:
            raise ValueError("batches is empty: give at least one batch of calibration data")
        if self._kept is None:
            self._same.end(number)
        if keeping is not None:
            self._kept = keeping

    def labelled(self, labels: Sequence[np.ndarray]) -> OnnxBatches:
        """The same batches with other labels, those of one batch after those of the other."""
        other = OnnxBatches(self.source, self._model, self._unpack, self.max_batches, self.progress)
        other._kept, other._same, other._labels = self._kept, self._same, list(labels)
        return other

    def _parts(self) -> Iterator[tuple[dict[str, np.ndarray], np.ndarray | None]]:
        fixed = self._model.fixed_batch
        for number, batch in enumerate(self.source):
            if number == self.max_batches:
                return
            inputs, labels = self._checked(number, batch)
            n = samples(inputs)
            if fixed is None or n == fixed:
                yield inputs, labels
                continue
            for start in range(0, n, fixed):
                rows = slice(start, start + fixed)
                part = {k: x[rows] if x.ndim and len(x) == n else x for k, x in inputs.items()}
                yield part, None if labels is None else labels[rows]

    def _checked(self, number: int, batch: Any) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
        inputs, labels = self._unpack(batch)
        if not isinstance(inputs, dict):
            names = list(self._model.example_inputs)
            if len(names) != 1:
                raise ValueError(
                    f"the model has the inputs {names}: give each batch as a dict by name"
                )
            inputs = {names[0]: inputs}
        inputs = {name: np.asarray(values) for name, values in inputs.items()}
        n = samples(inputs)
        if not n:
            raise ValueError(f"batch {number} holds no sample: leave empty batches out")
        if labels is not None:
            labels = np.asarray(labels)
            if labels.shape[:1] != (n,):
                raise ValueError(
                    f"batch {number} has {n} inputs and labels of shape {labels.shape}, which do "
                    "not pair: give one label, or one row of class weights, for each input"
                )
        return inputs, labels


def samples(inputs: Any) -> int:
    """Length of the first axis of the first input that has one; 0 where none has."""
    arrays = inputs.values() if isinstance(inputs, dict) else [inputs]
    return next((len(values) for values in arrays if np.ndim(values)), 0)


def unpack_batch(batch: Any) -> tuple[Any, Any]:
    """Inputs and labels of ``(inputs, labels)``, or of inputs alone."""
    if isinstance(batch, (tuple, list)) and len(batch) == 2:
        return batch[0], batch[1]
    return batch, None
