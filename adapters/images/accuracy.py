"""What a number of images leaves uncertain about an accuracy."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import numpy as np

# Images named right by one of two files alone, of which none are enough for a sign test at 5 %:
# five that say the same do so by chance once in 16 times.
FEW = 5


@dataclass
class Gain:
    """Accuracy of one file over that of another, on the same images.

    Attributes
    ----------
    difference : float
        Accuracy of the file less that of the other.
    error : float
        Standard error of the difference, from the images that only one of them names right.
    apart : int or None
        How many these are, where it is known.
    """

    difference: float
    error: float
    apart: int | None = None

    @classmethod
    def of(cls, right: np.ndarray, other: np.ndarray) -> Gain:
        """From which images each names right, shape (n,).

        >>> Gain.of(np.array([1, 1, 1, 0]) > 0, np.array([1, 0, 1, 0]) > 0).difference
        0.25
        """
        return cls.counted(len(right), int((right & ~other).sum()), int((other & ~right).sum()))

    @classmethod
    def counted(cls, images: int, alone: int, other: int) -> Gain:
        """From how many images each of the two names right alone."""
        difference, apart = (alone - other) / images, alone + other
        return cls(difference, sqrt((apart / images - difference**2) / images), apart)

    @property
    def clear(self) -> bool:
        """Whether the difference is more than two standard errors, of enough images."""
        return self._enough and abs(self.difference) > 2 * self.error

    @property
    def _enough(self) -> bool:
        return self.apart is None or self.apart > FEW

    def __str__(self) -> str:
        points = f"{100 * self.difference:+.2f} points"
        if self._enough:
            return f"{points}, with a standard error of {100 * self.error:.2f}"
        said = f"{self.apart or 'no'} image{'s' * (self.apart != 1)}"
        return f"{points}; {said} told them apart, too few for a standard error"


def wilson(right: int, images: int) -> tuple[float, float]:
    """Ends of the interval of 95 % for a share, right also for few images and near 0 and 1.

    After Wilson (1927), "Probable inference, the law of succession, and statistical inference".

    Parameters
    ----------
    right, images : int
        Images that are named right, of how many, at least 1.

    Examples
    --------
    >>> [round(end, 3) for end in wilson(9, 10)]
    [0.596, 0.982]
    """
    from scipy.stats import binomtest

    low, high = binomtest(right, images).proportion_ci(0.95, "wilson")
    return float(low), float(high)
