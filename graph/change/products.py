"""Products with a weight, fitted one after the other where what they read has changed.

A product makes ``y = W p`` of every place, with ``p`` all that it reads there: the channels of a
linear layer, of a convolution those at every offset of its kernel.  Once channels have merged it
reads ``p'``, of which the freed ones count for nothing, and is fitted to what it made before::

    W' = argmin |W' p' - y|^2 + s |W' - W_0|^2 = W_0 + (R - W_0 G) (G + s I)^-1
    G = E[p' p'^T],  R = E[y p'^T]

with ``W_0`` the weight as it is (:mod:`.least_squares` has fitted it by channel).  Channels that
the product makes and that merge have the target that they merge to, ``A y``.  With a bias, or
before a normalization that is recalibrated, ``y`` and ``p'`` count without their means, and the
bias makes up for these.

In the order of execution: each reads what those before it make by then, so that their errors are
made up for as far as they can be.  As in :mod:`.least_squares` a fifth of the samples is held out,
and the ridge ``s`` is the one that serves them best; none may, and then the weight stays.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..arrays import Arrays
from ..find.channels import Tap, Unfit
from ..find.nodes import Contraction, Graph, PerChannel, Transpose, Window, input_names
from ..find.samples import sample_axes
from ..network import Team
from ..one_thread import on_one_thread
from ..plan.plan import GroupPlan
from .least_squares import LARGEST, RIDGES, held_out
from .surgery import NotFinite, transform

MOST_ROWS = 4096  # of p: the inverse of a larger G takes minutes
ELEMENTS = 2**22  # of p for one batch: 32 MiB, and 7,000 places of a 3 x 3 kernel of 64 channels
SAME = Window(1, 1, 0, 0)


@dataclass(frozen=True, eq=False)
class Product:
    """A product with a weight of its own.

    Attributes
    ----------
    weight : str
    axes : tuple of int
        Axes of the weight as it is stored: of the channels made, of those read, of the kernel.
    x, y : Tap
        What it reads, and what it makes with its bias.
    windows : tuple of Window
        Of the two axes of places.
    bias : str or None
    centred : bool
        Whether means count for nothing.
    rows : int
        Length of ``p``, with a 1 at its end.
    """

    weight: str
    axes: tuple[int, ...]
    x: Tap
    y: Tap
    windows: tuple[Window, Window]
    bias: str | None
    centred: bool
    rows: int


def products_of(
    graph: Graph, weights: Collection[str], normalized: Collection[str]
) -> list[Product]:
    """The products with some weights, in the order of execution.

    Left out is a weight that is used twice, in groups, transposed or with unknown windows, and one
    that reads more than ``MOST_ROWS`` values.

    Parameters
    ----------
    graph : Graph
    weights : collection of str
    normalized : collection of str
        Tensors that a normalization reads which is recalibrated.
    """
    stored: dict[str, tuple[str, tuple[int, ...]]] = {
        tensor: (name, tuple(range(len(graph.shapes[tensor]))))
        for tensor, name in graph.weights.items()
    }
    uses: dict[str, int] = {}
    readers: dict[str, list[Any]] = {}
    for node in graph.nodes:
        names = input_names(node)
        for name in names:
            readers.setdefault(name, []).append(node)
        if isinstance(node, Transpose) and node.input in stored:
            weight, order = stored[node.input]
            stored[node.output] = weight, tuple(order[a] for a in node.order)
        else:
            for name in names:
                if name in stored:
                    uses[stored[name][0]] = uses.get(stored[name][0], 0) + 1
    found, samples = [], sample_axes(graph)
    for node in graph.nodes:
        if isinstance(node, Contraction) and node.groups == 1:
            a, b = node.inputs
            for x, w, x_axes, w_axes in (
                (a, b, node.a_axes, node.b_axes),
                (b, a, node.b_axes, node.a_axes),
            ):
                name, order = stored.get(w, ("", ()))
                if name in weights and uses[name] == 1 and x not in stored:
                    stored_as = name, order, w_axes, graph.shapes[w]
                    product = _product(graph, node, (x, x_axes), stored_as, readers, samples)
                    if product is None or product.rows > MOST_ROWS:
                        continue
                    if uses.get(product.bias or "", 1) == 1:
                        free = product.bias is not None or product.y.tensor in normalized
                        found.append(replace(product, centred=free))
    return found


def _product(
    graph: Graph,
    node: Contraction,
    data: tuple[str, tuple[str, ...]],
    stored: tuple[str, tuple[int, ...], tuple[str, ...], tuple[int, ...]],
    readers: Mapping[str, list[Any]],
    samples: Mapping[str, int],
) -> Product | None:
    x, x_axes = data
    weight, order, w_axes, shape = stored
    out = node.out_axes
    kernel = [v for v in w_axes if v not in x_axes and v not in out]
    made = [v for v in w_axes if v not in x_axes and v in out]
    rest = [v for v in out if v not in made]
    if len(node.summed) != 1 or len(made) != 1 or len(w_axes) != 2 + len(kernel):
        return None
    if kernel and (node.windows is None or len(kernel) > 2):
        return None
    if not kernel and rest != [v for v in x_axes if v not in node.summed]:
        return None
    read, axis = x_axes.index(node.summed[0]), out.index(made[0])
    y, bias = node.output, None
    following = readers.get(y, [])
    after = following[0] if len(following) == 1 else None
    if isinstance(after, PerChannel) and (after.roles, after.axis) == (("bias",), axis):
        y, bias = after.output, graph.weights.get(after.inputs[1])
        if bias is None:  # computed from others
            return None
    if x.startswith("%") or y.startswith("%"):  # no tensors of the model
        return None
    if samples.get(x, read) == read or samples.get(y, axis) == axis:
        return None
    windows = tuple(node.windows or ()) if kernel else ()
    places = [order[w_axes.index(v)] for v in (made[0], node.summed[0], *kernel)]
    shapes = graph.shapes
    return Product(
        weight,
        tuple(places),
        Tap(x, read, np.arange(shapes[x][read]), samples[x]),
        Tap(y, axis, np.arange(shapes[y][axis]), samples[y]),
        (*(SAME,) * (2 - len(windows)), *windows),  # type: ignore[arg-type]
        bias,
        False,
        math.prod(shape) // shape[w_axes.index(made[0])] + 1,
    )


class ProductSums:
    """Second moments of what a product reads now and of what it made before.

    Parameters
    ----------
    product : Product
    shape : tuple of int
        Of its weight.
    arrays : Arrays
    """

    def __init__(self, product: Product, shape: tuple[int, ...], arrays: Arrays) -> None:
        made, _, *kernel = (shape[axis] for axis in product.axes)
        self.product, self._arrays = product, arrays
        self._kernel = (*(1,) * (2 - len(kernel)), *kernel)
        rows = product.rows
        # of the samples that the fit uses, and of those that it does not
        self.G = [np.zeros((rows, rows)) for _ in range(2)]
        self.R = [np.zeros((rows, made)) for _ in range(2)]

    def add(self, first: int, n: int, before: Any | None, after: Any | None) -> bool:
        """Add what it made of ``n`` samples after ``first`` before, and what it reads of them now.

        False where these are not there, or not of samples.
        """
        product, arrays = self.product, self._arrays
        if before is None or after is None:
            return False
        try:
            y = arrays.channels_first(before, product.y, n)
            x = arrays.channels_first(after, product.x, n)
        except Unfit:
            return False
        extent = tuple(y.shape[2:])
        places = int(np.prod(extent, dtype=np.int64))
        most = max(1, min(places, ELEMENTS // (n * product.rows)))
        chosen = np.linspace(0, places - 1, most).round().astype(np.int64)
        y = arrays.picked(y, chosen)
        at = np.stack(np.unravel_index(chosen, extent))
        p = arrays.patches(x, product.windows, self._kernel, at)
        out = held_out(first, n)
        for part, samples in enumerate((np.flatnonzero(~out), np.flatnonzero(out))):
            if samples.size:
                self.G[part] += arrays.gram(p, p, samples)
                self.R[part] += arrays.gram(p, y, samples)
        return True

    def share(self, team: Team) -> None:
        """Sums over all processes."""
        self.G[0], self.G[1], self.R[0], self.R[1] = team.sum_arrays(*self.G, *self.R)


@on_one_thread
def fitted(
    sums: ProductSums,
    plans: Sequence[GroupPlan],
    weights: Mapping[str, np.ndarray],
    bounded: bool = True,
) -> dict[str, np.ndarray]:
    """The weight that makes best of what it reads now what it made before, and its bias.

    Parameters
    ----------
    sums : ProductSums
    plans : sequence of GroupPlan
        Carried out already.
    weights : mapping of str to ndarray
        The weight and the bias as they are.
    bounded : bool
        Only ridges are chosen under which what reads a channel is no larger than ``LARGEST`` times
        what is drawn (:mod:`.least_squares`), or than it is: events that repeat would else let it
        grow.

    Returns
    -------
    dict of str to ndarray
        Empty where they serve held-out samples best as they are.
    """
    product = sums.product
    W = weights[product.weight]

    def columns(values: np.ndarray) -> np.ndarray:
        """(rows of p, channels made) of an array like the weight."""
        return values.transpose(product.axes).reshape(values.shape[product.axes[0]], -1).T

    def stored(found: np.ndarray) -> np.ndarray:
        shape = [W.shape[axis] for axis in product.axes]
        return found.T.reshape(shape).transpose(np.argsort(product.axes))

    kept = np.flatnonzero(columns(_read(plans, product.weight, W.shape))[:, 0])
    making = _making(plans, product)

    def moments(part: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        G, R = sums.G[part], sums.R[part]
        count = max(G[-1, -1], 1.0)
        p, y = G[:-1, -1] / count, R[-1] / count
        G, R = G[:-1, :-1] / count, R[:-1] / count
        if product.centred:
            G, R = G - np.outer(p, p), R - np.outer(p, y)
        target = transform(making, {product.weight: stored(R)}, state="linear")
        R = columns(target.get(product.weight, stored(R)))
        return G[np.ix_(kept, kept)], R[kept], p[kept], y

    W_0 = columns(W.astype(np.float64))[kept]
    G, R, p, y = moments(0)
    held, R_held, *_ = moments(1) if sums.G[1][-1, -1] else (G, R)
    values, vectors = np.linalg.eigh(G)
    values = np.maximum(values, 0.0)
    scale = float(values.mean()) if len(values) else 0.0
    if not scale > 0.0:
        return {}
    change = vectors.T @ (R - G @ W_0)

    def missed(found: np.ndarray) -> float:
        """But for what no weight can change."""
        return float(np.sum(found * (held @ found)) - 2.0 * np.sum(found * R_held))

    channels = W.shape[product.axes[1]]
    reading = kept * channels // (product.rows - 1)  # the offsets of a channel lie side by side

    def sizes(found: np.ndarray) -> np.ndarray:
        """Squared norms of what reads each channel."""
        return np.bincount(reading, np.einsum("rm,rm->r", found, found), channels)

    drawn = 2.0 * W.shape[product.axes[0]] / channels
    largest = np.maximum(sizes(W_0), LARGEST**2 * drawn) if bounded else np.inf
    tried = [W_0 + vectors @ (change / (values + s * scale)[:, None]) for s in RIDGES]
    best = min([W_0, *(t for t in tried if (sizes(t) <= largest).all())], key=missed)
    full = np.zeros((product.rows - 1, W.shape[product.axes[0]]))
    full[kept] = best
    found = {product.weight: stored(full).astype(W.dtype)}
    if product.bias is not None:
        b = weights[product.bias]
        bias = transform(making, {product.bias: y}, state="linear").get(product.bias, y)
        found[product.bias] = (bias - best.T @ p).reshape(b.shape).astype(b.dtype)
    if not all(np.isfinite(values.astype(np.float64)).all() for values in found.values()):
        raise NotFinite(f"fitting {product.weight!r} overflows {W.dtype}")
    return found


def _read(plans: Sequence[GroupPlan], weight: str, shape: tuple[int, ...]) -> np.ndarray:
    """An array like the weight: 1 where it reads channels that stay, else 0."""
    mask = np.ones(shape)
    for plan in plans:
        for member in plan.members:
            if member.weight == weight and member.kind == "consumer":
                rows = np.array(member.rows(mask))
                rows[member.positions[plan.new]] = 0.0
                mask = member.restore(rows, shape)
    return mask


def _making(plans: Sequence[GroupPlan], product: Product) -> list[GroupPlan]:
    """What the plans do to the channels that a product makes."""
    names = (product.weight, product.bias)
    parts = [
        replace(
            p, members=tuple(m for m in p.members if m.weight in names and m.kind == "producer")
        )
        for p in plans
    ]
    return [part for part in parts if part.members]
