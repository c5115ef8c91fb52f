"""Labelled images for calibration, fine-tuning and comparison, read batch by batch.

Two sources: a folder with one sub-folder per class, and an ``.npz`` file with ``x`` and ``y``.
Both give ``(images, labels)`` batches: float32 images ``(n, channels, height, width)``, and
int64 labels that count the classes from 0.  Every problem is a ``ValueError`` of one sentence.
"""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

IMAGE_SUFFIXES = frozenset(
    {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)

Batch = tuple[np.ndarray, np.ndarray]
Shape = Sequence[int | None]


class LabelledImages(Protocol):
    """What both sources offer.

    Attributes
    ----------
    classes : list of str or int
        Names of the classes; label ``c`` stands for ``classes[c]``.
    labels : ndarray of int64, shape (n,)
        Label of every image.
    """

    classes: list
    labels: np.ndarray

    def read(self, rows: np.ndarray, shape: Shape | None) -> np.ndarray:
        """Images ``rows`` as float32 ``(n, channels, height, width)``, 8-bit values in [0, 1]."""
        ...


def read_data(path: str | os.PathLike[str]) -> LabelledImages:
    """Open a folder with one sub-folder per class, or an ``.npz`` file with ``x`` and ``y``.

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
    if path.is_dir():
        return FolderOfClasses.open(path)
    if not path.exists():
        raise ValueError(f"There is no file or folder {path}.")
    return ArrayFile.open(path)


@dataclass
class Batches:
    """Batches of labelled images, read anew each time that they are iterated over.

    Yields ``(images, labels)``: float32 ``(n, channels, height, width)`` and int64 ``(n,)``.

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

    Raises
    ------
    ValueError
        While iterating: an unreadable image, NaN or infinite values, a shape that the model
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

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"The batch size must be 1 or more, got {self.batch_size}.")
        self._rows = np.arange(len(self.data.labels)) if self.order is None else self.order

    def __len__(self) -> int:
        return -(-len(self._rows) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        for start in range(0, len(self._rows), self.batch_size):
            rows = self._rows[start : start + self.batch_size]
            images = self.data.read(rows, self.shape)
            finite = np.isfinite(images).reshape(len(images), -1).all(axis=1)
            if not finite.all():
                raise ValueError(
                    f"Image {rows[~finite][0]} (counted from 0) holds NaN or infinity; "
                    "remove or mend it."
                )
            yield normalize(images, self.mean, self.std), self.data.labels[rows]


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


def output_labels(data: LabelledImages, outputs: int) -> np.ndarray | None:
    """Labels as indices of a model's ``outputs``, or None where they cannot be matched.

    Class names that are whole numbers (``0``, ``281``) are indices themselves; else there must
    be as many classes as outputs, which then stand in the order of the sorted class names.
    """
    try:
        indices = np.array([int(name) for name in data.classes])
    except ValueError:
        if len(data.classes) != outputs:
            return None
        indices = np.arange(outputs)
    if indices.min() < 0 or indices.max() >= outputs:
        return None
    return indices[data.labels]


@dataclass
class FolderOfClasses:
    """A folder with one sub-folder of pictures per class, as torchvision's ``ImageFolder``."""

    classes: list
    labels: np.ndarray
    files: list[Path]

    @classmethod
    def open(cls, path: Path) -> FolderOfClasses:
        """List the pictures; none is read yet."""
        folders = [f for f in path.iterdir() if f.is_dir() and not f.name.startswith(".")]
        numbered = all(f.name.isdecimal() for f in folders)
        folders.sort(key=lambda f: (int(f.name) if numbered else 0, f.name))
        if not folders:
            raise ValueError(f"Expected one sub-folder per class in {path}, found no sub-folder.")
        files: list[Path] = []
        labels: list[int] = []
        for label, folder in enumerate(folders):
            pictures = sorted(f for f in folder.rglob("*") if f.suffix.lower() in IMAGE_SUFFIXES)
            if not pictures:
                raise ValueError(f"Class {folder.name!r} has no picture in {folder}.")
            files += pictures
            labels += [label] * len(pictures)
        return cls([f.name for f in folders], np.array(labels), files)

    def read(self, rows: np.ndarray, shape: Shape | None) -> np.ndarray:
        """Pictures as float32 in [0, 1]; resized to cover ``shape`` and cropped at the center."""
        try:
            from PIL import Image, ImageOps
        except ImportError as error:
            raise ValueError("Reading pictures needs Pillow: pip install pillow.") from error
        channels, height, width = _image_shape(shape)
        if channels not in (None, 1, 3, 4):
            raise ValueError(f"Pictures have 1, 3 or 4 channels, and the model takes {channels}.")
        mode = {1: "L", 3: "RGB", 4: "RGBA", None: "RGB"}[channels]
        images: list[np.ndarray] = []
        for row in rows:
            try:
                with Image.open(self.files[row]) as file:
                    picture: Image.Image = ImageOps.exif_transpose(file).convert(mode)
            except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
                raise ValueError(f"Cannot read the picture {self.files[row]}.") from error
            if height is not None and width is not None and picture.size != (width, height):
                picture = ImageOps.fit(picture, (width, height), Image.Resampling.BICUBIC)
            image = np.asarray(picture, np.float32)
            image = image[None] if channels == 1 else np.moveaxis(image, -1, 0)
            if images and image.shape != images[0].shape:
                raise ValueError(
                    f"Pictures differ in size ({self.files[row]} is {image.shape[2]}x"
                    f"{image.shape[1]}) and the model takes any; give --size HEIGHTxWIDTH."
                )
            images.append(image)
        return np.stack(images) / np.float32(255)


@dataclass
class ArrayFile:
    """Arrays ``x`` (images, or any array with samples first) and ``y`` (labels) of an ``.npz``."""

    classes: list
    labels: np.ndarray
    x: np.ndarray

    @classmethod
    def open(cls, path: Path) -> ArrayFile:
        """Read both arrays and check that they pair."""
        if not zipfile.is_zipfile(path):
            raise ValueError(
                f"Expected a folder with one sub-folder per class or an .npz file, got {path}."
            )
        try:
            with np.load(path, allow_pickle=False) as stored:
                missing = [name for name in ("x", "y") if name not in stored]
                if missing:
                    raise ValueError(
                        f"Expected arrays x and y in {path}, found {', '.join(stored) or 'none'}."
                    )
                x, y = stored["x"], stored["y"]
        except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(f"Cannot read {path} as an .npz file with x and y.") from error
        except ValueError as error:
            if "pickle" not in str(error):
                raise
            raise ValueError(
                f"Expected plain arrays x and y in {path}, got Python objects (pickled data)."
            ) from error
        return cls.of(x, y)

    @classmethod
    def of(cls, x: np.ndarray, y: np.ndarray) -> ArrayFile:
        """Pair images ``x`` of shape ``(n, ...)`` with labels ``y`` of shape ``(n,)``."""
        if y.ndim == 2 and y.shape[1] == 1:
            y = y[:, 0]
        if y.ndim != 1:
            raise ValueError(f"Expected one label for each image in y, got y of shape {y.shape}.")
        if x.ndim < 2:
            raise ValueError(f"Expected images (n, ...) in x, got x of shape {x.shape}.")
        if len(x) != len(y):
            raise ValueError(
                f"Labels and images do not pair: {len(x)} images in x and {len(y)} labels in y."
            )
        if len(x) == 0:
            raise ValueError("There is no image: x and y are empty.")
        if y.dtype.kind == "f" and (y == np.round(y)).all():
            y = y.astype(np.int64)
        if y.dtype.kind not in "iubUS":
            raise ValueError(f"Expected whole numbers or names as labels in y, got {y.dtype}.")
        if x.dtype.kind not in "iufb":
            raise ValueError(f"Expected numbers in x, got {x.dtype}.")
        classes, labels = np.unique(y, return_inverse=True)
        return cls(classes.tolist(), labels.reshape(-1).astype(np.int64), x)

    def read(self, rows: np.ndarray, shape: Shape | None) -> np.ndarray:
        """Rows of ``x`` as float32; 8-bit values are divided by 255, channels are put first."""
        x = self.x[rows]
        images = x.astype(np.float32)
        if x.dtype == np.uint8:
            images /= np.float32(255)
        if shape is None:
            shape = (None,) * 3 if x.ndim >= 3 else (None,)
        if len(shape) == 3:
            images = _channels_first(images, shape[0])
        wanted = tuple(shape)
        fits = images.ndim == len(wanted) + 1 and all(
            want in (None, got) for want, got in zip(wanted, images.shape[1:], strict=True)
        )
        if not fits:
            said = "x".join("any" if n is None else str(n) for n in wanted)
            raise ValueError(
                f"The model takes images of {said} (channels x height x width), and x holds "
                f"{'x'.join(map(str, self.x.shape[1:]))}."
            )
        return images


def _channels_first(images: np.ndarray, channels: int | None) -> np.ndarray:
    """``(n, h, w)`` and ``(n, h, w, c)`` as ``(n, c, h, w)``."""
    if images.ndim == 3:
        return images[:, None]
    if images.ndim != 4:
        return images
    accepted = (1, 3, 4) if channels is None else (channels,)
    if images.shape[1] not in accepted and images.shape[3] in accepted:
        return np.moveaxis(images, 3, 1)
    return images


def _image_shape(shape: Shape | None) -> tuple[int | None, int | None, int | None]:
    """Channels, height and width of ``shape``, which must have these three."""
    if shape is None:
        return None, None, None
    if len(shape) != 3:
        raise ValueError(
            f"A folder of pictures gives channels x height x width, and the model takes "
            f"{len(shape)} axes; give an .npz file with x and y."
        )
    return shape[0], shape[1], shape[2]
