"""``apply``: put the arrays that changed into the original."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .. import terminal
from ..options import Json, Model, Output, Overwrite, check_outputs
from ..terminal import guarded, print_json


@guarded
def apply(
    model: Model,
    changes: Annotated[
        Path,
        typer.Argument(
            exists=True, dir_okay=False, metavar="CHANGES", help="A file that --changes wrote."
        ),
    ],
    output: Output,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Put changed arrays into the model that they were changed from, and no other."""
    check_outputs({"-o": output}, model, changes, overwrite=overwrite)
    from ... import onnx as onnx_adapter

    onnx_adapter.apply_changes(onnx_adapter.load(model), changes).save(output)
    if as_json:
        print_json({"model": str(model), "changes": str(changes), "output": str(output)})
        return
    terminal.say_plainly(*terminal.written(output))
