"""An ONNX model as a :class:`rejuvenet.graph.network.Network`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...graph.arrays import NumpyArrays
from ...graph.change.removal import Removal
from ...graph.find.channels import ChannelGroup
from ...graph.find.nodes import Graph
from ...graph.find.samples import sample_axes
from ...graph.measure.verdict import shaken_array
from ...graph.network import BatchNormalization, Data, Watch
from ...graph.side_by_side import run_for_each
from .batches import samples
from .model import OnnxModel
from .own_statistics import feeds as statistics_feeds
from .pieces import Piece, element_type, stands
from .removal import without_channels
from .runner import Feeds, Runner, run
from .storage import OnDisk


@dataclass
class _Sessions:
    """The last sessions of one version of the weights, each with what it shows.

    Attributes
    ----------
    runner : tuple, optional
        Of the whole model.
    piece : tuple, optional
        Of a part of it.
    """

    runner: tuple[Any, Runner] | None = None
    piece: tuple[Any, Any] | None = None


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
        # The sessions of the present weights, and of the given ones.
        self._sessions, self._given = _Sessions(), _Sessions()

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
        adapting = self._adapting(inputs, statistics)
        shows = sorted(watch), sorted(adapting)
        if self._sessions.runner is None or self._sessions.runner[0] != shows:
            tensors = {name: self._axes.get(name, 0) for name in watch}
            self._sessions.runner = shows, Runner(self.model, tensors, adapting)
        runner = self._sessions.runner[1]
        values = runner(inputs, statistics if adapting else ())
        for name, callbacks in watch.items():
            for callback in callbacks:
                callback(values[name])
        return runner.compared(values) if outputs else []

    def _adapting(
        self, inputs: Any, statistics: Sequence[BatchNormalization]
    ) -> dict[str, tuple[int, ...]]:
        """Shapes of what normalizations read that take the statistics of this batch."""
        fixed = self.model.fixed_batch
        if fixed is not None and self.samples(inputs) != fixed:
            return {}  # those of a batch that is filled up would be wrong
        return {entry.tensor: self.graph.shapes[entry.tensor] for entry in statistics}

    def stepwise(
        self, inputs: Any, tensors: Sequence[str], statistics: Sequence[BatchNormalization] = ()
    ) -> Iterator[tuple[np.ndarray, int | None]]:
        if not stands(self.model.analysed):
            yield from run_for_each(self, inputs, tensors, statistics)
            return
        adapting = self._adapting(inputs, statistics)
        feeds = Feeds(self.model)
        parts = list(feeds.runs(feeds.feeds(inputs)))
        del inputs
        for i, tensor in enumerate(tensors):
            axis, found = self._axes.get(tensor, 0), []
            for part in parts:
                value = self._step(part.feeds, (tensor, *tensors[i + 1 :]), statistics, adapting)
                found.append(part.counting(tensor, value, axis))
            kept = sum(array.nbytes for part in parts for array in part.feeds.values())
            yield found[0] if len(found) == 1 else np.concatenate(found, axis), kept

    def _step(
        self,
        there: dict[str, np.ndarray],
        tensors: tuple[str, ...],
        statistics: Sequence[BatchNormalization],
        adapting: Mapping[str, Sequence[int]],
    ) -> np.ndarray:
        """The first of some tensors, from what is there; that becomes what the others need."""
        tensor, *later = tensors
        if tensor in there:
            return there[tensor]
        shows = tensors, sorted(there), sorted(adapting)
        if self._sessions.piece is None or self._sessions.piece[0] != shows:
            given = {name: element_type(array) for name, array in there.items()}
            piece = Piece(given, tensor, tuple(later))
            self._sessions.piece = shows, self.model.session((), adapting, piece)
        session = self._sessions.piece[1]
        values = there | statistics_feeds(statistics, session.adapting)
        names = [output.name for output in session.get_outputs()]
        read = {value.name: values[value.name] for value in session.get_inputs()}
        made = dict(zip(names, run(session, names, read), strict=True))
        value = made[tensor]
        kept = {name: array for name, array in (there | made).items() if name in session.live}
        there.clear()
        there.update(kept)
        return value

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
        self._sessions = _Sessions()  # one session in memory at a time
        runner = Runner(model)
        return runner.compared(runner(inputs))

    @contextlib.contextmanager
    def transaction(self) -> Iterator[OnnxNetwork]:
        """Changes are kept apart from the model, which needs no undoing."""
        try:
            yield self
        except BaseException:
            self.model, self._sessions = self._original, _Sessions()
            raise

    def original(self, names: Sequence[str]) -> dict[str, np.ndarray]:
        return {name: self._original.weight(name) for name in names}

    def read(self, names: Sequence[str]) -> dict[str, np.ndarray]:
        return {name: self.model.weight(name) for name in names}

    def write(self, values: Mapping[str, np.ndarray]) -> None:
        outside = self._original.outside
        kept = {n: self._disk.put(v) if n in outside else v for n, v in values.items()}
        self.model, self._sessions = self.model.with_weights(kept), _Sessions()

    @contextlib.contextmanager
    def undone(self) -> Iterator[None]:
        model, sessions = self.model, self._sessions
        self.model, self._sessions = self._original, self._given
        try:
            yield
        finally:
            self._given = self._sessions
            self.model, self._sessions = model, sessions

    @contextlib.contextmanager
    def without(self, removal: Removal) -> Iterator[None]:
        smaller = without_channels(self.model, removal)
        model, self.model, self._sessions = self.model, smaller, _Sessions()
        try:
            yield
        finally:
            self.model, self._sessions = model, _Sessions()

    def remove(self, removal: Removal) -> None:
        """The model is another one from here on, with groups of its own."""
        self.model, self._sessions = without_channels(self.model, removal), _Sessions()

    def check(self, group: ChannelGroup) -> None:
        """Every file can be changed."""

    def gradients(self, data: Data, names: Sequence[str]) -> dict[str, np.ndarray]:
        raise ValueError(
            "init 'gradient' needs gradients of the loss, which an ONNX file does not give: choose "
            "another init, or reorganize the PyTorch module"
        )
