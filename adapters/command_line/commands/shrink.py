"""``shrink``: remove the channels that others tell."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from .. import terminal
from ..change_page import write_change_page
from ..invocation import Invocation
from ..options import (
    MAX_IMAGES,
    DataPath,
    Html,
    Json,
    Layers,
    MaxChange,
    MaxImages,
    Model,
    Output,
    Overwrite,
    PseudoClasses,
    RecipeOptions,
    Seed,
    Test,
    Threads,
    check_outputs,
    check_page,
    named,
    parse_ratios,
    parse_recipe,
    refuse_options,
)
from ..reading import Look, Reading, open_batches, reads
from ..terminal import guarded, print_json, print_report, shows_progress


@guarded
@reads
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
    target_latency: Annotated[
        str | None,
        typer.Option(
            metavar="SHARE|MS",
            help="Share of today's latency that stays at most, or milliseconds such as 5ms, of one "
            "image in onnxruntime; timed on models that are really smaller.",
        ),
    ] = None,
    threads: Threads = 1,
    method: Annotated[
        Literal["subset", "kmeans", "sofm", "l1", "l2", "random", "activity", "correlation"],
        typer.Option(
            help="What decides which channels stay: those from which the others are told best; or "
            "one of each cluster; or a score."
        ),
    ] = "subset",
    option: RecipeOptions = None,
    max_change: MaxChange = None,
    pseudo_classes: PseudoClasses = None,
    max_images: MaxImages = MAX_IMAGES,
    seed: Seed = 0,
    html: Html = None,
    test: Test = None,
    *,
    reading: Reading,
    as_json: Json = False,
) -> None:
    """Make a model smaller: keep the channels from which the others are told best."""
    if any(target is not None for target in (target_params, target_flops, target_latency)):
        refuse_options(context, ["ratio"], "with a target, which chooses the ratios")
    if target_latency is None:
        refuse_options(context, ["threads"], "without --target-latency")
    if html is None:
        refuse_options(context, ["test"], "without --html")
    check_outputs({"-o": output, "--html": html}, model, data, test, overwrite=overwrite)
    check_page(html, model, output)
    from ...onnx import load
    from ...onnx.reorganize import shrunk

    recipe = parse_recipe("shrinking", method, parse_ratios(ratio), seed, option or [])
    batches = open_batches(model, data, reading)
    loaded = load(model, input_shapes=reading.shapes(model, batches))
    every_class = recipe.tells_classes_apart and pseudo_classes is None
    look = Look.at(batches, max_images, seed, every_class)
    tested = open_batches(model, test, reading) if test else None
    changed, outcome = shrunk(
        loaded, look.batches, named(layers, "all"), recipe, shows_progress(as_json),
        pseudo_classes=pseudo_classes, max_change=max_change,
        target_params=target_params, target_flops=target_flops, target_latency=target_latency,
        threads=None if target_latency is None else threads,
    )  # fmt: skip
    changed.save(output)
    report = outcome.report
    if html is not None:
        call = Invocation(context, look.batches.data)
        write_change_page(html, call, loaded, outcome, look, tested, as_json)
    if as_json:
        files = {"model": str(model), "output": str(output)}
        print_json({**files, **look.to_dict(), **report.to_dict()})
        return
    print_report(report)
    for line in (look, *terminal.written(output, html)):
        terminal.say_plainly(str(line))
