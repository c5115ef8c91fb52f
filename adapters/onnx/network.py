"""An ONNX model as a :class:`rejuvenet.graph.network.Network`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ...graph.arrays import NumpyArrays
from ...graph.change.removal import Removal
from ...graph.find.channels import ChannelGroup
from ...graph.find.nodes import Graph
from ...graph.find.samples import sample_axes
from ...graph.measure.verdict import shaken_array
from ...graph.network import BatchNormalization, Data, Team, Watch
from .batches import samples
from .model import OnnxModel
from .removal import without_channels
from .runner import Runner
from .storage import OnDisk


class OnnxNetwork:
    """A model and the changes of its weights, for the procedures of :mod:`rejuvenet.graph`.

    The given model stays; :attr:`model` is the one with the changes.  Those of weights that the
    file keeps outside go back to the disk.

    Parameters
    ----------
    model : OnnxModel
    """

    def __init__(self, model: OnnxModel) -> None:
        self.arrays = NumpyArrays()
        self.model = self._original = model
        self._disk = OnDisk()
        self._random = np.random.default_rng(0)
        self._axes = sample_axes(model.graph)
        # What a session shows, and the session: of the present weights, and of the given ones.
        self._runner: tuple[Any, Runner] | None = None
        self._first: tuple[Any, Runner] | None = None

    @property
    def graph(self) -> Graph:
        return self._original.graph

    @property
    def groups(self) -> list[ChannelGroup]:
        return self._original.groups

    @property
    def example_samples(self) -> int:
        return self.samples(self._original.example_inputs)

    def samples(self, inputs: Any) -> int:
        return samples(inputs)

    def run(
        self,
        inputs: Any,
        watch: Watch,
        outputs: bool = False,
        statistics: Sequence[BatchNormalization] = (),
    ) -> list[np.ndarray]:
        fixed = self.model.fixed_batch
        if fixed is not None and self.samples(inputs) != fixed:
            statistics = ()  # those of a batch that is filled up would be wrong
        adapting = {entry.tensor: self.graph.shapes[entry.tensor] for entry in statistics}
        shows = sorted(watch), sorted(adapting)
        if self._runner is None or self._runner[0] != shows:
            tensors = {name: self._axes.get(name, 0) for name in watch}
            self._runner = shows, Runner(self.model, tensors, adapting)
        runner = self._runner[1]
        values = runner(inputs, statistics)
        for name, callbacks in watch.items():
            for callback in callbacks:
                callback(values[name])
        return runner.compared(values) if outputs else []

    @property
    def number_types(self) -> set[str]:
        arrays = (*self._original.example_inputs.values(), *self._original.weights.values())
        return {str(array.dtype) for array in arrays}

    def example_outputs(self, shake: float = 0.0, weights: bool = False) -> list[np.ndarray]:
        model, inputs = self.model, self._original.example_inputs
        if weights:
            disk, names = OnDisk(), dict.fromkeys(model.graph.weights.values())
            model = model.with_weights({
                name: disk.put(array) if name in model.outside else array
                for name in names
                for array in [shaken_array(model.weight(name), shake, self._random)]
            })  # fmt: skip
        if shake:
            inputs = {n: shaken_array(x, shake, self._random) for n, x in inputs.items()}
        self._runner = None  # one session in memory at a time
        runner = Runner(model)
        return runner.compared(runner(inputs))

    @contextlib.contextmanager
    def transaction(self) -> Iterator[OnnxNetwork]:
        """Changes are kept apart from the model, which needs no undoing."""
        try:
            yield self
        except BaseException:
            self.model, self._runner = self._original, None
            raise

    def original(self, names: Sequence[str]) -> dict[str, np.ndarray]:
        return {name: self._original.weight(name) for name in names}

    def read(self, names: Sequence[str]) -> dict[str, np.ndarray]:
        return {name: self.model.weight(name) for name in names}

    def write(self, values: Mapping[str, np.ndarray]) -> None:
        outside = self._original.outside
        kept = {n: self._disk.put(v) if n in outside else v for n, v in values.items()}
        self.model, self._runner = self.model.with_weights(kept), None

    @contextlib.contextmanager
    def undone(self) -> Iterator[None]:
        model, runner = self.model, self._runner
        self.model, self._runner = self._original, self._first
        try:
            yield
        finally:
            self._first = self._runner
            self.model, self._runner = model, runner

    @contextlib.contextmanager
    def without(self, removal: Removal) -> Iterator[None]:
        smaller = without_channels(self.model, removal)
        model, self.model, self._runner = self.model, smaller, None
        try:
            yield
        finally:
            self.model, self._runner = model, None

    def remove(self, removal: Removal) -> None:
        """The model is another one from here on, with groups of its own."""
        self.model, self._runner = without_channels(self.model, removal), None

    def check(self, group: ChannelGroup) -> None:
        """Every file can be changed."""

    def gradients(self, data: Data, names: Sequence[str], team: Team) -> dict[str, np.ndarray]:
        raise ValueError(
            "init 'gradient' needs gradients of the loss, which an ONNX file does not give: choose "
            "another init, or reorganize the PyTorch module"
        )
