"""Class-representative activations of an ONNX model (eq. 1), batch by batch with onnxruntime."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from ...graph.channels import ChannelGroup, Tap
from ...graph.class_means import ClassMeans
from .model import OnnxModel


def collect(
    model: OnnxModel,
    batches: Iterable[Any],
    groups: Sequence[ChannelGroup | str] | str = "all",
    classes: Sequence[str | int] | None = None,
    progress: bool = False,
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

    Returns
    -------
    dict of str to ClassMeans
        By group name.

    Raises
    ------
    ValueError
        For a class without samples (named), activations that are not finite (group and channel
        named), inputs and labels that do not pair, or a group that nothing reads.
    """
    if isinstance(groups, str) and groups == "all":
        found = [g for g in model.groups if g.frozen is None and g.tap is not None]
    else:
        names = [groups] if isinstance(groups, str) else groups
        found = [model.group(g) if isinstance(g, str) else g for g in names]
    taps = {}
    for group in found:
        if group.tap is None:
            raise ValueError(
                f"group {group.name!r} has no activations to collect: nothing reads its channels"
            )
        taps[group.name] = group.tap
    classes = classes if classes is not None else getattr(batches, "classes", None)
    named = list(range(1)) if classes is None else list(classes)
    sums = {name: ClassMeans.empty(named) for name in taps}
    runner = Runner(model, sorted({tap.tensor for tap in taps.values()}))
    for inputs, labels in read(batches, "class means", progress):
        values = runner(inputs)
        for name, tap in taps.items():
            if classes is None and labels.ndim == 1 and labels.size:
                sums[name].grow(int(labels.max()) + 1)
            sums[name].update(channels_first(values[tap.tensor], tap), labels)
    for name, means in sums.items():
        try:
            means.check()
        except ValueError as error:
            raise ValueError(f"group {name!r}: {error}") from None
    return sums


def read(
    batches: Iterable[Any], what: str, progress: bool = False
) -> Iterator[tuple[Any, np.ndarray]]:
    """The batches with their labels as an array, checked to pair."""
    from tqdm.auto import tqdm

    for inputs, labels in tqdm(batches, desc=what, unit="batch", disable=not progress):
        labels = np.asarray(labels)
        n = len(next(iter(inputs.values())) if isinstance(inputs, dict) else inputs)
        if labels.shape[:1] != (n,):
            raise ValueError(
                f"a batch has {n} inputs and labels of shape {labels.shape}: they do not pair"
            )
        yield inputs, labels


class Runner:
    """Runs a model on batches and returns its outputs and some intermediate tensors by name."""

    def __init__(self, model: OnnxModel, tensors: Sequence[str] = ()):
        self.session: Any = model.session(tuple(tensors))
        inputs = self.session.get_inputs()
        self.types = {i.name: _dtype(i.type) for i in inputs}
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
            name: np.ascontiguousarray(values, dtype=self.types.get(name))
            for name, values in inputs.items()
        }
        try:
            return dict(zip(self.names, self.session.run(self.names, feeds), strict=True))
        except Exception as error:  # onnxruntime has a dozen error types of its own
            shapes = {name: values.shape for name, values in feeds.items()}
            reason = " ".join(str(error).split())[:300]
            raise ValueError(f"the model cannot run on inputs {shapes}: {reason}") from error

    def scores(self, values: dict[str, np.ndarray]) -> np.ndarray:
        """All floating-point outputs of a run in one row, in float64."""
        found = [values[name].ravel() for name in self.outputs if values[name].dtype.kind == "f"]
        return np.concatenate(found).astype(np.float64) if found else np.zeros(0)


def channels_first(activation: np.ndarray, tap: Tap) -> np.ndarray:
    """The group's channels of a tap, as (n, o, *spatial)."""
    return np.moveaxis(activation.take(tap.index, axis=tap.axis), tap.axis, 1)


def _dtype(name: str) -> np.dtype:
    """numpy's type for a name such as ``tensor(float)``."""
    inner = name[name.find("(") + 1 : -1]
    return np.dtype({"float16": "f2", "float": "f4", "double": "f8"}.get(inner, inner))
