"""Pictures of any kind as arrays in 8-bit levels, the way torchvision's ``ImageFolder`` reads them.

Rotated as their EXIF says; palettes and CMYK become RGB; transparency is dropped; gray pictures
repeat their channel.  Gray pictures of 16 bits are scaled to 255 (65,535 becomes 255) before they
are resized, and keep their fractions.
"""

from __future__ import annotations

from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def upright(path: Path | IO[bytes]) -> Image:
    """One picture as it is stored, rotated as its EXIF says."""
    from PIL import Image, ImageOps

    with Image.open(path) as file:
        return ImageOps.exif_transpose(file)


def read_picture(
    path: Path | IO[bytes], channels: int | None, height: int | None, width: int | None
) -> np.ndarray:
    """One picture from 0 to 255, shape ``(channels, height, width)``.

    It is uint8; float32 where levels have fractions.

    Parameters
    ----------
    path : Path or file
    channels : {1, 3, 4} or None
        Three where it is None.
    height, width : int or None
        The picture is resized to cover this and cropped at the center; it keeps its own size
        where one is None.

    Raises
    ------
    Exception
        Of many kinds, for what Pillow cannot decode.
    ValueError
        Levels beyond 16 bits, or floats outside of [0, 1], whose white is not known.
    """
    from PIL import Image, ImageOps

    channels = channels or 3
    picture = upright(path)
    if picture.mode[0] in "IF":
        picture = _in_levels(picture)
    else:
        if "transparency" in picture.info:
            picture = picture.convert("RGBA")
        picture = picture.convert(_MODES[channels])
    if height is not None and width is not None and picture.size != (width, height):
        picture = ImageOps.fit(picture, (width, height), Image.Resampling.BICUBIC)
    image = np.asarray(picture)
    if image.ndim == 3:
        return np.moveaxis(image, -1, 0)
    image = np.repeat(image.clip(0, 255)[None], channels, axis=0)  # in float32 or uint8
    image[3:] = 255
    return image


def _in_levels(picture: Image) -> Image:
    """A gray picture of 16 bits, or of floats in [0, 1], as floats from 0 to 255."""
    from PIL import Image

    values = np.asarray(picture, np.float32)
    white = 1.0 if picture.mode == "F" else 65535.0
    if not (values.min() >= 0 and values.max() <= white):
        raise ValueError(f"levels from {values.min():g} to {values.max():g}, expected 0 to {white}")
    return Image.fromarray(values * np.float32(255 / white))
