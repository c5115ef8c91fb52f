"""Random networks of structural nodes for property-based tests."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from hypothesis import strategies as st
from rejuvenet.graph.find.nodes import (
    Concat,
    Contraction,
    Elementwise,
    Expand,
    Gather,
    Graph,
    Pad,
    PerChannel,
    Positional,
    Reduce,
    Reshape,
    Transpose,
    output_names,
)


class Builder:
    """A growing network; every method adds a layer and returns the name of its output."""

    def __init__(self, draw):
        self.draw = draw
        self.graph = Graph()
        self.weights: dict[str, np.ndarray] = {}
        self.rng = np.random.default_rng(0)
        self.graph.inputs.append(self.graph.add_tensor("x", (2, 3, 4, 4)))

    def pick(self, *options):
        return self.draw(st.sampled_from(options))

    def shape(self, name):
        return self.graph.shapes[name]

    def new(self, shape):
        return self.graph.temporary(shape)

    def weight(self, *shape, reuse: str | None = None):
        if reuse is not None:
            return reuse
        name = f"w{len(self.weights)}"
        self.weights[name] = self.rng.normal(size=shape) * 0.7
        self.graph.add_tensor(name, shape)
        self.graph.weights[name] = name
        return name

    def conv(self, x, channels=None, groups=1, reuse=None, transposed=False):
        n, c, h, w = self.shape(x)
        o = channels or self.pick(4, 6, 8, 12)
        shape = (c, o // groups, 2, 2) if transposed else (o, c // groups, 2, 2)
        weight = self.weight(*shape, reuse=reuse)
        out = self.new((n, o, h, w))
        self.graph.add_convolution(x, weight, out, groups, transposed)
        if self.pick(True, False):
            biased = self.new((n, o, h, w))
            self.graph.nodes.append(PerChannel((out, self.weight(o)), biased, 1, ("bias",)))
            out = biased
        return out

    def grouped(self, x):
        c = self.shape(x)[1]
        groups = self.pick(*[g for g in (2, 3, 4) if c % g == 0] or [1])
        return self.conv(x, groups * self.pick(1, 2, 3), groups, transposed=self.pick(True, False))

    def depthwise(self, x):
        c = self.shape(x)[1]
        return self.conv(x, c * self.pick(1, 1, 2), c)

    def standardized(self, x):
        """A grouped convolution whose weight is normalized on the fly."""
        n, c, h, w = self.shape(x)
        groups = self.pick(*[g for g in (1, 2) if c % g == 0])
        o = 4 * groups
        weight, gain = self.weight(o, c // groups, 2, 2), self.weight(o, 1, 1, 1)
        mean, normal = self.new((o, 1, 1, 1)), self.new(self.shape(weight))
        self.graph.nodes += [
            Reduce(weight, mean, (1, 2, 3), True),
            Elementwise((weight, mean, gain), normal, "mul"),
        ]
        out = self.new((n, o, h, w))
        self.graph.add_convolution(x, normal, out, groups)
        return out

    def reparametrized(self, x):
        """A convolution whose weight is a function of a weight and of a gain on its input axis."""
        n, c, h, w = self.shape(x)
        weight, gain = self.weight(4, c, 2, 2), self.weight(1, c, 1, 1)
        made, out = self.new((4, c, 2, 2)), self.new((n, 4, h, w))
        self.graph.nodes.append(Elementwise((weight, gain), made, self.pick("mul", "other")))
        self.graph.add_convolution(x, made, out)
        return out

    def norm(self, x):
        c = self.shape(x)[1]
        out = self.new(self.shape(x))
        names = (x, self.weight(c), self.weight(c))
        self.graph.nodes.append(PerChannel(names, out, 1, ("scale", "shift")))
        return out

    def unary(self, x):
        out = self.new(self.shape(x))
        self.graph.nodes.append(Elementwise((x,), out))
        return out

    def add(self, x, y):
        if self.shape(x)[1:] != self.shape(y)[1:]:
            y = self.conv(self.pool_to(y, self.shape(x)), self.shape(x)[1])
        out = self.new(self.shape(x))
        self.graph.nodes.append(Elementwise((x, y), out, self.pick("add", "mul")))
        return out

    def pool_to(self, x, shape):
        if self.shape(x)[2:] == shape[2:]:
            return x
        out = self.new((*self.shape(x)[:2], *shape[2:]))
        self.graph.nodes.append(Positional(x, out, (2, 3)))
        return out

    def concat(self, x, y):
        y = self.pool_to(y, self.shape(x))
        n, _, h, w = self.shape(x)
        parts = self.pick((x, y), (y, x), (x, x), (x, y, x))
        total = sum(self.shape(p)[1] for p in parts)
        if total > 40:
            return self.add(x, y)
        out = self.new((n, total, h, w))
        self.graph.nodes.append(Concat(parts, out, 1))
        return out

    def take(self, x):
        c = self.shape(x)[1]
        indices = self.pick(
            np.arange(c // 2),
            np.arange(c // 2, c),
            np.arange(0, c, 2),
            np.arange(c)[::-1],
            np.array([c - 1]),
            np.repeat(np.arange(c), 2)[: c + 1],
            np.roll(np.arange(c), 1),
        )
        if len(indices) == 0:
            return x
        n, _, h, w = self.shape(x)
        out = self.new((n, len(indices), h, w))
        self.graph.nodes.append(Gather(x, out, 1, indices))
        return out

    def pad(self, x):
        n, c, h, w = self.shape(x)
        before, after = self.pick((0, 2), (1, 1), (2, -1))
        out = self.new((n, c + before + after, h, w))
        self.graph.nodes.append(Pad(x, out, (0, before, 0, 0), (0, after, 0, 0)))
        return out

    def _via(self, x, shape, order=None):
        split = self.new(shape)
        self.graph.nodes.append(Reshape(x, split))
        if order is None:
            return split
        turned = self.new([shape[a] for a in order])
        self.graph.nodes.append(Transpose(split, turned, order))
        return turned

    def halves(self, x):
        """Different functions of the two halves, one after the other again."""
        n, c, h, w = self.shape(x)
        parts = []
        for index in (np.arange(c // 2), np.arange(c // 2, c)):
            part = self.new((n, len(index), h, w))
            self.graph.nodes.append(Gather(x, part, 1, index))
            parts.append(self.unary(part))
        out = self.new((n, c, h, w))
        self.graph.nodes.append(Concat(tuple(parts), out, 1))
        return out

    def shuffle(self, x):
        n, c, h, w = self.shape(x)
        if c % 2:
            return self.norm(x)
        return self._via(self._via(x, (n, 2, c // 2, h, w), (0, 2, 1, 3, 4)), (n, c, h, w))

    def pixel_shuffle(self, x):
        n, c, h, w = self.shape(x)
        if c % 4 or h > 4:
            return self.unary(x)
        y = self._via(x, (n, c // 4, 2, 2, h, w), (0, 1, 4, 2, 5, 3))
        return self._via(y, (n, c // 4, 2 * h, 2 * w))

    def gate(self, x):
        """Squeeze and excitation."""
        n, c, h, w = self.shape(x)
        pooled = self.new((n, c, 1, 1))
        self.graph.nodes.append(Reduce(x, pooled, (2, 3), True))
        y = self.conv(self.unary(self.conv(pooled, 4)), self.pick(c, 1))
        out = self.new((n, c, h, w))
        self.graph.nodes.append(Elementwise((x, y), out, "mul"))
        return out

    def spatial_gate(self, x):
        n, c, h, w = self.shape(x)
        over = self.take(x) if self.pick(True, False) else x
        pooled, out = self.new((n, 1, h, w)), self.new((n, c, h, w))
        self.graph.nodes += [Reduce(over, pooled, (1,), True), Elementwise((x, pooled), out)]
        return out

    def expanded_gate(self, x):
        """One map for all channels, expanded to them, and perhaps changed or read as it is."""
        n, c, h, w = self.shape(x)
        pooled, copies = self.new((n, 1, h, w)), self.new((n, c, h, w))
        self.graph.nodes += [Reduce(x, pooled, (1,), True), Expand(pooled, copies)]
        for layer in self.pick((), ("unary",), ("conv",), ("shuffle", "unary"), ("gate",)):
            copies = getattr(self, layer)(copies)
        return self.add(x, copies)

    def group_norm(self, x):
        n, c, h, w = self.shape(x)
        groups = self.pick(*[g for g in (1, 2, 3) if c % g == 0])
        split = self._via(x, (n, groups, c // groups, h, w))
        mean, normal = self.new((n, groups, 1, 1, 1)), self.new(self.shape(split))
        self.graph.nodes += [
            Reduce(split, mean, (2, 3, 4), True),
            Elementwise((split, mean), normal),
        ]
        return self.norm(self._via(normal, (n, c, h, w)))

    def channels_last(self, x):
        """Layer normalization and a linear layer on transposed axes, with a layer scale."""
        n, c, h, w = self.shape(x)
        y = self._via(x, (n, c, h, w), (0, 2, 3, 1))
        mean, normal, out = self.new((n, h, w, 1)), self.new((n, h, w, c)), self.new((n, h, w, 6))
        self.graph.nodes += [
            Reduce(y, mean, (3,), True),
            Elementwise((y, mean, self.weight(c)), normal, "mul"),
            Contraction(
                (normal, self.weight(6, c)),
                out,
                ("n", "h", "w", "i"),
                ("o", "i"),
                ("n", "h", "w", "o"),
            ),
        ]
        return self._via(out, (n, h, w, 6), (0, 3, 1, 2))

    def attention(self, x):
        n, c, h, w = self.shape(x)
        heads, dim = 2, self.pick(2, 3)
        tokens = self._via(self._via(x, (n, c, h * w)), (n, c, h * w), (0, 2, 1))
        inner = heads * dim
        fused = self.new((n, h * w, 3 * inner))
        self.graph.nodes.append(
            Contraction(
                (tokens, self.weight(3 * inner, c)),
                fused,
                ("n", "t", "i"),
                ("o", "i"),
                ("n", "t", "o"),
            )
        )
        split = self._via(fused, (n, h * w, 3, heads, dim), (2, 0, 3, 1, 4))
        parts = []
        for i in range(3):
            one = self.new((1, n, heads, h * w, dim))
            self.graph.nodes.append(Gather(split, one, 0, np.array([i])))
            parts.append(self._via(one, (n, heads, h * w, dim)))
        q, k, v = parts
        scores, soft = (self.new((n, heads, h * w, h * w)) for _ in range(2))
        mixed = self.new((n, heads, h * w, dim))
        self.graph.nodes += [
            Contraction((q, k), scores, tuple("bhtd"), tuple("bhsd"), tuple("bhts")),
            Elementwise((scores,), soft),  # bounded, like all elementwise nodes of the interpreter
            Contraction((soft, v), mixed, tuple("bhts"), tuple("bhse"), tuple("bhte")),
        ]
        merged = self._via(self._via(mixed, self.shape(mixed), (0, 2, 1, 3)), (n, h * w, inner))
        out = self.new((n, h * w, 4))
        self.graph.nodes.append(
            Contraction(
                (merged, self.weight(4, inner)), out, ("n", "t", "i"), ("o", "i"), ("n", "t", "o")
            )
        )
        return self.unary(self._via(self._via(out, (n, h * w, 4), (0, 2, 1)), (n, 4, h, w)))

    def repeat(self, x):
        n, c, h, w = self.shape(x)
        wide = self.new((n, c, 2, h, w))
        self.graph.nodes.append(Expand(self._via(x, (n, c, 1, h, w)), wide))
        if self.pick(True, False):
            wide = self._via(wide, (n, c, 2, h, w), (0, 2, 1, 3, 4))
        return self._via(wide, (n, 2 * c, h, w))

    def twice(self, x):
        """One convolution applied two times."""
        c = self.shape(x)[1]
        weight = self.weight(c, c, 2, 2)
        return self.conv(self.unary(self.conv(x, c, reuse=weight)), c, reuse=weight)

    def head(self, x):
        """Flatten or pool, then a linear layer."""
        n, c, h, w = self.shape(x)
        if self.pick(True, False):
            flat = self._via(x, (n, c * h * w))
        else:
            flat = self.new((n, c))
            self.graph.nodes.append(Reduce(x, flat, (2, 3), False))
        out = self.new((n, 3))
        self.graph.nodes.append(
            Contraction(
                (flat, self.weight(3, self.shape(flat)[1])), out, ("n", "i"), ("o", "i"), ("n", "o")
            )
        )
        self.graph.outputs.append(out)


UNARY_LAYERS = (
    "conv",
    "conv",
    "conv",
    "grouped",
    "depthwise",
    "standardized",
    "reparametrized",
    "norm",
    "unary",
    "take",
    "pad",
    "shuffle",
    "pixel_shuffle",
    "gate",
    "spatial_gate",
    "expanded_gate",
    "group_norm",
    "channels_last",
    "attention",
    "repeat",
    "twice",
    "halves",
)
BINARY_LAYERS = ("add", "concat")


class Network(NamedTuple):
    """A graph and its weights; shown as its nodes."""

    graph: Graph
    weights: dict[str, np.ndarray]

    def __repr__(self) -> str:
        shapes = self.graph.shapes
        lines = [
            f"{node}  -> {[shapes[n] for n in output_names(node)]}" for node in self.graph.nodes
        ]
        return "\n".join(["", *lines, f"outputs {self.graph.outputs}"])


@st.composite
def networks(draw, layers=UNARY_LAYERS + BINARY_LAYERS, length=8):
    """A graph and its weights."""
    builder = Builder(draw)
    pool = [builder.conv("x"), builder.conv("x")]
    for _ in range(draw(st.integers(1, length))):
        layer = draw(st.sampled_from(layers))
        x = pool[-1] if draw(st.booleans()) else draw(st.sampled_from(pool))
        if builder.shape(x)[1] > 48:
            x = pool[0]
        if layer in BINARY_LAYERS:
            pool.append(getattr(builder, layer)(x, draw(st.sampled_from(pool))))
        else:
            pool.append(getattr(builder, layer)(x))
    builder.head(pool[-1])
    if draw(st.booleans()):
        builder.head(draw(st.sampled_from(pool)))
    return Network(builder.graph, builder.weights)
