"""A model piece by piece, each from the tensors that are there to the next one to look at.

A run that stands (:mod:`rejuvenet.graph.side_by_side`) is a dictionary of arrays: what the pieces
so far have made and later ones read.  The nodes of a piece are those that its tensor needs and
that no such array stands for, so that every node runs once, in one piece.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir
from onnx import helper

from .operator_names import operator

# What they make or take is no array.
SEQUENCES = frozenset(
    ("ConcatFromSequence", "Optional", "OptionalGetElement", "OptionalHasElement", "SequenceAt",
     "SequenceConstruct", "SequenceEmpty", "SequenceErase", "SequenceInsert", "SequenceLength",
     "SequenceMap", "SplitToSequence")
)  # fmt: skip


@dataclass(frozen=True)
class Piece:
    """Which part of a model a session runs.

    Attributes
    ----------
    given : mapping of str to int
        ONNX element types of the tensors that are there.
    tensor : str
        What is looked at next.
    later : tuple of str
        What is looked at after that.
    """

    given: Mapping[str, int]
    tensor: str
    later: tuple[str, ...]

    def cut(self, graph: onnx.GraphProto) -> frozenset[str]:
        """Leave the nodes of this piece, in place; the tensors that later pieces read."""
        nodes = list(graph.node)
        needed = _needed(nodes, [self.tensor], self.given)
        here = [nodes[i] for i in needed]
        there = {*self.given, *(name for node in here for name in node.output)}
        rest = _needed(nodes, self.later, there)
        after = {name for i in rest for name in _reads(nodes[i])}
        live = frozenset(there & (after | set(self.later)))
        read = {name for node in here for name in _reads(node)}
        made = {name for node in here for name in node.output} & (live | {self.tensor})
        inputs = [value for value in graph.input if value.name in read]
        inputs += [
            helper.make_tensor_value_info(name, kind, None)
            for name, kind in self.given.items()
            if name in read and all(value.name != name for value in inputs)
        ]
        initializers = [tensor for tensor in graph.initializer if tensor.name in read]
        for field, kept in (
            (graph.node, here),
            (graph.input, inputs),
            (graph.initializer, initializers),
            (graph.output, [onnx.ValueInfoProto(name=name) for name in sorted(made)]),
        ):
            del field[:]
            field.extend(kept)
        del graph.value_info[:]
        return live


def element_type(array: np.ndarray) -> int:
    """The ONNX element type of an array that onnxruntime made."""
    if array.dtype.kind in "OSU":
        return onnx.TensorProto.STRING
    return helper.np_dtype_to_tensor_dtype(array.dtype)


def stands(model: ir.Model) -> bool:
    """Whether everything that the nodes of a model make is an array."""
    return SEQUENCES.isdisjoint(operator(node) for node in model.graph)


def _needed(
    nodes: Sequence[onnx.NodeProto], wanted: Iterable[str], given: Collection[str]
) -> list[int]:
    """The nodes that some tensors need, where others are given, in the order of execution."""
    missing, found = set(wanted).difference(given), list[int]()
    for i in reversed(range(len(nodes))):  # a model lists its nodes in the order of execution
        if not missing.isdisjoint(nodes[i].output):
            found.append(i)
            missing.update(set(_reads(nodes[i])).difference(given))
    return found[::-1]


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """What a node reads, its subgraphs included."""
    yield from filter(None, node.input)
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            yield from (value.name for value in graph.output)
            for inner in graph.node:
                yield from _reads(inner)
