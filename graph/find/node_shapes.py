"""Whether a structural node agrees with the shapes of its tensors.

Shapes that were measured always agree.  Those that were inferred, declared or guessed may not, and
then nothing that follows from them would be right.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import numpy as np

from .nodes import (
    Concat,
    Contraction,
    Elementwise,
    Expand,
    Freeze,
    Gather,
    Node,
    Opaque,
    Pad,
    PerChannel,
    Positional,
    Reduce,
    Reshape,
    Shape,
    Transpose,
    Unlabelled,
    input_names,
)


def check_shapes(node: Node, shapes: Mapping[str, Shape]) -> None:
    """Raise unless the shapes of a node's tensors are what its kind makes of them.

    Raises
    ------
    ValueError
        They do not agree.

    Examples
    --------
    >>> check_shapes(Reshape("x", "y"), {"x": (2, 6), "y": (3, 4)})
    >>> check_shapes(Reshape("x", "y"), {"x": (2, 6), "y": (3, 5)})
    Traceback (most recent call last):
    ValueError: the shapes around Reshape do not agree
    """
    if not _agree(node, shapes):
        raise ValueError(f"the shapes around {type(node).__name__} do not agree")


def _agree(node: Node, shapes: Mapping[str, Shape]) -> bool:
    if isinstance(node, (Unlabelled, Freeze, Opaque)):
        return True
    given = [shapes[name] for name in input_names(node)]
    x, y = given[0], shapes[node.output]
    if isinstance(node, Elementwise):
        return np.broadcast_shapes(*given) == y
    if isinstance(node, PerChannel):
        return x == y and all(shape in ((x[node.axis],), (1,)) for shape in given[1:])
    if isinstance(node, Contraction):
        return _sizes_agree(node, shapes)
    if isinstance(node, Reshape):
        return prod(x) == prod(y)
    if isinstance(node, Expand):
        return np.broadcast_shapes(x, y) == y
    if isinstance(node, Reduce):
        kept = [(1 if axis in node.axes else n) for axis, n in enumerate(x)]
        left = [n for axis, n in enumerate(x) if axis not in node.axes]
        return y == tuple(kept if node.keepdims else left)
    if isinstance(node, Transpose):
        return y == tuple(x[axis] for axis in node.order) and len(x) == len(y)
    if isinstance(node, Pad):
        return y == tuple(n + a + b for n, a, b in zip(x, node.before, node.after, strict=True))
    # What is left changes some axes: all others stay.
    axes = set(node.axes) if isinstance(node, Positional) else {node.axis}
    others = all(
        len(shape) == len(y)
        and all(m == n or axis in axes for axis, (m, n) in enumerate(zip(shape, y, strict=True)))
        for shape in given
    )
    if isinstance(node, Concat):
        return others and sum(shape[node.axis] for shape in given) == y[node.axis]
    if isinstance(node, Gather):
        inside = bool(((node.indices >= 0) & (node.indices < x[node.axis])).all())
        return others and inside and len(node.indices) == y[node.axis]
    return others


def _sizes_agree(node: Contraction, shapes: Mapping[str, Shape]) -> bool:
    sizes: dict[str, int] = {}
    plain, given = node.apart(shapes)
    for names, shape in zip((plain.a_axes, plain.b_axes, plain.out_axes), given, strict=True):
        if len(names) != len(shape):
            return False
        for name, n in zip(names, shape, strict=True):
            if sizes.setdefault(name, n) != n:
                return False
    return True
