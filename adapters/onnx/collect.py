"""Class-representative activations of an ONNX model (eq. 1), batch by batch with onnxruntime."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ...graph.channels import ChannelGroup, Tap, Unfit
from ...graph.class_means import ClassMeans, extent_within, joined
from ...graph.selection import unmovable, untapped
from .model import OnnxModel

MAX_BYTES = 2**31


def collect(
    model: OnnxModel,
    batches: Iterable[Any],
    groups: Sequence[ChannelGroup | str] | str = "all",
    classes: Sequence[str | int] | None = None,
    progress: bool = False,
    max_bytes: int = MAX_BYTES,
) -> dict[str, ClassMeans]:
    """Class means of the taps of several groups in one pass.

    Parameters
    ----------
    model : OnnxModel
    batches : iterable
        Yields ``(inputs, labels)``: an array for a model with one input, or a dict by input name;
        integer class labels of shape (n,) or class weights of shape (n, C).
    groups : sequence of ChannelGroup or str, or "all"
    classes : sequence, optional
        Names of the classes; by default those of ``batches.classes``, else the labels up to the
        highest one.
    progress : bool
        Show a progress bar.
    max_bytes : int
        Memory for the sums of all groups; taps are pooled until the sums fit.

    Returns
    -------
    dict of str to ClassMeans
        By group name.

    Raises
    ------
    ValueError
        For a class without samples (named), activations that are not finite (group and channel
        named), inputs and labels that do not pair, or a group that no activations
        describe.
    """
    if isinstance(groups, str) and groups == "all":
        found = [g for g in model.groups if g.frozen is None and g.tap is not None]
    else:
        names = [groups] if isinstance(groups, str) else groups
        found = [model.group(g) if isinstance(g, str) else g for g in names]
    for group in found:
        if reason := untapped(group):
            reason = unmovable(group) or reason
            raise ValueError(f"group {group.name!r} has no activations to collect: {reason}")
    means, refused = described(model, batches, found, classes, progress, max_bytes)
    for name, reason in refused.items() if groups != "all" else ():
        raise Unfit(f"group {name!r}: {reason}")
    return means


def described(
    model: OnnxModel,
    batches: Iterable[Any],
    groups: Sequence[ChannelGroup],
    classes: Sequence[str | int] | None = None,
    progress: bool = False,
    max_bytes: int = MAX_BYTES,
) -> tuple[dict[str, ClassMeans], dict[str, str]]:
    """Class means, and why the other groups turned out to have none."""
    taps = [(group, tap) for group in groups if group.tap is not None for tap in group.tap.each]
    classes = classes if classes is not None else getattr(batches, "classes", None)
    named = list(range(1)) if classes is None else list(classes)
    sums = [ClassMeans.empty(named) for _ in taps]
    extents: dict[int, tuple[int, int]] = {}
    refused: dict[str, str] = {}
    runner = Runner(model, {tap.tensor: tap.samples for _, tap in taps})
    for inputs, labels in read(batches, "class means", progress):
        values = runner(inputs)
        for i, (group, tap) in enumerate(taps):
            if group.name in refused:
                continue
            if classes is None and labels.ndim == 1 and labels.size:
                sums[i].grow(int(labels.max()) + 1)
            try:
                x = channels_first(values[tap.tensor], tap, len(labels))
            except Unfit as error:
                refused[group.name] = str(error)
                continue
            x = x.reshape(*x.shape[:2], *_two_axes(x.shape[2:]))
            if i not in extents:
                per_position = 8 * len(sums[i].classes) * x.shape[1]
                share = max_bytes / len(taps)
                extents[i] = extent_within(
                    x.shape[2], x.shape[3], per_position, share, group.name
                )
            sums[i].update(pooled(x, extents[i]), labels)
    parts: dict[str, list[ClassMeans]] = {}
    for (group, _), means in zip(taps, sums, strict=True):
        if group.name in refused:
            continue
        try:
            means.check()
        except ValueError as error:
            raise ValueError(f"group {group.name!r}: {error}") from None
        parts.setdefault(group.name, []).append(means)
    return {name: joined(several) for name, several in parts.items()}, refused


def read(
    batches: Iterable[Any], what: str, progress: bool = False
) -> Iterator[tuple[Any, np.ndarray]]:
    """The batches with their labels as an array, checked to pair."""
    from tqdm.auto import tqdm

    for inputs, labels in tqdm(
        batches, desc=what, unit="batch", leave=False, disable=not progress
    ):
        labels = np.asarray(labels)
        n = len(next(iter(inputs.values())) if isinstance(inputs, dict) else inputs)
        if labels.shape[:1] != (n,):
            raise ValueError(
                f"a batch has {n} inputs and labels of shape {labels.shape}: they do not pair"
            )
        yield inputs, labels


class Runner:
    """Runs a model on batches and returns its outputs and some intermediate tensors by name.

    ``tensors`` are names, or names with their axes of samples where these are not in front.

    A model with a fixed batch size gets as many samples at a time; the last ones are repeated to
    fill it up, and what they make is cut off.
    """

    def __init__(self, model: OnnxModel, tensors: Sequence[str] | Mapping[str, int] = ()):
        tensors = tensors if isinstance(tensors, Mapping) else dict.fromkeys(tensors, 0)
        self.session: Any = model.session(tuple(tensors))
        inputs = self.session.get_inputs()
        self.types = {i.name: _dtype(i.type) for i in inputs}
        self.samples = dict(tensors)
        self.fixed = {i.name: i.shape[0] for i in inputs if i.shape and _is_fixed(i.shape[0])}
        self.outputs = [str(v.name) for v in model.ir.graph.outputs]
        self.names = [o.name for o in self.session.get_outputs()]

    def __call__(self, inputs: Any) -> dict[str, np.ndarray]:
        if not isinstance(inputs, dict):
            if len(self.types) != 1:
                raise ValueError(
                    f"the model has the inputs {list(self.types)}: give each batch as a dict by "
                    "name"
                )
            inputs = {next(iter(self.types)): np.asarray(inputs)}
        feeds = {
            name: np.asarray(values, self.types.get(name), order="C")
            for name, values in inputs.items()
        }
        first = next((name for name in feeds if name in self.fixed), None)
        if first is None or len(feeds[first]) in (0, self.fixed[first]):
            return self._run(feeds)
        n, fixed = len(feeds[first]), self.fixed[first]
        batched = {k for k, x in feeds.items() if self.fixed.get(k) == fixed and len(x) == n}
        parts: dict[str, list[np.ndarray]] = {name: [] for name in self.names}
        for start in range(0, n, fixed):
            fill = np.minimum(np.arange(start, start + fixed), n - 1)
            values = self._run({k: x[fill] if k in batched else x for k, x in feeds.items()})
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
                kept = np.arange(min(fixed, n - start) * rows)
                parts[name].append(np.take(value, kept, axis))
        return {
            name: np.concatenate(values, self.samples.get(name, 0))
            for name, values in parts.items()
        }

    def _run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        try:
            return dict(zip(self.names, self.session.run(self.names, feeds), strict=True))
        except Exception as error:  # onnxruntime has a dozen error types of its own
            shapes = {name: values.shape for name, values in feeds.items()}
            reason = " ".join(str(error).split())[:300]
            raise ValueError(f"the model cannot run on inputs {shapes}: {reason}") from error

    def compared(self, values: dict[str, np.ndarray]) -> list[np.ndarray]:
        """The floating-point outputs of a run; where there are none, those of other numbers."""
        found = [x for name in self.outputs if isinstance(x := values[name], np.ndarray)]
        floats = [x for x in found if x.dtype.kind == "f"]
        return [x.astype(np.float64) for x in floats or [x for x in found if x.dtype.kind in "iub"]]

    def scores(self, values: dict[str, np.ndarray]) -> np.ndarray:
        """All floating-point outputs of a run in one row, in float64."""
        found = [values[name].ravel() for name in self.outputs if values[name].dtype.kind == "f"]
        return np.concatenate(found).astype(np.float64) if found else np.zeros(0)


def pooled(x: np.ndarray, extent: tuple[int, int]) -> np.ndarray:
    """Means over the cells of a grid of ``extent`` that covers the last two axes.

    >>> pooled(np.arange(6.0).reshape(1, 1, 2, 3), (1, 3))[0, 0]
    array([[1.5, 2.5, 3.5]])
    """
    for axis, cells in zip((2, 3), extent, strict=True):
        size = x.shape[axis]
        if cells < size:
            starts = np.arange(cells) * size // cells
            widths = np.diff(np.append(starts, size))
            shape = [-1 if a == axis else 1 for a in range(4)]
            x = np.add.reduceat(x, starts, axis=axis) / widths.reshape(shape).astype(x.dtype)
    return x


def _two_axes(spatial: tuple[int, ...]) -> tuple[int, int]:
    return (math.prod(spatial[:-1]), spatial[-1]) if spatial else (1, 1)


def channels_first(activation: np.ndarray, tap: Tap, n: int) -> np.ndarray:
    """The group's channels of a tap, as (n, o, *spatial).

    ``n`` is the number of samples.  Several places of a channel and several rows of a sample
    (windows of attention) become spatial axes.

    Raises
    ------
    Unfit
        The axis of samples does not hold ``n`` of them.
    """
    x = np.moveaxis(activation, (tap.samples, tap.axis), (0, 1))
    if n == 0 or len(x) % n:
        raise Unfit(
            f"the tensor {tap.tensor!r} of shape {activation.shape}, which holds its channels, "
            f"has no axis of {n} samples"
        )
    x = x.take(tap.index, axis=1)
    windows = len(x) // n
    return x if windows == 1 else np.moveaxis(x.reshape(n, windows, *x.shape[1:]), 1, 2)


def _is_fixed(dimension: Any) -> bool:
    return isinstance(dimension, int) and dimension > 0


def _dtype(name: str) -> np.dtype:
    """numpy's type for a name such as ``tensor(float)``."""
    inner = name[name.find("(") + 1 : -1]
    return np.dtype({"float16": "f2", "float": "f4", "double": "f8"}.get(inner, inner))
