"""The parameters of :class:`.SOFM`, checked once, when training begins."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, get_args

import numpy as np

from .grid import Grid, Topology
from .metrics import WITHOUT_MEANS, has_means
from .neighborhood import Decay, Neighborhood
from .scan import unmasked

CHOICES = {
    "topology": get_args(Topology),
    "neighborhood": get_args(Neighborhood),
    "decay": get_args(Decay),
    "algorithm": ("batch", "online"),
    "metric": ("euclidean", "cosine", "correlation", *WITHOUT_MEANS),
    "missing": ("error", "ignore"),
}
INITS = ("pca", "sample", "random")


@dataclass(frozen=True)
class Schedule:
    """What changes from epoch to epoch: ends of ``sigma`` and ``alpha``."""

    sigma: tuple[float, float]
    alpha: tuple[float, float]


def wrong(name: str, expected: str, got: Any) -> ValueError:
    """The error for one wrong value."""
    return ValueError(f"{name}: expected {expected}, got {got!r}")


def _is_integer(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool | np.bool_)


def integer(name: str, value: Any, least: int, most: int | None = None) -> int:
    """``value``, if it is an integer from ``least`` to ``most``.

    Examples
    --------
    >>> from rejuvenet.sofm.parameters import integer
    >>> integer("node", 2.5, 0, 9)
    Traceback (most recent call last):
    ValueError: node: expected an integer from 0 to 9, got 2.5
    """
    top = np.inf if most is None else most
    if not (_is_integer(value) and least <= int(value) <= top):
        to = "on" if most is None else f"to {most}"
        raise wrong(name, f"an integer from {least} {to}", value)
    return int(value)


def grid_of(estimator) -> Grid:
    """The map that ``shape``, ``topology`` and ``periodic`` describe."""
    shape = estimator.shape
    sides = (1, shape) if isinstance(shape, Integral | bool | np.bool_) else shape
    try:
        rows, columns = sides
    except (TypeError, ValueError):
        raise wrong("shape", "a number of nodes or (rows, columns)", shape) from None
    if not all(_is_integer(n) and int(n) > 0 for n in (rows, columns)):
        raise wrong("shape", "a positive number of nodes or (rows, columns)", shape)
    if rows > 1 and columns == 1:  # a column is a line too: node k is its k-th place
        rows, columns = columns, rows
    if estimator.topology not in CHOICES["topology"]:
        expected = " or ".join(map(repr, CHOICES["topology"]))
        raise wrong("topology", expected, estimator.topology)
    if not isinstance(estimator.periodic, bool | np.bool_):
        raise wrong("periodic", "True or False", estimator.periodic)
    if estimator.topology == "hexagonal" and estimator.periodic and rows > 1 and rows % 2:
        raise wrong("shape", "an even number of rows on a periodic hexagonal map", shape)
    return Grid(int(rows), int(columns), estimator.topology, bool(estimator.periodic))


def _ends(name: str, value: Any, default: tuple[float, float], top: float):
    """Start and end of a schedule: a number is the start; None stands for the default."""
    if value is None:
        return default
    if isinstance(value, Real):
        value = (float(value), min(float(value), default[1]))
    try:
        start, end = value
        start, end = default[0] if start is None else float(start), float(end)
    except (TypeError, ValueError):
        raise wrong(name, "a number, (start, end), (None, end) or None", value) from None
    if not (0 < end <= start <= top and start < np.inf):
        raise wrong(
            name, f"{'finite ' if top == np.inf else f'{top:g} >= '}start >= end > 0", value
        )
    return start, end


def schedule_of(estimator, grid: Grid) -> Schedule:
    """Check everything but the map and the initial codebook.

    Raises
    ------
    ValueError
        Names the parameter, what was expected and what came.
    """
    for name, allowed in CHOICES.items():
        value = getattr(estimator, name)
        good = isinstance(value, str) and value in allowed
        if not (good or (name == "metric" and callable(value))):
            expected = " or ".join(map(repr, allowed))
            raise wrong(name, expected + (" or a callable" if name == "metric" else ""), value)
    if not (_is_integer(estimator.n_epochs) and int(estimator.n_epochs) >= 1):
        raise wrong("n_epochs", "a positive integer", estimator.n_epochs)
    if not (isinstance(estimator.tol, Real) and float(estimator.tol) >= 0):
        raise wrong("tol", "a number >= 0", estimator.tol)
    n_jobs = estimator.n_jobs
    if not (n_jobs is None or (_is_integer(n_jobs) and n_jobs != 0)):
        raise wrong("n_jobs", "an integer other than 0, or None", n_jobs)
    half_life = estimator.half_life
    if not (half_life is None or (isinstance(half_life, Real) and float(half_life) > 0)):
        raise wrong("half_life", "a number of samples > 0, or None", half_life)
    if not (estimator.callback is None or callable(estimator.callback)):
        raise wrong("callback", "a callable or None", estimator.callback)
    if estimator.algorithm == "batch" and estimator.neighborhood == "mexican_hat":
        raise ValueError(
            "neighborhood: 'mexican_hat' has negative values, with which the batch rule (eq. 8) is "
            "undefined: pass algorithm='online'"
        )
    if estimator.missing == "ignore" and estimator.metric != "euclidean":
        raise ValueError(
            f"metric: {estimator.metric!r} is undefined where values are missing: pass "
            "metric='euclidean'"
        )
    if estimator.algorithm == "online" and not has_means(estimator.metric):
        raise ValueError(
            f"metric: {estimator.metric!r} has no online rule (eq. 6): pass algorithm='batch'"
        )
    if estimator.algorithm == "batch" and estimator.learning_rate is not None:
        raise wrong("learning_rate", "None with algorithm='batch' (eq. 8), which has none",
                    estimator.learning_rate)  # fmt: skip
    if half_life is not None and not (
        estimator.algorithm == "batch" and has_means(estimator.metric)
    ):
        raise wrong("half_life", "None where there is no partial_fit (the online rule, metrics "
                    "without means)", half_life)  # fmt: skip
    widest = max(max(grid.rows, grid.columns) / 2, 0.5)
    return Schedule(
        _ends("sigma", estimator.sigma, (widest, 0.5), np.inf),
        _ends("learning_rate", estimator.learning_rate, (0.5, 0.01), 1.0),
    )


def initial_array(init: Any, grid: Grid, n_features: int, dtype) -> np.ndarray:
    """A user's codebook of shape (K, D) or (rows, columns, D), copied."""
    try:
        given = unmasked(init)
    except ValueError:  # ragged
        given = np.array(None)
    if given.dtype.kind not in "biuf":
        raise ValueError(
            f"init: expected {', '.join(map(repr, INITS))} or an array of numbers, got a "
            f"{type(init).__name__} that is neither"
        )
    array = given.astype(dtype)
    if array.shape == (grid.rows, grid.columns, n_features):
        array = array.reshape(grid.n_nodes, n_features)
    if array.shape != (grid.n_nodes, n_features):
        raise ValueError(
            f"init: expected a codebook of shape {(grid.n_nodes, n_features)}, got {array.shape}"
        )
    if not np.isfinite(array).all():
        raise ValueError("init: expected a finite codebook, got NaN or infinity")
    return np.ascontiguousarray(array)
