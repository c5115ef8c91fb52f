"""Sums of rows in two folds (:mod:`..rounding`), a vector of columns at a time.

LLVM would check before every row whether the sums lie in the samples' memory, which takes as long
as the sums do: emitted as in :mod:`.vectors`, rows of 16 columns take half of the time.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from ..compiled import compiled
from .vectors import JIT, address, broadcast

LANES = 4  # float64 numbers of a vector
DOUBLE = ir.DoubleType()


@intrinsic
def _emit_row(typingctx, at, some, n, weight, bigs, sums):
    def codegen(context, builder, signature, arguments):
        at, some, n, weight, bigs, sums = arguments

        def pointer(base, column, kind, n_lanes):
            size = 4 if kind is ir.FloatType() else 8
            place = builder.add(base, builder.mul(column, ir.Constant(n.type, size)))
            vector = ir.VectorType(kind, n_lanes) if n_lanes > 1 else kind
            return builder.inttoptr(place, vector.as_pointer())

        def load(base, column, kind, n_lanes):
            align = 4 if kind is ir.FloatType() else 8
            return builder.load(pointer(base, column, kind, n_lanes), align=align)

        def add(base, column, part, n_lanes):
            before = load(base, column, DOUBLE, n_lanes)
            builder.store(
                builder.fadd(before, part), pointer(base, column, DOUBLE, n_lanes), align=8
            )

        def columns(first, end, n_lanes):
            before = builder.block
            loop, after = (builder.append_basic_block(name) for name in ("columns", "beyond"))
            builder.cbranch(builder.icmp_signed("<", first, end), loop, after)
            builder.position_at_end(loop)
            column = builder.phi(n.type)
            x = load(at, column, some.type, n_lanes)
            if some.type is ir.FloatType():
                x = builder.fpext(x, ir.VectorType(DOUBLE, n_lanes) if n_lanes > 1 else DOUBLE)
            factor = broadcast(builder, weight, n_lanes) if n_lanes > 1 else weight
            term, big = builder.fmul(x, factor), load(bigs, column, DOUBLE, n_lanes)
            coarse = builder.fsub(builder.fadd(term, big), big)
            add(sums, column, coarse, n_lanes)
            add(sums, builder.add(column, n), builder.fsub(term, coarse), n_lanes)
            following = builder.add(column, ir.Constant(n.type, n_lanes))
            column.add_incoming(first, before)
            column.add_incoming(following, loop)
            builder.cbranch(builder.icmp_signed("<", following, end), loop, after)
            builder.position_at_end(after)

        whole = builder.and_(n, ir.Constant(n.type, -LANES))
        columns(ir.Constant(n.type, 0), whole, LANES)
        columns(whole, n, 1)
        return context.get_dummy_value()

    return types.void(types.intp, some, types.intp, types.float64, types.intp, types.intp), codegen


@compiled
def _add_vectors(X, first, n, weights, sign, nodes, bigs, sums):
    D = X.shape[1]
    X_at, bigs_at, sums_at = address(X), address(bigs), address(sums)
    for r in range(n):
        if nodes[r] < 0:
            continue
        i = first + r
        weight = weights[i] * sign if weights.shape[0] > 0 else sign
        row, place = X_at + X.itemsize * i * D, sums_at + 16 * nodes[r] * D
        _emit_row(row, X[i, 0], D, weight, bigs_at, place)  # type: ignore[call-arg]


def _add_portable(X, first, n, weights, sign, nodes, bigs, sums):
    for r in np.flatnonzero(nodes[:n] >= 0):
        i, k = first + r, nodes[r]
        term = X[i].astype("f8") * (weights[i] * sign if len(weights) else sign)
        coarse = (term + bigs[0]) - bigs[0]
        sums[k, 0] += coarse
        sums[k, 1] += term - coarse


add_in_two_folds = _add_vectors if JIT else _add_portable
