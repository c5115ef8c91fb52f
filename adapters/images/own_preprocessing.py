"""Preprocessing by a function of the user, in the place of sizes, means and layouts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..user_code import named_in


class Refused(ValueError):
    """The function failed, or made what the model does not take."""


@dataclass(frozen=True)
class OwnPreprocessing:
    """A function that makes what a model takes of one picture, or of one sample of ``x``.

    Parameters
    ----------
    function : callable
        From a ``PIL.Image.Image`` as it is stored, but upright, or an array, to an array (or CPU
        tensor) ``(channels, height, width)``, as transforms of torchvision do; of anything but
        images in the shape that the model takes.  Pictures are given to it by several threads.
    where : str
        What names it, for messages.
    """

    function: Callable[[Any], Any]
    where: str

    @classmethod
    def named(cls, where: str) -> OwnPreprocessing:
        """That which ``package.module:function`` or ``file.py:function`` names.

        Raises
        ------
        ValueError
            There is none.
        """
        function = named_in(where, "--preprocess")
        if not callable(function):
            raise ValueError(f"{where} is of type {type(function).__name__}, expected a function.")
        return cls(function, where)

    def __call__(self, sample: Any, shape: Sequence[int | None] | None) -> np.ndarray:
        """What the function makes of a sample, refused where ``shape`` is another."""
        try:
            made = np.asarray(self.function(sample))
        except Exception as error:
            raise Refused(f"{self.where} failed: {type(error).__name__}: {error}.") from error
        if made.dtype.kind not in "iufb":
            raise Refused(f"{self.where} gave {made.dtype}, expected an array of numbers.")
        fits = shape is None or (
            made.ndim == len(shape)
            and all(want in (None, got) for want, got in zip(shape, made.shape, strict=True))
        )
        if not fits:
            assert shape is not None
            wanted = " x ".join("any" if n is None else str(n) for n in shape)
            got = " x ".join(map(str, made.shape)) or "a single number"
            raise Refused(f"{self.where} gave {got}, and the model takes {wanted}.")
        return made
