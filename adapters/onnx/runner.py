"""Runs of a model on batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ...graph.network import BatchNormalization
from .batches import samples
from .model import OnnxModel
from .own_statistics import feeds as statistics_feeds
from .own_statistics import inputs as statistics_inputs


class Runner:
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
        self.samples = dict(tensors or {})
        self.session = model.session(tuple(self.samples), adapting)
        self.batch = model.fixed_batch
        own = set(statistics_inputs(self.session.adapting))
        inputs = [i for i in self.session.get_inputs() if i.name not in own]
        self.types = {i.name: _dtype(i.type) for i in inputs}
        self.fixed = {i.name: i.shape[0] for i in inputs if i.shape and _is_fixed(i.shape[0])}
        self.outputs = [str(v.name) for v in model.ir.graph.outputs]
        self.names = [o.name for o in self.session.get_outputs()]

    def __call__(
        self, inputs: Any, statistics: Sequence[BatchNormalization] = ()
    ) -> dict[str, np.ndarray]:
        feeds = self.feeds(inputs)
        first = next((name for name in feeds if name in self.fixed), None)
        if first is None or len(feeds[first]) in (0, self.fixed[first]):
            return self.once(feeds | statistics_feeds(statistics, self.session.adapting))
        n, fixed = len(feeds[first]), self.fixed[first]
        batched = {k for k, x in feeds.items() if self.fixed.get(k) == fixed and len(x) == n}
        parts: dict[str, list[np.ndarray]] = {name: [] for name in self.names}
        for fill, count in filled(n, fixed):
            values = self.once({k: x[fill] if k in batched else x for k, x in feeds.items()})
            for name, value in values.items():
                if fixed == 1 and np.shape(value)[:1] != (1,) and name not in self.samples:
                    value = np.asarray(value)[None]
                axis = self.samples.get(name, 0)
                rows, rest = divmod(np.size(value, axis) if np.ndim(value) else 0, fixed)
                if rest or (rows != 1 and name not in self.samples):
                    raise ValueError(
                        f"the model takes {fixed} samples at a time, and its tensor {name!r} of "
                        f"shape {np.shape(value)} has no axis of samples in front: give batches of "
                        f"{fixed}"
                    )
                kept = np.arange(count * rows)
                parts[name].append(np.take(value, kept, axis))
        return {
            name: np.concatenate(values, self.samples.get(name, 0))
            for name, values in parts.items()
        }

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


def _is_fixed(dimension: Any) -> bool:
    return isinstance(dimension, int) and dimension > 0


def _dtype(name: str) -> np.dtype:
    """numpy's type for a name such as ``tensor(float)``."""
    inner = name[name.find("(") + 1 : -1]
    return np.dtype({"float16": "f2", "float": "f4", "double": "f8"}.get(inner, inner))
