"""Fused recurrent layers as structural nodes.

A long short-term memory computes, for every step,

    gates = x W_ih^T + b_ih + h W_hh^T + b_hh,      h = f(the four parts of gates, state),

and ``h`` of one step is read by the next.  What may be exchanged follows from one step and its
successor: hidden unit ``j`` owns row ``j`` of each part, and column ``j`` of ``W_hh``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ....graph.find.nodes import (
    Contraction,
    Elementwise,
    Gather,
    Graph,
    PerChannel,
    Positional,
    Reshape,
)
from .table import Value, rule

GATES = 4  # input, forget, cell, output


@rule("mkldnn_rnn_layer")
def long_short_term_memory(
    graph: Graph,
    outs: Sequence[Value],
    x: Value,
    w_ih: Value,
    w_hh: Value,
    b_ih: Value,
    b_hh: Value,
    h: Value,
    c: Value,
    *_: Any,
    **__: Any,
) -> None:
    """One layer in one direction over ``(time, batch, channels)``; also the last states."""
    y, *states = outs
    first = _linear(graph, x.name, y.shape, w_ih, b_ih)
    step = _hidden(graph, [first], [h.name, c.name], y.shape)
    again = _linear(graph, step, y.shape, w_hh, b_hh)
    graph.nodes.append(
        Elementwise((_hidden(graph, [first, again], [h.name, c.name], y.shape),), y.name)
    )
    for state in states[:2]:
        last = graph.temporary((1, *y.shape[1:]))
        graph.nodes += [Positional(y.name, last, (0,)), Reshape(last, state.name)]


def _linear(graph: Graph, x: str, shape: Sequence[int], weight: Value, bias: Value) -> str:
    product = graph.temporary((*shape[:2], weight.shape[0]))
    result = graph.temporary((*shape[:2], weight.shape[0]))
    axes = ("t", "n", "k"), ("g", "k"), ("t", "n", "g")
    graph.nodes.append(Contraction((x, weight.name), product, *axes))
    graph.nodes.append(PerChannel((product, bias.name), result, 2, ("bias",)))
    return result


def _hidden(graph: Graph, gates: list[str], states: list[str], shape: Sequence[int]) -> str:
    """The four parts of the summed gates meet each other and the states."""
    width = shape[2]
    total = graph.temporary((*shape[:2], GATES * width))
    graph.nodes.append(Elementwise(tuple(gates), total, "add"))
    parts = [graph.temporary(tuple(shape)) for _ in range(GATES)]
    for i, part in enumerate(parts):
        graph.nodes.append(Gather(total, part, 2, np.arange(i * width, (i + 1) * width)))
    hidden = graph.temporary(tuple(shape))
    graph.nodes.append(Elementwise((*parts, *states), hidden, "mul"))
    return hidden
