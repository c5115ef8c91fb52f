"""Labelled images for calibration, fine-tuning and comparison, read batch by batch.

Two kinds of sources: pictures in any of the places of :mod:`.listings`, and an ``.npz`` file with
``x`` and, where there are labels, ``y``.  Both give ``(images, labels)`` batches: images as the
model takes them, and int64 labels that count the classes from 0, or None where there are none.
Every problem is a ``ValueError`` of one sentence.

Where the model takes floats, pictures and arrays of 8 and 16 bits (uint8, uint16) are scaled to
[0, 1]; arrays of any other type enter as they are.  Where it takes integers, images enter as 0 to
255.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from .array_file import ArrayFile
from .listings import TABLES, pictures_in
from .own_preprocessing import OwnPreprocessing

Batch = tuple[Any, np.ndarray | None]  # images, or arrays by input (:mod:`.named_arrays`); labels
Shape = Sequence[int | None]


class LabelledImages(Protocol):
    """What both sources offer.

    Attributes
    ----------
    classes : list of str or int
        Names of the classes; label ``c`` stands for ``classes[c]``.
    labels : ndarray of int64, shape (n,)
        Label of every image.
    labelled : bool
        Whether the labels say anything; where they do not, all are 0.
    own : OwnPreprocessing or None
        A function of the user that makes what the model takes of every image.
    noun : str
        ``"images"``, or ``"samples"`` where they may be anything else.
    """

    classes: list
    labels: np.ndarray
    labelled: bool
    own: OwnPreprocessing | None

    @property
    def noun(self) -> str: ...

    def read(
        self, rows: np.ndarray, shape: Shape | None, levels: bool = False
    ) -> tuple[Any, np.ndarray]:
        """Images ``rows``, float32 ``(n, channels, height, width)``, and the rows that there are.

        8-bit values are scaled to [0, 1], or with ``levels`` left from 0 to 255.
        """
        ...

    def check(self) -> None:
        """All rows have been read: say which could not be."""
        ...

    def described(self) -> object:
        """What tells these images from others, as plain values."""
        ...


def read_data(path: str | os.PathLike[str]) -> LabelledImages:
    """Open a folder, a table or shards of pictures, or an ``.npz`` file with ``x`` and ``y``.

    Raises
    ------
    ValueError
        If ``path`` is neither, or labels and images do not pair.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.savez(f"{folder}/data.npz", x=np.ones((4, 8, 8), np.uint8), y=[3, 5, 3, 5])
    ...     data = read_data(f"{folder}/data.npz")
    >>> data.classes, data.labels
    ([3, 5], array([0, 1, 0, 1]))
    """
    path = Path(path)
    if not path.exists():
        raise ValueError(
            f"There is no file or folder {path}; give a folder of pictures, a table, .tar shards "
            "or an .npz file."
        )
    if path.is_dir() or path.suffix.lower() in (*TABLES, ".tar"):
        return pictures_in(path)
    return ArrayFile.open(path)


@dataclass
class Batches:
    """Batches of labelled images, read anew each time that they are iterated over.

    Yields ``(images, labels)``: ``(n, channels, height, width)`` and int64 ``(n,)``, or None where
    the data have no labels.

    Parameters
    ----------
    data : LabelledImages
        Open data, see :func:`read_data`.
    batch_size : int
        Images in a batch; the last one may be smaller.
    shape : sequence of int or None, optional
        What the model takes, ``(channels, height, width)``; None where it takes any number.
        Pictures are resized so that they cover it and cropped at the center; arrays must fit.
    mean, std : sequence of float, optional
        One value, or one for each channel: ``(image - mean) / std``, images in [0, 1].
    order : ndarray of int, optional
        Rows to read, in this order (shuffled for training); every row in order by default.
    labels : ndarray of int, optional
        In the place of the data's own.
    dtype : numpy.dtype, optional
        Of an integer type: images are given in it, from 0 to 255.  Else they are float32.
    channels_last : bool
        Yields ``(n, height, width, channels)``.
    bgr : bool
        Blue comes first: the three channels are turned round, before ``mean`` and ``std``.

    Raises
    ------
    ValueError
        While iterating: most images cannot be read, NaN or infinite values, a shape that the model
        does not take.

    Examples
    --------
    >>> data = ArrayFile.of(np.zeros((5, 8, 8), np.uint8), np.arange(5))
    >>> [images.shape for images, labels in Batches(data, batch_size=3)]
    [(3, 1, 8, 8), (2, 1, 8, 8)]
    """

    data: LabelledImages
    batch_size: int = 64
    shape: Shape | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    order: np.ndarray | None = None
    labels: np.ndarray | None = None
    dtype: np.dtype | None = None
    channels_last: bool = False
    bgr: bool = False

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"The batch size must be 1 or more, got {self.batch_size}.")
        self._rows = np.arange(len(self.data.labels)) if self.order is None else self.order

    @property
    def labelled(self) -> bool:
        """Whether the labels say anything."""
        return self.data.labelled

    @property
    def rows(self) -> np.ndarray:
        """The rows that are read, in their order."""
        return self._rows

    @property
    def classes(self) -> list | None:
        """Names of the classes, whether a batch holds them or not; None without labels."""
        return self.data.classes if self.labelled else None

    def described(self) -> object:
        """What tells these batches from others, whatever rows they read; plain values."""
        own = self.data.own.where if self.data.own else None
        return (self.data.described(), self.batch_size, self.shape, self.mean, self.std,
                str(self.dtype), self.channels_last, self.bgr, own)  # fmt: skip

    def __len__(self) -> int:
        return -(-len(self._rows) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        labels = self.data.labels if self.labels is None else self.labels
        levels = self.dtype if self.dtype is not None and self.dtype.kind != "f" else None
        for start in range(0, len(self._rows), self.batch_size):
            wanted = self._rows[start : start + self.batch_size]
            images, rows = self.data.read(wanted, self.shape, levels is not None)
            if not len(rows):
                continue
            finite = np.isfinite(images).reshape(len(images), -1).all(axis=1)
            if not finite.all():
                raise ValueError(
                    f"Image {rows[~finite][0]} (counted from 0) holds NaN or infinity; "
                    "remove or mend it."
                )
            if self.bgr and images.ndim == 4 and images.shape[1] == 3:
                images = images[:, ::-1]
            if levels is not None:
                images = in_type(images, levels)
            else:
                images = normalize(images, self.mean, self.std)
            if self.channels_last and images.ndim == 4:
                images = np.ascontiguousarray(np.moveaxis(images, 1, 3))
            yield images, labels[rows] if self.labelled else None
        self.data.check()


def in_type(images: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """``images`` in an integer type, or refused where it cannot hold them.

    >>> in_type(np.array([0.0, 255.0]), np.dtype(np.uint8))
    array([  0, 255], dtype=uint8)
    """
    made = images.astype(dtype)
    if not np.array_equal(made, images):
        raise ValueError(
            f"The model takes {dtype}, which cannot hold values from {images.min():g} to "
            f"{images.max():g}; give an .npz file whose x is of this type."
        )
    return made


def normalize(
    images: np.ndarray, mean: Sequence[float] | None, std: Sequence[float] | None
) -> np.ndarray:
    """``(images - mean) / std`` along axis 1, in float32.

    >>> normalize(np.ones((1, 3, 1, 1), np.float32), (0.5,), (0.5,)).ravel()
    array([1., 1., 1.], dtype=float32)
    """
    for name, values in (("mean", mean), ("std", std)):
        if values is None:
            continue
        if len(values) not in (1, images.shape[1]):
            raise ValueError(
                f"Expected one {name} or one for each of the {images.shape[1]} channels, "
                f"got {len(values)}."
            )
        if name == "std" and not all(value > 0 for value in values):
            raise ValueError(f"Expected every std to be above 0, got {list(values)}.")
        column = np.asarray(values, np.float32).reshape(1, -1, *[1] * (images.ndim - 2))
        images = images - column if name == "mean" else images / column
    return np.ascontiguousarray(images, np.float32)


NAMED = 5  # labels in a message


def output_indices(classes: Sequence, outputs: int) -> np.ndarray | None:
    """The output of a model that stands for each class, or None where that is not known.

    Class names that are whole numbers (``0``, ``281``) are indices themselves; else there must
    be as many classes as outputs, which then stand in the order of the sorted class names.
    """
    if not len(classes):
        return None
    try:
        indices = np.array([int(name) for name in classes])
    except ValueError:
        if len(classes) != outputs:
            return None
        indices = np.arange(outputs)
    if indices.min() < 0 or indices.max() >= outputs:
        return None
    return indices


def unlike_outputs(classes: Sequence, outputs: int) -> str:
    """Why :func:`output_indices` knows no outputs for some classes, and what to do.

    >>> unlike_outputs([3, 15, 24], 10).partition(";")[0]
    "The labels 15, 24 are none of the model's outputs 0 to 9"
    >>> unlike_outputs(["cat", "dog"], 10).partition(";")[0]
    "The 2 classes of the images are not the model's 10 outputs"
    """
    what_to_do = "name folders or labels after the outputs (0, 1, ...)"
    try:
        beyond = [str(name) for name in classes if not 0 <= int(name) < outputs]
    except ValueError:
        many = f"{len(classes)} classes"
        return f"The {many} of the images are not the model's {outputs} outputs; {what_to_do}"
    said = ", ".join(beyond[:NAMED]) + ", ..." * (len(beyond) > NAMED)
    one = len(beyond) == 1
    return (
        f"The label{'s' * (not one)} {said} {'is' if one else 'are'} none of the model's outputs "
        f"0 to {outputs - 1}; {what_to_do}"
    )


def output_labels(data: LabelledImages, outputs: int) -> np.ndarray | None:
    """Labels as indices of a model's outputs, as :func:`output_indices` says."""
    indices = output_indices(data.classes, outputs)
    return None if indices is None else indices[data.labels]
