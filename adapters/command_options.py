"""Options of the commands and what their text means."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..files import check_writable
from .data import Batches, read_data

Model = Annotated[
    Path, typer.Argument(exists=True, dir_okay=False, metavar="MODEL", help="An ONNX file.")
]
_DATA = typer.Option(
    "--data",
    exists=True,
    help="A folder with one sub-folder per class, or an .npz file with x and y.",
)
DataPath = Annotated[Path, _DATA]
OptionalData = Annotated[Path | None, _DATA]
Output = Annotated[Path, typer.Option("--output", "-o", help="The ONNX file to write.")]
Layers = Annotated[
    list[str] | None,
    typer.Option(
        "--layers",
        "-l",
        help="Name of a layer or weight, a pattern such as 'layer4.*', 'last' or 'all'. "
        "May be given several times.",
    ),
]
Size = Annotated[
    str | None,
    typer.Option(help="HEIGHTxWIDTH of the images, where the model takes any."),
]
Mean = Annotated[
    str | None,
    typer.Option(
        help="Mean of the pixels in [0, 1] that the model expects subtracted: 0.5 or "
        "0.485,0.456,0.406."
    ),
]
Std = Annotated[str | None, typer.Option(help="Standard deviation to divide by, as --mean.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Images at a time.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of everything that is drawn at random.")]


def check_outputs(model: Path, *outputs: Path | None) -> None:
    """Say before any work whether the files can be written; the model is never one of them."""
    given = [path for path in outputs if path is not None]
    for i, path in enumerate(given):
        target = check_writable(path)
        if target == model.resolve():
            raise ValueError(f"Cannot write {path}: it is the model to read; give another name")
        if any(target == other.resolve() for other in given[:i]):
            raise ValueError(f"Cannot write {path} twice; give each option a file of its own")


def open_batches(
    model: Path, data: Path, size: str | None, mean: str | None, std: str | None, batch_size: int
) -> Batches:
    """Batches of the images under ``data`` in the shape that the model takes."""
    from .comparison import Runner, image_shape

    shape = image_shape(Runner(str(model)).shape, parse_size(size))
    return Batches(
        read_data(data),
        batch_size,
        shape,
        parse_numbers(mean, "--mean"),
        parse_numbers(std, "--std"),
    )


def parse_size(text: str | None) -> tuple[None, int, int] | None:
    """Height and width of ``"224x192"``; one number is both.

    >>> parse_size("224x192")
    (None, 224, 192)
    """
    if text is None:
        return None
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise typer.BadParameter(f"expected --size HEIGHTxWIDTH such as 224x224, got {text!r}")
    return None, int(parts[0]), int(parts[-1])


def parse_numbers(text: str | None, name: str) -> tuple[float, ...] | None:
    """Numbers between commas.

    >>> parse_numbers("0.5,0.25", "--mean")
    (0.5, 0.25)
    """
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"expected {name} 0.5 or 0.5,0.5,0.5, got {text!r}") from None


def parse_recipe(preset: str, method: str, ratio: str, seed: int, options: list[str]) -> Any:
    """The recipe of a preset with the changes that the user asked for."""
    from ..graph import Recipe
    from ..graph.recipe import COMPARISONS

    changes: dict[str, Any] = {"method": method, "ratio": _value(ratio), "seed": seed}
    for option in options:
        name, equals, value = option.partition("=")
        if not equals:
            raise typer.BadParameter(f"expected --option NAME=VALUE, got {option!r}")
        changes[name] = _value(value)
    make: Any = Recipe.paper if preset == "paper" else Recipe.preserving
    if method in COMPARISONS:  # these merge nothing: survivors keep their weights
        make = Recipe.comparison
    try:
        return make(**changes)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def _value(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
