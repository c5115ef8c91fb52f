"""What a command did to a file, on images that nothing was fitted to: the figures of its page."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...graph.change.least_squares import held_out
from ..images.batch_inputs import count, rows_of
from ..images.image_data import Batch, Batches
from ..visible import number_of
from .comparison import compare
from .reading import Look


@dataclass
class Unfitted:
    """Of the images that a change was fitted to, those that no refit has used."""

    batches: Batches

    @property
    def data(self) -> Any:
        """Where they come from."""
        return self.batches.data

    def __iter__(self) -> Iterator[Batch]:
        first = 0
        for inputs, labels in self.batches:
            n = count(inputs)
            kept = held_out(first, n)
            first += n
            if kept.any():
                yield rows_of(inputs, kept), None if labels is None else labels[kept]


def evaluated(
    model: Path,
    output: Path,
    look: Look,
    test: Batches | None,
    held: int,
    progress: Callable[[Iterable], Iterable],
) -> tuple[dict[str, Any], str]:
    """Both files on the images that are fairest, and which these are.

    Parameters
    ----------
    model, output : Path
        Before and after.
    look : Look
        What the change was fitted to.
    test : Batches or None
        Images to measure on.
    held : int
        How many of those of ``look`` no refit has used.
    """
    images: Any = test or look.others or (Unfitted(look.batches) if held else look.batches)
    found = compare(str(model), str(output), images, progress).to_dict()
    n, noun = found["images"], images.data.noun
    if test is not None:
        return found, number_of(n, f"test {noun}")
    if look.others is not None:
        return found, f"{number_of(n, noun)} not looked at"
    if held:
        return found, f"{number_of(n, noun)} that no refit used"
    return found, f"the {number_of(n, noun)} that it was fitted to"
