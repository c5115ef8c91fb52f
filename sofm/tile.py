r"""The micro-kernel: scores of a few samples against a panel of nodes.

The winner of a sample ``x`` (eq. 5) is the node with the smallest squared distance.  ``|x|^2``
is the same for every node, so half the squared distance orders nodes like the *score*

.. math::  s_k(x) = |w_k|^2 / 2 - x \cdot w_k ,

one multiply-add per sample, node and feature: a matrix product.  One call of
:func:`score_tile` computes ``TILE_ROWS`` samples against one panel of ``PANEL`` nodes,

.. math::  out[r, j] = panel[0, j] + \sum_d x[r, d] \; panel[1 + d, j] ,

with every accumulator in a register, and folds them into running minima while they are there:
``minima[r, g * WIDTH + l]`` is the smallest score of lane ``l`` in the ``GROUP`` panels of group
``g``, so that the winner is found without reading all scores again (doing so took a fifth of the
time of an epoch with 16 features).  A panel stores the biases ``|w|^2 / 2`` in its first row and
then, feature after feature, the negated weights of its nodes (:func:`pack_panels`).

Plain Numba loops are not vectorized this way (LLVM cannot see that output and input are distinct
and keeps the sums in memory), hence the vector instructions are emitted through an intrinsic.
They are generic LLVM vectors: on a processor with narrower registers LLVM splits them.  The tile
fills the registers without spilling: 24 accumulators of 16 with AVX-512 and of 4 with NEON (32
registers each), 12 accumulators with AVX2 and SSE (16 registers).
"""

from __future__ import annotations

import platform

import numba
import numpy as np
from llvmlite import binding, ir
from numba import njit, types
from numba.extending import intrinsic


def choose_tile(features: dict[str, bool], machine: str) -> tuple[int, int, int]:
    """Rows, nodes per panel and vector width for a processor.

    Parameters
    ----------
    features : dict of str to bool
        Processor features under LLVM's names.
    machine : str
        Architecture as :func:`platform.machine` tells it.

    Returns
    -------
    rows, panel, width : int

    Examples
    --------
    >>> from rejuvenet.sofm.tile import choose_tile
    >>> choose_tile({"avx512f": True}, "x86_64")
    (6, 64, 16)
    >>> choose_tile({"avx2": True, "fma": True}, "x86_64")
    (6, 16, 8)
    >>> choose_tile({}, "aarch64")
    (6, 16, 4)
    """
    if features.get("avx512f"):
        return 6, 64, 16
    if features.get("avx2") and features.get("fma"):
        return 6, 16, 8
    if machine.lower() in ("aarch64", "arm64"):
        return 6, 16, 4
    return 3, 16, 4


TILE_ROWS, PANEL, WIDTH = choose_tile(dict(binding.get_host_cpu_features()), platform.machine())


GROUP = 8  # panels under one set of minima: as few minima as scores to look through for each


@intrinsic
def _emit_tile(typingctx, x, x_stride, panel, n_features, out, out_stride, low, low_stride):
    """Emit the tile for the addresses of ``x``, ``panel``, ``out`` and minima ``low``.

    Strides are in elements.
    """
    signature = types.void(*[types.intp] * 8)

    def codegen(context, builder, signature, arguments):
        x, x_stride, panel, n_features, out, out_stride, low, low_stride = arguments
        word = x.type
        f32 = ir.FloatType()
        vector = ir.VectorType(f32, WIDTH)
        lanes = ir.VectorType(ir.IntType(32), WIDTH)
        n_vectors = PANEL // WIDTH
        module = builder.module
        fma_name = f"llvm.fmuladd.v{WIDTH}f32"
        fma = module.globals.get(fma_name) or ir.Function(
            module, ir.FunctionType(vector, [vector] * 3), fma_name
        )

        def const(value):
            return ir.Constant(word, value)

        def address(base, elements):
            return builder.add(base, builder.mul(elements, const(4)))

        def load_vector(where):
            return builder.load(builder.inttoptr(where, vector.as_pointer()), align=4)

        def broadcast(scalar):
            undefined = ir.Constant(vector, ir.Undefined)
            first = builder.insert_element(undefined, scalar, ir.Constant(ir.IntType(32), 0))
            return builder.shuffle_vector(first, undefined, ir.Constant(lanes, [0] * WIDTH))

        rows = [x]
        for _ in range(1, TILE_ROWS):
            rows.append(address(rows[-1], x_stride))
        bias = [load_vector(address(panel, const(v * WIDTH))) for v in range(n_vectors)]
        weights = address(panel, const(PANEL))

        before = builder.block
        loop = builder.append_basic_block("tile.feature")
        after = builder.append_basic_block("tile.done")
        nothing = builder.icmp_signed("<=", n_features, const(0))
        builder.cbranch(nothing, after, loop)

        builder.position_at_end(loop)
        d = builder.phi(word)
        d.add_incoming(const(0), before)
        sums = [[builder.phi(vector) for _ in range(n_vectors)] for _ in range(TILE_ROWS)]
        here = address(weights, builder.mul(d, const(PANEL)))
        w = [load_vector(address(here, const(v * WIDTH))) for v in range(n_vectors)]
        result = []
        for r in range(TILE_ROWS):
            scalar = builder.load(builder.inttoptr(address(rows[r], d), f32.as_pointer()), align=4)
            spread = broadcast(scalar)
            result.append([builder.call(fma, [spread, w[v], sums[r][v]]) for v in range(n_vectors)])
        for r in range(TILE_ROWS):
            for v in range(n_vectors):
                sums[r][v].add_incoming(bias[v], before)
                sums[r][v].add_incoming(result[r][v], loop)
        following = builder.add(d, const(1))
        d.add_incoming(following, loop)
        builder.cbranch(builder.icmp_signed("<", following, n_features), loop, after)

        builder.position_at_end(after)
        target = out
        for r in range(TILE_ROWS):
            for v in range(n_vectors):
                final = builder.phi(vector)
                final.add_incoming(bias[v], before)
                final.add_incoming(result[r][v], loop)
                result[r][v] = final
        for r in range(TILE_ROWS):
            for v in range(n_vectors):
                where = builder.inttoptr(
                    address(target, const(v * WIDTH)), vector.as_pointer()
                )
                builder.store(result[r][v], where, align=4)
            target = address(target, out_stride)
        for r in range(TILE_ROWS):
            where = builder.inttoptr(low, vector.as_pointer())
            least = builder.load(where, align=4)
            for v in range(n_vectors):
                less = builder.fcmp_ordered("<", result[r][v], least)
                least = builder.select(less, result[r][v], least)
            builder.store(least, where, align=4)
            low = address(low, low_stride)
        return context.get_dummy_value()

    return signature, codegen


@njit(nogil=True, cache=True)
def score_tile_portable(x, row, panels, p, n_features, out, minima):
    """Twin of :func:`score_tile` in plain loops, for interpreters without the JIT."""
    for r in range(TILE_ROWS):
        for j in range(PANEL):
            total = panels[p, 0, j]
            for d in range(n_features):
                total += x[row + r, d] * panels[p, 1 + d, j]
            out[row + r, p * PANEL + j] = total
            entry = p // GROUP * WIDTH + j % WIDTH
            minima[row + r, entry] = min(minima[row + r, entry], total)


@njit(nogil=True, cache=True)
def _score_tile_vector(x, row, panels, p, n_features, out, minima):
    """Scores of rows ``row .. row + TILE_ROWS`` of ``x`` against panel ``p``, into ``out``.

    Parameters
    ----------
    x : float32 array of shape (n_rows, >= n_features), C-contiguous
    row, p : int
        First row; number of the panel.
    panels : float32 array of shape (n_panels, 1 + n_features, PANEL), C-contiguous
    n_features : int
    out : float32 array of shape (n_rows, >= n_panels * PANEL), C-contiguous
    minima : float32 array of shape (n_rows, n_minima(n_panels)), C-contiguous
        Lowered to the smallest scores.
    """
    _emit_tile(  # type: ignore[call-arg]  # Numba passes the typing context
        x.ctypes.data + 4 * row * x.shape[1],
        x.shape[1],
        panels.ctypes.data + 4 * p * panels.shape[1] * PANEL,
        n_features,
        out.ctypes.data + 4 * (row * out.shape[1] + p * PANEL),
        out.shape[1],
        minima.ctypes.data + 4 * (row * minima.shape[1] + p // GROUP * WIDTH),
        minima.shape[1],
    )


score_tile = score_tile_portable if getattr(numba.config, "DISABLE_JIT", 0) else _score_tile_vector


@njit(nogil=True, cache=True)
def n_minima(n_panels):
    """Running minima of a row with that many panels."""
    return -(-n_panels // GROUP) * WIDTH


@njit(nogil=True, cache=True)
def score_block(x, n_rows, panels, n_features, out, minima):
    """Scores of the first ``n_rows`` rows of ``x`` against all panels, and their minima.

    ``x``, ``out`` and ``minima`` have a multiple of ``TILE_ROWS`` rows; rows past ``n_rows`` may
    be computed.
    """
    minima[:] = np.inf
    for p in range(panels.shape[0]):
        for row in range(0, n_rows, TILE_ROWS):
            score_tile(x, row, panels, p, n_features, out, minima)


@njit(nogil=True, cache=True)
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
