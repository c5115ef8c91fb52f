"""Runs of a model on batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx_ir as ir

from ...graph.network import BatchNormalization
from .batches import samples
from .model import OnnxModel
from .own_statistics import feeds as statistics_feeds


class Feeds:
    """Batches as the inputs of a model take them.

    Parameters
    ----------
    model : OnnxModel

    Attributes
    ----------
    types : dict of str to dtype
        By the name of the input.
    fixed : dict of str to int
        How many samples an input takes at a time, where it says so.
    """

    def __init__(self, model: OnnxModel):
        graph = model.analysed.graph
        inputs = [value for value in graph.inputs if value.name not in graph.initializers]
        self.batch = model.fixed_batch
        self.types = {str(value.name): _dtype(value) for value in inputs}
        firsts = {str(value.name): value.shape[0] for value in inputs if value.shape}
        self.fixed = {k: n for k, n in firsts.items() if isinstance(n, int) and n > 0}
        self._free = next((name for name in firsts if name not in self.fixed), None)

    def feeds(self, inputs: Any) -> dict[str, np.ndarray]:
        """Arrays by the names and in the types of the inputs."""
        if not isinstance(inputs, Mapping):
            if len(self.types) != 1:
                raise ValueError(
                    f"the model has the inputs {list(self.types)}: give each batch as a dict by "
                    "name"
                )
            inputs = dict.fromkeys(self.types, inputs)
        return {k: np.asarray(x, self.types.get(k), order="C") for k, x in inputs.items()}

    def smallest(self, inputs: Any) -> dict[str, np.ndarray]:
        """What a run takes of the first sample, or of as many as it takes at a time."""
        feeds = self.feeds(inputs)
        n = samples(feeds)
        rows = np.arange(self.batch or 1) % max(n, 1)
        return {k: x[rows] if x.ndim and len(x) == n else x for k, x in feeds.items()}

    def runs(self, feeds: dict[str, np.ndarray]) -> Iterator[Part]:
        """What each run takes: as many samples as a model with a fixed batch size says.

        Raises
        ------
        ValueError
            One input says how many it takes, and another one takes any number.
        """
        first = next((name for name in feeds if name in self.fixed), None)
        if first is None or len(feeds[first]) in (0, self.fixed[first]):
            yield Part(feeds)
            return
        n, size = len(feeds[first]), self.fixed[first]
        if self._free in feeds:
            raise ValueError(
                f"the model takes {size} in front of {first!r} and any number in front of "
                f"{self._free!r}, so that these {n} cannot be rows of the same samples: make "
                f"{first!r} a constant of the model, or give batches of {size}"
            )
        batched = {k for k, x in feeds.items() if self.fixed.get(k) == size and len(x) == n}
        for fill, count in filled(n, size):
            yield Part({k: x[fill] if k in batched else x for k, x in feeds.items()}, count, size)


class Part(NamedTuple):
    """What one run takes.

    Attributes
    ----------
    feeds : dict of str to ndarray
    counted, size : int
        How many samples count, and how many there are; both 0 where all do.
    """

    feeds: dict[str, np.ndarray]
    counted: int = 0
    size: int = 0

    def counting(self, name: str, value: Any, axis: int | None) -> np.ndarray:
        """What counts of a tensor with an axis of samples; of an output, in front, for None.

        Raises
        ------
        ValueError
            It has no such axis.
        """
        if not self.size:
            return value
        if self.size == 1 and np.shape(value)[:1] != (1,) and axis is None:
            value = np.asarray(value)[None]
        rows, rest = divmod(np.size(value, axis or 0) if np.ndim(value) else 0, self.size)
        if rest or (rows != 1 and axis is None):
            raise ValueError(
                f"the model takes {self.size} samples at a time, and its tensor {name!r} of "
                f"shape {np.shape(value)} has no axis of samples in front: give batches of "
                f"{self.size}"
            )
        return np.take(value, np.arange(self.counted * rows), axis or 0)


class Runner(Feeds):
    """Runs a model on batches and returns its outputs and some intermediate tensors by name.

    A model with a fixed batch size gets as many samples at a time; the last ones are repeated to
    fill it up, and what they make is cut off.

    Parameters
    ----------
    model : OnnxModel
    tensors : mapping of str to int, optional
        Intermediate tensors to return as well, each with its axis of samples.
    adapting : mapping of tensor name to its shape, optional
        What normalizations read that take the statistics of the batch (:mod:`.own_statistics`).
    """

    def __init__(
        self,
        model: OnnxModel,
        tensors: Mapping[str, int] | None = None,
        adapting: Mapping[str, Sequence[int]] | None = None,
    ):
        super().__init__(model)
        self.samples = dict(tensors or {})
        self.session = model.session(tuple(self.samples), adapting)
        self.outputs = [str(v.name) for v in model.ir.graph.outputs]
        self.names = [o.name for o in self.session.get_outputs()]

    def __call__(
        self, inputs: Any, statistics: Sequence[BatchNormalization] = ()
    ) -> dict[str, np.ndarray]:
        own = statistics_feeds(statistics, self.session.adapting)
        found: list[dict[str, Any]] = []
        for part in self.runs(self.feeds(inputs)):
            values = self.once(part.feeds | own)
            axes = self.samples
            found.append({k: part.counting(k, x, axes.get(k)) for k, x in values.items()})
        if len(found) == 1:
            return found[0]
        return {
            name: np.concatenate([values[name] for values in found], self.samples.get(name, 0))
            for name in self.names
        }

    def once(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The values of one run."""
        return dict(zip(self.names, run(self.session, self.names, feeds), strict=True))

    def compared(self, values: dict[str, np.ndarray]) -> list[np.ndarray]:
        """The floating-point outputs of a run; where there are none, those of other numbers."""
        found = [x for name in self.outputs if isinstance(x := values[name], np.ndarray)]
        floats = [x for x in found if x.dtype.kind == "f"]
        return [x.astype(np.float64) for x in floats or [x for x in found if x.dtype.kind in "iub"]]


def run(session: Any, names: Sequence[str] | None, feeds: Mapping[str, np.ndarray]) -> list[Any]:
    """The values of some outputs, or of all; raises ValueError where onnxruntime fails."""
    try:
        return session.run(names, feeds)
    except Exception as error:  # onnxruntime has a dozen error types of its own
        shapes = {name: values.shape for name, values in feeds.items()}
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"the model cannot run on inputs {shapes}: {reason}") from error


def filled(n: int, size: int) -> Iterator[tuple[np.ndarray, int]]:
    """Rows of ``n`` in batches of a size, and how many count: the last one fills the last batch.

    >>> [(rows.tolist(), count) for rows, count in filled(5, 3)]
    [([0, 1, 2], 3), ([3, 4, 4], 2)]
    """
    for start in range(0, n, size):
        yield np.minimum(np.arange(start, start + size), n - 1), min(size, n - start)


def _dtype(value: ir.Value) -> np.dtype:
    """numpy's type of an input; without one it is a float."""
    if value.dtype in (None, ir.DataType.UNDEFINED):
        return np.dtype(np.float32)
    return np.dtype(object) if value.dtype == ir.DataType.STRING else value.dtype.numpy()
