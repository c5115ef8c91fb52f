"""``inspect``: the channel groups of a model, and how much of its capacity each uses."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ....files import write_text
from .. import terminal
from ..options import (
    READING,
    Json,
    Model,
    OptionalData,
    check_outputs,
    refuse_options,
)
from ..reading import Reading, open_batches, reads
from ..terminal import Listing, guarded, print_json, progress, shows_progress


@guarded
@reads
def inspect(
    context: typer.Context,
    model: Model,
    data: OptionalData = None,
    *,
    reading: Reading,
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
    from ...onnx import load

    batches = open_batches(model, data, reading) if data else None
    loaded = load(model, input_shapes=reading.shapes(model, batches))
    groups = loaded.groups
    figures = {}
    if batches is not None:
        from ..capacity_figures import capacity_figures

        figures = capacity_figures(
            loaded, batches, shows_progress(as_json), progress("capacity", as_json)
        )
    from ...onnx.layer_names import modules_of
    from ...report.network.layers import network_of
    from ..group_table import frozen_lines, group_rows, table_of

    network = network_of(loaded.graph, groups, modules_of(loaded.analysed))
    rows = group_rows(groups, network.modules, figures)
    if html is not None or svg is not None:
        from ...report.inspection import inspection_page
        from ...report.network.picture import Picture
        from ..invocation import Invocation

        picture = Picture(model.name, loaded.graph, groups, network, figures)
        if html is not None:
            call = Invocation(context, None if batches is None else batches.data)
            write_text(html, inspection_page(picture, call))
        if svg is not None:
            write_text(svg, picture.svg())
    remarks = [remark for remark in (loaded.without_groups, loaded.inferred) if remark]
    if as_json:
        print_json({"model": str(model), "groups": rows, "remarks": remarks})
        return
    if rows:
        terminal.out.print(Listing(str(model), *table_of(rows)))
    written = terminal.written(html, svg)
    for line in [*frozen_lines(rows), *remarks, *written]:
        terminal.say_plainly(line)
