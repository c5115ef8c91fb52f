"""Words in memory that several threads change, which Numba does not offer: four instructions.

As in :mod:`.vectors`, all work at an address, and have a portable twin for interpreters without the
JIT (where one thread works alone).  Words are int64.
"""

from __future__ import annotations

from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from .vectors import JIT

WORD = ir.IntType(64)


def _word(builder, at, offset):
    place = builder.add(at, builder.mul(offset, ir.Constant(at.type, 8)))
    return builder.inttoptr(place, WORD.as_pointer())


@intrinsic
def _emit_claim(typingctx, at, offset, amount):
    def codegen(context, builder, signature, arguments):
        place = _word(builder, *arguments[:2])
        return builder.atomic_rmw("add", place, arguments[2], "seq_cst")

    return types.int64(types.intp, types.intp, types.int64), codegen


@intrinsic
def _emit_read(typingctx, at, offset):
    def codegen(context, builder, signature, arguments):
        return builder.load_atomic(_word(builder, *arguments), "seq_cst", align=8)

    return types.int64(types.intp, types.intp), codegen


@intrinsic
def _emit_write(typingctx, at, offset, value):
    def codegen(context, builder, signature, arguments):
        place = _word(builder, *arguments[:2])
        builder.store_atomic(arguments[2], place, "seq_cst", align=8)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, types.int64), codegen


@intrinsic
def _emit_replace(typingctx, at, offset, old, new):
    def codegen(context, builder, signature, arguments):
        place = _word(builder, *arguments[:2])
        result = builder.cmpxchg(place, *arguments[2:], "seq_cst", "seq_cst")
        return builder.extract_value(result, 1)

    return types.boolean(types.intp, types.intp, types.int64, types.int64), codegen


@intrinsic
def _emit_wait(typingctx):
    def codegen(context, builder, signature, arguments):
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), codegen


@njit(nogil=True, cache=True)
def claim_atomic(at, offset, amount):
    """Add to a word; its value before."""
    return _emit_claim(at, offset, amount)  # type: ignore[call-arg]


@njit(nogil=True, cache=True)
def read(at, offset):
    return _emit_read(at, offset)  # type: ignore[call-arg]


@njit(nogil=True, cache=True)
def write(at, offset, value):
    _emit_write(at, offset, value)  # type: ignore[call-arg]


@njit(nogil=True, cache=True)
def replace(at, offset, old, new):
    """Write ``new`` where a word is ``old``; whether it was."""
    return _emit_replace(at, offset, old, new)  # type: ignore[call-arg]


@njit(nogil=True, cache=True)
def wait():
    """Stand still for some dozen cycles, at a fence.

    The processor's instruction for it (pause on x86) ends in a hypervisor's taking the processor
    away, if it comes often.
    """
    _emit_wait()  # type: ignore[call-arg]


def claim_portable(at, offset, amount):
    at[offset] += amount
    return at[offset] - amount


claim = claim_atomic if JIT else claim_portable
