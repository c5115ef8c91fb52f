"""Pictures in files, or in parts of files, decoded in threads and once as far as memory goes."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .decoding import read_picture, upright
from .own_preprocessing import OwnPreprocessing, Refused

KEPT_BYTES = 2**30  # of decoded pictures; what does not fit is decoded at every pass
THREADS = 8


class Part(NamedTuple):
    """A picture within another file.

    Attributes
    ----------
    file : Path
    name : str
    start, size : int
        Its bytes.
    """

    file: Path
    name: str
    start: int
    size: int

    def __str__(self) -> str:
        return f"{self.file}:{self.name}"


class Held(NamedTuple):
    """A picture whose bytes are in memory."""

    name: str
    content: bytes

    def __str__(self) -> str:
        return self.name


Source = Path | Part | Held


@dataclass
class Pictures:
    """Pictures with the label of each.

    Those that cannot be read are left out with a warning, as long as they are not more than half.
    """

    classes: list
    labels: np.ndarray
    files: Sequence[Source]
    labelled: bool = True
    unreadable: set[int] = field(default_factory=set)
    checked: bool = False
    own: OwnPreprocessing | None = None
    _kept: dict[tuple, np.ndarray] = field(default_factory=dict, repr=False)
    _bytes: int = field(default=0, repr=False)

    @property
    def noun(self) -> str:
        """What they are."""
        return "images"

    def read(
        self, rows: np.ndarray, shape: Sequence[int | None] | None, levels: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """Pictures resized to cover ``shape`` and cropped at the center, and the rows read.

        Those of a function of the user are as it made them.
        """
        try:
            import PIL  # noqa: F401
        except ImportError as error:
            raise ValueError(
                "Reading pictures needs Pillow: pip install 'rejuvenet[onnx]'."
            ) from error
        size = _size_of(shape) if self.own is None else shape and tuple(shape)
        wanted = [row for row in map(int, rows) if row not in self.unreadable]
        with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as threads:
            decoded = list(threads.map(lambda row: self._decoded(row, size), wanted))
        images: list[np.ndarray] = []
        kept: list[int] = []
        for row, image in zip(wanted, decoded, strict=True):
            if isinstance(image, Exception):
                if self.checked:
                    raise ValueError(
                        f"Cannot read the picture {self.files[row]}, which could be read before."
                    ) from image
                self.unreadable.add(row)
                continue
            if images and image.shape != images[0].shape:
                raise ValueError(
                    f"Pictures differ in size ({self.files[row]} is {image.shape[-1]}x"
                    f"{image.shape[-2]}) and the model takes any; "
                    + ("give --size HEIGHTxWIDTH." if self.own is None else "let them be equal.")
                )
            if (row, size) not in self._kept and self._bytes + image.nbytes <= KEPT_BYTES:
                self._kept[row, size] = image
                self._bytes += image.nbytes
            images.append(image)
            kept.append(row)
        read = np.stack(images) if images else np.zeros((0, 0, 0, 0))
        if self.own is not None:
            return read, np.array(kept, int)
        read = read.astype(np.float32)
        return np.rint(read) if levels else read / np.float32(255), np.array(kept, int)

    def _decoded(self, row: int, size: Any) -> np.ndarray | Exception:
        """The picture, or why there is none; what a function of the user raises is raised."""
        found = self._kept.get((row, size))
        if found is not None:
            return found
        try:
            if self.own is not None:
                return self.own(upright(_opened(self.files[row])), size)
            return read_picture(_opened(self.files[row]), *size)
        except Refused:
            raise
        except Exception as error:  # Pillow raises many kinds
            return error

    def check(self) -> None:
        """Warn of pictures that cannot be read; refuse where they are more than half."""
        known, self.checked = self.checked, True
        n = len(self.unreadable)
        if known or not n:
            return
        names = first([str(self.files[row]) for row in sorted(self.unreadable)])
        said = f"{n} of {counted(len(self.files), 'picture')}"
        if 2 * n > len(self.files):
            raise ValueError(f"Cannot read {said}, among them {names}; mend or remove them.")
        warnings.warn(f"Cannot read {said}, which are left out: {names}", stacklevel=3)

    def described(self) -> object:
        """Names and sizes of the pictures."""
        return [(str(f), _size(f)) for f in self.files], self.labels.tolist()


def _opened(source: Source) -> Path | io.BytesIO:
    if isinstance(source, Held):
        return io.BytesIO(source.content)
    if isinstance(source, Path):
        return source
    with open(source.file, "rb") as file:
        file.seek(source.start)
        return io.BytesIO(file.read(source.size))


def _size(source: Source) -> int:
    if isinstance(source, Path):
        return source.stat().st_size if source.exists() else 0
    return len(source.content) if isinstance(source, Held) else source.size


def counted(n: int, what: str) -> str:
    return f"{n:,} {what}{'s' * (n != 1)}"


def first(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3:,} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _size_of(shape: Sequence[int | None] | None) -> tuple[int | None, int | None, int | None]:
    """Channels, height and width of ``shape``, which must have these three."""
    if shape is None:
        return None, None, None
    if len(shape) != 3:
        raise ValueError(
            f"A folder of pictures gives channels x height x width, and the model takes "
            f"{len(shape)} axes; give an .npz file with x and y."
        )
    channels, height, width = shape
    if channels not in (None, 1, 3, 4):
        raise ValueError(f"Pictures have 1, 3 or 4 channels, and the model takes {channels}.")
    return channels, height, width
