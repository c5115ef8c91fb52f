"""What a command did to a file, on images that nothing was fitted to: the figures of its page."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...graph.change.least_squares import held_out
from ..images.batch_inputs import count, rows_of
from ..images.image_data import Batch, Batches
from .comparison import compare


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
    data: Batches,
    test: Batches | None,
    held: int,
    progress: Callable[[Iterable], Iterable] = iter,
) -> tuple[dict[str, Any], str]:
    """Both files on the images that are fairest, and which these are.

    Parameters
    ----------
    model, output : Path
        Before and after.
    data, test : Batches
        What the change was fitted to, and images that it has not seen, if there are any.
    held : int
        How many images of ``data`` no refit has used.
    """
    images: Any = test if test is not None else Unfitted(data) if held else data
    found = compare(str(model), str(output), images, progress).to_dict()
    n = found["images"]
    if test is not None:
        return found, f"{n:,} test images"
    if held:
        return found, f"{n:,} images that no refit used"
    return found, f"the {n:,} images that it was fitted to"
