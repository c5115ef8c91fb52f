"""Options of the commands and what their text means."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ...files import check_writable
from ..visible import visible
from .terminal import say_aside

if TYPE_CHECKING:
    from ..onnx.model import OnnxModel

Model = Annotated[
    Path, typer.Argument(exists=True, dir_okay=False, metavar="MODEL", help="An ONNX file.")
]
_DATA = typer.Option(
    "--data",
    exists=True,
    help="Images: a folder with one sub-folder per class, or of pictures alone; a .csv or .parquet "
    "table of path and label; .tar shards; or an .npz file with x and y. Of a model with several "
    "inputs: an .npz file with an array for each, by their names.",
)
DataPath = Annotated[Path, _DATA]
OptionalData = Annotated[Path | None, _DATA]
Output = Annotated[Path, typer.Option("--output", "-o", help="The ONNX file to write.")]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Allow --output to be the model that is read.")
]
Changes = Annotated[
    Path | None,
    typer.Option(
        help="Write the arrays that changed, and nothing else, to this .safetensors file, for "
        "'rejuvenet apply'."
    ),
]
Layers = Annotated[
    list[str] | None,
    typer.Option(
        "--layers",
        "-l",
        help="Name of a layer or weight, a pattern such as 'layer4.*', 'last', 'all' or, to merge, "
        "'auto': those that use the least of their capacity. May be given several times.",
    ),
]
Size = Annotated[
    str | None,
    typer.Option(help="HEIGHTxWIDTH of the images, where the model takes any."),
]
InputShape = Annotated[
    list[str] | None,
    typer.Option(
        "--input-shape",
        metavar="[NAME:]N,C,H,W",
        help="Shape of an input where the file leaves it open: x:1,3,224,224, or 1,3,224,224 for "
        "the only input. May be given several times.",
    ),
]
Mean = Annotated[
    str | None,
    typer.Option(
        help="Mean of the pixels in [0, 1] that the model expects subtracted: 0.5 or "
        "0.485,0.456,0.406."
    ),
]
Std = Annotated[str | None, typer.Option(help="Standard deviation to divide by, as --mean.")]
Preprocess = Annotated[
    str | None,
    typer.Option(
        metavar="FILE or MODULE:FUNCTION",
        help="JSON or YAML file of size, mean, std and channels (rgb or bgr), or the "
        "preprocessor_config.json of a model; options go before it. Or package.module:function or "
        "file.py:function, which makes (channels, height, width) of a PIL picture, or of an entry "
        "of x. This runs the code in that file: give only files that you trust.",
    ),
]
BatchSize = Annotated[int, typer.Option(min=1, help="Images at a time.")]
Threads = Annotated[
    int, typer.Option(min=1, help="Threads of an operator where the latency is measured.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
MaxChange = Annotated[
    float | None,
    typer.Option(
        help="Leave groups as they were until no output changes by more than this share, on "
        "images that no refit has used."
    ),
]
PseudoClasses = Annotated[
    int | None,
    typer.Option(min=1, help="Group the images by what the model sees, not by their class."),
]
MaxImages = Annotated[
    int,
    typer.Option(
        min=1, help="Look at so many images at most, drawn from every class alike; more of them "
        "change little."
    ),
]  # fmt: skip
RecipeOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--option",
        metavar="NAME=VALUE",
        help="Any other option of the recipe, such as outgoing=sum; may be repeated.",
    ),
]
Epochs = Annotated[int, typer.Option(min=1, help="Passes over the images.")]
Augment = Annotated[
    Literal["shift+flip", "shift", "flip", "none"] | None,
    typer.Option(
        help="What is done to images at random; no flip for digits or text.  [default: shift+flip; "
        "none where samples may be no images]"
    ),
]
Restart = Annotated[
    bool, typer.Option("--restart", help="Begin anew although there is a checkpoint.")
]
Device = Annotated[
    str | None, typer.Option(help="cuda or cpu; cuda by default where there is one.")
]
Html = Annotated[
    Path | None,
    typer.Option(
        help="Write a page here: what was gained, what to do next, and all that was found."
    ),
]
Test = Annotated[
    Path | None,
    typer.Option(
        exists=True, help="Images to measure on for --html; by default those of --data that no "
        "refit used.",
    ),
]  # fmt: skip
Seed = Annotated[int, typer.Option(min=0, help="Seed of everything that is drawn at random.")]

BESIDE_AUTO = "with --layers auto, which chooses the ratios"
IN_TRAINING = ("optimizer", "every", "stop")  # options of a recipe that a file has no use for

# More take minutes; 250 to 2,000 could not be told apart (tutorials/how_many_images.py).
MAX_IMAGES = 2000
READING = ("size", "mean", "std", "preprocess", "batch_size")  # what is said about --data


def check_outputs(
    outputs: Mapping[str, Path | None],
    model: Path,
    *others: Path | None,
    overwrite: bool = False,
) -> None:
    """Say before any work whether the files can be written, and that none of them is needed.

    Files are the same whatever their spelling, through symbolic links and hard links.

    Parameters
    ----------
    outputs : mapping of option to path or None
        What is to be written; ``-o`` is a model, whose weights may need ``<name>.data``.
    model : path
        The model to read, with the files that hold its weights.
    *others : path or None
        What is read besides: folders and files of data, code.
    overwrite : bool
        ``-o`` may be the model.

    Raises
    ------
    typer.BadParameter
        An output is a file that is read, or another output.
    OSError
        One cannot be written.
    """
    written: list[tuple[str, Path]] = []
    for option, path in outputs.items():
        if path is None:
            continue
        check_writable(path)
        for file in [path] if option != "-o" else [path, path.with_name(path.name + ".data")]:
            for other, taken in written:
                if _same(file, taken):
                    raise typer.BadParameter(
                        f"cannot write {visible(file)} twice ({other} and {option}); give each "
                        "option a file of its own"
                    )
            written.append((option, file))
    written = [(option, file) for option, file in written if file.exists()]
    target = outputs.get("-o")
    itself = target is not None and _same(target, model)
    sources = {model: "the model to read", **dict.fromkeys(others, "part of what is to be read")}
    for source, role in sources.items() if written else ():
        for needed in _files_read(source, source is model):
            for option, file in written:
                in_place = itself and option == "-o" and source is model
                if _same(file, needed) and not (overwrite and in_place):
                    allow = ", or --overwrite" if in_place else ""
                    raise typer.BadParameter(
                        f"{option} would overwrite {visible(file)}: it is {role}; give another "
                        f"name{allow}"
                    )


def check_page(html: Path | None, model: Path, output: Path) -> None:
    """A page compares the files before and after, so that both have to be there."""
    if html is not None and _same(model, output):
        raise typer.BadParameter(
            "--html compares the model with what is written: give -o another name"
        )


def _same(a: Path, b: Path) -> bool:
    try:
        return os.path.samefile(a, b)
    except OSError:  # one of them is not there yet
        return os.path.normcase(os.path.realpath(a)) == os.path.normcase(os.path.realpath(b))


def _files_read(source: Path | None, is_model: bool) -> Iterator[Path]:
    """``source`` itself, what lies in a folder, and the files that hold a model's weights."""
    if source is None:
        return
    if source.is_dir():
        linked = (entry for entry in source.iterdir() if entry.is_symlink() and entry.is_dir())
        for top in (source, *linked):
            for folder, _, names in os.walk(top):
                yield from (Path(folder, name) for name in names)
        return
    yield source
    if not is_model:
        return
    from onnx import load_model
    from onnx.external_data_helper import ExternalDataInfo, uses_external_data

    from ..onnx.storage import tensors_of

    try:
        tensors = tensors_of(load_model(source, load_external_data=False))
        outside = {ExternalDataInfo(t).location for t in tensors if uses_external_data(t)}
    except Exception:  # no model: what reads it will say so
        return
    yield from (source.parent / location for location in sorted(outside))


def write_changes(original: OnnxModel | None, output: Path, changes: Path | None) -> None:
    """What ``--changes`` asks for, once the output is written."""
    if original is not None and changes is not None:
        from ..onnx import load, save_changes

        n = save_changes(original, load(output), changes)
        say_aside(f"Wrote {n} changed arrays to {changes}")


def refuse_options(context: typer.Context, names: Iterable[str], where: str) -> None:
    """Refuse options that the user gave and that would do nothing there.

    Parameters
    ----------
    context : typer.Context
        Knows which options were given.
    names : iterable of str
        Names of parameters.
    where : str
        Such as ``"without --data"``.
    """
    for name in names:
        source = context.get_parameter_source(name)
        if source is not None and source.name != "DEFAULT":
            option = "--" + name.replace("_", "-")
            raise typer.BadParameter(f"{option} does nothing {where}; leave it out")


def named(layers: list[str] | None, usual: str) -> str | list[str]:
    """What ``--layers`` asks for: one word, which may be ``"all"`` or ``"auto"``, or several."""
    given = layers or [usual]
    return given[0] if len(given) == 1 else given


def parse_ratios(texts: list[str] | None) -> float | dict[str, float]:
    """One ratio for all layers, or one by the pattern of their names; all others keep everything.

    >>> parse_ratios(["layer4.*=0.5", "0.9"])
    {'layer4.*': 0.5, '*': 0.9}
    """
    found: dict[str, float] = {}
    for text in texts or ["0.75"]:
        layer, equals, share = text.rpartition("=")
        value = _value(share)
        if isinstance(value, str) or not 0 < value <= 1:
            raise typer.BadParameter(
                "expected --ratio as a share of the channels in (0, 1] or LAYER=SHARE, got "
                f"{text!r}"
            )
        found[layer if equals else "*"] = float(value)
    if list(found) == ["*"]:
        return found["*"]
    rest = found.pop("*", 1.0)  # the first key that fits counts
    return {**found, "*": rest}


def parse_recipe(
    preset: str, method: str, ratio: str | float | dict[str, float], seed: int, options: list[str]
) -> Any:
    """The recipe of a preset with the changes that the user asked for."""
    from ...graph import Recipe
    from ...graph.plan.recipe import COMPARISONS

    share = _value(ratio) if isinstance(ratio, str) else ratio
    changes: dict[str, Any] = {"method": method, "ratio": share, "seed": seed}
    for option in options:
        name, equals, value = option.partition("=")
        if not equals:
            raise typer.BadParameter(f"expected --option NAME=VALUE, got {option!r}")
        if name in ("method", "ratio", "seed"):
            raise typer.BadParameter(f"--option {name} has an option of its own; give --{name}")
        if name in changes:
            raise typer.BadParameter(f"--option {name} is given twice; give it once")
        if name in IN_TRAINING:
            raise typer.BadParameter(
                f"--option {name} does nothing to a file, only in training; leave it out"
            )
        if name == "tolerance" and share != "redundant":
            raise typer.BadParameter(
                "--option tolerance does nothing without --ratio redundant; leave it out"
            )
        changes[name] = _value(value)
    make: Any = getattr(Recipe, preset)
    # These merge nothing: survivors keep their weights.
    if preset != "shrinking" and method in COMPARISONS:
        make = Recipe.comparison
    try:
        return make(**changes)
    except (TypeError, ValueError) as error:
        raise typer.BadParameter(str(error)) from None


def _value(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
