"""ONNX files that take images, or several arrays, run by onnxruntime."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .batch_inputs import Inputs, count
from .image_data import Batches, output_indices
from .model_input import fits, input_sizes, input_types

if TYPE_CHECKING:
    from ..onnx.model import OnnxModel


class ImageModel:
    """An ONNX file with images or several arrays as inputs, run by onnxruntime.

    Parameters
    ----------
    model : str
        Path of the file.
    loaded : OnnxModel, optional
        The same model, or one with other weights, to run in the place of the file.

    Attributes
    ----------
    inputs : dict of str to numpy.dtype
        Names and types.
    outputs : list of str
        Those that are tensors of numbers.
    others : list of str
        Outputs that are not.
    batch : int or None
        How many samples it takes at a time, where that is fixed.
    classes : str or None
        The first output that has one score a class; known after the first run.
    """

    def __init__(self, model: str, loaded: OnnxModel | None = None) -> None:
        from ..onnx import load
        from ..onnx.runner import Runner

        self._path, self._sizes = model, input_sizes(model)
        self.inputs = input_types(model)
        loaded = loaded or load(model)
        try:
            self._runner = Runner(loaded)
        except ValueError as error:
            raise ValueError(str(error).replace("the model", model, 1)) from error
        self.batch = self._runner.batch
        made = {output.name: output.type for output in self._runner.session.get_outputs()}
        tensors = {name for name, kind in made.items() if kind.startswith("tensor(")}
        self.outputs = [n for n in made if n in tensors and made[n] != "tensor(string)"]
        self.others = [name for name in made if name not in self.outputs]
        if not self.outputs:
            raise ValueError(f"Expected outputs of numbers, {model} has none.")
        self._runner.names = self.outputs
        self.classes: str | None = None

    def __call__(self, inputs: Inputs) -> dict[str, np.ndarray]:
        """Every output as ``(n, values)``; a fixed batch size is filled up.

        An output that has no axis of samples is one row.
        """
        from ..onnx.runner import filled

        self._check(inputs)
        feeds, n = self._runner.feeds(inputs), count(inputs)
        step = self.batch or n
        parts: list[list[np.ndarray]] = []
        for rows, kept in filled(n, step):
            made = self._runner.once({k: x[rows] if x.ndim else x for k, x in feeds.items()})
            parts.append([a[:kept] if a.shape[:1] == (step,) else a[None] for a in made.values()])
        found = {}
        for name, arrays in zip(self.outputs, zip(*parts, strict=True), strict=True):
            flat = [a.reshape(len(a), -1) for a in arrays]
            whole = sum(map(len, flat)) == n and len({a.shape[1] for a in flat}) == 1
            joined = np.concatenate(flat) if whole else np.concatenate(flat, axis=None)[None]
            found[name] = joined
            scores = arrays[0].dtype.kind == "f" and arrays[0].shape[1:2] == joined.shape[1:]
            if self.classes is None and whole and scores and joined.shape[1] > 1:
                self.classes = name
        return found

    def _check(self, inputs: Inputs) -> None:
        """Refuse arrays of other sizes than the file takes, before onnxruntime does."""
        for name, sizes in self._sizes.items():
            x = inputs if isinstance(inputs, np.ndarray) else inputs.get(name)
            if x is None or fits(x.shape[1:], sizes):
                continue
            takes, given = ("x".join(str(n or "any") for n in s) for s in (sizes, x.shape[1:]))
            which = f" as {name}" if len(self.inputs) > 1 else ""
            raise ValueError(f"{self._path} takes {takes}{which}, the images are {given}.")

    def smallest(self, inputs: Inputs) -> dict[str, np.ndarray]:
        """What the file reads of the first sample, or of as many as it takes at a time."""
        return self._runner.smallest(inputs)

    def scores(self, inputs: Inputs) -> np.ndarray:
        """Class scores, or else the first output, as float32 ``(n, outputs)``."""
        found = self(inputs)
        return found[self.classes or self.outputs[0]].astype(np.float32)


def hits(model: str, batches: Batches) -> np.ndarray | None:
    """Whether an ONNX file names the class of each image.

    None where no output has one score for each class, or labels are none of them.
    """
    if not batches.labelled:
        return None
    runner = ImageModel(model)
    parts = [(runner.scores(images), labels) for images, labels in batches if labels is not None]
    if runner.classes is None:
        return None
    outputs, labels = (np.concatenate(part) for part in zip(*parts, strict=True))
    indices = output_indices(batches.data.classes, outputs.shape[1])
    return None if indices is None else outputs.argmax(axis=1) == indices[labels]


def score(model: str, batches: Batches) -> float | None:
    """Accuracy of an ONNX file; None where the labels cannot be matched to its outputs."""
    found = hits(model, batches)
    return None if found is None else float(found.mean())
