"""Atomic operations on int64 words, which Numba does not offer; all are sequentially consistent.

As in :mod:`.vectors`, all work at an address.  Without the JIT one thread works alone, which needs
:func:`fetch_add` only.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .compiled import compiled
from .vectors import JIT

WORD = ir.IntType(64)


def _word(builder, at, offset):
    place = builder.add(at, builder.mul(offset, ir.Constant(at.type, 8)))
    return builder.inttoptr(place, WORD.as_pointer())


@intrinsic
def _emit_fetch_add(typingctx, at, offset, amount):
    def codegen(context, builder, signature, arguments):
        place = _word(builder, *arguments[:2])
        return builder.atomic_rmw("add", place, arguments[2], "seq_cst")

    return types.int64(types.intp, types.intp, types.int64), codegen


@intrinsic
def _emit_load(typingctx, at, offset):
    def codegen(context, builder, signature, arguments):
        return builder.load_atomic(_word(builder, *arguments), "seq_cst", align=8)

    return types.int64(types.intp, types.intp), codegen


@intrinsic
def _emit_store(typingctx, at, offset, value):
    def codegen(context, builder, signature, arguments):
        place = _word(builder, *arguments[:2])
        builder.store_atomic(arguments[2], place, "seq_cst", align=8)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, types.int64), codegen


@intrinsic
def _emit_compare_exchange(typingctx, at, offset, old, new):
    def codegen(context, builder, signature, arguments):
        place = _word(builder, *arguments[:2])
        result = builder.cmpxchg(place, *arguments[2:], "seq_cst", "seq_cst")
        return builder.extract_value(result, 1)

    return types.boolean(types.intp, types.intp, types.int64, types.int64), codegen


@intrinsic
def _emit_fence(typingctx):
    def codegen(context, builder, signature, arguments):
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), codegen


@compiled
def fetch_add_atomic(at, offset, amount):
    """Add to a word; its value before."""
    return _emit_fetch_add(at, offset, amount)  # type: ignore[call-arg]


@compiled
def load(at, offset):
    return _emit_load(at, offset)  # type: ignore[call-arg]


@compiled
def store(at, offset, value):
    _emit_store(at, offset, value)  # type: ignore[call-arg]


@compiled
def compare_exchange(at, offset, old, new):
    """Write ``new`` where a word is ``old``; whether it was."""
    return _emit_compare_exchange(at, offset, old, new)  # type: ignore[call-arg]


@compiled
def fence():
    """What a loop that waits does between two looks.

    Not the processor's instruction for it (pause on x86): a hypervisor takes the processor away
    where it comes often.
    """
    _emit_fence()  # type: ignore[call-arg]


def fetch_add_portable(at, offset, amount):
    at[offset] += amount
    return at[offset] - amount


fetch_add = fetch_add_atomic if JIT else fetch_add_portable
