"""``rejuvenate``: the whole method in one command, beside plain training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ...visible import number_of
from .. import terminal
from ..invocation import Invocation
from ..options import (
    BESIDE_AUTO,
    Augment,
    Changes,
    DataPath,
    Device,
    Epochs,
    Html,
    Json,
    Layers,
    Model,
    Output,
    Overwrite,
    Restart,
    Seed,
    check_outputs,
    check_page,
    named,
    refuse_options,
    write_changes,
)
from ..reading import Reading, open_batches, reads, set_augmentation
from ..terminal import Listing, guarded, percent, print_json, print_report, progress


@guarded
@reads
def rejuvenate(
    context: typer.Context,
    model: Model,
    data: DataPath,
    output: Output,
    overwrite: Overwrite = False,
    changes: Changes = None,
    test: Annotated[
        Path | None,
        typer.Option(
            exists=True, help="Images to evaluate on; by default a fifth of --data is set apart."
        ),
    ] = None,
    layers: Layers = None,
    ratio: Annotated[
        float | None, typer.Option(help="Share of the channels of --layers that survive at most.")
    ] = None,
    control: Annotated[
        bool,
        typer.Option(help="Fine-tune the model plainly as well, into OUTPUT.plain.onnx."),
    ] = True,
    epochs: Epochs = 10,
    lr: Annotated[
        float | None, typer.Option(help="Highest learning rate; 0.001 by default.")
    ] = None,
    augment: Augment = None,
    restart: Restart = False,
    device: Device = None,
    html: Html = None,
    seed: Seed = 0,
    *,
    reading: Reading,
    as_json: Json = False,
) -> None:
    """The whole method: choose layers, reorganize them, train, and evaluate beside plain training.

    The original, the rejuvenated file and a plainly fine-tuned one are compared on images that
    nothing was trained on or chosen by.
    """
    if named(layers, "auto") == "auto":
        refuse_options(context, ["ratio"], BESIDE_AUTO)
    plain = output.with_name(output.stem + ".plain.onnx") if control else None
    outputs = {"-o": output, "--html": html, "--control": plain, "--changes": changes}
    check_outputs(outputs, model, data, test, overwrite=overwrite)
    check_page(html, model, output)
    from ....graph import Recipe
    from ... import onnx as onnx_adapter
    from ...finetune.rejuvenating import rejuvenate_file
    from ...finetune.training import Settings

    try:
        recipe = Recipe.preserving(seed=seed, **({} if ratio is None else {"ratio": ratio}))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    batches = open_batches(model, data, reading)
    tested = open_batches(model, test, reading) if test else None
    chosen = set_augmentation(context, batches)
    settings = Settings(epochs, lr, augment=chosen, seed=seed, device=device)
    original = onnx_adapter.load(model) if changes else None
    result = rejuvenate_file(
        model,
        output,
        batches,
        tested,
        layers=named(layers, "auto"),
        recipe=recipe,
        settings=settings,
        control=plain,
        input_shapes=reading.shapes(model, batches),
        restart=restart,
        on_epoch=lambda what, epoch: terminal.say_aside(
            f"{what}, epoch {epoch.number} of {epochs}: {epoch}"
        ),
        progress=progress("batches", as_json),
    )
    write_changes(original, output, changes)
    if html is not None:
        from ..training_page import write_rejuvenation_page

        call = Invocation(context, batches.data)
        write_rejuvenation_page(html, call, result, recipe, batches, tested, as_json)
    if as_json:
        print_json({"model": str(model), "output": str(output), **result.to_dict()})
        return
    if result.note:
        terminal.say_plainly(result.note)
    print_report(result.report)
    rows = [(name, percent(share)) for name, share in result.accuracy.items()]
    title = f"Accuracy on {number_of(result.evaluated, batches.data.noun)} set apart"
    terminal.out.print(Listing(title, ["file", "accuracy"], rows))
    for line in (result.verdict, *terminal.written(output, plain, html)):
        terminal.say_plainly(line)
