"""What differs between two ONNX files: outputs on the same images, weights, running time."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from .data import Batches, LabelledImages, Shape, output_labels


@dataclass
class Comparison:
    """Two models on the same images.

    Attributes
    ----------
    images : int
        Number of images.
    accuracy : tuple of two float, or None
        Of both models; None where the labels cannot be matched to the outputs.
    top1, top5 : float
        Share of images where both name the same first class; mean share of the first five
        classes in common.
    max_difference, mean_difference : float
        Absolute difference of the outputs.
    relative_difference : float
        Norm of the difference over the norm of the first model's outputs.
    changed : dict of str to float
        Weights that differ, with their greatest absolute difference.
    only_first, only_second : list of str
        Weights of one file only, or of another shape in the other.
    equal : int
        Number of weights that are the same in both.
    seconds : tuple of two float
        Running time of both models on all images.
    """

    images: int
    accuracy: tuple[float, float] | None
    top1: float
    top5: float
    max_difference: float
    mean_difference: float
    relative_difference: float
    changed: dict[str, float] = field(default_factory=dict)
    only_first: list[str] = field(default_factory=list)
    only_second: list[str] = field(default_factory=list)
    equal: int = 0
    seconds: tuple[float, float] = (0.0, 0.0)

    def to_dict(self) -> dict:
        """All figures as plain Python."""
        return asdict(self)


class Runner:
    """An ONNX file with one input of images, run by onnxruntime.

    Parameters
    ----------
    model : str
        Path of the file.

    Attributes
    ----------
    shape : tuple of int or None
        What the model takes for one image, ``(channels, height, width)`` as a rule.
    """

    def __init__(self, model: str) -> None:
        from .onnx.session import session
        from .onnx.storage import read

        read_model, _ = read(model)
        try:
            self.session = session(read_model)
        except ValueError as error:
            raise ValueError(str(error).replace("the model", model, 1)) from error
        inputs = self.session.get_inputs()
        if len(inputs) != 1:
            names = ", ".join(given.name for given in inputs)
            raise ValueError(
                f"Expected a model with one input of images, {model} has {len(inputs)}: {names}."
            )
        self.input = inputs[0]
        dimensions = [n if isinstance(n, int) and n > 0 else None for n in self.input.shape]
        self.fixed_batch = dimensions[0] if dimensions else None
        self.shape: tuple[int | None, ...] = tuple(dimensions[1:])
        self.dtype = {"tensor(float16)": np.float16, "tensor(double)": np.float64}.get(
            self.input.type, np.float32
        )
        self.seconds = 0.0

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """The first output, float32 ``(n, outputs)``; a fixed batch size is filled up."""
        step = self.fixed_batch or len(images)
        parts = []
        for start in range(0, len(images), step):
            part = images[start : start + step].astype(self.dtype)
            kept = len(part)
            if kept < step:
                part = np.concatenate([part, np.repeat(part[-1:], step - kept, axis=0)])
            began = time.perf_counter()
            output = self.session.run([self.session.get_outputs()[0].name], {self.input.name: part})
            self.seconds += time.perf_counter() - began
            parts.append(np.asarray(output[0], np.float32)[:kept].reshape(kept, -1))
        return np.concatenate(parts)


def accuracy(outputs: np.ndarray, labels: np.ndarray | None) -> float | None:
    """Share of the rows of ``outputs`` ``(n, outputs)`` that are greatest at their label.

    >>> accuracy(np.array([[0.1, 0.9], [0.8, 0.2]]), np.array([1, 1]))
    0.5
    """
    return None if labels is None else float((outputs.argmax(axis=1) == labels).mean())


def compare(
    first: str,
    second: str,
    data: LabelledImages,
    shape: Shape | None = None,
    progress: Any = iter,
    **reading: Any,
) -> Comparison:
    """Run two ONNX files on the same images and compare their weights.

    Parameters
    ----------
    first, second : str
        Paths of the files.
    data : LabelledImages
        Open data, see :func:`~rejuvenet.adapters.data.read_data`.
    shape : sequence of int or None, optional
        Size of the images where the model takes any.
    progress : callable
        Wraps the batches.
    **reading
        ``batch_size``, ``mean``, ``std`` of :func:`~rejuvenet.adapters.data.Batches`.

    Raises
    ------
    ValueError
        If one of them cannot be run on the images, or they have different outputs.
    """
    runners = Runner(first), Runner(second)
    shape = image_shape(runners[0].shape, shape)
    outputs: tuple[list, list] = [], []
    for images, _ in progress(Batches(data, shape=shape, **reading)):
        if not outputs[0]:
            warm_up(runners, images)
        for runner, collected in zip(runners, outputs, strict=True):
            collected.append(runner(images))
    a, b = (np.concatenate(part) for part in outputs)
    if a.shape != b.shape:
        raise ValueError(
            f"The models have different outputs: {a.shape[1]} in {first}, {b.shape[1]} in {second}."
        )
    labels = output_labels(data, a.shape[1])
    scores = accuracy(a, labels), accuracy(b, labels)
    five = min(5, a.shape[1])
    top_a, top_b = (np.argsort(-x, axis=1, kind="stable")[:, :five] for x in (a, b))
    shared = [len(np.intersect1d(p, q)) / five for p, q in zip(top_a, top_b, strict=True)]
    difference = np.abs(a.astype(np.float64) - b)
    result = Comparison(
        images=len(a),
        accuracy=None if scores[0] is None or scores[1] is None else (scores[0], scores[1]),
        top1=float((top_a[:, 0] == top_b[:, 0]).mean()),
        top5=float(np.mean(shared)),
        max_difference=float(difference.max()),
        mean_difference=float(difference.mean()),
        relative_difference=float(
            np.linalg.norm(difference) / np.fmax(np.linalg.norm(a.astype(np.float64)), 1e-300)
        ),
        seconds=(runners[0].seconds, runners[1].seconds),
    )
    _compare_weights(first, second, result)
    return result


def warm_up(runners: Iterable[Runner], images: np.ndarray) -> None:
    """Run once without the clock: the first run allocates what later ones use again."""
    for runner in runners:
        runner(images)
        runner.seconds = 0.0


def image_shape(model: Shape, wanted: Shape | None) -> tuple[int | None, ...]:
    """What the model takes, with free axes filled in from ``wanted``.

    Raises
    ------
    ValueError
        If both are fixed and differ, or neither says anything.

    Examples
    --------
    >>> image_shape((3, None, None), (None, 224, 224))
    (3, 224, 224)
    """
    if not model:
        if wanted is None:
            raise ValueError(
                "The model declares no shape of its input; give one with --input-shape 1,3,224,224."
            )
        return tuple(wanted)
    if wanted is None:
        return tuple(model)
    if len(model) != len(wanted) or any(
        None not in (m, w) and m != w for m, w in zip(model, wanted, strict=True)
    ):
        raise ValueError(
            f"The model takes images of {'x'.join(str(n or 'any') for n in model)}, "
            f"got {'x'.join(str(n) for n in wanted if n)}."
        )
    return tuple(m if w is None else w for m, w in zip(model, wanted, strict=True))


def _compare_weights(first: str, second: str, result: Comparison) -> None:
    a, b = dict(initializers(first)), dict(initializers(second))
    for name in sorted({*a, *b}):
        if name not in b or (name in a and a[name].shape != b[name].shape):
            result.only_first.append(name)
        if name not in a or (name in b and a[name].shape != b[name].shape):
            result.only_second.append(name)
        elif name in b:
            if a[name].tobytes() == b[name].tobytes():
                result.equal += 1
            else:
                gap = np.abs(a[name].astype(np.float64) - b[name].astype(np.float64))
                result.changed[name] = float(gap.max())


def initializers(model: str) -> Iterable[tuple[str, np.ndarray]]:
    """Name and values of every initializer of the main graph of an ONNX file."""
    from .onnx.storage import read

    for name, value in read(model)[0].graph.initializers.items():
        if value.const_value is not None:
            yield name, value.const_value.numpy()
