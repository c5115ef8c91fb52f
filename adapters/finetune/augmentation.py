"""Pictures shifted and mirrored at random, so that training never sees the same one twice."""

from __future__ import annotations

import numpy as np

SHIFT = 8  # a picture is shifted by at most this part of its sides: 4 of 32 pixels


def augmented(
    images: np.ndarray,
    how: str,
    rng: np.random.Generator,
    channels_last: bool = False,
) -> np.ndarray:
    """A batch with every picture changed on its own.

    What a shift brings into view is the picture's edge, mirrored.

    Parameters
    ----------
    images : ndarray, shape (n, c, h, w) or (n, h, w, c)
        Anything that is no batch of pictures stays as it is.
    how : str
        ``"shift"``, ``"flip"``, both as ``"shift+flip"``, or ``"none"``.
    rng : numpy.random.Generator
    channels_last : bool

    Examples
    --------
    >>> image = np.arange(4.0).reshape(1, 1, 1, 4)
    >>> augmented(image, "flip", np.random.default_rng(2)).ravel()
    array([3., 2., 1., 0.])
    """
    if images.ndim != 4:
        return images
    rows = 1 if channels_last else 2
    n, height, width = len(images), *images.shape[rows : rows + 2]
    down, across = (
        _shifted(n, size, rng) if "shift" in how else np.tile(np.arange(size), (n, 1))
        for size in (height, width)
    )
    if "flip" in how:
        mirrored = rng.random(n) < 0.5
        across[mirrored] = across[mirrored, ::-1]
    place = np.arange(n)[:, None, None]
    planes = images if channels_last else np.moveaxis(images, 1, 3)
    made = planes[place, down[:, :, None], across[:, None, :]]
    return np.ascontiguousarray(made if channels_last else np.moveaxis(made, 3, 1))


def _shifted(n: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """Places to read along an axis of ``size`` for each of ``n`` pictures."""
    most = size // SHIFT
    places = np.arange(size) + rng.integers(-most, most + 1, size=(n, 1))
    places = np.abs(places)  # mirrored at the first pixel, and at the last one
    return np.where(places > size - 1, 2 * (size - 1) - places, places)
