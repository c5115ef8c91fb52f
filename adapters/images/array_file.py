"""An ``.npz`` file of images: arrays ``x`` and, where there are labels, ``y``."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from .own_preprocessing import OwnPreprocessing

BOMB_BYTES, BOMB_RATIO = 2**30, 100  # an array beyond both is not unpacked; images seldom reach 10


@dataclass
class ArrayFile:
    """Arrays ``x`` (images, or any array with samples first) and ``y`` (labels) of an ``.npz``."""

    classes: list
    labels: np.ndarray
    x: np.ndarray
    labelled: bool = True
    own: OwnPreprocessing | None = None
    _range: tuple[float, float] | None = field(default=None, repr=False)

    @classmethod
    def open(cls, path: Path) -> ArrayFile:
        """Read both arrays and check that they pair; without ``y`` there are no labels."""
        if not zipfile.is_zipfile(path) and path.suffix.lower() == ".npz":
            raise ValueError(f"{path} is damaged: it is no .npz file, or not all of one.")
        if not zipfile.is_zipfile(path):
            raise ValueError(
                f"Expected a folder with one sub-folder per class or an .npz file, got {path}."
            )
        stored, names = read_npz(path, ["x", "y"])
        if "x" not in stored:
            raise ValueError(
                f"Expected an array x, and labels y, in {path}, found {', '.join(names) or 'none'}."
            )
        return cls.of(stored["x"], stored.get("y"))

    @classmethod
    def of(cls, x: np.ndarray, y: np.ndarray | None = None) -> ArrayFile:
        """Pair images ``x`` of shape ``(n, ...)`` with labels ``y`` of shape ``(n,)``."""
        if x.ndim < 2:
            raise ValueError(f"Expected images (n, ...) in x, got x of shape {x.shape}.")
        classes, labels = classes_of(y, len(x))
        if len(x) == 0:
            raise ValueError("There is no image: x is empty.")
        if x.dtype.kind not in "iufb":
            raise ValueError(f"Expected numbers in x, got {x.dtype}.")
        return cls(classes, labels, x, y is not None)

    def read(
        self, rows: np.ndarray, shape: Sequence[int | None] | None, levels: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """Rows of ``x`` as float32 with channels first; 8 and 16 bits are scaled to [0, 1].

        With ``levels`` whole numbers stay as they are; floats in [0, 1] and truth values become
        0 to 255.  What a function of the user makes is as it made it.
        """
        x = self.x[rows]
        if self.own is not None:
            return np.stack([self.own(sample, shape) for sample in x]), rows
        images = x.astype(np.float32 if x.dtype.itemsize < 4 or not levels else np.float64)
        if not levels and x.dtype in (np.uint8, np.uint16):
            images /= np.float32(np.iinfo(x.dtype).max)
        elif levels and x.dtype.kind in "fb" and x.ndim > 2 and self.range[1] <= 1:
            images = np.rint(images * 255)
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
        return images, rows

    @property
    def noun(self) -> str:
        """Images have rows and columns, and values of 8 or 16 bits or in [0, 1]."""
        bits = self.x.dtype in (np.uint8, np.uint16)
        within = self.x.ndim > 2 and (bits or (self.range[0] >= 0 and self.range[1] <= 1))
        return "images" if within else "samples"

    @property
    def range(self) -> tuple[float, float]:
        """Least and greatest value of ``x``, passing over NaN."""
        if self._range is None:
            self._range = float(np.nanmin(self.x)), float(np.nanmax(self.x))
        return self._range

    @property
    def looks_unscaled(self) -> bool:
        """Whether ``x`` has values as 8-bit images have them, in a type that is not scaled."""
        low, high = self.range
        return (
            self.x.ndim > 2
            and self.x.dtype not in (np.uint8, np.uint16)
            and (low >= 0 and 2 < high <= 255)
        )

    def check(self) -> None:
        """Nothing can be missing."""

    def described(self) -> object:
        """Shape, and a checksum of all values."""
        return self.x.shape, zlib.crc32(np.ascontiguousarray(self.x).data), self.labels.tolist()


def read_npz(path: Path, names: Collection[str]) -> tuple[dict[str, np.ndarray], list[str]]:
    """Those of some arrays that an ``.npz`` file has, and all names in it; nothing in it is run.

    Raises
    ------
    ValueError
        It is no such file, or damaged, or an array is no plain one, or it would unpack to a large
        multiple of its size.
    """
    wanted = " and ".join(names)
    _refuse_bomb(path, names)
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in names if name in stored}, list(stored)
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"Cannot read {path} as an .npz file with {wanted}.") from error
    except ValueError as error:
        if "pickle" not in str(error):
            raise
        raise ValueError(
            f"Expected plain arrays {wanted} in {path}, got Python objects (pickled data)."
        ) from error


def classes_of(y: np.ndarray | None, n: int) -> tuple[list, np.ndarray]:
    """Names of the classes, and the class of each of ``n`` samples; no names without labels.

    Raises
    ------
    ValueError
        ``y`` is not one whole number or name for each.
    """
    if y is None:
        return [], np.zeros(n, np.int64)
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1:
        raise ValueError(f"Expected one label for each image in y, got y of shape {y.shape}.")
    if len(y) != n:
        raise ValueError(
            f"Labels and images do not pair: {n} images in x and {len(y)} labels in y."
        )
    if y.dtype.kind == "f" and (y == np.round(y)).all():
        y = y.astype(np.int64)
    if y.dtype.kind not in "iubUS":
        raise ValueError(f"Expected whole numbers or names as labels in y, got {y.dtype}.")
    classes, labels = np.unique(y, return_inverse=True)
    return classes.tolist(), labels.reshape(-1).astype(np.int64)


def _refuse_bomb(path: Path, names: Collection[str]) -> None:
    """Refuse arrays that would unpack to a large multiple of the file, before they are read."""
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                if member.filename.removesuffix(".npy") not in names:
                    continue
                with archive.open(member) as file:
                    version = np.lib.format.read_magic(file)
                    read = {(1, 0): np.lib.format.read_array_header_1_0}.get(
                        version, np.lib.format.read_array_header_2_0
                    )
                    shape, _, dtype = read(file)
                size = max(member.file_size, dtype.itemsize * int(np.prod(shape, dtype=object)))
                ratio = size / max(member.compress_size, 1)
                if size > BOMB_BYTES and ratio > BOMB_RATIO:
                    raise _Bomb(
                        f"{path} would unpack {member.compress_size:,} bytes to {size:,}; if it is "
                        "meant, store it with numpy.savez, which does not compress."
                    )
    except _Bomb:
        raise
    except Exception:  # damaged: reading it says so
        return


class _Bomb(ValueError):
    """A small file that becomes a large array."""


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
