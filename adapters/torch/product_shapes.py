"""Shapes of products and convolutions, for a pass that does not compute them.

Most of the time of a pass goes into these operators; what they compute only matters to a model that
looks at values.  Operands that do not fit have no shape: the operator says what is wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def _convolution_shape(
    x: torch.Tensor,
    weight: torch.Tensor,
    _: Any,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    transposed: bool,
    output_padding: list[int],
    groups: int,
) -> tuple[int, ...] | None:
    rank, read = x.ndim - 2, weight.shape[0] if transposed else weight.shape[1] * groups
    if x.ndim != weight.ndim or x.shape[1] != read or x.dtype != weight.dtype:
        return None
    stride, padding, dilation, output_padding = (
        list(setting) * (rank if len(setting) == 1 else 1)
        for setting in (stride, padding, dilation, output_padding)
    )
    size = []
    for i in range(rank):
        n, reach = x.shape[2 + i], dilation[i] * (weight.shape[2 + i] - 1)
        if transposed:
            n = (n - 1) * stride[i] - 2 * padding[i] + reach + output_padding[i] + 1
        else:
            n = (n + 2 * padding[i] - reach - 1) // stride[i] + 1
        size.append(n)
    channels = weight.shape[1] * groups if transposed else weight.shape[0]
    return (x.shape[0], channels, *size)


def _product_shape(*operands: torch.Tensor) -> tuple[int, ...] | None:
    a, b = operands[-2:]
    fit = a.ndim == b.ndim and (*a.shape[:-2], a.shape[-1]) == tuple(b.shape[:-1])
    return (*a.shape[:-1], b.shape[-1]) if fit and a.dtype == b.dtype else None


COSTLY: dict[str, Callable[..., tuple[int, ...] | None]] = {
    "convolution": _convolution_shape,
    "mm": _product_shape,
    "bmm": _product_shape,
    "addmm": _product_shape,
    "baddbmm": _product_shape,
}
