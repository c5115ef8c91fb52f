"""Fused recurrent layers as structural nodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ....graph.find.composites import recurrent, viewed
from ....graph.find.nodes import Graph, Reduce, Reshape
from .table import Value, rule

GATES = 4  # input, forget, cell, output


@rule("mkldnn_rnn_layer")
def long_short_term_memory(
    graph: Graph, outs: Sequence[Value], x: Value, w_ih: Value, w_hh: Value, b_ih: Value,
    b_hh: Value, h: Value, c: Value, *_: Any, **__: Any,
) -> None:  # fmt: skip
    """One layer in one direction over ``(time, batch, channels)``; also the last states."""
    y, *last = outs
    steps, batch, hidden = y.shape
    weights = [viewed(graph, w.name, (1, GATES, hidden, w.shape[1])) for w in (w_ih, w_hh)]
    biases = [viewed(graph, b.name, (1, GATES, hidden)) for b in (b_ih, b_hh)]
    first = [viewed(graph, value.name, (batch, 1, hidden)) for value in (h, c)]
    state = graph.temporary((steps, batch, 1, hidden))
    recurrent(graph, x.name, 0, (weights[0], weights[1]), biases, first, state)
    graph.nodes.append(Reshape(state, y.name))
    for value in last[:2]:
        end = graph.temporary((batch, 1, hidden))
        graph.nodes += [Reduce(state, end, (0,), False), Reshape(end, value.name)]
