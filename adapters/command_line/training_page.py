"""Writes the pages of ``finetune`` and ``rejuvenate``: measures the files, and hands over."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...files import write_text
from .change_page import both_panels, panels_of, picture_of
from .comparison import compare
from .invocation import Invocation
from .terminal import progress

if TYPE_CHECKING:
    from ..finetune.finetuning import Result
    from ..finetune.rejuvenating import Rejuvenation
    from ..images.image_data import Batches


def write_finetuning_page(
    html: Path,
    call: Invocation,
    result: Result,
    batches: Batches,
    test: Batches | None,
    quiet: bool,
) -> None:
    """Write the page of ``finetune``, whose file is there already.

    Parameters
    ----------
    html : Path
    call : Invocation
    result : Result
    batches, test : Batches
        What was trained and chosen by, and images that were neither, if there are any.
    quiet : bool
        Show no progress.
    """
    from ..finetune.finetuning import split
    from ..images.model_input import sample_shapes
    from ..onnx import load
    from ..report.training import finetuning_page

    model, output = call.settings["model"], call.settings["output"]
    noun = batches.data.noun
    what = f"test {noun}"
    if test is None:
        test = split(batches, call.settings["held-out"], call.settings["seed"], None)[1]
        what = f"held-out {noun} that chose the epoch"
    if test is None:
        test, what = batches, f"{noun} that it was trained on"
    teacher, watched = call.settings.get("teacher"), progress("images", quiet)
    figures = compare(str(model), str(output), test, watched).to_dict()
    beside = [
        compare(str(teacher), str(file), test, watched).to_dict()
        for file in ((model, output) if teacher is not None else ())
    ]
    shapes = sample_shapes(model, batches)
    loaded, trained = (load(file, input_shapes=shapes) for file in (model, output))
    page = finetuning_page(
        call,
        result.to_dict(),
        figures,
        beside,
        f"{figures['images']:,} {what}",
        both_panels(loaded, trained, batches, ("Before", "Fine-tuned")),
        picture_of(loaded, str(model)),
    )
    write_text(html, page)


def write_rejuvenation_page(
    html: Path,
    call: Invocation,
    result: Rejuvenation,
    recipe: Any,
    batches: Batches,
    test: Batches | None,
    quiet: bool,
) -> None:
    """Write the page of ``rejuvenate``, whose files are there already.

    Parameters
    ----------
    html : Path
    call : Invocation
    result : Rejuvenation
    recipe : Recipe
    batches, test : Batches
        All images, and those to evaluate on where they were given apart.
    quiet : bool
        Show no progress.
    """
    from ...graph.reorganizing import Outcome
    from ..finetune.finetuning import split
    from ..finetune.rejuvenating import EVALUATED
    from ..images.model_input import sample_shapes
    from ..onnx import load
    from ..report.rejuvenation import rejuvenation_page

    model, output = call.settings["model"], call.settings["output"]
    apart = test or split(batches, EVALUATED, call.settings["seed"], None)[1]
    assert apart is not None  # it was evaluated
    figures = compare(str(model), str(output), apart, progress("images", quiet)).to_dict()
    loaded = load(model, input_shapes=sample_shapes(model, apart))
    before, after, trained = result.means
    names = [line.group for line in result.report.groups]
    page = rejuvenation_page(
        call,
        result.to_dict(),
        figures,
        recipe.to_dict(),
        panels_of(Outcome(result.report, dict(before), dict(after)), trained),
        picture_of(loaded, str(model), names),
    )
    write_text(html, page)
