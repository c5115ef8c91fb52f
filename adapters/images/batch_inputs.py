"""What a batch holds: one array of images, or arrays by the name of the input."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

Inputs = np.ndarray | Mapping[str, np.ndarray]


def arrays_of(inputs: Inputs) -> list[np.ndarray]:
    """The arrays, in the order of the model's inputs."""
    return [inputs] if isinstance(inputs, np.ndarray) else list(inputs.values())


def count(inputs: Inputs) -> int:
    """How many samples there are, along the first axis of every array that has one.

    >>> count({"scale": np.array(2.0), "x": np.zeros((3, 4))})
    3
    """
    return next((len(x) for x in arrays_of(inputs) if x.ndim), 1)


def mapped(inputs: Inputs, function: Callable[[np.ndarray], np.ndarray]) -> Inputs:
    """The same with a function of every array in its place."""
    if isinstance(inputs, np.ndarray):
        return function(inputs)
    return {name: function(x) for name, x in inputs.items()}


def rows_of(inputs: Inputs, rows: np.ndarray | slice) -> Inputs:
    """Some of the samples."""
    return mapped(inputs, lambda x: x[rows] if x.ndim else x)
