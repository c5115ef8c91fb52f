"""The processor's vectors: how wide they are, and instructions that Numba does not offer.

Numba's loops over float32 arrays are often not turned into vector instructions (LLVM cannot see
that output and input are distinct), so the hot ones are emitted through intrinsics.  They are
generic LLVM vectors: on a processor with narrower registers LLVM splits them.

An intrinsic works at an address.  :func:`address` gives that of an array, once, because using an
array itself touches its reference count each time (which took as long as a tile).  Without the JIT
it gives the flat array instead, and the portable twins index it: all take the same arguments, with
offsets in elements.
"""

from __future__ import annotations

import platform

import numba
import numpy as np
from llvmlite import binding, ir
from numba import types
from numba.extending import intrinsic

from ..compiled import compiled

INT = ir.IntType(32)
JIT = not getattr(numba.config, "DISABLE_JIT", 0)


def choose_tile(features: dict[str, bool], machine: str) -> tuple[int, int, int]:
    """Rows, nodes per panel and vector width for a processor.

    The tile fills the registers without spilling, and keeps the multipliers busy: 12 accumulators
    with AVX-512, AVX2 and SSE, 24 with NEON.  Panels are no wider than 16 nodes, so that few nodes,
    and the few directions of :mod:`.prepared`, leave little of the last one empty.

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
    >>> from rejuvenet.sofm.kernels.vectors import choose_tile
    >>> choose_tile({"avx512f": True}, "x86_64")
    (12, 16, 16)
    >>> choose_tile({"avx2": True, "fma": True}, "x86_64")
    (6, 16, 8)
    >>> choose_tile({}, "aarch64")
    (6, 16, 4)
    """
    if features.get("avx512f"):
        return 12, 16, 16
    if features.get("avx2") and features.get("fma"):
        return 6, 16, 8
    if machine.lower() in ("aarch64", "arm64"):
        return 6, 16, 4
    return 3, 16, 4


TILE_ROWS, PANEL, WIDTH = choose_tile(dict(binding.get_host_cpu_features()), platform.machine())
VECTOR = ir.VectorType(ir.FloatType(), WIDTH)
ANY_ORDER = {"reassoc", "contract", "nsz"}  # lets LLVM sum in vectors: any order is within gamma
_BITS = np.arange(256)[:, None] >> np.arange(8) & 1
POSITIONS = np.argsort(1 - _BITS, axis=1, kind="stable").astype(np.uint8)  # set bits come first
N_BITS = _BITS.sum(axis=1)
GROUP_NODES = 64  # whose scores are compared at once: a bit of a word for each


def load(builder, address, n_lanes=WIDTH):
    """A vector from an address."""
    vector = ir.VectorType(ir.FloatType(), n_lanes)
    return builder.load(builder.inttoptr(address, vector.as_pointer()), align=4)


def shuffled(builder, vector, order):
    return builder.shuffle_vector(
        vector,
        ir.Constant(vector.type, ir.Undefined),
        ir.Constant(ir.VectorType(INT, len(order)), order),
    )


def broadcast(builder, scalar, n_lanes=WIDTH):
    """A vector of equal lanes."""
    nothing = ir.Constant(ir.VectorType(scalar.type, n_lanes), ir.Undefined)
    first = builder.insert_element(nothing, scalar, ir.Constant(INT, 0))
    return shuffled(builder, first, [0] * n_lanes)


def smaller(builder, a, b):
    """Lane by lane; scores are never NaN."""
    return builder.select(builder.fcmp_ordered("<", a, b), a, b)


def _emit_under(n_lanes: int):
    """An intrinsic that compares ``n_lanes`` floats at once; LLVM splits what is too wide."""

    @intrinsic
    def emit(typingctx, at, offset, limit):
        def codegen(context, builder, signature, arguments):
            at, offset, limit = arguments
            here = builder.add(at, builder.mul(offset, ir.Constant(at.type, 4)))
            vector = load(builder, here, n_lanes)
            under = builder.fcmp_ordered("<=", vector, broadcast(builder, limit, n_lanes))
            lanes = builder.bitcast(under, ir.IntType(n_lanes))
            return lanes if n_lanes == 64 else builder.zext(lanes, ir.IntType(64))

        return types.int64(types.intp, types.intp, types.float32), codegen

    return emit


_emit_lanes_under, _emit_nodes_under = _emit_under(WIDTH), _emit_under(GROUP_NODES)


def _panel_at(builder, base, offset):
    """``PANEL`` numbers at an offset from an address."""
    return load(builder, builder.add(base, builder.mul(offset, ir.Constant(base.type, 4))), PANEL)


@intrinsic
def _emit_within(typingctx, at, offset, balls, place, limit, reach):
    def codegen(context, builder, signature, arguments):
        at, offset, balls, place, limit, reach = arguments
        radius = _panel_at(builder, balls, place)
        limits = builder.fadd(
            builder.fmul(broadcast(builder, reach, PANEL), radius), broadcast(builder, limit, PANEL)
        )
        within = builder.fcmp_ordered("<=", _panel_at(builder, at, offset), limits)
        return builder.zext(builder.bitcast(within, ir.IntType(PANEL)), ir.IntType(64))

    scalars = types.float32, types.float32
    return types.int64(*[types.intp] * 4, *scalars), codegen


def _least_lane(builder, lanes):
    half = lanes.type.count // 2
    while half:
        n_lanes = lanes.type.count
        turned = shuffled(builder, lanes, [(lane + half) % n_lanes for lane in range(n_lanes)])
        lanes = smaller(builder, lanes, turned)
        half //= 2
    return builder.extract_element(lanes, ir.Constant(INT, 0))


@intrinsic
def _emit_reach(typingctx, at, offset, balls, place, stride, core_row, square, rest):
    def codegen(context, builder, signature, arguments):
        at, offset, balls, place, stride, core_row, square, rest = arguments
        vector = ir.VectorType(ir.FloatType(), PANEL)
        name = f"llvm.sqrt.v{PANEL}f32"
        root = builder.module.globals.get(name) or ir.Function(
            builder.module, ir.FunctionType(vector, [vector]), name
        )

        def of_balls(row):
            return _panel_at(builder, balls, builder.add(place, builder.mul(stride, row)))

        one, two = (ir.Constant(place.type, row) for row in (1, 2))
        score = _panel_at(builder, at, offset)
        total = builder.fadd(builder.fadd(score, score), of_balls(one))
        total = builder.fadd(total, builder.fmul(broadcast(builder, rest, PANEL), of_balls(two)))
        total = builder.fadd(total, broadcast(builder, square, PANEL))
        nothing = ir.Constant(vector, [0.0] * PANEL)
        total = builder.select(builder.fcmp_ordered(">", total, nothing), total, nothing)
        return _least_lane(builder, builder.fadd(builder.call(root, [total]), of_balls(core_row)))

    scalars = types.float32, types.float32
    return types.float32(*[types.intp] * 6, *scalars), codegen


@intrinsic
def _emit_smallest(typingctx, at, offset, n_vectors):
    def codegen(context, builder, signature, arguments):
        at, offset, n_vectors = arguments
        word = at.type
        first = builder.add(at, builder.mul(offset, ir.Constant(word, 4)))
        begin = load(builder, first)
        before = builder.block
        loop = builder.append_basic_block("smallest.vector")
        after = builder.append_basic_block("smallest.lanes")
        builder.branch(loop)
        builder.position_at_end(loop)
        v, least = builder.phi(word), builder.phi(VECTOR)
        here = builder.add(first, builder.mul(v, ir.Constant(word, 4 * WIDTH)))
        lanes = smaller(builder, load(builder, here), least)
        following = builder.add(v, ir.Constant(word, 1))
        for phi, start, again in (v, ir.Constant(word, 0), following), (least, begin, lanes):
            phi.add_incoming(start, before)
            phi.add_incoming(again, loop)
        builder.cbranch(builder.icmp_signed("<", following, n_vectors), loop, after)
        builder.position_at_end(after)
        return _least_lane(builder, lanes)

    return types.float32(types.intp, types.intp, types.intp), codegen


@intrinsic
def _emit_positions(typingctx, at, offset, base, byte, table):
    def codegen(context, builder, signature, arguments):
        at, offset, base, byte, table = arguments
        eight, word = ir.Constant(at.type, 8), ir.VectorType(ir.IntType(64), 8)
        row = builder.add(table, builder.mul(byte, eight))
        row = builder.inttoptr(row, ir.VectorType(ir.IntType(8), 8).as_pointer())
        numbers = builder.add(
            builder.zext(builder.load(row, align=1), word), broadcast(builder, base, 8)
        )
        here = builder.add(at, builder.mul(offset, eight))
        builder.store(numbers, builder.inttoptr(here, word.as_pointer()), align=8)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, types.int64, types.int64, types.intp), codegen


@intrinsic
def _emit_lowest(typingctx, lanes):
    def codegen(context, builder, signature, arguments):
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.int64), codegen


@compiled(inner=True)
def _address_vector(array):
    return array.ctypes.data


@compiled
def lanes_under_vector(at, offset, limit):
    """Bit ``l`` tells whether lane ``l`` of the vector at an offset is at most ``limit``."""
    return _emit_lanes_under(at, offset, limit)  # type: ignore[call-arg]


@compiled
def nodes_under_vector(at, offset, limit):
    """Bit ``j`` tells whether number ``j`` of ``GROUP_NODES`` at an offset is at most ``limit``."""
    return _emit_nodes_under(at, offset, limit)  # type: ignore[call-arg]


@compiled
def reach_vector(at, offset, balls, place, stride, core_row, square, rest):
    """The least of ``PANEL`` bounds of a distance, see :mod:`.balls`.

    They are ``sqrt(square + 2 score + balls[1] + rest * balls[2]) + balls[core_row]``; the scores
    are at an offset, and the rows of ``balls``, ``stride`` apart, count from a place on.
    """
    return _emit_reach(  # type: ignore[call-arg]
        at, offset, balls, place, stride, core_row, square, rest
    )


@compiled
def within_vector(at, offset, balls, place, limit, reach):
    """Bit ``j`` tells whether number ``j`` of ``PANEL`` is at most ``limit + reach * balls``."""
    return _emit_within(  # type: ignore[call-arg]
        at, offset, balls, place, limit, reach
    )


@compiled
def positions_vector(at, offset, base, byte, table):
    """Write ``base`` plus the positions of the bits of a byte, and more, to 8 int64 at an offset.

    ``table`` is the address of :data:`POSITIONS`.
    """
    _emit_positions(at, offset, base, byte, table)  # type: ignore[call-arg]


@compiled
def lowest_vector(lanes):
    """Number of the lowest bit that is set (there must be one)."""
    return _emit_lowest(lanes)  # type: ignore[call-arg]


@compiled
def smallest_vector(at, offset, n_vectors):
    """The smallest number of ``n_vectors`` (at least one) vectors at an offset."""
    return _emit_smallest(at, offset, n_vectors)  # type: ignore[call-arg]


def _address_portable(array):
    return array.reshape(-1)


def _bits(flags):
    return sum(int(flag) << bit for bit, flag in enumerate(flags))


def lanes_under_portable(at, offset, limit):
    return _bits(at[offset : offset + WIDTH] <= limit)


def nodes_under_portable(at, offset, limit):
    return _bits(at[offset : offset + GROUP_NODES] <= limit)


def reach_portable(at, offset, balls, place, stride, core_row, square, rest):
    raised, spread, core = (balls[place + j * stride :][:PANEL] for j in (1, 2, core_row))
    total = square + 2 * at[offset : offset + PANEL] + raised + rest * spread
    return np.float32((np.sqrt(np.maximum(total, 0)) + core).min())


def within_portable(at, offset, balls, place, limit, reach):
    limits = limit + reach * balls[place : place + PANEL]
    return _bits(at[offset : offset + PANEL] <= limits)


def positions_portable(at, offset, base, byte, table):
    at[offset : offset + 8] = base + table.reshape(256, 8)[byte].astype(np.int64)


def lowest_portable(lanes):
    return (lanes & -lanes).bit_length() - 1


def smallest_portable(at, offset, n_vectors):
    return np.float32(at[offset : offset + n_vectors * WIDTH].min())


address = _address_vector if JIT else _address_portable
lanes_under = lanes_under_vector if JIT else lanes_under_portable
nodes_under = nodes_under_vector if JIT else nodes_under_portable
reach = reach_vector if JIT else reach_portable
within = within_vector if JIT else within_portable
positions = positions_vector if JIT else positions_portable
lowest = lowest_vector if JIT else lowest_portable
smallest = smallest_vector if JIT else smallest_portable
