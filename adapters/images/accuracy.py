"""What a number of images leaves uncertain about an accuracy."""

from __future__ import annotations


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
