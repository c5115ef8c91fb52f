"""The table from ATen operators to rules, which describe calls as structural nodes.

Each rule gets the graph and one call ``out = operator(*args, **kwargs)`` with tensors replaced by
:class:`Value`, and appends nodes.  A rule with a parameter ``outs`` gets all outputs, the others
the first; a rule with a parameter ``operator`` is told the name that it was called by; a rule that
cannot describe a call returns False.  Operators that PyTorch itself tags as pointwise need
no entry.  What has no entry is opaque: it freezes what it touches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ....graph.find.nodes import Shape


@dataclass(frozen=True)
class Value:
    """A tensor in a call of an operator, as a rule gets it.

    Attributes
    ----------
    name : str
        Of the tensor in the graph.
    shape, strides : tuple of int
        In elements.
    constant : ndarray or None
        Its numbers, where it is a small constant of integers or truth values.
    """

    name: str
    shape: Shape
    strides: tuple[int, ...] = ()
    constant: np.ndarray | None = None


Rule = Callable[..., "bool | None"]
RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Enter a function into the table under the names of the operators that it describes."""

    def enter(function: Rule) -> Rule:
        for name in names:
            RULES[name] = function
        return function

    return enter


def resolved_axis(axis: int, rank: int) -> int:
    """An axis counted from the front."""
    return axis % rank if rank else 0


def resolved_axes(axes: int | Sequence[int] | None, rank: int) -> tuple[int, ...]:
    """Axes counted from the front; None or none at all are all of them."""
    if axes is None or (not isinstance(axes, int) and len(axes) == 0):
        return tuple(range(rank))
    return tuple(resolved_axis(a, rank) for a in ([axes] if isinstance(axes, int) else axes))
