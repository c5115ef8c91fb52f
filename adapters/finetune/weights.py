"""Which numbers of an ONNX graph training may change.

An array is a weight because of what reads it: a layer at the place of its weight or bias, or
arithmetic between learned values.  Sizes of a ``Resize``, limits of a ``Clip``, the mean that a
graph subtracts from its pictures are settings, and stay.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import onnx_ir as ir

from ..onnx.operator_names import operator
from ..onnx.subgraphs import has_subgraph

PLACES = {  # the inputs of layers that hold weights
    "Conv": (1, 2),
    "ConvTranspose": (1, 2),
    "Gemm": (0, 1, 2),
    "MatMul": (0, 1),
    "Einsum": (0, 1, 2, 3),
    "BatchNormalization": (1, 2),
    "InstanceNormalization": (1, 2),
    "GroupNormalization": (1, 2),
    "LayerNormalization": (1, 2),
    "SimplifiedLayerNormalization": (1,),
    "com.microsoft.SkipLayerNormalization": (2, 3, 4),
    "RMSNormalization": (1,),
    "PRelu": (1,),
    "LSTM": (1, 2, 3, 7),
    "GRU": (1, 2, 3),
    "RNN": (1, 2, 3),
    "com.microsoft.Attention": (1, 2),
    "com.microsoft.FusedConv": (1, 2),
    "com.microsoft.FusedGemm": (0, 1, 2),
    "com.microsoft.FusedMatMul": (0, 1),
    "com.microsoft.BiasGelu": (1,),
    "com.microsoft.FastGelu": (1,),
}
# Weights where what they meet was made by a layer: a bias in a node of its own, a layer scale,
# positions, a class token.  Before the first layer they are the normalization of pictures.
MEETING = ("Add", "Sub", "Mul", "Concat", "Sum")
TABLES = ("Gather",)  # rows of an embedding


@dataclass
class Weights:
    """What training changes in a graph.

    Attributes
    ----------
    trained : list of str
        Names of initializers, in the order of their use.
    statistics : set of str
        Running means and variances of BatchNorm that one node alone reads.
    """

    trained: list[str] = field(default_factory=list)
    statistics: set[str] = field(default_factory=set)


def weights_of(graph: ir.Graph, fixed: frozenset[str]) -> Weights:
    """The weights of a graph whose nodes stand in the order of execution.

    Parameters
    ----------
    graph : onnx_ir.Graph
        Its ``Constant`` nodes of floats made initializers.
    fixed : set of str
        Initializers that stay as they are.
    """
    roots: dict[ir.Value, list[str]] = {}  # constant values, with the floats they are made of
    single: set[str] = set()
    for value in graph.initializers.values():
        tensor, name = value.const_value, str(value.name)
        floats = tensor is not None and tensor.dtype.is_floating_point()
        roots[value] = [name] if floats and name not in fixed else []
        if tensor is not None and tensor.size == 1:
            single.add(name)
    learned: set[ir.Value] = set()
    found: dict[str, None] = {}
    statistics: set[str] = set()  # read by a normalization as such, and so not learned
    for node in graph:
        read = [value for value in node.inputs if value is not None]
        if operator(node) == "Constant":
            roots[node.outputs[0]] = []
            continue
        if read and all(value in roots for value in read) and not has_subgraph(node):
            made = list(dict.fromkeys(name for value in read for name in roots[value]))
            roots |= dict.fromkeys(node.outputs, made)
            continue
        places = PLACES.get(operator(node), ())
        meets = any(value in learned for value in read)
        for place, source in enumerate(node.inputs):
            names = roots.get(source, []) if source is not None else []
            table = operator(node) in TABLES and place == 0
            if operator(node) == "BatchNormalization" and place in (3, 4):
                statistics |= set(names)
            if place in places or table:
                found |= dict.fromkeys(names)
            elif meets and operator(node) in MEETING:  # a single number is part of a formula
                found |= dict.fromkeys(name for name in names if name not in single)
        if places or meets or operator(node) in TABLES:
            learned.update(node.outputs)
    return Weights([name for name in found if name not in statistics], _statistics(graph))


def _statistics(graph: ir.Graph) -> set[str]:
    """Running statistics that are initializers of one normalization.

    What several normalizations read would become a mixture of what each of them sees.
    """
    found = set()
    for node in graph:
        if operator(node) != "BatchNormalization" or len(node.inputs) < 5:
            continue
        both = [v for v in node.inputs[3:5] if v is not None and v.is_initializer()]
        if len(both) == 2 and all(len(v.uses()) == 1 for v in both):
            found |= {str(v.name) for v in both}
    return found
