"""A folder of pictures, one sub-folder a class, with what systems and accidents leave in it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from .decoding import SUFFIXES, read_picture

JUNK = frozenset({"__MACOSX", "Thumbs.db", "desktop.ini", "@eaDir"})  # of systems, as .DS_Store is


@dataclass
class FolderOfClasses:
    """A folder with one sub-folder of pictures per class, as torchvision's ``ImageFolder``.

    Hidden entries, and those that systems leave behind, are passed over with a warning, and so are
    pictures that cannot be read as long as they are not more than half.
    """

    classes: list
    labels: np.ndarray
    files: list[Path]
    labelled: bool = True
    unreadable: set[int] = field(default_factory=set)
    checked: bool = False

    @classmethod
    def open(cls, path: Path) -> FolderOfClasses:
        """List the pictures; none is read yet."""
        passed_over: list[str] = []

        def entries(folder: Path) -> list[Path]:
            found = sorted(folder.iterdir())
            junk = [f for f in found if f.name.startswith(".") or f.name in JUNK]
            passed_over.extend(str(f.relative_to(path)) for f in junk)
            return [f for f in found if f not in junk]

        def pictures(folder: Path) -> Iterator[Path]:
            for entry in entries(folder):
                if entry.is_dir() and not entry.is_symlink():
                    yield from pictures(entry)
                elif entry.suffix.lower() in SUFFIXES:
                    yield entry

        folders = [entry for entry in entries(path) if entry.is_dir()]
        numbered = all(f.name.isdecimal() for f in folders)
        folders.sort(key=lambda f: (int(f.name) if numbered else 0, f.name))
        if not folders:
            raise ValueError(f"Expected one sub-folder per class in {path}, found no sub-folder.")
        files: list[Path] = []
        labels: list[int] = []
        for label, folder in enumerate(folders):
            found = list(pictures(folder))
            if not found:
                raise ValueError(f"Class {folder.name!r} has no picture in {folder}.")
            files += found
            labels += [label] * len(found)
        if passed_over:
            warnings.warn(
                f"Passed over {_counted(len(passed_over), 'hidden or system file')}: "
                f"{_first(passed_over)}",
                stacklevel=3,
            )
        return cls([f.name for f in folders], np.array(labels), files)

    def read(
        self, rows: np.ndarray, shape: Sequence[int | None] | None, levels: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """Pictures resized to cover ``shape`` and cropped at the center, and the rows read."""
        try:
            import PIL  # noqa: F401
        except ImportError as error:
            raise ValueError("Reading pictures needs Pillow: pip install pillow.") from error
        channels, height, width = _image_shape(shape)
        if channels not in (None, 1, 3, 4):
            raise ValueError(f"Pictures have 1, 3 or 4 channels, and the model takes {channels}.")
        images: list[np.ndarray] = []
        kept: list[int] = []
        for row in map(int, rows):
            if row in self.unreadable:
                continue
            try:
                image = read_picture(self.files[row], channels, height, width)
            except Exception as error:  # Pillow raises many kinds
                if self.checked:
                    raise ValueError(
                        f"Cannot read the picture {self.files[row]}, which could be read before."
                    ) from error
                self.unreadable.add(row)
                continue
            if images and image.shape != images[0].shape:
                raise ValueError(
                    f"Pictures differ in size ({self.files[row]} is {image.shape[2]}x"
                    f"{image.shape[1]}) and the model takes any; give --size HEIGHTxWIDTH."
                )
            images.append(image)
            kept.append(row)
        read = np.stack(images) if images else np.zeros((0, 0, 0, 0), np.float32)
        return np.rint(read) if levels else read / np.float32(255), np.array(kept, int)

    def check(self) -> None:
        """Warn of pictures that cannot be read; refuse where they are more than half."""
        known, self.checked = self.checked, True
        n = len(self.unreadable)
        if known or not n:
            return
        names = _first([str(self.files[row]) for row in sorted(self.unreadable)])
        said = f"{n} of {_counted(len(self.files), 'picture')}"
        if 2 * n > len(self.files):
            raise ValueError(f"Cannot read {said}, among them {names}; mend or remove them.")
        warnings.warn(f"Cannot read {said}, which are left out: {names}", stacklevel=3)

    def described(self) -> object:
        """Names and sizes of the pictures."""
        return [(str(f), f.stat().st_size) for f in self.files], self.labels.tolist()


def _counted(n: int, what: str) -> str:
    return f"{n:,} {what}{'s' * (n != 1)}"


def _first(names: Sequence[str], most: int = 3) -> str:
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _image_shape(shape: Sequence[int | None] | None) -> tuple[int | None, int | None, int | None]:
    """Channels, height and width of ``shape``, which must have these three."""
    if shape is None:
        return None, None, None
    if len(shape) != 3:
        raise ValueError(
            f"A folder of pictures gives channels x height x width, and the model takes "
            f"{len(shape)} axes; give an .npz file with x and y."
        )
    return shape[0], shape[1], shape[2]
