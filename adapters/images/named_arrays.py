"""An ``.npz`` file with one array for each input of a model, for models that take several.

Samples lie along the first axis of every array; what has no axis goes to every batch as it is.
Arrays enter in the model's types, unscaled.  An array ``y`` holds the labels, unless the model has
an input of this name; it may be left out.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .array_file import classes_of, read_npz
from .image_data import Batch, Batches, Shape
from .own_preprocessing import OwnPreprocessing


@dataclass
class NamedArrays:
    """Arrays by the name of the input, as a source of :class:`NamedBatches`."""

    classes: list
    labels: np.ndarray
    arrays: dict[str, np.ndarray]
    labelled: bool = True
    own: OwnPreprocessing | None = None

    @property
    def noun(self) -> str:
        """What they are."""
        return "samples"

    @classmethod
    def open(cls, path: Path, inputs: Mapping[str, np.dtype]) -> NamedArrays:
        """Read the arrays of some inputs, in their order and types.

        Raises
        ------
        ValueError
            One is missing, holds other values than its input takes, or has another number of
            samples than the rest.
        """
        if path.suffix.lower() != ".npz":
            raise ValueError(
                f"The model has the inputs {', '.join(inputs)}: give an .npz file with an array of "
                f"each name, got {path}."
            )
        stored, _ = read_npz(path, [*inputs, "y"])
        missing = [name for name in inputs if name not in stored]
        if missing:
            raise ValueError(
                f"Expected an array for each input of the model ({', '.join(inputs)}) in {path}, "
                f"found none for {', '.join(missing)}."
            )
        arrays = {name: _in_type(name, stored[name], dtype) for name, dtype in inputs.items()}
        sizes = {name: len(x) for name, x in arrays.items() if x.ndim}
        labels = None if "y" in inputs else stored.get("y")
        if labels is not None:
            sizes["y"] = len(labels)
        if len(set(sizes.values())) != 1 or 0 in sizes.values():
            said = ", ".join(f"{n} in {name}" for name, n in sizes.items()) or "none"
            raise ValueError(
                f"Expected as many samples, along the first axis, in every array of {path}, got "
                f"{said}."
            )
        n = next(iter(sizes.values()))
        return cls(*classes_of(labels, n), arrays, labels is not None)

    def read(
        self, rows: np.ndarray, shape: Shape | None, levels: bool = False
    ) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Rows of every array."""
        return {name: x[rows] if x.ndim else x for name, x in self.arrays.items()}, rows

    def check(self) -> None:
        """Nothing can be missing."""

    def described(self) -> object:
        """Shapes, and checksums of all values."""
        found = {n: (x.shape, zlib.crc32(x.data)) for n, x in self.arrays.items()}
        return found, self.labels.tolist()


class NamedBatches(Batches):
    """Batches of several inputs: yields ``({name: array}, labels)``.

    Examples
    --------
    >>> arrays = {"a": np.zeros((3, 2)), "b": np.ones((3, 4))}
    >>> data = NamedArrays([], np.zeros(3, int), arrays, labelled=False)
    >>> [inputs["b"].shape for inputs, labels in NamedBatches(data, batch_size=2)]
    [(2, 4), (1, 4)]
    """

    def __iter__(self) -> Iterator[Batch]:
        labels = self.data.labels if self.labels is None else self.labels
        for start in range(0, len(self.rows), self.batch_size):
            wanted = self.rows[start : start + self.batch_size]
            yield self.data.read(wanted, None)[0], labels[wanted] if self.labelled else None


def _in_type(name: str, array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    if array.dtype.kind not in "iufb":
        raise ValueError(f"Expected numbers in {name}, got {array.dtype}.")
    if not np.isfinite(array).all():
        raise ValueError(f"The array {name} holds NaN or infinity; remove or mend it.")
    made = np.ascontiguousarray(array, dtype) if array.ndim else array.astype(dtype)
    if dtype.kind != "f" and not np.array_equal(made, array):
        raise ValueError(f"The input {name} takes {dtype}, which cannot hold its array's values.")
    return made
