r"""The micro-kernel: scores of a few samples against a panel of nodes.

The winner of a sample ``x`` (eq. 5) is the node with the smallest squared distance.  ``|x|^2``
is the same for every node, so half the squared distance orders nodes like the *score*

.. math::  s_k(x) = |w_k|^2 / 2 - x \cdot w_k ,

one multiply-add per sample, node and feature: a matrix product.  One call of
:func:`score_tile` computes ``TILE_ROWS`` samples against one panel of ``PANEL`` nodes,

.. math::  out[r, j] = panel[0, j] + \sum_d x[r, d] \; panel[1 + d, j] ,

with every accumulator in a register, and folds them into running minima while they are there:
``minima[r, g * WIDTH + l]`` is the smallest score of lane ``l`` in the ``GROUP`` panels of group
``g``, so that the winner is found without reading all scores again.  A panel stores the biases
``|w|^2 / 2`` in its first row and then, feature after feature, the negated weights of its nodes
(:func:`pack_panels`).
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from ..compiled import compiled
from .vectors import (
    GROUP_NODES,
    JIT,
    PANEL,
    TILE_ROWS,
    VECTOR,
    WIDTH,
    address,
    broadcast,
    load,
    smaller,
)  # fmt: skip

GROUP = GROUP_NODES // PANEL  # panels under one set of minima


def _emit_tile(gathered: bool):
    """An intrinsic for the tile of the addresses of ``x``, ``panel``, ``out`` and minima ``low``.

    Strides are in elements.  If its rows are ``gathered``, ``rows`` and ``places`` are addresses of
    int64 numbers: which rows of ``x`` and ``low``, and where in ``out``; else they follow one
    another, and these are not looked at.
    """

    @intrinsic
    def emit(
        typingctx, rows, places, x, x_stride, panel, n_features, out, out_stride, low, low_stride
    ):
        signature = types.void(*[types.intp] * 10)

        def codegen(context, builder, signature, arguments):
            rows, places, x, x_stride, panel, n_features, out, out_stride, low, low_stride = (
                arguments
            )
            word = x.type
            f32 = ir.FloatType()
            n_vectors = PANEL // WIDTH
            module = builder.module
            name = f"llvm.fmuladd.v{WIDTH}f32"
            fma = module.globals.get(name) or ir.Function(
                module, ir.FunctionType(VECTOR, [VECTOR] * 3), name
            )

            def const(value):
                return ir.Constant(word, value)

            def beyond(base, elements):
                return builder.add(base, builder.mul(elements, const(4)))

            def store(vector, at):
                builder.store(vector, builder.inttoptr(at, VECTOR.as_pointer()), align=4)

            def number(at, r):
                at = builder.add(at, const(8 * r))
                return builder.load(builder.inttoptr(at, word.as_pointer()), align=8)

            def row_of(base, stride, r):
                which = number(rows, r) if gathered else const(r)
                return beyond(base, builder.mul(stride, which))

            x_rows = [row_of(x, x_stride, r) for r in range(TILE_ROWS)]
            bias = [load(builder, beyond(panel, const(v * WIDTH))) for v in range(n_vectors)]
            weights = beyond(panel, const(PANEL))

            before = builder.block
            loop = builder.append_basic_block("tile.feature")
            after = builder.append_basic_block("tile.done")
            builder.branch(loop)

            builder.position_at_end(loop)
            d = builder.phi(word)
            d.add_incoming(const(0), before)
            sums = [[builder.phi(VECTOR) for _ in range(n_vectors)] for _ in range(TILE_ROWS)]
            here = beyond(weights, builder.mul(d, const(PANEL)))
            w = [load(builder, beyond(here, const(v * WIDTH))) for v in range(n_vectors)]
            result = []
            for r in range(TILE_ROWS):
                where = builder.inttoptr(beyond(x_rows[r], d), f32.as_pointer())
                spread = broadcast(builder, builder.load(where, align=4))
                row = [builder.call(fma, [spread, w[v], sums[r][v]]) for v in range(n_vectors)]
                result.append(row)
            for r in range(TILE_ROWS):
                for v in range(n_vectors):
                    sums[r][v].add_incoming(bias[v], before)
                    sums[r][v].add_incoming(result[r][v], loop)
            following = builder.add(d, const(1))
            d.add_incoming(following, loop)
            builder.cbranch(builder.icmp_signed("<", following, n_features), loop, after)

            builder.position_at_end(after)
            for r in range(TILE_ROWS):
                place = number(places, r) if gathered else builder.mul(out_stride, const(r))
                out_row, low_row = beyond(out, place), row_of(low, low_stride, r)
                least = load(builder, low_row)
                for v in range(n_vectors):
                    store(result[r][v], beyond(out_row, const(v * WIDTH)))
                    least = smaller(builder, result[r][v], least)
                store(least, low_row)
            return context.get_dummy_value()

        return signature, codegen

    return emit


_emit_block_tile, _emit_gathered_tile = _emit_tile(False), _emit_tile(True)


@compiled
def score_tile_vector(
    x, x_at, x_stride, panels, panel_at, n_features,
    out, out_at, out_stride, low, low_at, low_stride,
):  # fmt: skip
    """One tile: ``TILE_ROWS`` rows against one panel.

    Parameters
    ----------
    x, panels, out, low : addresses (:func:`.vectors.address`)
        Of samples, panels, scores and minima.
    x_at, panel_at, out_at, low_at, x_stride, out_stride, low_stride : int
        Where the tile begins in each, and from row to row, in elements.
    n_features : int
        At least one.
    """
    _emit_block_tile(  # type: ignore[call-arg]  # Numba passes the typing context
        0, 0, x + 4 * x_at, x_stride, panels + 4 * panel_at, n_features,
        out + 4 * out_at, out_stride, low + 4 * low_at, low_stride,
    )  # fmt: skip


@compiled
def score_gathered_vector(
    rows, places, at, x, x_stride, panels, panel_at, n_features, out, low, low_stride
):
    """As :func:`score_tile_vector`, of rows from anywhere, to anywhere.

    ``rows`` and ``places`` are addresses of int64 numbers, of which those from ``at`` on count:
    rows of ``x`` and ``low``, and elements of ``out``.
    """
    _emit_gathered_tile(  # type: ignore[call-arg]
        rows + 8 * at, places + 8 * at, x, x_stride, panels + 4 * panel_at, n_features, out, 0, low,
        low_stride,
    )  # fmt: skip


def _score_portable(x, x_at, panels, panel_at, n_features, out, out_at, low, low_at):
    panel = panels[panel_at : panel_at + (1 + n_features) * PANEL].reshape(-1, PANEL)
    scores = panel[0].copy()
    for d in range(n_features):
        scores += x[x_at + d] * panel[1 + d]
    out[out_at : out_at + PANEL] = scores
    minima = low[low_at : low_at + WIDTH]
    minima[:] = np.minimum(minima, scores.reshape(-1, WIDTH).min(axis=0))


def score_tile_portable(
    x, x_at, x_stride, panels, panel_at, n_features,
    out, out_at, out_stride, low, low_at, low_stride,
):  # fmt: skip
    """Twin of :func:`score_tile_vector` in plain loops, for interpreters without the JIT."""
    for r in range(TILE_ROWS):
        _score_portable(
            x, x_at + r * x_stride, panels, panel_at, n_features,
            out, out_at + r * out_stride, low, low_at + r * low_stride,
        )  # fmt: skip


def score_gathered_portable(
    rows, places, at, x, x_stride, panels, panel_at, n_features, out, low, low_stride
):
    """Twin of :func:`score_gathered_vector`."""
    for j in range(at, at + TILE_ROWS):
        _score_portable(
            x, rows[j] * x_stride, panels, panel_at, n_features,
            out, places[j], low, rows[j] * low_stride,
        )  # fmt: skip


score_tile = score_tile_vector if JIT else score_tile_portable
score_gathered = score_gathered_vector if JIT else score_gathered_portable


@compiled
def n_groups(n_panels):
    """Groups of a row with that many panels, the last of which may be incomplete."""
    return -(-n_panels // GROUP)


@compiled(inner=True)
def score_block(x, n_rows, panels, n_features, out, minima):
    """Scores of the first ``n_rows`` rows of ``x`` against all panels, and their minima.

    Parameters
    ----------
    x : float32 array of shape (m, >= n_features), C-contiguous
    n_rows : int
        Rows up to the next multiple of ``TILE_ROWS`` are computed: ``m``, and the rows of ``out``
        and ``minima``, are a multiple of it.
    panels : float32 array of shape (n_panels, 1 + n_features, PANEL), C-contiguous
    n_features : int
    out : float32 array of shape (m, >= n_panels * PANEL), C-contiguous
    minima : float32 array of shape (m, n_groups(n_panels) * WIDTH), C-contiguous
    """
    minima[:] = np.inf
    x_at, panels_at, out_at, low_at = address(x), address(panels), address(out), address(minima)
    for p in range(panels.shape[0]):
        for row in range(0, n_rows, TILE_ROWS):
            score_tile(
                x_at, row * x.shape[1], x.shape[1],
                panels_at, p * panels.shape[1] * PANEL, n_features,
                out_at, row * out.shape[1] + p * PANEL, out.shape[1],
                low_at, row * minima.shape[1] + p // GROUP * WIDTH, minima.shape[1],
            )  # fmt: skip


@compiled
def pack_panels(weights, bias, panels):
    """Lay out ``bias`` (K,) and the negated ``weights`` (K, >= n) panel by panel.

    ``panels`` has the shape ``(ceil(K / PANEL), 1 + n, PANEL)``.  Nodes past ``K`` get an infinite
    bias, so that they never win.
    """
    n_nodes, n_features = weights.shape[0], panels.shape[1] - 1
    for p in range(panels.shape[0]):
        for j in range(PANEL):
            k = p * PANEL + j
            if k < n_nodes:
                panels[p, 0, j] = bias[k]
                for d in range(n_features):
                    panels[p, 1 + d, j] = -weights[k, d]
            else:
                panels[p, 0, j] = np.inf
                for d in range(n_features):
                    panels[p, 1 + d, j] = 0.0
