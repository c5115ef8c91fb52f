"""Differences between two arms of a study that share their seeds."""

from __future__ import annotations

import numpy as np
from scipy.stats import t


def interval(d: np.ndarray) -> float:
    """Half the width of the 95 % interval of the mean of ``d``, shape ``(n,)`` (Student's t).

    >>> round(interval(np.array([1.0, 2.0, 3.0])), 3)
    2.484
    """
    if len(d) < 2:
        return float("nan")
    return float(t.ppf(0.975, len(d) - 1) * d.std(ddof=1) / np.sqrt(len(d)))


def with_interval(d: np.ndarray) -> str:
    """Mean, and the interval where there are at least three seeds.

    >>> with_interval(np.array([1.0, 2.0, 3.0])), with_interval(np.array([1.0]))
    ('+2.0 ± 2.5', '+1.0')
    """
    if not len(d):
        return "-"
    return f"{d.mean():+.1f}" + (f" ± {interval(d):.1f}" if len(d) > 2 else "")
