"""``demo``: the main job on data that need no download."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Annotated

import typer

from ....files import check_writable, one_sentence
from .. import terminal
from ..options import Json, Seed
from ..terminal import guarded, print_json


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
    with one_sentence(output):
        output.mkdir(parents=True, exist_ok=True)
    check_writable(output / "report.html")
    from ..demo import run_demo

    result = run_demo(output, epochs=epochs, seed=seed, say=None if as_json else terminal.say)
    if as_json:
        print_json(result)
