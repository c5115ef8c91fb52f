"""Fine-tune an ONNX file: its graph or its source is trained, and the arrays go back by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...graph.arguments import refuse_idle
from ..images.batch_inputs import Inputs
from ..images.image_data import Batches, output_labels, unlike_outputs
from ..images.image_model import ImageModel, score
from ..onnx.model import OnnxModel, load
from .agreement import Disagreement, check_agreement, settle_batches
from .checkpoint import Checkpoint, fingerprint
from .objective import Classes, Objective, classes_of
from .source import SourceModule, make_module
from .trainable import TrainableGraph
from .training import Epoch, Settings, Trained, Training

MEASURED = 1024  # images that say what convolutions make, before they are normalized
HELD_OUT = 0.1  # of the images, to choose the epoch by


@dataclass
class Result:
    """What fine-tuning a file came to.

    Attributes
    ----------
    before, after : dict of str to float or None
        Accuracy of the files on ``"held-out"`` (without these, on ``"training"``) and ``"test"``
        images; None where labels cannot be matched to outputs.
    trained : Trained
    images : dict of str to int
        How many were trained on and held out.
    continued : int or None
        The epoch at which a checkpoint was taken up.
    planned : int or None
        Epochs that were asked for.
    """

    before: dict[str, float | None]
    after: dict[str, float | None]
    trained: Trained
    images: dict[str, int]
    continued: int | None = None
    planned: int | None = None

    @property
    def unchanged(self) -> bool:
        """Whether no epoch was better on what was held out than the model as it was."""
        return self.trained.best == 0 and bool(self.images["held-out"])

    @property
    def verdict(self) -> str:
        """Which weights were kept, in a sentence."""
        best, last = self.trained.best, len(self.trained.epochs) - 1
        if not self.images["held-out"]:
            return f"Kept the last epoch, {last}: nothing was held out to choose by."
        stopped = ""
        if self.planned is not None and last < self.planned:
            stopped = f" It stopped there, before epoch {self.planned}, as --patience says."
        if self.unchanged:
            return (
                f"No epoch of {last} was better on what was held out than the model as it was, "
                f"whose weights are kept.{stopped}"
            )
        return f"Kept epoch {best} of {last}, the best on what was held out.{stopped}"

    def to_dict(self) -> dict[str, Any]:
        """All figures as plain Python."""
        return {**asdict(self), "verdict": self.verdict}


def finetune_file(
    model: str | Path,
    output: str | Path,
    train: Batches,
    test: Batches | None = None,
    *,
    settings: Settings | None = None,
    source: str | None = None,
    teacher: str | Path | None = None,
    held_out: float = HELD_OUT,
    freeze: Sequence[str] = (),
    renormalize: bool = False,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    restart: bool = False,
    asked: str = "",
    keep: bool = False,
    seconds: float = 60.0,
    on_epoch: Callable[[Epoch], Any] = lambda epoch: None,
    progress: Callable[[Iterable], Iterable] = iter,
) -> Result:
    """Fine-tune the ONNX file ``model`` and write it to ``output``.

    A run that was killed continues from ``<output>.checkpoint`` when it is repeated.

    Parameters
    ----------
    model, output : path-like
    train, test : Batches
        Images to train on, and to measure the accuracy on.
    settings : Settings
    source : str, optional
        What makes the PyTorch module that the file came from, see :func:`.source.make_module`;
        that is then trained in the place of the file's graph.
    teacher : path-like, optional
        An ONNX file whose outputs are imitated; with it, no labels are needed.
    held_out : float
        Share of the images, of every class, that are not trained on and choose the best epoch.
    freeze : sequence of str
        Names of weights, or patterns, that stay as they are; not with ``source``.
    renormalize : bool
        Normalize by the batch behind convolutions whose normalization was folded, as long as it
        trains (:mod:`.renormalization`); not with ``source``.
    input_shapes : dict, optional
        Of the file's inputs, as :func:`rejuvenet.adapters.onnx.load` takes them.
    restart : bool
        Begin anew although there is a checkpoint.
    asked : str
        As for :class:`.checkpoint.Checkpoint`.
    keep : bool
        Leave the checkpoint where it is: what this run is a part of may have to be repeated.
    seconds : float
        Least time between two checkpoints within an epoch.
    on_epoch, progress : callable
        As for :meth:`.training.Training.run`.

    Raises
    ------
    ValueError
        One sentence: the file cannot be trained, labels are no outputs, the loss diverges.
    OSError
        ``output`` cannot be written; nothing is then written.
    """
    settings = settings or Settings()
    if source is not None:
        refuse_idle("with source", freeze=freeze or None, renormalize=renormalize or None)
    loaded = load(model, input_shapes=input_shapes)
    images, _ = next(iter(train))
    runner = ImageModel(str(model), loaded)
    scores = runner.scores(images)
    torch.manual_seed(settings.seed)
    module: TrainableGraph | SourceModule
    if source is None:
        module = TrainableGraph(loaded, freeze)
        settle_batches(module, loaded, model, images)
    else:
        module = SourceModule(loaded, make_module(source), runner.classes or runner.outputs[0])
        try:
            check_agreement(module, loaded, model, images)
        except Disagreement as error:
            raise ValueError(f"{error}; give the module that the file came from") from error
    classes = _classes(loaded, runner, module.outputs)
    labels = output_labels(train.data, scores.shape[1]) if classes and train.labelled else None
    imitated, taught = None, None
    if teacher is not None:
        own = runner(images)
        imitated, taught = _teacher(teacher, images, {n: own[n] for n in module.outputs}, classes)
    if labels is None and imitated is None:
        raise ValueError(_without_labels(train, runner, scores.shape[1]))
    training, held = split(train, held_out, settings.seed, labels)
    run = fingerprint(
        module.arrays(), asdict(settings), source, str(teacher), held_out, list(freeze),
        renormalize, train.described(), training.rows.tolist(),
    )  # fmt: skip
    checkpoint = Checkpoint(Path(output), run, asked)
    if restart:
        checkpoint.remove()
    kept = checkpoint.load()
    if renormalize and isinstance(module, TrainableGraph):
        batches = islice(training, -(-MEASURED // training.batch_size))
        module.renormalize(inputs for inputs, _ in batches)
    # The files are scored by the names of the classes, which stand for outputs.
    measured = {"held-out" if held else "training": replace(held or training, labels=None)}
    measured |= {"test": test} if test else {}
    before = {name: score(str(model), part) for name, part in measured.items()}
    trained = Training(
        module, Objective(classes, taught), training, held, settings,
        labels is not None, imitated, checkpoint, seconds,
    ).run(on_epoch, progress)  # fmt: skip
    changed = loaded.with_weights(module.arrays())
    check_agreement(module, changed, model, images)  # what is written is what was trained
    changed.save(output)
    if not keep:
        checkpoint.remove()
    after = {name: score(str(output), part) for name, part in measured.items()}
    counts = {"training": len(training.rows), "held-out": len(held.rows) if held else 0}
    begun = None if kept is None else len(kept["epochs"])
    return Result(before, after, trained, counts, begun, settings.epochs)


def split(
    batches: Batches, share: float, seed: int, labels: np.ndarray | None
) -> tuple[Batches, Batches | None]:
    """Images to train on, and a share of every class that is held out; None where that is none.

    >>> from rejuvenet.adapters.images.image_data import ArrayFile
    >>> data = ArrayFile.of(np.zeros((40, 1, 2, 2)), np.arange(40) % 2)
    >>> [len(part.rows) for part in split(Batches(data), 0.1, 0, data.labels)]
    [36, 4]
    """
    if not 0 <= share < 1:
        raise ValueError(f"Expected a share from 0 to 1 to hold out, got {share}.")
    rng = np.random.default_rng(seed)
    held: list[int] = []
    for label in np.unique(batches.data.labels):
        rows = batches.rows[batches.data.labels[batches.rows] == label]
        held += rng.permutation(rows)[: round(share * len(rows))].tolist()
    kept = np.setdiff1d(batches.rows, held)
    parts = [replace(batches, order=rows, labels=labels) for rows in (kept, np.sort(held))]
    return parts[0], parts[1] if held else None


def _classes(model: OnnxModel, runner: ImageModel, outputs: Sequence[str]) -> Classes | None:
    """The class scores among ``outputs``."""
    found = classes_of(model.analysed.graph, runner.classes)
    if found is None or runner.classes is None or runner.classes not in outputs:
        return None
    return replace(found, output=list(outputs).index(runner.classes))


def _teacher(
    path: str | Path, images: Inputs, own: Mapping[str, np.ndarray], classes: Classes | None
) -> tuple[Callable[[Inputs], list[np.ndarray]], Classes | None]:
    """What imitated outputs are, in the order of the model's own, and which of them are classes."""
    loaded = load(path)
    runner = ImageModel(str(path), loaded)
    made = runner(images)
    names = mine = list(own)
    if not any(values.dtype.kind == "f" for values in own.values()):
        raise ValueError(
            f"The model's outputs ({', '.join(mine)}) are whole numbers, which cannot come nearer "
            "to a teacher's step by step: give a file that ends in scores."
        )
    if not all(name in made for name in names):
        if len(made) < len(names):
            raise ValueError(
                f"The teacher has the outputs {', '.join(made)}, expected {', '.join(names)}; give "
                "a file with as many, such as the original of a changed one."
            )
        names = list(made)[: len(names)]
    taught = _classes(loaded, runner, names)
    pairs = list(zip(mine, names, strict=True))
    if classes is not None and taught is not None:
        pairs = [(mine[classes.output], names[taught.output])]
    for name, theirs in pairs:
        wanted, found = own[name].shape[1], made[theirs].shape[1]
        if wanted != found:
            raise ValueError(
                f"The teacher makes {found} numbers of a sample in its output {theirs!r}, expected "
                f"{wanted} as in {name!r}; give a file whose outputs are alike, such as the "
                "original of a changed one."
            )

    def imitated(given: Inputs) -> list[np.ndarray]:
        found = runner(given)
        return [found[name] for name in names]

    return imitated, taught


def _without_labels(train: Batches, runner: ImageModel, outputs: int) -> str:
    """Why there is nothing to train on."""
    if not train.labelled:
        why = "The images have no labels"
    elif runner.classes is None:
        why = "No output of the model has one score for each class"
    else:
        why = unlike_outputs(train.data.classes, outputs)
        return f"{why}, or give --teacher, a file to imitate."
    return f"{why}; give --teacher, a file to imitate, such as the original of a changed one."
