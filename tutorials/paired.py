"""Runs of a study whose arms share their seeds: differences of two, and the list of all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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


def leading(figures: Mapping[str, Sequence[float]]) -> str | None:
    """The arm with the highest mean of those with the most runs; None where nothing ran.

    >>> leading({"plain": [0.5, 0.5], "ours": [0.6, 0.7], "one run": [0.9]})
    'ours'
    """
    arm = max(figures, key=lambda arm: (len(figures[arm]), np.mean(figures[arm] or 0)))
    return arm if figures[arm] else None


def by_seed(arms: Mapping[str, Mapping[int, float]]) -> list[str]:
    r"""Lines of a table: the shares of every arm in percent, one column a seed.

    >>> print(*by_seed({"plain": {0: 0.5}, "ours": {0: 0.6, 1: 0.7}}), sep="\n")
    | arm | seed 0 | seed 1 |
    | --- | ---: | ---: |
    | plain | 50.0 | - |
    | ours | 60.0 | 70.0 |
    """
    seeds = sorted({seed for shares in arms.values() for seed in shares})
    rows = [f"| arm |{''.join(f' seed {s} |' for s in seeds)}", "| --- |" + " ---: |" * len(seeds)]
    for title, shares in arms.items():
        values = [f"{100 * shares[s]:.1f}" if s in shares else "-" for s in seeds]
        rows.append(f"| {title} | {' | '.join(values)} |")
    return rows
