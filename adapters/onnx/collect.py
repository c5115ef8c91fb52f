"""Class-representative activations (eq. 1) and other sums of taps, by onnxruntime.

A tap is a graph output of a copy in memory.  Activations are reduced batch by batch and never
stored.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from typing import Any

import numpy as np

from ...graph.channels import ChannelGroup, Tap
from ...graph.class_means import ClassMeans
from ..group_names import select_groups
from ..normalizations import Normalization, Statistics
from .model import OnnxModel

Names = Sequence[str | int]


def collect(
    model: OnnxModel,
    batches: Iterable[Any],
    groups: Sequence[ChannelGroup | str] | ChannelGroup | str = "all",
    *,
    classes: int | Names | None = None,
    progress: bool = True,
) -> dict[str, ClassMeans]:
    """Class means of the taps of several groups in one pass.

    Parameters
    ----------
    model : OnnxModel
    batches : iterable of (inputs, labels)
        Inputs are an array, a sequence of arrays, or a mapping of input name to array; labels
        are class indices of shape (n,) or class weights of shape (n, C).
    groups : group, name, pattern, or sequence of them
        As :meth:`OnnxModel.group`; ``"all"`` for every group that can move.
    classes : int or sequence, optional
        Number or names of the classes; by default ``batches.classes`` where it has them, else
        the labels up to the highest one seen.
    progress : bool
        Show a progress bar.

    Returns
    -------
    dict of str to ClassMeans
        By group name.

    Raises
    ------
    ValueError
        For a class without samples, activations that are not finite, inputs and labels that do
        not pair, or a group that nothing reads.
    """
    found = described_groups(model, groups)
    batches = Batches(batches, classes, progress)
    means = Means(found, batches.classes)
    session = model.session(unique(group.tap.tensor for group in found if group.tap))
    for inputs, labels in batches.read("class means"):
        means.update(session.run(inputs), labels)
    return means.checked()


def described_groups(
    model: OnnxModel, groups: Sequence[ChannelGroup | str] | ChannelGroup | str
) -> list[ChannelGroup]:
    """The groups that are asked for, each of which has a tap."""
    if isinstance(groups, str):
        if groups in ("all", "last") or any(mark in groups for mark in "*?["):
            return [group for group, _ in select_groups(model.groups, groups, model.aliases)[0]]
        groups = [groups]
    if isinstance(groups, ChannelGroup):
        groups = [groups]
    found = [model.group(group) if isinstance(group, str) else group for group in groups]
    for group in found:
        if group.tap is None:
            raise ValueError(
                f"group {group.name!r} has no activations to collect: nothing reads its channels"
            )
    return found


def unique(names: Iterable[str]) -> list[str]:
    """Names in order, each once."""
    return list(dict.fromkeys(names))


class Batches:
    """Calibration data, read several times.

    Parameters
    ----------
    source : iterable of (inputs, labels)
        An iterator, which can be read once only, is kept in memory.
    classes : int or sequence, optional
    progress : bool
    """

    def __init__(
        self, source: Iterable[Any], classes: int | Names | None = None, progress: bool = True
    ) -> None:
        if isinstance(source, Batches):
            source, classes = source.source, source.classes if classes is None else classes
        if isinstance(source, (str, bytes, np.ndarray)) or not hasattr(source, "__iter__"):
            raise ValueError(
                "batches must be an iterable that yields (inputs, labels), got "
                f"{type(source).__name__}"
            )
        self.source = list(source) if isinstance(source, Iterator) else source
        if classes is None:
            classes = getattr(source, "classes", None)
        if isinstance(classes, int):
            classes = list(range(classes))
        self.classes: Names | None = classes
        self.progress = progress

    def read(self, purpose: str) -> Iterator[tuple[Any, np.ndarray]]:
        """Inputs and labels; ``purpose`` stands beside the progress bar."""
        from tqdm.auto import tqdm

        total = len(self.source) if isinstance(self.source, Sized) else None
        number = -1
        for number, batch in enumerate(
            tqdm(
                self.source,
                desc=purpose,
                total=total,
                leave=False,
                unit="batch",
                disable=not self.progress or None,
            )
        ):
            if not isinstance(batch, Sequence) or len(batch) != 2:
                raise ValueError(f"a batch must be (inputs, labels), got {type(batch).__name__}")
            inputs, labels = batch
            if not isinstance(inputs, (Mapping, list, tuple)):
                inputs = np.asarray(inputs)
            labels = np.asarray(labels)
            rows = samples(inputs)
            if labels.ndim == 0 or len(labels) != rows:
                raise ValueError(
                    f"batch {number} has {rows} inputs and labels of shape {labels.shape}; give "
                    "one label, or one row of class weights, for each input"
                )
            if rows:
                yield inputs, labels
        if number < 0:
            raise ValueError("batches is empty: give at least one batch of (inputs, labels)")


def samples(inputs: Any) -> int:
    """Length of the first axis of the first input."""
    if isinstance(inputs, Mapping):
        inputs = list(inputs.values())
    first = inputs[0] if isinstance(inputs, (list, tuple)) and len(inputs) else inputs
    return len(first)


def channels_first(activation: np.ndarray, tap: Tap, n: int) -> np.ndarray:
    """The group's channels of a tap, as (n, o, *spatial).

    Where the first axis of the tap holds several rows for one of the ``n`` samples (windows of
    attention), they become a spatial axis.
    """
    if tap.axis == 0 or activation.shape[0] % n:
        raise ValueError(
            f"the tap {tap.tensor!r} of shape {activation.shape} has no axis of {n} samples in "
            "front"
        )
    x = activation
    everything = np.array_equal(tap.index, np.arange(x.shape[tap.axis]))
    x = np.moveaxis(x if everything else x.take(tap.index, axis=tap.axis), tap.axis, 1)
    windows = activation.shape[0] // n
    return x if windows == 1 else np.moveaxis(x.reshape(n, windows, *x.shape[1:]), 1, 2)


class Means:
    """Class means of several groups at once; classes that are not named grow with the labels."""

    def __init__(self, groups: Sequence[ChannelGroup], classes: Names | None) -> None:
        self.groups = list(groups)
        self.named = classes is not None
        self.means = {group.name: ClassMeans.empty(classes or [0]) for group in groups}

    def update(self, taps: Mapping[str, np.ndarray], labels: np.ndarray) -> None:
        """Add one batch of tensors by name."""
        if not self.named:
            self._grow(labels)
        for group in self.groups:
            assert group.tap is not None
            x = channels_first(taps[group.tap.tensor], group.tap, len(labels))
            self.means[group.name].update(x, labels)

    def _grow(self, labels: np.ndarray) -> None:
        """Room for a higher label than those before."""
        C = labels.shape[1] if labels.ndim == 2 else int(labels.max()) + 1
        for means in self.means.values():
            more = C - len(means.classes)
            if more > 0:
                means.classes = list(range(C))
                means.counts = np.pad(means.counts, (0, more))
                if means.sums is not None:
                    means.sums = np.pad(means.sums, ((0, more), (0, 0), (0, 0), (0, 0)))

    def checked(self) -> dict[str, ClassMeans]:
        """The means by group name; raises ValueError, naming the group, where they are bad."""
        for name, means in self.means.items():
            try:
                means.check()
            except ValueError as error:
                raise ValueError(f"group {name!r}: {error}") from None
        return self.means


class Moments:
    """Mean and variance of every channel of what normalizations read, streamed in float64."""

    def __init__(self, normalizations: Iterable[Normalization]) -> None:
        self.normalizations = list(normalizations)
        self._sums: dict[str, np.ndarray] = {}

    @property
    def tensors(self) -> list[str]:
        return unique(n.tensor for n in self.normalizations)

    def update(self, taps: Mapping[str, np.ndarray]) -> None:
        """Add one batch of tensors by name."""
        for n in self.normalizations:
            x = np.moveaxis(taps[n.tensor], n.axis, 0)
            x = x.reshape(len(x), -1).astype(np.float64)
            sums = np.stack([x.sum(1), (x * x).sum(1), np.full(len(x), x.shape[1])])
            # A normalization that is used twice has the statistics of both uses.
            self._sums[n.mean] = self._sums.get(n.mean, 0.0) + sums

    def statistics(self) -> Statistics:
        """Means and (biased) variances by the names of the running statistics."""
        result: Statistics = {}
        for n in self.normalizations:
            total, squares, count = self._sums[n.mean]
            result[n.mean] = total / count
            result[n.variance] = np.maximum(squares / count - result[n.mean] ** 2, 0.0)
        return result


def normalization_statistics(
    model: OnnxModel, batches: Batches, normalizations: Iterable[Normalization]
) -> Statistics:
    """Statistics of the batches, in one pass."""
    moments = Moments(normalizations)
    session = model.session(moments.tensors)
    for inputs, _ in batches.read("normalization statistics"):
        moments.update(session.run(inputs))
    return moments.statistics()


def tap_products(
    before: OnnxModel, after: OnnxModel, batches: Batches, tap: Tap
) -> tuple[np.ndarray, np.ndarray]:
    """Sums over samples and positions of ``x x'^T`` and ``x' x'^T``, shape (o, o).

    ``x`` is the tap of the model before its producers changed, ``x'`` after it.
    """
    sessions = [model.session([tap.tensor]) for model in (before, after)]
    o = len(tap.index)
    cross, gram = np.zeros((o, o)), np.zeros((o, o))
    for inputs, labels in batches.read("least squares"):
        x, y = (
            np.moveaxis(channels_first(s.run(inputs)[tap.tensor], tap, len(labels)), 1, 0)
            .reshape(o, -1)
            .astype(np.float64)
            for s in sessions
        )
        cross += x @ y.T
        gram += y @ y.T
    return cross, gram


class OutputChange:
    """How far the outputs of a model moved: root mean square, relative to that of the outputs."""

    def __init__(self) -> None:
        self._squares = self._change = 0.0

    def update(self, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
        """Add one batch of outputs by name."""
        for name, old in before.items():
            if isinstance(old, np.ndarray) and old.dtype.kind == "f":
                x, y = old.astype(np.float64), after[name].astype(np.float64)
                self._squares += float(np.sum(x * x))
                self._change += float(np.sum((y - x) ** 2))

    @property
    def relative(self) -> float:
        if self._squares == 0.0:
            return 0.0 if self._change == 0.0 else float("inf")
        return float(np.sqrt(self._change / self._squares))
