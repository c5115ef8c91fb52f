"""A network of structural nodes, run on numpy arrays with arbitrary concrete operators.

Every node gets one function that its kind allows and nothing more special: an elementwise node is a
random non-symmetric function of its inputs, a positional axis a random matrix, the spatial part of
a convolution a random tensor over the positions of input, kernel and output.  Whatever the channel
graph calls exchangeable must then keep the outputs, or its rules are wrong.
"""

from __future__ import annotations

import string
import zlib

import numpy as np
from rejuvenet.graph.find.nodes import (
    Concat,
    Contraction,
    Elementwise,
    Expand,
    Gather,
    Graph,
    Opaque,
    Pad,
    PerChannel,
    Positional,
    Reduce,
    Reshape,
    Transpose,
)


def run(graph: Graph, weights: dict, inputs: dict, constants: dict | None = None) -> dict:
    """Every tensor of the graph by name, in float64."""
    values = {**inputs, **(constants or {})}
    values |= {tensor: weights[name] for tensor, name in graph.weights.items()}
    for node in graph.nodes:
        _run_node(node, values, graph)
    return values


def _rng(name: str) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(name.encode()))


def _mixed(arrays: list[np.ndarray], name: str) -> np.ndarray:
    scale = _rng(name).uniform(0.5, 1.5, len(arrays))
    total = sum(s * a for s, a in zip(scale, arrays, strict=True))
    product = 1.0
    for array in arrays:
        product = product * array
    return np.tanh(total + 0.3 * product)


def _run_node(node, values: dict, graph: Graph) -> None:
    match node:
        case Elementwise():
            out = _mixed([values[i] for i in node.inputs], node.output)
            values[node.output] = np.broadcast_to(out, graph.shapes[node.output])
        case PerChannel():
            x = values[node.inputs[0]]
            shape = [1] * x.ndim
            shape[node.axis] = -1
            rest = [values[i].reshape(shape) for i in node.inputs[1:]]
            values[node.output] = _mixed([x, *rest], node.output)
        case Contraction():
            values[node.output] = _contract(node, values, graph)
        case Positional():
            x = values[node.input]
            for axis in node.axes:
                rows = graph.shapes[node.output][axis]
                matrix = _rng(f"{node.output}{axis}").normal(size=(rows, x.shape[axis]))
                x = np.moveaxis(np.tensordot(matrix, x, (1, axis)), 0, axis)
            values[node.output] = np.tanh(x)
        case Reduce():
            x = values[node.input]
            values[node.output] = (x + x**2).mean(axis=node.axes, keepdims=node.keepdims)
        case Reshape():
            values[node.output] = values[node.input].reshape(graph.shapes[node.output])
        case Transpose():
            values[node.output] = values[node.input].transpose(node.order)
        case Concat():
            values[node.output] = np.concatenate([values[i] for i in node.inputs], node.axis)
        case Gather():
            values[node.output] = values[node.input].take(node.indices, axis=node.axis)
        case Pad():
            x = values[node.input]
            crop = tuple(
                slice(max(-b, 0), n - max(-a, 0))
                for b, a, n in zip(node.before, node.after, x.shape, strict=True)
            )
            grow = [(max(b, 0), max(a, 0)) for b, a in zip(node.before, node.after, strict=True)]
            values[node.output] = np.pad(x[crop], grow)
        case Expand():
            values[node.output] = np.broadcast_to(values[node.input], graph.shapes[node.output])
        case Opaque():
            for name in node.outputs:
                flat = np.concatenate([values[i].ravel() for i in node.inputs])
                shape = graph.shapes[name]
                matrix = _rng(name).normal(size=(int(np.prod(shape)), flat.size))
                values[name] = np.tanh(matrix @ flat / np.sqrt(flat.size)).reshape(shape)


def _contract(node: Contraction, values: dict, graph: Graph) -> np.ndarray:
    whole = graph.shapes[node.output]
    node, (a_shape, b_shape, shape) = node.apart(graph.shapes)
    a, b = (values[i].reshape(s) for i, s in zip(node.inputs, (a_shape, b_shape), strict=True))
    letters = dict.fromkeys((*node.a_axes, *node.b_axes, *node.out_axes))
    code = dict(zip(letters, string.ascii_letters, strict=False))
    alone = set(node.a_axes) ^ set(node.b_axes)
    own = [v for v in letters if v in alone and v not in node.out_axes]
    new = [v for v in node.out_axes if v not in node.a_axes and v not in node.b_axes]
    size = dict(zip(node.a_axes, a.shape, strict=True))
    size |= dict(zip(node.b_axes, b.shape, strict=True))
    size |= dict(zip(node.out_axes, shape, strict=True))
    kernel = _rng(node.output).normal(size=[size[v] for v in (*own, *new)])
    terms = ["".join(code[v] for v in axes) for axes in (node.a_axes, node.b_axes, (*own, *new))]
    out = "".join(code[v] for v in node.out_axes)
    made = np.einsum(f"{','.join(terms)}->{out}", a, b, kernel, optimize=True)
    return made.reshape(whole)
