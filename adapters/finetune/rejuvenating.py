"""The whole method on an ONNX file: look, choose, reorganize, fine-tune, and evaluate.

What it gives is measured against the obvious alternative, plain fine-tuning of the same file for as
many epochs, on images that neither training nor the choice of an epoch has seen.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...graph.measure.class_means import ClassMeans
from ...graph.plan.recipe import Recipe
from ...graph.report import Report
from ..images.accuracy import Gain
from ..images.image_data import Batches, output_labels, unlike_outputs
from ..images.image_model import ImageModel, hits
from ..onnx.collect import described
from ..onnx.example_inputs import Shapes
from ..onnx.model import load
from ..onnx.reorganize import reorganized
from .checkpoint import Checkpoint, fingerprint
from .finetuning import Result, finetune_file, split
from .training import Epoch, Settings

EVALUATED = 0.2  # of the images, where none are given to evaluate on


@dataclass
class Rejuvenation:
    """What the method came to.

    Attributes
    ----------
    accuracy : dict of str to float
        On images for evaluation: ``"original"``, ``"reorganized"`` before any training,
        ``"rejuvenated"`` and, unless it was left out, ``"plain fine-tuning"``.
    evaluated : int
        How many images that are.
    gain : Gain
        Of the rejuvenated file over the original.
    against_plain : Gain or None
        Of the rejuvenated file over plain fine-tuning.
    report : Report
        What was reorganized.
    note : str
        How the layers were chosen, where that is not what was asked for.
    trained : dict of str to Result
        Both trainings.
    means : list of dict
        Class-representative activations before, after reorganization, after training.
    """

    accuracy: dict[str, float]
    evaluated: int
    gain: Gain
    against_plain: Gain | None
    report: Report
    note: str
    trained: dict[str, Result]
    means: list[Mapping[str, ClassMeans]] = field(default_factory=list)

    @property
    def unchanged(self) -> list[str]:
        """Names of the trainings of which no epoch was kept."""
        return [name for name, result in self.trained.items() if result.unchanged]

    @property
    def verdict(self) -> str:
        """What was gained, in a sentence or two."""
        over = "better" if self.gain.difference > 0 else "worse"
        said = f"The rejuvenated file is {over} than the original ({self.gain})."
        if not self.gain.clear:
            said = (
                "The rejuvenated file does as well as the original, as far as these images tell "
                f"({self.gain})."
            )
        plain = self.against_plain
        if plain is None:
            said += " Plain fine-tuning was not tried."
        elif not plain.clear:
            said += f" Plain fine-tuning does as well, as far as these images tell ({plain})."
        elif plain.difference > 0:
            said += f" It is better than plain fine-tuning ({plain})."
        else:
            ahead = replace(plain, difference=-plain.difference)
            said += f" Plain fine-tuning is better ({ahead}): use its file."
        if self.unchanged:
            names = " and ".join(f"'{name}'" for name in self.unchanged)
            said += (
                f" Of the training of {names} no epoch was kept: none was better "
                "on what was held out."
            )
        return said

    def to_dict(self) -> dict[str, Any]:
        """All figures as plain Python."""
        return {
            "accuracy": self.accuracy,
            "evaluated": self.evaluated,
            "gain": vars(self.gain),
            "against_plain": self.against_plain and vars(self.against_plain),
            "verdict": self.verdict,
            "note": self.note,
            "report": self.report.to_dict(),
            "unchanged": self.unchanged,
            "trained": {name: result.to_dict() for name, result in self.trained.items()},
        }


def rejuvenate_file(
    model: str | Path,
    output: str | Path,
    data: Batches,
    test: Batches | None = None,
    *,
    layers: str | Sequence[str] = "auto",
    recipe: Recipe | None = None,
    settings: Settings | None = None,
    control: str | Path | None = None,
    input_shapes: Shapes | None = None,
    restart: bool = False,
    on_epoch: Callable[[str, Epoch], Any] = lambda what, epoch: None,
    progress: Callable[[Iterable], Iterable] = iter,
) -> Rejuvenation:
    """Rejuvenate the ONNX file ``model`` and write it to ``output``.

    A run that was killed continues when it is repeated, and trains nothing twice: both checkpoints
    stay until the files are compared.

    Parameters
    ----------
    model, output : path-like
    data : Batches
        Labelled images: looked at and trained on.
    test : Batches, optional
        Images to evaluate on; a fifth of every class of ``data`` by default.
    layers : str or sequence of str
        As for :func:`rejuvenet.adapters.onnx.reorganize`; ``"auto"`` takes the deepest group where
        none leaves much of its capacity unused.
    recipe : Recipe, optional
        ``Recipe.preserving()`` by default.
    settings : Settings
        Of both trainings.
    control : path-like, optional
        Where to write the plainly fine-tuned file; without it, there is none.
    input_shapes, restart, progress
        As for :func:`.finetuning.finetune_file`.
    on_epoch : callable
        Told which training it is, and the epoch.

    Raises
    ------
    ValueError
        One sentence: no labels, a layer that cannot move, a file that cannot be trained.
    """
    settings = settings or Settings()
    recipe = recipe or Recipe.preserving(seed=settings.seed)
    loaded = load(model, input_shapes=input_shapes)
    if test is None:
        data, test = split(data, EVALUATED, settings.seed, None)
    if test is None:
        raise ValueError("Too few images to hold some out: give images to evaluate on.")
    _check_labels(model, data)
    asked = fingerprint(
        loaded.weights, asdict(settings), layers, recipe.to_dict(), data.described(),
        data.rows.tolist(),
    )  # fmt: skip
    for target in (control, output):
        if target is not None and not restart:
            Checkpoint(Path(target), asked=asked).refuse_other()
    changed, outcome, note = loaded, None, ""
    if layers == "auto":
        with warnings.catch_warnings():  # what it would warn of is seen to here
            warnings.filterwarnings("ignore", "nothing was reorganized")
            changed, outcome = reorganized(loaded, data, "auto", recipe)
        if not any(line.new for line in outcome.report.groups):
            note = "No group leaves much of its capacity unused; the deepest one was taken."
            layers, outcome = "last", None
    if outcome is None:
        changed, outcome = reorganized(loaded, data, layers, recipe)
    how: dict[str, Any] = {
        "settings": settings, "input_shapes": input_shapes, "restart": restart,
        "progress": progress, "asked": asked, "keep": True,
    }  # fmt: skip
    results, right = {}, {"original": _hits(model, test)}
    with tempfile.TemporaryDirectory() as folder:
        between = Path(folder) / "reorganized.onnx"
        changed.save(between)
        right["reorganized"] = _hits(between, test)
        for name, source, target in (
            ("plain fine-tuning", model, control),
            ("rejuvenated", between, output),
        ):
            if target is None:
                continue

            def told(epoch: Epoch, name: str = name) -> None:
                on_epoch(name, epoch)

            results[name] = finetune_file(source, target, data, on_epoch=told, **how)
            right[name] = _hits(target, test)
    groups = [loaded.group(line.group) for line in outcome.report.groups]
    final = described(load(output, input_shapes=input_shapes), data, groups)[0]
    for target in (control, output):
        if target is not None:
            Checkpoint(Path(target)).remove()
    return Rejuvenation(
        {name: float(found.mean()) for name, found in right.items()},
        len(right["original"]),
        Gain.of(right["rejuvenated"], right["original"]),
        Gain.of(right["rejuvenated"], right["plain fine-tuning"]) if control else None,
        outcome.report,
        note,
        results,
        [outcome.before, outcome.after, final],
    )


def _check_labels(model: str | Path, data: Batches) -> None:
    """Refuse at once what could not be evaluated."""
    if not data.labelled:
        raise ValueError("Rejuvenation is judged by accuracy: give images with labels.")
    runner = ImageModel(str(model))
    outputs = runner.scores(next(iter(data))[0]).shape[1]
    if runner.classes is None:
        raise ValueError(
            "Rejuvenation is judged by accuracy, and no output of the model has one score for each "
            "class: reorganize it, and finetune it with --teacher."
        )
    if output_labels(data.data, outputs) is None:
        raise ValueError(f"{unlike_outputs(data.data.classes, outputs)}.")


def _hits(model: str | Path, test: Batches) -> np.ndarray:
    found = hits(str(model), test)
    if found is None:
        raise ValueError(
            "The classes of the images to evaluate on are not the model's outputs; name the "
            "folders after the outputs (0, 1, ...)."
        )
    return found
