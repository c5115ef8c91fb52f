"""``finetune``: train an ONNX file on images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from .. import terminal
from ..invocation import Invocation
from ..options import (
    Augment,
    Changes,
    DataPath,
    Device,
    Epochs,
    Html,
    Json,
    Model,
    Output,
    Overwrite,
    Restart,
    Seed,
    check_outputs,
    check_page,
    refuse_options,
    write_changes,
)
from ..reading import Reading, open_batches, reads, set_augmentation
from ..terminal import Listing, guarded, percent, print_json, progress


@guarded
@reads
def finetune(
    context: typer.Context,
    model: Model,
    data: DataPath,
    output: Output,
    overwrite: Overwrite = False,
    changes: Changes = None,
    module: Annotated[
        str | None,
        typer.Option(
            metavar="MODULE:FACTORY",
            help="Train the PyTorch module that the file came from instead of the file's graph: "
            "package.module:factory or file.py:factory makes it. This runs the code in that file: "
            "give only what you trust.",
        ),
    ] = None,
    test: Annotated[
        Path | None, typer.Option(exists=True, help="Images to measure the accuracy on.")
    ] = None,
    teacher: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="An ONNX file whose outputs are imitated, such as the original of a changed one; "
            "images then need no labels.",
        ),
    ] = None,
    epochs: Epochs = 10,
    lr: Annotated[
        float | None,
        typer.Option(help="Highest learning rate; 0.001 for adamw, 0.01 for sgd by default."),
    ] = None,
    optimizer: Annotated[Literal["adamw", "sgd"], typer.Option(help="Optimizer.")] = "adamw",
    augment: Augment = None,
    smoothing: Annotated[
        float, typer.Option(help="Share of each label that is spread over all classes.")
    ] = 0.1,
    mixup: Annotated[
        float, typer.Option(help="Mix pairs of images, as mixup does with this alpha; 0: none.")
    ] = 0.0,
    held_out: Annotated[
        float,
        typer.Option(help="Share of the images that choose the best epoch, and are not trained."),
    ] = 0.1,
    patience: Annotated[
        int, typer.Option(min=1, help="Stop after so many epochs without a better one.")
    ] = 10,
    freeze: Annotated[
        list[str] | None,
        typer.Option(help="Weights that stay: a name, or a pattern; may be repeated."),
    ] = None,
    renormalize: Annotated[
        bool,
        typer.Option(
            "--renormalize",
            help="Normalize behind convolutions while it trains, for a file whose BatchNorm is "
            "folded into them; it is folded away again.",
        ),
    ] = False,
    restart: Restart = False,
    device: Device = None,
    html: Html = None,
    seed: Seed = 0,
    *,
    reading: Reading,
    as_json: Json = False,
) -> None:
    """Train an ONNX file on images; its structure, names and metadata stay as they are.

    A run that was interrupted continues when the command is repeated.
    """
    if module is not None:
        refuse_options(context, ["freeze", "renormalize"], "with --module")
    if not held_out:
        refuse_options(context, ["patience"], "with --held-out 0, which lets no epoch be better")
    source = module.rpartition(":")[0] if module else ""
    code = Path(source) if source.endswith(".py") else None
    outputs = {"-o": output, "--changes": changes, "--html": html}
    check_outputs(outputs, model, data, test, teacher, code, overwrite=overwrite)
    check_page(html, model, output)
    from ... import onnx as onnx_adapter
    from ...finetune.finetuning import finetune_file
    from ...finetune.training import Settings

    batches = open_batches(model, data, reading)
    if not batches.labelled:
        refuse_options(context, ["smoothing"], "without labels")
    settings = Settings(
        epochs=epochs,
        lr=lr,
        optimizer=optimizer,
        augment=set_augmentation(context, batches),
        smoothing=smoothing,
        mixup=mixup,
        patience=patience,
        seed=seed,
        device=device,
    )
    tested = open_batches(model, test, reading) if test else None
    original = onnx_adapter.load(model) if changes else None
    result = finetune_file(
        model,
        output,
        batches,
        tested,
        settings=settings,
        source=module,
        teacher=teacher,
        held_out=held_out,
        freeze=freeze or [],
        renormalize=renormalize,
        input_shapes=reading.shapes(model, batches),
        restart=restart,
        on_epoch=lambda epoch: terminal.say_aside(
            f"epoch {epoch.number} of {epochs}: {epoch}" if epoch.number else f"before: {epoch}"
        ),
        progress=progress("batches", as_json),
    )
    write_changes(original, output, changes)
    if html is not None:
        from ..training_page import write_finetuning_page

        write_finetuning_page(
            html, Invocation(context, batches.data), result, batches, tested, as_json
        )
    if as_json:
        print_json({"model": str(model), "output": str(output), **result.to_dict()})
        return
    rows = [
        (name, percent(result.before[name]), percent(result.after[name])) for name in result.before
    ]
    if any(share is not None for share in result.before.values()):
        terminal.out.print(Listing("Accuracy", [batches.data.noun, "before", "after"], rows))
    elif result.images["held-out"]:
        losses = (result.trained.epochs[n].held_out_loss for n in (0, result.trained.best))
        said = "Loss on what was held out: {:.3g} before, {:.3g} after."
        terminal.say_plainly(said.format(*losses))
    for line in (result.verdict, *terminal.written(output, html)):
        terminal.say_plainly(line)
