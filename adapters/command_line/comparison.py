"""What differs between two ONNX files: outputs on the same images, weights, size, running time."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np

from ...graph.measure.cost import Cost, cost
from ...graph.measure.output_change import difference
from ..images.accuracy import Gain, wilson
from ..images.batch_inputs import count
from ..images.image_data import Batches, output_indices, unlike_outputs
from ..images.image_model import ImageModel
from ..images.model_input import ImageInput
from ..onnx.batches import samples
from ..onnx.latency import Latency, latencies
from ..onnx.model import OnnxModel, load


@dataclass
class OutputDifference:
    """One output of two models on the same images.

    Attributes
    ----------
    max_difference, mean_difference : float or None
        Absolute difference of the values; None where none could be compared.
    relative_difference : float or None
        Norm of the difference over the norm of the first model's values.
    note : str
        What could not be compared.
    """

    max_difference: float | None = None
    mean_difference: float | None = None
    relative_difference: float | None = None
    note: str = ""


@dataclass
class FileFigures:
    """What one file costs.

    Attributes
    ----------
    bytes : int
        Of the file and of those that hold its weights.
    cost : Cost or None
        Parameters, and multiply-adds of one image; None where the graph cannot be looked at.
    latency : Latency
    """

    bytes: int
    cost: Cost | None
    latency: Latency


@dataclass
class ClassAccuracy:
    """What both models make of the images of one class, or of all.

    Attributes
    ----------
    name : str or int
    images : int
    accuracy : tuple of two float
        Share that each names right.
    intervals : tuple of two (float, float)
        Of 95 %, by :func:`.wilson`.
    """

    name: str | int
    images: int
    accuracy: tuple[float, float]
    intervals: tuple[tuple[float, float], tuple[float, float]]

    @classmethod
    def of(cls, name: str | int, images: int, first: int, second: int) -> ClassAccuracy:
        """From how many images there are, and how many each model names right."""
        shares = first / images, second / images
        return cls(name, images, shares, (wilson(first, images), wilson(second, images)))


@dataclass
class Comparison:
    """Two models on the same images.

    Attributes
    ----------
    images : int
        Number of images.
    accuracy : tuple of two float, or None
        Of both models, by their first output of class scores; None where there is none, or where
        the labels cannot be matched to it.
    intervals : tuple of two (float, float), or None
        Of 95 % for each accuracy, by :func:`.wilson`.
    gain : Gain or None
        Accuracy of the second over that of the first.
    classes : list of ClassAccuracy
        The same for each class; empty where there is no accuracy.
    files : tuple of two FileFigures
        Size, cost and latency.
    top1, top5 : float or None
        Share of images where both name the same first class; mean share of the first five
        classes in common.
    outputs : dict of str to OutputDifference
        Every output.
    max_difference, mean_difference, relative_difference : float or None
        Of all outputs together.
    changed : dict of str to float
        Weights that differ, with their greatest absolute difference.
    only_first, only_second : list of str
        Weights of one file only, or of another shape in the other.
    equal : int
        Number of weights that are the same in both.
    note : str
        Why labels give no accuracy, or empty.
    """

    images: int
    accuracy: tuple[float, float] | None
    intervals: tuple[tuple[float, float], tuple[float, float]] | None
    gain: Gain | None
    classes: list[ClassAccuracy]
    files: tuple[FileFigures, FileFigures]
    top1: float | None
    top5: float | None
    outputs: dict[str, OutputDifference]
    max_difference: float | None
    mean_difference: float | None
    relative_difference: float | None
    changed: dict[str, float] = field(default_factory=dict)
    only_first: list[str] = field(default_factory=list)
    only_second: list[str] = field(default_factory=list)
    equal: int = 0
    note: str = ""

    @property
    def reshaped(self) -> int:
        """Number of weights that have another shape in the other file."""
        return len(set(self.only_first) & set(self.only_second))

    @property
    def alone(self) -> int:
        """Number of weights that one file does not have."""
        return len(set(self.only_first) ^ set(self.only_second))

    def to_dict(self) -> dict:
        """All figures as plain Python."""
        return asdict(self)


class _Sums:
    """What has to be kept of one output, batch by batch."""

    def __init__(self) -> None:
        self.largest, self.total, self.squares, self.norm = 0.0, 0.0, 0.0, 0.0
        self.count = self.unlike = 0

    def add(self, a: np.ndarray, b: np.ndarray) -> None:
        if a.shape != b.shape:
            self.unlike += 1
            return
        gap = np.abs(difference(a, b))
        self.largest = float(np.maximum(self.largest, gap.max(initial=0.0)))
        self.total += float(gap.sum())
        self.squares += float(np.vdot(gap, gap))
        self.norm += float(np.sum(np.square(a[np.isfinite(a)], dtype=np.float64)))
        self.count += gap.size

    def __add__(self, other: _Sums) -> _Sums:
        both = _Sums()
        both.largest = float(np.maximum(self.largest, other.largest))
        for name in ("total", "squares", "norm", "count"):
            setattr(both, name, getattr(self, name) + getattr(other, name))
        return both

    def difference(self) -> OutputDifference:
        note = f"of another size in {self.unlike} batches" if self.unlike else ""
        if not self.count:
            return OutputDifference(note=note or "empty")
        relative = np.sqrt(self.squares) / np.fmax(np.sqrt(self.norm), 1e-300)
        return OutputDifference(self.largest, self.total / self.count, float(relative), note)


def compare(
    first: str,
    second: str,
    batches: Batches,
    progress: Callable[[Iterable], Iterable] = iter,
    threads: int = 1,
) -> Comparison:
    """Run two ONNX files on the same images; compare their weights, what they cost, how fast.

    Parameters
    ----------
    first, second : str
        Paths of the files.
    batches : Batches
        Images as the first takes them.
    progress : callable
        Wraps the batches.
    threads : int
        That an operator may use when the latency is measured.

    Raises
    ------
    ValueError
        If one of them cannot be run on the images, or they have no output in common.
    """
    runners = ImageModel(first), ImageModel(second)
    _check_inputs(first, second, runners)
    named = runners[0].outputs, runners[1].outputs
    partner = {name: name for name in named[0] if name in named[1]}
    if not partner and len(named[0]) == len(named[1]):
        partner = dict(zip(*named, strict=True))
    sums = {name: _Sums() for name in partner}
    ranks = _Ranks(batches)
    for images, labels in progress(batches):
        a, b = (runner(images) for runner in runners)
        for name, other in partner.items():
            sums[name].add(a[name], b[other])
        chosen = runners[0].classes
        other = partner.get(chosen or "")
        ranked = (a[chosen], b[other]) if chosen and other else (None, None)
        ranks.add(count(images), labels, *ranked)
    outputs = {name: found.difference() for name, found in sums.items()}
    if all(found.max_difference is None for found in outputs.values()):
        sizes = [{n: x.shape[1] for n, x in found.items()} for found in (a, b)]
        said = [", ".join(f"{n} with {size}" for n, size in found.items()) for found in sizes]
        raise ValueError(
            f"The models have different outputs: {said[0]} in {first}, {said[1]} in {second}."
        )
    for runner, known in zip(runners, (partner, partner.values()), strict=True):
        alone = [name for name in runner.outputs if name not in known]
        outputs |= {name: OutputDifference(note="of one model only") for name in alone}
        outputs |= {name: OutputDifference(note="no tensor of numbers") for name in runner.others}
    together = sum(sums.values(), _Sums()).difference()
    feeds = [runner.smallest(images) for runner in runners]
    del runners, runner
    whole, gain, classes = ranks.accuracies()
    result = Comparison(
        ranks.images,
        whole.accuracy if whole else None,
        whole.intervals if whole else None,
        gain,
        classes,
        _figures((first, second), feeds, threads),
        ranks.share(ranks.top1),
        ranks.share(ranks.top5),
        outputs,
        together.max_difference,
        together.mean_difference,
        together.relative_difference,
        note=ranks.note,
    )
    _compare_weights(first, second, result)
    return result


def _check_inputs(first: str, second: str, runners: tuple[ImageModel, ImageModel]) -> None:
    """Refuse files of which one batch cannot be the input of both."""
    if len(runners[0].inputs) == len(runners[1].inputs) == 1:
        taken = [ImageInput.of(path) for path in (first, second)]
        if len({(given.levels, given.channels_last) for given in taken}) > 1:
            raise ValueError(
                f"The models take different images: {taken[0]} in {first}, {taken[1]} in {second}."
            )
    elif runners[0].inputs != runners[1].inputs:
        said = [", ".join(runner.inputs) for runner in runners]
        raise ValueError(
            f"The models have different inputs: {said[0]} in {first}, {said[1]} in {second}."
        )


class _Ranks:
    """Which classes two models name first."""

    def __init__(self, batches: Batches) -> None:
        self.known = batches.data.classes
        self.images = self.top1 = 0
        self.top5 = 0.0
        # Of every class: images, those that each model names right, and each of them alone.
        self.right: np.ndarray | None = np.zeros((len(self.known), 5), np.int64)
        self.compared, self.note = True, ""

    def add(
        self, n: int, labels: np.ndarray | None, a: np.ndarray | None, b: np.ndarray | None
    ) -> None:
        self.images += n
        if a is None or b is None or a.shape != b.shape:
            self.compared, self.right = False, None
            if labels is not None:
                self.note = "No output that both models have holds one score for each class"
            return
        indices = output_indices(self.known, a.shape[1])
        if self.right is not None and indices is not None and labels is not None:
            one, other = (x.argmax(axis=1) == indices[labels] for x in (a, b))
            counted = [np.ones(n, bool), one, other, one & ~other, other & ~one]
            np.add.at(self.right, labels, np.stack(counted, axis=1))
        else:
            self.right = None
            if labels is not None:
                self.note = unlike_outputs(self.known, a.shape[1])
        five = min(5, a.shape[1])
        first, second = (np.argsort(-x, axis=1, kind="stable")[:, :five] for x in (a, b))
        self.top1 += int((first[:, 0] == second[:, 0]).sum())
        pairs = zip(first, second, strict=True)
        self.top5 += sum(len(np.intersect1d(p, q)) for p, q in pairs) / five

    def accuracies(self) -> tuple[ClassAccuracy | None, Gain | None, list[ClassAccuracy]]:
        """Of all images, what the second gains on them, and of every class that has some."""
        if self.right is None:
            return None, None, []
        rows = zip(self.known, self.right.tolist(), strict=True)
        classes = [ClassAccuracy.of(name, *counts[:3]) for name, counts in rows if counts[0]]
        images, one, other, one_alone, other_alone = self.right.sum(axis=0).tolist()
        gain = Gain.counted(images, other_alone, one_alone)
        return ClassAccuracy.of("all", images, one, other), gain, classes

    def share(self, count: float) -> float | None:
        return count / self.images if self.compared else None


def _figures(
    paths: tuple[str, str], feeds: Sequence[Mapping[str, np.ndarray]], threads: int
) -> tuple[FileFigures, FileFigures]:
    """Size, cost and latency of two files, on the first of some images."""
    models = [
        load(path, input_shapes={name: x.shape for name, x in given.items()})
        for path, given in zip(paths, feeds, strict=True)
    ]
    a, b = (
        FileFigures(_bytes(path, model), _cost(model), latency)
        for path, model, latency in zip(
            paths, models, latencies(models, feeds, threads), strict=True
        )
    )
    return a, b


def _bytes(path: str, model: OnnxModel) -> int:
    contents = {id(content): content for content in model.stored.files.values()}
    return os.path.getsize(path) + sum(content.nbytes for content in contents.values())


def _cost(model: OnnxModel) -> Cost | None:
    try:
        return cost(model.graph, samples(model.example_inputs))
    except ValueError:  # what it computes is not known
        return None


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
    from ..onnx.storage import read

    for name, value in read(model)[0].graph.initializers.items():
        if value.const_value is not None:
            yield name, value.const_value.numpy()
