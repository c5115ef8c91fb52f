"""The commands of ``rejuvenet``.

Frameworks are imported inside the commands, so that ``rejuvenet --help`` needs none of them.
"""

from __future__ import annotations

import importlib.util
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ...files import write_text
from . import terminal
from .options import (
    READING,
    BatchSize,
    DataPath,
    InputShape,
    Json,
    Layers,
    MaxBatches,
    MaxChange,
    Mean,
    Model,
    OptionalData,
    Output,
    Overwrite,
    Preprocess,
    PseudoClasses,
    Seed,
    Size,
    Std,
    check_outputs,
    open_batches,
    parse_input_shapes,
    parse_ratios,
    parse_recipe,
    refuse_options,
)
from .terminal import Listing, guarded, percent, print_json, progress, shows_progress

PICTURE_BYTES = 2**28  # class means of a page are pooled until they fit; its tiles are small

app = typer.Typer(
    help="Self-reorganizing and rejuvenating convolutional networks.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode="rich",
)


@app.callback(invoke_without_command=True)
def version(
    show: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    """Self-reorganizing and rejuvenating convolutional networks."""
    if show:
        from ... import __version__

        typer.echo(f"rejuvenet {__version__}")
        raise typer.Exit


@app.command()
@guarded
def inspect(
    context: typer.Context,
    model: Model,
    data: OptionalData = None,
    input_shape: InputShape = None,
    size: Size = None,
    mean: Mean = None,
    std: Std = None,
    preprocess: Preprocess = None,
    batch_size: BatchSize = 64,
    html: Annotated[
        Path | None, typer.Option(help="Write a page with a picture of the groups here.")
    ] = None,
    svg: Annotated[Path | None, typer.Option(help="Write the picture alone here.")] = None,
    as_json: Json = False,
) -> None:
    """Show the channel groups of a model; with --data, how much of its capacity each uses."""
    if data is None:
        refuse_options(context, READING, "without --data")
    check_outputs({"--html": html, "--svg": svg}, model, data)
    from .. import onnx as onnx_adapter

    loaded = onnx_adapter.load(model, input_shapes=parse_input_shapes(input_shape))
    groups = loaded.groups
    figures = {}
    if data is not None:
        from .capacity_figures import capacity_figures

        batches = open_batches(model, data, size, mean, std, preprocess, batch_size, input_shape)
        figures = capacity_figures(
            loaded, batches, shows_progress(as_json), progress("capacity", as_json)
        )
    from ..onnx.layer_names import modules_of
    from ..report.network.layers import network_of
    from .group_table import frozen_lines, group_rows, table_of

    network = network_of(loaded.graph, groups, modules_of(loaded.analysed))
    rows = group_rows(groups, network.modules, figures)
    if html is not None or svg is not None:
        from ..report.network.page import network_page
        from ..report.network.picture import Picture

        picture = Picture(model.name, loaded.graph, groups, network, figures)
        if html is not None:
            write_text(html, network_page(picture))
        if svg is not None:
            write_text(svg, picture.svg())
    remarks = [remark for remark in (loaded.without_groups, loaded.inferred) if remark]
    if as_json:
        print_json({"model": str(model), "groups": rows, "remarks": remarks})
        return
    if rows:
        terminal.out.print(Listing(str(model), *table_of(rows)))
    written = (f"Wrote {path}" for path in (html, svg) if path)
    for line in [*frozen_lines(rows), *remarks, *written]:
        terminal.say_plainly(line)


@app.command()
@guarded
def reorganize(
    context: typer.Context,
    model: Model,
    output: Output,
    overwrite: Overwrite = False,
    data: OptionalData = None,
    layers: Layers = None,
    arrange: Annotated[
        bool, typer.Option("--arrange", help="Only permute channels: the outputs stay the same.")
    ] = False,
    order: Annotated[
        Literal["sofm", "random"], typer.Option(help="With --arrange: what sorts the channels.")
    ] = "sofm",
    recipe: Annotated[
        Literal["preserving", "paper"],
        typer.Option(help="Keep the model's function, or follow the paper's words."),
    ] = "preserving",
    method: Annotated[
        Literal["sofm", "kmeans", "l1", "l2", "random", "redo", "repr", "dsd"],
        typer.Option(help="What decides which channels survive."),
    ] = "sofm",
    ratio: Annotated[
        str,
        typer.Option(
            metavar="SHARE",
            help="Share of the channels that survive at most; or 'redundant', which frees only "
            "channels that respond as another one does, and dormant ones.",
        ),
    ] = "0.5",
    option: Annotated[
        list[str] | None,
        typer.Option(
            "--option",
            metavar="NAME=VALUE",
            help="Any other option of the recipe, such as outgoing=sum; may be repeated.",
        ),
    ] = None,
    max_change: MaxChange = None,
    pseudo_classes: PseudoClasses = None,
    max_batches: MaxBatches = None,
    seed: Seed = 0,
    html: Annotated[Path | None, typer.Option(help="Write a page with pictures here.")] = None,
    plan: Annotated[Path | None, typer.Option(help="Save the plan (.npz) here.")] = None,
    input_shape: InputShape = None,
    size: Size = None,
    mean: Mean = None,
    std: Std = None,
    preprocess: Preprocess = None,
    batch_size: BatchSize = 64,
    as_json: Json = False,
) -> None:
    """Merge channels that respond alike and rejuvenate the rest; or, with --arrange, sort them."""
    _check_reorganize(context, method)
    check_outputs(
        {"-o": output, "--html": html, "--plan": plan}, model, data, overwrite=overwrite
    )
    from .. import onnx as onnx_adapter
    from ..onnx.reorganize import reorganized

    if data is None and not (arrange and order == "random" and html is None):
        raise typer.BadParameter("give --data: the map is trained on the activations of images")
    chosen = parse_recipe(recipe, method, ratio, seed, option or [])
    names = layers or (["all"] if arrange else ["last"])
    loaded = onnx_adapter.load(model, input_shapes=parse_input_shapes(input_shape))
    batches = None
    if data is not None:
        batches = open_batches(model, data, size, mean, std, preprocess, batch_size, input_shape)
    wanted = names[0] if len(names) == 1 else names
    shown = shows_progress(as_json)
    pictures: list[Any] = []
    if arrange:
        changed, report = onnx_adapter.arrange(
            loaded, groups=wanted, order=order, batches=batches, seed=seed, progress=shown
        )
        if html is not None and batches is not None:
            groups = [loaded.group(line.group) for line in report.groups]
            pictures = [_pictured(state, batches, groups, shown) for state in (loaded, changed)]
    else:
        changed, outcome = reorganized(
            loaded, batches, layers=wanted, recipe=chosen, progress=shown, max_change=max_change,
            pseudo_classes=pseudo_classes, max_batches=max_batches,
        )  # fmt: skip
        report, pictures = outcome.report, [outcome.before, outcome.after]
    if html is not None and batches is not None:
        from ..report.reorganization import report_page

        write_text(html, report_page(f"{model} to {output}", report, *pictures))
    if plan is not None and report.plan is not None:
        report.plan.save(plan)
    changed.save(output)
    if as_json:
        print_json({"model": str(model), "output": str(output), **report.to_dict()})
        return
    _print_report(report)
    terminal.say_plainly(f"Wrote {output}")


@app.command()
@guarded
def shrink(
    context: typer.Context,
    model: Model,
    data: DataPath,
    output: Output,
    overwrite: Overwrite = False,
    layers: Layers = None,
    ratio: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[LAYER=]SHARE",
            help="Share of the channels that stay; layer4.*=0.5 for the layers of a pattern. May "
            "be given several times.  [default: 0.75]",
        ),
    ] = None,
    target_params: Annotated[
        float | None,
        typer.Option(help="Share of the parameters that stays at most; each layer gets its ratio."),
    ] = None,
    target_flops: Annotated[
        float | None, typer.Option(help="Share of the multiply-adds that stays at most.")
    ] = None,
    method: Annotated[
        Literal["subset", "kmeans", "sofm", "l1", "l2", "random", "activity"],
        typer.Option(
            help="What decides which channels stay: those from which the others are told best; or "
            "one of each cluster; or a score."
        ),
    ] = "subset",
    option: Annotated[
        list[str] | None,
        typer.Option(
            "--option",
            metavar="NAME=VALUE",
            help="Any other option of the recipe, such as outgoing=sum; may be repeated.",
        ),
    ] = None,
    max_change: MaxChange = None,
    pseudo_classes: PseudoClasses = None,
    max_batches: MaxBatches = None,
    seed: Seed = 0,
    input_shape: InputShape = None,
    size: Size = None,
    mean: Mean = None,
    std: Std = None,
    preprocess: Preprocess = None,
    batch_size: BatchSize = 64,
    as_json: Json = False,
) -> None:
    """Make a model smaller: keep the channels from which the others are told best."""
    if target_params is not None or target_flops is not None:
        refuse_options(context, ["ratio"], "with a target, which chooses the ratios")
    check_outputs({"-o": output}, model, data, overwrite=overwrite)
    from .. import onnx as onnx_adapter

    recipe = parse_recipe("shrinking", method, parse_ratios(ratio), seed, option or [])
    loaded = onnx_adapter.load(model, input_shapes=parse_input_shapes(input_shape))
    batches = open_batches(model, data, size, mean, std, preprocess, batch_size, input_shape)
    names = layers or ["all"]
    changed, report = onnx_adapter.shrink(
        loaded, batches, names[0] if len(names) == 1 else names, recipe, shows_progress(as_json),
        pseudo_classes=pseudo_classes, max_batches=max_batches, max_change=max_change,
        target_params=target_params, target_flops=target_flops,
    )  # fmt: skip
    changed.save(output)
    if as_json:
        print_json({"model": str(model), "output": str(output), **report.to_dict()})
        return
    _print_report(report)
    terminal.say_plainly(f"Wrote {output}")


def _pictured(model: Any, batches: Any, groups: Any, progress: bool) -> Any:
    """Class means for the pictures of a page."""
    from ..onnx.collect import described

    return described(model, batches, groups, progress=progress, max_bytes=PICTURE_BYTES)[0]


def _check_reorganize(context: typer.Context, method: str) -> None:
    """Refuse what would be ignored."""
    from ...graph.plan.recipe import COMPARISONS

    given = context.params
    if given["data"] is None:
        refuse_options(context, READING, "without --data")
    if not given["arrange"]:
        refuse_options(context, ["order"], "without --arrange")
        if method in COMPARISONS:
            refuse_options(context, ["recipe"], f"with --method {method}, which merges nothing")
        return
    reorganizing = ["max_change", "pseudo_classes", "max_batches"]
    refuse_options(
        context, ["recipe", "method", "ratio", "option", *reorganizing], "with --arrange"
    )
    if given["order"] == "random" and given["html"] is None:
        refuse_options(context, ["data"], "with --order random, unless --html shows the images")


def _print_report(report: Any) -> None:
    from ..report.reorganization import report_rows

    arranged = bool(report.groups) and report.groups[0].kind == "arrange"
    title = "Arranged" if arranged else "Reorganized" if report.cost is None else "Shrunk"
    terminal.out.print(Listing(title, *report_rows(report)))
    for name, reason in report.skipped.items():
        terminal.say_plainly(f"Left as it was: {name}: {reason}")
    if saved := report.saved():
        terminal.say_plainly(saved)
    outputs = report.outputs()
    if outputs and (arranged or len(report.groups) > 1):
        terminal.say_plainly(outputs[0].upper() + outputs[1:])


@app.command()
@guarded
def finetune(
    context: typer.Context,
    model: Model,
    data: DataPath,
    output: Output,
    overwrite: Overwrite = False,
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
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the images.")] = 10,
    lr: Annotated[
        float | None,
        typer.Option(help="Highest learning rate; 0.001 for adamw, 0.01 for sgd by default."),
    ] = None,
    optimizer: Annotated[Literal["adamw", "sgd"], typer.Option(help="Optimizer.")] = "adamw",
    augment: Annotated[
        Literal["shift+flip", "shift", "flip", "none"],
        typer.Option(help="What is done to pictures at random; no flip for digits or text."),
    ] = "shift+flip",
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
    restart: Annotated[
        bool, typer.Option("--restart", help="Begin anew although there is a checkpoint.")
    ] = False,
    device: Annotated[
        str | None, typer.Option(help="cuda or cpu; cuda by default where there is one.")
    ] = None,
    seed: Seed = 0,
    input_shape: InputShape = None,
    size: Size = None,
    mean: Mean = None,
    std: Std = None,
    preprocess: Preprocess = None,
    batch_size: BatchSize = 64,
    as_json: Json = False,
) -> None:
    """Train an ONNX file on images; its structure, names and metadata stay as they are.

    A run that was interrupted continues when the command is repeated.
    """
    if module is not None:
        refuse_options(context, ["freeze"], "with --module")
    source = module.rpartition(":")[0] if module else ""
    code = Path(source) if source.endswith(".py") else None
    check_outputs({"-o": output}, model, data, test, teacher, code, overwrite=overwrite)
    from ..finetune.finetuning import finetune_file
    from ..finetune.training import Settings

    settings = Settings(
        epochs=epochs,
        lr=lr,
        optimizer=optimizer,
        augment=augment,
        smoothing=smoothing,
        mixup=mixup,
        patience=patience,
        seed=seed,
        device=device,
    )
    batches = open_batches(model, data, size, mean, std, preprocess, batch_size, input_shape)
    tested = None
    if test is not None:
        tested = open_batches(model, test, size, mean, std, preprocess, batch_size, input_shape)
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
        input_shapes=parse_input_shapes(input_shape),
        restart=restart,
        on_epoch=lambda epoch: terminal.say_aside(
            f"epoch {epoch.number} of {epochs}: {epoch}" if epoch.number else f"before: {epoch}"
        ),
        progress=progress("batches", as_json),
    )
    if as_json:
        print_json({"model": str(model), "output": str(output), **result.to_dict()})
        return
    rows = [
        (name, percent(result.before[name]), percent(result.after[name]))
        for name in result.before
    ]
    terminal.out.print(Listing("Accuracy", ["images", "before", "after"], rows))
    terminal.say_plainly(result.verdict)
    terminal.say_plainly(f"Wrote {output}")


@app.command()
@guarded
def rejuvenate(
    model: Model,
    data: DataPath,
    output: Output,
    overwrite: Overwrite = False,
    test: Annotated[
        Path | None,
        typer.Option(
            exists=True, help="Images to evaluate on; by default a fifth of --data is set apart."
        ),
    ] = None,
    layers: Layers = None,
    ratio: Annotated[
        float | None, typer.Option(help="Share of the channels that survive at most.")
    ] = None,
    control: Annotated[
        bool,
        typer.Option(help="Fine-tune the model plainly as well, into OUTPUT.plain.onnx."),
    ] = True,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the images.")] = 10,
    lr: Annotated[
        float | None, typer.Option(help="Highest learning rate; 0.001 by default.")
    ] = None,
    augment: Annotated[
        Literal["shift+flip", "shift", "flip", "none"],
        typer.Option(help="What is done to pictures at random; no flip for digits or text."),
    ] = "shift+flip",
    restart: Annotated[
        bool, typer.Option("--restart", help="Begin anew although there is a checkpoint.")
    ] = False,
    device: Annotated[
        str | None, typer.Option(help="cuda or cpu; cuda by default where there is one.")
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page with pictures here.")] = None,
    seed: Seed = 0,
    input_shape: InputShape = None,
    size: Size = None,
    mean: Mean = None,
    std: Std = None,
    preprocess: Preprocess = None,
    batch_size: BatchSize = 64,
    as_json: Json = False,
) -> None:
    """The whole method: choose layers, reorganize them, train, and evaluate beside plain training.

    The original, the rejuvenated file and a plainly fine-tuned one are compared on images that
    nothing was trained on or chosen by.
    """
    plain = output.with_name(output.stem + ".plain.onnx") if control else None
    outputs = {"-o": output, "--html": html, "--control": plain}
    check_outputs(outputs, model, data, test, overwrite=overwrite)
    from ...graph import Recipe
    from ..finetune.rejuvenating import rejuvenate_file
    from ..finetune.training import Settings

    settings = Settings(epochs, lr, augment=augment, seed=seed, device=device)
    try:
        recipe = Recipe.preserving(seed=seed, **({} if ratio is None else {"ratio": ratio}))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    asked = layers or ["auto"]
    how = size, mean, std, preprocess, batch_size, input_shape
    batches = open_batches(model, data, *how)
    tested = open_batches(model, test, *how) if test else None
    result = rejuvenate_file(
        model,
        output,
        batches,
        tested,
        layers=asked[0] if len(asked) == 1 else asked,
        recipe=recipe,
        settings=settings,
        control=plain,
        input_shapes=parse_input_shapes(input_shape),
        restart=restart,
        on_epoch=lambda what, epoch: terminal.say_aside(
            f"{what}, epoch {epoch.number} of {epochs}: {epoch}"
        ),
        progress=progress("batches", as_json),
    )
    if html is not None:
        from ..report.rejuvenation import rejuvenation_page

        write_text(html, rejuvenation_page(f"{model} to {output}", result))
    if as_json:
        print_json({"model": str(model), "output": str(output), **result.to_dict()})
        return
    if result.note:
        terminal.say_plainly(result.note)
    _print_report(result.report)
    rows = [(name, percent(share)) for name, share in result.accuracy.items()]
    title = f"Accuracy on {result.evaluated} images set apart"
    terminal.out.print(Listing(title, ["file", "accuracy"], rows))
    for line in (result.verdict, *(f"Wrote {path}" for path in (output, plain, html) if path)):
        terminal.say_plainly(line)


@app.command()
@guarded
def compare(
    first: Model,
    second: Model,
    data: DataPath,
    input_shape: InputShape = None,
    size: Size = None,
    mean: Mean = None,
    std: Std = None,
    preprocess: Preprocess = None,
    batch_size: BatchSize = 64,
    as_json: Json = False,
) -> None:
    """Run two ONNX files on the same images; compare outputs, weights and running time."""
    from . import comparison

    batches = open_batches(first, data, size, mean, std, preprocess, batch_size, input_shape)
    result = comparison.compare(str(first), str(second), batches, progress("images", as_json))
    if as_json:
        print_json({"first": str(first), "second": str(second), **result.to_dict()})
        return
    scores = result.accuracy or (None, None)
    rate = [1000 * seconds / result.images for seconds in result.seconds]
    rows = [
        ("images", result.images),
        ("accuracy of the first", percent(scores[0])),
        ("accuracy of the second", percent(scores[1])),
        ("same first class", percent(result.top1)),
        ("first five classes in common", percent(result.top5)),
        ("outputs", len(result.outputs)),
        ("greatest difference of the outputs", result.max_difference),
        ("mean difference of the outputs", result.mean_difference),
        ("relative difference of the outputs", result.relative_difference),
        ("weights that are equal", result.equal),
        ("weights that differ", len(result.changed)),
        ("weights of one file only", len(result.only_first) + len(result.only_second)),
        ("ms an image, first", rate[0]),
        ("ms an image, second", rate[1]),
    ]
    terminal.out.print(Listing(f"{first} and {second}", ["figure", "value"], rows))
    if len(result.outputs) > 1:
        names = ["output", "greatest difference", "mean", "relative", "note"]
        rows = [(name, *asdict(found).values()) for name, found in result.outputs.items()]
        terminal.out.print(Listing("Outputs", names, rows))
    if result.changed:
        changed = sorted(result.changed.items(), key=lambda item: -item[1])
        terminal.out.print(Listing("Weights that differ", ["weight", "by at most"], changed))


@app.command()
@guarded
def demo(
    output: Annotated[Path, typer.Option(help="Folder for the files that it makes.")] = Path(
        "demo"
    ),
    epochs: Annotated[
        int, typer.Option(min=1, help="Epochs of training, and of each follow-up.")
    ] = 10,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """The main job on real data without a download: train, reorganize, rejuvenate, compare."""
    for package in ("torch", "onnx_ir", "onnxruntime", "onnxscript"):
        if importlib.util.find_spec(package) is None:
            raise ValueError(
                f"the demo needs {package}, which is not installed: pip install 'rejuvenet[all]'"
            )
    from .demo import run_demo

    result = run_demo(output, epochs=epochs, seed=seed, say=None if as_json else terminal.say)
    if as_json:
        print_json(result)
