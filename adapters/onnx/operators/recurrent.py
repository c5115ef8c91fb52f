"""Recurrent layers: ``RNN``, ``GRU`` and ``LSTM`` as structural nodes.

With ``g`` gates and ``h`` hidden units, one step reads the input ``x`` and its own state ``s``::

    total[g, h] = sum_i W[g, h, i] x[i] + sum_k R[g, h, k] s[k] + biases[g, h]
    s'[h]       = f(total[0, h], ..., total[g - 1, h], s[h], c[h])

Every hidden unit has one row in each gate of ``W`` and of ``R``, and one column of ``R``: they
move together, as the equations say.  Unrolling once is enough: all steps use the same weights.
Steps keep their order, and so do directions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from ....graph.find.nodes import (
    Contraction,
    Elementwise,
    Gather,
    Opaque,
    Positional,
    Reduce,
    Reshape,
    Transpose,
    uniform_axes,
)

if TYPE_CHECKING:
    from ..structure import Call

GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}


def recurrent(c: Call) -> None:
    """Inputs X, W, R, B, sequence_lens, initial_h and, of ``LSTM``, initial_c and P."""
    batch_first = bool(c.attribute("layout", 0))
    gates = GATES[c.op]
    x = c.temporary(c.shape(c.data(0)))
    c.emit(Positional(c.data(0), x, (1 if batch_first else 0,)))
    directions, rows, _ = c.shape(c.data(1))
    hidden = rows // gates
    x_axes = ("b", "t", "i") if batch_first else ("t", "b", "i")
    lengths = dict(zip(x_axes, c.shape(x), strict=True))
    full = (lengths["t"], lengths["b"], directions, gates, hidden)
    one = (*full[:3], hidden)

    rows_of = ("gate", "h")
    all_axes = ("t", "b", "d", *rows_of)
    first = (lengths["b"], directions, hidden)
    if any(c.has(i) and c.size(i) != np.prod(first) for i in (5, 6)):
        raise c.unsupported("has a first state of another batch")

    def viewed(name: str, *shape: int) -> str:
        view = c.temporary(shape)
        c.emit(Reshape(name, view))
        return view

    def picked(name: str, axis: int, i: int, shape: tuple[int, ...]) -> str:
        before = list(c.shape(name))
        before[axis] = 1
        part = c.temporary(before)
        c.emit(Gather(name, part, axis, np.array([i])))
        return viewed(part, *shape)

    def together(names: list[str], shape: tuple[int, ...], op: str = "other") -> str:
        result = c.temporary(shape)
        c.emit(Elementwise(tuple(names), result, op))
        return result

    terms = [c.temporary(full)]
    W = viewed(c.data(1), directions, gates, hidden, lengths["i"])
    c.emit(Contraction((x, W), terms[0], x_axes, ("d", *rows_of, "i"), all_axes))
    if c.has(3):
        both = viewed(c.data(3), directions, 2, gates, hidden)
        terms += [picked(both, 1, i, (directions, gates, hidden)) for i in range(2)]
    read = together(terms, full, "add")
    states = []
    for i in (5, 6):
        if c.has(i) and not (c.is_known(i) and 2 in uniform_axes(c.value(i))):
            moved = c.temporary(first)
            c.emit(Transpose(c.data(i), moved, (0, 1, 2) if batch_first else (1, 0, 2)))
            states.append(moved)
    if c.has(7):  # peepholes
        places = viewed(c.data(7), directions, 3, hidden)
        states += [picked(places, 1, i, (directions, hidden)) for i in range(3)]

    def stepped(total: str) -> str:
        return together([*(picked(total, 3, g, one) for g in range(gates)), *states], one)

    recurred = c.temporary(full)
    R = viewed(c.data(2), directions, gates, hidden, hidden)
    state_axes, r_axes = ("t", "b", "d", "k"), ("d", *rows_of, "k")
    c.emit(Contraction((stepped(read), R), recurred, state_axes, r_axes, all_axes))
    state = c.temporary(one)
    direction = c.temporary((directions, 1))  # without labels: its order is fixed
    c.emit(
        Opaque((), (direction,), "the directions of a layer"),
        Elementwise((stepped(together([read, recurred], full, "add")), direction), state),
    )
    if c.gives(0):
        c.emit(Transpose(state, c.output(0), (1, 0, 2, 3) if batch_first else (0, 2, 1, 3)))
    for i in (1, 2):
        if c.gives(i):
            last = c.temporary(first)
            c.emit(Reduce(state, last, (0,), False))
            c.emit(Transpose(last, c.output(i), (0, 1, 2) if batch_first else (1, 0, 2)))


RECURRENT: dict[str, Callable[[Call], None]] = dict.fromkeys(GATES, recurrent)
