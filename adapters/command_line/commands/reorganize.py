"""``reorganize``: merge channels and rejuvenate the rest of them, or sort them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from .. import terminal
from ..change_page import write_change_page
from ..invocation import Invocation
from ..options import (
    BESIDE_AUTO,
    MAX_IMAGES,
    READING,
    Changes,
    Html,
    Json,
    Layers,
    MaxChange,
    MaxImages,
    Model,
    OptionalData,
    Output,
    Overwrite,
    PseudoClasses,
    RecipeOptions,
    Seed,
    Test,
    check_outputs,
    check_page,
    named,
    parse_recipe,
    refuse_options,
    write_changes,
)
from ..reading import Look, Reading, open_batches, reads
from ..terminal import guarded, print_json, print_report, shows_progress


@guarded
@reads
def reorganize(
    context: typer.Context,
    model: Model,
    output: Output,
    overwrite: Overwrite = False,
    changes: Changes = None,
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
    option: RecipeOptions = None,
    max_change: MaxChange = None,
    pseudo_classes: PseudoClasses = None,
    max_images: MaxImages = MAX_IMAGES,
    seed: Seed = 0,
    html: Html = None,
    test: Test = None,
    plan: Annotated[Path | None, typer.Option(help="Save the plan (.npz) here.")] = None,
    *,
    reading: Reading,
    as_json: Json = False,
) -> None:
    """Merge channels that respond alike and rejuvenate the rest; or, with --arrange, sort them."""
    _check_reorganize(context, method)
    outputs = {"-o": output, "--html": html, "--plan": plan, "--changes": changes}
    check_outputs(outputs, model, data, test, overwrite=overwrite)
    check_page(html, model, output)
    from ....graph.reorganizing import Outcome
    from ... import onnx as onnx_adapter
    from ...onnx.reorganize import reorganized

    if data is None and not (arrange and order == "random" and html is None):
        raise typer.BadParameter("give --data: the map is trained on the activations of images")
    chosen = parse_recipe(recipe, method, ratio, seed, option or [])
    read = open_batches(model, data, reading) if data else None
    loaded = onnx_adapter.load(model, input_shapes=reading.shapes(model, read))
    every_class = chosen.tells_classes_apart and pseudo_classes is None
    look = Look.at(read, max_images, seed, every_class) if read is not None else None
    batches = look.batches if look else None
    tested = open_batches(model, test, reading) if test else None
    wanted = named(layers, "all" if arrange else "last")
    shown = shows_progress(as_json)
    if arrange:
        changed, report = onnx_adapter.arrange(
            loaded, groups=wanted, order=order, batches=batches if order == "sofm" else None,
            seed=seed, progress=shown,
        )  # fmt: skip
        outcome = Outcome(report)
        if html is not None and batches is not None:
            groups = [loaded.group(line.group) for line in report.groups]
            outcome.before = _pictured(loaded, batches, groups, shown)
            outcome.after = _pictured(changed, batches, groups, shown)
    else:
        changed, outcome = reorganized(
            loaded, batches, layers=wanted, recipe=chosen, progress=shown, max_change=max_change,
            pseudo_classes=pseudo_classes,
        )  # fmt: skip
        report = outcome.report
    if plan is not None and report.plan is not None:
        report.plan.save(plan)
    changed.save(output)
    write_changes(loaded, output, changes)
    if html is not None and look is not None:
        call = Invocation(context, look.batches.data)
        write_change_page(html, call, loaded, outcome, look, tested, as_json)
    if as_json:
        files = {"model": str(model), "output": str(output)}
        print_json({**files, **(look.to_dict() if look else {}), **report.to_dict()})
        return
    print_report(report)
    for line in filter(None, (look, *terminal.written(output, html))):
        terminal.say_plainly(str(line))


def _pictured(model: Any, batches: Any, groups: Any, progress: bool) -> Any:
    """Class means for the pictures of a page."""
    from ...onnx.collect import described
    from ..change_page import PICTURE_BYTES

    return described(model, batches, groups, progress=progress, max_bytes=PICTURE_BYTES)[0]


def _check_reorganize(context: typer.Context, method: str) -> None:
    """Refuse what would be ignored."""
    from ....graph.plan.recipe import COMPARISONS

    given = context.params
    if given["html"] is None:
        refuse_options(context, ["test"], "without --html")
    if given["data"] is None:
        refuse_options(context, [*READING, "max_images"], "without --data")
    if not given["arrange"]:
        refuse_options(context, ["order"], "without --arrange")
        if given["layers"] == ["auto"] and given["ratio"] != "redundant":
            refuse_options(context, ["ratio"], BESIDE_AUTO)
        if method in COMPARISONS:
            refuse_options(context, ["recipe"], f"with --method {method}, which merges nothing")
        return
    reorganizing = ["recipe", "method", "ratio", "option", "max_change", "pseudo_classes"]
    refuse_options(context, reorganizing, "with --arrange")
    if given["order"] == "random" and given["html"] is None:
        refuse_options(context, ["data"], "with --order random, unless --html shows the images")
