"""Recurrent layers: ``RNN``, ``GRU`` and ``LSTM`` as structural nodes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ....graph.find.composites import parts, recurrent, viewed
from ....graph.find.nodes import Reduce, Transpose, uniform_axes

if TYPE_CHECKING:
    from ..call import Call

GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}


def layer(c: Call) -> None:
    """Inputs X, W, R, B, sequence_lens, initial_h and, of ``LSTM``, initial_c and P."""
    graph, batch_first = c.graph, bool(c.attribute("layout", 0))
    x, gates = c.data(0), GATES[c.op]
    directions, rows, inputs = c.shape(c.data(1))
    hidden = rows // gates
    first, second, _ = c.shape(x)
    steps, batch = (second, first) if batch_first else (first, second)
    turned = (0, 1, 2) if batch_first else (1, 0, 2)  # to or from (batch, directions, hidden)

    W = viewed(graph, c.data(1), (directions, gates, hidden, inputs))
    R = viewed(graph, c.data(2), (directions, gates, hidden, hidden))
    biases = []
    if c.has(3):
        both = viewed(graph, c.data(3), (directions, 2, gates, hidden))
        shape = (directions, gates, hidden)
        biases = [viewed(graph, part, shape) for part in parts(graph, both, 1, (1, 1))]
    states = []
    for i in (5, 6):
        if c.has(i) and c.size(i) != batch * directions * hidden:
            raise c.unsupported("has a first state of another batch")
        if c.has(i) and not (c.is_known(i) and 2 in uniform_axes(c.value(i))):
            states.append(c.temporary((batch, directions, hidden)))
            c.emit(Transpose(c.data(i), states[-1], turned))
    if c.has(7):  # peepholes
        places = viewed(graph, c.data(7), (directions, 3, hidden))
        each = parts(graph, places, 1, (1, 1, 1))
        states += [viewed(graph, part, (directions, hidden)) for part in each]
    state = c.temporary((steps, batch, directions, hidden))
    recurrent(graph, x, int(batch_first), (W, R), biases, states, state)
    if c.gives(0):
        c.emit(Transpose(state, c.output(0), (1, 0, 2, 3) if batch_first else (0, 2, 1, 3)))
    for i in (1, 2):
        if c.gives(i):
            last = c.temporary((batch, directions, hidden))
            c.emit(Reduce(state, last, (0,), False), Transpose(last, c.output(i), turned))


RECURRENT: dict[str, Callable[[Call], None]] = dict.fromkeys(GATES, layer)
