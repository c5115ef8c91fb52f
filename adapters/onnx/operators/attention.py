"""Attention that an exporter or onnxruntime fused into one operator.

    p[b, h, s, l] = softmax_l(sum_d q[b, s, h, d] k[b, l, h, d] + mask)
    y[b, s, h, e] = sum_l p[b, h, s, l] v[b, l, h, e]

As in the unfused form, heads may be exchanged, and channels within all heads alike.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from ....graph.find.composites import attended
from ....graph.find.nodes import (
    Contraction,
    Elementwise,
    Gather,
    Opaque,
    PerChannel,
    Reshape,
)

if TYPE_CHECKING:
    from ..structure import Call


def attend(c: Call, operands: tuple[str, str, str], heads: int, masks: list[int], y: str) -> None:
    """Operands of shape (b, s, h d), or (b, h, s, d) where the model already split them.

    ``masks`` are the places of inputs that are added to, or hide, positions.
    """
    axes, split = [], []
    for x, letters in zip(operands, (tuple("bshd"), tuple("blhd"), tuple("blhe")), strict=True):
        shape = c.shape(x)
        if len(shape) == 4:
            letters = tuple(letters[i] for i in (0, 2, 1, 3))
            whole = x
            if shape[1] != heads:
                raise c.unsupported("shares keys between heads")
        else:
            whole = c.temporary((shape[0], shape[1], heads, shape[2] // heads))
            c.emit(Reshape(x, whole))
        split.append(whole)
        axes.append(letters)
    sizes = {
        letter: n
        for x, letters in zip(split, axes, strict=True)
        for letter, n in zip(letters, c.shape(x), strict=True)
    }
    if c.shape(split[1])[axes[1].index("d")] != c.shape(split[0])[axes[0].index("d")]:
        raise c.unsupported("shares keys between heads")
    scores = c.temporary([sizes[letter] for letter in "bhsl"])
    c.emit(Contraction((split[0], split[1]), scores, axes[0], axes[1], tuple("bhsl")))
    for mask in (c.data(i) for i in masks if c.has(i)):
        if len(c.shape(mask)) == 4:
            added = c.temporary(c.shape(scores))
            c.emit(Elementwise((scores, mask), added, "add"))
            scores = added
        else:
            c.emit(Opaque((mask,), (c.temporary((1,)),), "it says which positions are seen"))
    if len(c.shape(y)) == 4:
        c.emit(*attended(c.graph, scores, split[2], axes[2], y, "bhse"))
        return
    apart = c.temporary([sizes[letter] for letter in "bshe"])
    c.emit(*attended(c.graph, scores, split[2], axes[2], apart, "bshe"), Reshape(apart, y))


def attention(c: Call) -> None:
    """``Attention`` of the default domain."""
    if any(c.has(i) for i in (4, 5, 6)) or any(c.gives(i) for i in (1, 2, 3)):
        raise c.unsupported("keeps keys and values between its calls")
    shape = c.shape(c.data(0))
    heads = c.attribute("q_num_heads", 0) or shape[1]
    if c.attribute("kv_num_heads", 0) not in (0, heads):
        raise c.unsupported("shares keys between heads")
    attend(c, (c.data(0), c.data(1), c.data(2)), heads, [3], c.output())


def multi_head_attention(c: Call) -> None:
    """``MultiHeadAttention`` of onnxruntime: query, key, value, bias of all three."""
    if any(c.has(i) for i in (6, 7, 8, 9)) or any(c.gives(i) for i in (1, 2, 3)):
        raise c.unsupported("keeps keys and values between its calls")
    if not (c.has(1) and c.has(2)) or any(len(c.shape(c.data(i))) != 3 for i in range(3)):
        raise c.unsupported("has keys and values packed together")
    operands = [c.data(i) for i in range(3)]
    if c.has(3):
        start = 0
        for i, x in enumerate(operands):
            length = c.shape(x)[2]
            operands[i] = with_part_of_bias(c, x, c.data(3), start, length)
            start += length
    q, k, v = operands
    attend(c, (q, k, v), c.attribute("num_heads", 1), [4, 5], c.output())


def projected_attention(c: Call) -> None:
    """``Attention`` of onnxruntime: one weight makes query, key and value."""
    if c.has(4) or c.has(6) or c.gives(1) or c.attribute("do_rotary", 0):
        raise c.unsupported("keeps keys and values between its calls")
    b, s, _ = c.shape(c.data(0))
    whole = c.shape(c.data(1))[1]
    lengths = c.attribute("qkv_hidden_sizes", ()) or (whole // 3,) * 3
    x = c.temporary((b, s, whole))
    c.emit(Contraction((c.data(0), c.data(1)), x, tuple("bsi"), tuple("io"), tuple("bso")))
    if c.has(2):
        shifted = c.temporary(c.shape(x))
        c.emit(PerChannel((x, c.data(2)), shifted, 2, ("bias",)))
        x = shifted
    parts, start = [], 0
    for length in lengths:
        part = c.temporary((b, s, length))
        c.emit(Gather(x, part, 2, np.arange(start, start + length)))
        parts.append(part)
        start += length
    q, k, v = parts
    attend(c, (q, k, v), c.attribute("num_heads", 1), [3, 5], c.output())


def with_part_of_bias(c: Call, x: str, bias: str, start: int, length: int) -> str:
    """``x`` plus some entries of a bias along its last axis."""
    part, y = c.temporary((length,)), c.temporary(c.shape(x))
    c.emit(Gather(bias, part, 0, np.arange(start, start + length)))
    c.emit(PerChannel((x, part), y, len(c.shape(x)) - 1, ("bias",)))
    return y


ATTENTION: dict[str, Callable[[Call], None]] = {"Attention": attention}
