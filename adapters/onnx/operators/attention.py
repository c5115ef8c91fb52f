"""Attention that an exporter or onnxruntime fused into one operator.

As in the unfused form, heads may be exchanged, and channels within all heads alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ....graph.find.composites import attended, parametrized, parts, viewed
from ....graph.find.nodes import Contraction, Freeze, PerChannel, Reshape
from .contractions import channel_parameters

if TYPE_CHECKING:
    from ..call import Call


def attend(c: Call, operands: Sequence[str], heads: int, masks: Sequence[int], y: str) -> None:
    """Operands of shape (b, s, h d), or (b, h, s, d) where the model already split them.

    ``masks`` are the places of inputs that are added to, or hide, positions.
    """
    split = []
    for x, letters in zip(operands, ("bshd", "blhd", "blhe"), strict=True):
        shape = c.shape(x)
        if len(shape) == 4:
            if shape[1] != heads:
                raise c.unsupported("shares keys between heads")
            split.append((x, "".join(letters[i] for i in (0, 2, 1, 3))))
        else:
            view = (shape[0], shape[1], heads, shape[2] // heads)
            split.append((viewed(c.graph, x, view), letters))
    (q, _), (k, _), (v, v_axes) = split
    if c.shape(q)[-1] != c.shape(k)[-1]:
        raise c.unsupported("shares keys between heads")
    given = [c.data(i) for i in masks if c.has(i)]
    added = [mask for mask in given if len(c.shape(mask)) == 4]
    hiding = tuple(mask for mask in given if mask not in added)
    if hiding:
        c.emit(Freeze(hiding, "it says which positions are seen"))
    if len(c.shape(y)) == 4:
        attended(c.graph, split, added, (y, "bhse"))
        return
    sizes = dict(zip(v_axes, c.shape(v), strict=True))
    apart = c.temporary((*c.shape(y)[:2], heads, sizes["e"]))
    attended(c.graph, split, added, (apart, "bshe"))
    c.emit(Reshape(apart, y))


def attention(c: Call) -> None:
    """``Attention`` of the default domain."""
    if any(c.has(i) for i in (4, 5, 6)) or any(c.gives(i) for i in (1, 2, 3)):
        raise c.unsupported("keeps keys and values between its calls")
    heads = c.attribute("q_num_heads", 0) or c.shape(c.data(0))[1]
    if c.attribute("kv_num_heads", 0) not in (0, heads):
        raise c.unsupported("shares keys between heads")
    attend(c, [c.data(i) for i in range(3)], heads, [3], c.output())


def multi_head_attention(c: Call) -> None:
    """``MultiHeadAttention`` of onnxruntime: query, key, value, bias of all three."""
    if any(c.has(i) for i in (6, 7, 8, 9)) or any(c.gives(i) for i in (1, 2, 3)):
        raise c.unsupported("keeps keys and values between its calls")
    if not (c.has(1) and c.has(2)) or any(len(c.shape(c.data(i))) != 3 for i in range(3)):
        raise c.unsupported("has keys and values packed together")
    operands = [c.data(i) for i in range(3)]
    if c.has(3):
        lengths = [c.shape(x)[2] for x in operands]
        biases = parts(c.graph, c.data(3), 0, lengths)
        for i, bias in enumerate(biases):
            shifted = c.temporary(c.shape(operands[i]))
            c.emit(PerChannel((operands[i], bias), shifted, 2, ("bias",)))
            operands[i] = shifted
    attend(c, operands, c.attribute("num_heads", 1), [4, 5], c.output())


def projected_attention(c: Call) -> None:
    """``Attention`` of onnxruntime: one weight makes query, key and value."""
    if c.has(4) or c.has(6) or c.gives(1) or c.attribute("do_rotary", 0):
        raise c.unsupported("keeps keys and values between its calls")
    b, s, _ = c.shape(c.data(0))
    whole = c.shape(c.data(1))[1]
    lengths = c.attribute("qkv_hidden_sizes", ()) or (whole // 3,) * 3
    x = c.temporary((b, s, whole))
    with parametrized(c.graph, 2, channel_parameters(c, (2, "bias")), x) as y:
        c.emit(Contraction((c.data(0), c.data(1)), y, tuple("bsi"), tuple("io"), tuple("bso")))
    attend(c, parts(c.graph, x, 2, lengths), c.attribute("num_heads", 1), [3, 5], c.output())


ATTENTION: dict[str, Callable[[Call], None]] = {"Attention": attention}
