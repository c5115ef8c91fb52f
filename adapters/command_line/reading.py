"""The data that ``--data`` and the options beside it name, as a model takes them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import typer

from ..images.image_data import ArrayFile, Batches, read_data
from ..images.named_arrays import NamedArrays, NamedBatches
from ..images.sampling import sampled
from ..visible import number_of
from .options import BatchSize, InputShape, Mean, Preprocess, Size, Std, refuse_options
from .terminal import say_aside


@dataclass
class Reading:
    """How the data of a command enter its model, by the options that say so."""

    input_shape: InputShape = None
    size: Size = None
    mean: Mean = None
    std: Std = None
    preprocess: Preprocess = None
    batch_size: BatchSize = 64

    def shapes(self, model: Path, batches: Batches | None) -> dict[str, tuple[int, ...]]:
        """Shapes to look at the model with: those of the data, or what ``--input-shape`` says."""
        from ..images.model_input import sample_shapes

        found = {} if batches is None else sample_shapes(model, batches)
        return {**found, **parse_input_shapes(self.input_shape)}


def reads(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of :class:`Reading` in the place of its parameter ``reading``."""
    options = inspect.signature(Reading, eval_str=True).parameters

    @functools.wraps(command)
    def run(**given: Any) -> None:
        reading = Reading(**{name: given.pop(name) for name in options})
        command(reading=reading, **given)

    parameters: list[inspect.Parameter] = []
    for name, own in inspect.signature(command, eval_str=True).parameters.items():
        placed = options.values() if name == "reading" else [own]
        parameters += [p.replace(kind=own.kind) for p in placed]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return run


def open_batches(model: Path, data: Path, reading: Reading) -> Batches:
    """Batches of the images under ``data`` as the model takes them; says what is not usual."""
    from ..images.model_input import ImageInput, image_shape, input_types
    from ..images.own_preprocessing import OwnPreprocessing
    from ..images.preprocessing import Preprocessing

    size, mean, std, preprocess = reading.size, reading.mean, reading.std, reading.preprocess
    inputs = input_types(model)
    if len(inputs) > 1:
        if any(option is not None for option in (size, mean, std, preprocess)):
            raise typer.BadParameter(
                f"the model has the inputs {', '.join(inputs)}, whose arrays enter as they are; "
                "leave out --size, --mean, --std and --preprocess"
            )
        return NamedBatches(NamedArrays.open(data, inputs), reading.batch_size)
    given = next(iter(parse_input_shapes(reading.input_shape).values()), None)
    if given and size is not None:
        raise typer.BadParameter("give --size or --input-shape, which says the size as well")
    taken = ImageInput.of(model, given and given[1:])
    asked = parse_size(size)
    means, spreads = parse_numbers(mean, "--mean"), parse_numbers(std, "--std")
    known = Preprocessing(asked and asked[1:], means, spreads)
    own = None
    if preprocess is not None and ":" in preprocess and not Path(preprocess).exists():
        if any(option is not None for option in (size, mean, std)):
            raise typer.BadParameter(
                f"{preprocess} makes all that the model takes; leave out --size, --mean and --std"
            )
        own = OwnPreprocessing.named(preprocess)
    elif preprocess is not None:
        known = known.over(Preprocessing.from_file(Path(preprocess)))
    read = read_data(data)
    read.own = own
    said = Preprocessing.of_model(model) if own is None else Preprocessing()
    in_levels = not isinstance(read, ArrayFile) or read.x.dtype in (np.uint8, np.uint16)
    if taken.levels or not in_levels:  # what enters as it is stored is not scaled
        said = Preprocessing(bgr=said.bgr)
    if known.over(said) != known:
        known = known.over(said)
        say_aside(f"By the model's metadata: {known}.")
    free = len(taken.shape) == 3 and None in taken.shape[1:]
    shape = image_shape(
        taken.shape, asked or ((None, *known.size) if free and known.size else None)
    )
    means, spreads = known.mean, known.std
    if taken.levels and (means or spreads):
        raise typer.BadParameter(
            f"the model takes {taken.dtype}, to which images enter as 0 to 255; leave out --mean "
            "and --std"
        )
    if len(shape) == 3 and (taken.levels or taken.channels_last):
        say_aside(f"The model takes {taken}{': 0 to 255' if taken.holds_levels else ''}.")
    scaled = taken.levels or own is not None or (spreads and max(spreads) > 2)
    if isinstance(read, ArrayFile) and read.looks_unscaled and len(shape) == 3 and not scaled:
        low, high = read.range
        say_aside(
            f"Warning: x holds {read.x.dtype} values from {low:g} to {high:g}, which enter as they "
            "are; if the model expects [0, 1], store x as uint8, or give --std 255."
        )
    return Batches(
        read,
        reading.batch_size,
        shape,
        means,
        spreads,
        dtype=taken.dtype,
        channels_last=taken.channels_last,
        bgr=bool(known.bgr),
    )


def parse_input_shapes(texts: list[str] | None) -> dict[str, tuple[int, ...]]:
    """Shapes by the name of the input, as onnxsim takes them; an empty name is the only input.

    >>> parse_input_shapes(["serving:0:1,43844,1", "state:2x1x128"])
    {'serving:0': (1, 43844, 1), 'state': (2, 1, 128)}
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for text in texts or []:
        name, _, numbers = text.rpartition(":")
        parts = numbers.replace("x", ",").split(",")
        if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
            raise typer.BadParameter(
                f"expected --input-shape NAME:1,3,224,224 of positive whole numbers, got {text!r}"
            )
        if name in shapes:
            raise typer.BadParameter(f"--input-shape is given twice for {name or 'the input'!r}")
        shapes[name] = tuple(map(int, parts))
    return shapes


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


@dataclass
class Look:
    """What a change is fitted to.

    Attributes
    ----------
    batches : Batches
        A sample of the images, of every class alike.
    others : Batches or None
        As many that are not in it, where there are some.
    of : int
        How many images there are.
    """

    batches: Batches
    others: Batches | None
    of: int

    @classmethod
    def at(cls, batches: Batches, most: int, seed: int, every_class: bool = False) -> Look:
        """Draw the images to look at; where wanted, some of every class."""
        if every_class and batches.labelled:
            classes = len(np.unique(batches.data.labels[batches.rows]))
            if most < classes:
                raise typer.BadParameter(
                    f"expected --max-images of at least {classes}, one for each class, got {most}"
                )
        return cls(*sampled(batches, most, seed), len(batches.rows))

    @property
    def seen(self) -> int:
        """How many images of the sample can be read."""
        unreadable = getattr(self.batches.data, "unreadable", ())
        return sum(int(row) not in unreadable for row in self.batches.rows)

    def __str__(self) -> str:
        n, noun = self.seen, self.batches.data.noun
        if self.others is None and n == self.of:
            return f"Looked at {'all ' * (n > 1)}{number_of(n, noun)}."
        if self.others is None:
            return f"Looked at {n:,} of {self.of:,} {noun}, all that can be read."
        return (
            f"Looked at {n:,} of {self.of:,} {noun}, drawn from every class alike; --max-images "
            "says how many."
        )

    def to_dict(self) -> dict[str, int]:
        """How many images, of how many."""
        return {"looked_at": self.seen, "images": self.of}


def set_augmentation(context: typer.Context, batches: Batches) -> Any:
    """What ``--augment`` says, or what fits the data; a page lists it among the settings."""
    if isinstance(batches, NamedBatches) and context.params["augment"] != "none":
        refuse_options(context, ["augment"], "to the arrays of several inputs")
    fitting = "shift+flip" if batches.data.noun == "images" else "none"
    context.params["augment"] = context.params["augment"] or fitting
    return context.params["augment"]
