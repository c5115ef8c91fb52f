"""One node of an ONNX model, as the rules of operators see it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from ...graph.find.nodes import Node, Shape, input_names, output_names
from .operator_names import operator
from .operators.registration import REGISTERED

if TYPE_CHECKING:
    from .structure import Structure


class Unsupported(Exception):
    """An operator in a form that the table does not understand."""


class Call:
    """One node of the model, as a rule gets it.

    Attributes
    ----------
    op : str
        Type of its operator.
    opset : int
        Version of the standard operators that the model is written in.
    graph : Graph
        What the rule adds to, by :meth:`emit` or with a composite operator.
    node : onnx_ir.Node
        The node itself.
    """

    def __init__(self, model: Structure, node: ir.Node):
        self.model = model
        self.node = node
        self.op = node.op_type
        self.opset = model.opset
        self.graph = model.graph
        self._start = len(self.graph.nodes)

    # --- what the node says -------------------------------------------------------------------

    @property
    def n_outputs(self) -> int:
        """Number of outputs, absent ones at the end not counted."""
        return len(self.outputs())

    def attribute(self, name: str, default: Any = None) -> Any:
        """The value of an attribute; strings as text, lists as tuples."""
        found = self.node.attributes.get(name)
        if found is None:
            return default
        value = found.value
        if isinstance(value, bytes):
            return value.decode()
        return tuple(value) if isinstance(value, (list, tuple)) else value

    def setting(self, name: str, i: int) -> Any:
        """An attribute of older opsets that became the constant input ``i``."""
        given = self.attribute(name)
        if given is not None:
            return given
        return self.value(i) if self.has(i) else None

    def has(self, i: int) -> bool:
        """Whether input ``i`` is there."""
        return i < len(self.node.inputs) and self.node.inputs[i] is not None

    def is_known(self, i: int) -> bool:
        """Whether input ``i`` is a constant."""
        return self.has(i) and self._name(i) in self.model.known

    def value(self, i: int) -> np.ndarray:
        """The value of a constant input."""
        if not self.is_known(i):
            raise self.unsupported(f"has an input {i} that depends on the data")
        return self.model.known[self._name(i)]

    def size(self, i: int) -> int:
        """Number of elements of input ``i``."""
        return int(np.prod(self.model.shape(self._name(i)), dtype=np.int64))

    def shape(self, tensor: str) -> Shape:
        """Shape of a tensor of the structural graph."""
        return self.graph.shapes[tensor]

    def maker(self, i: int) -> Call:
        """The node that makes input ``i``, which is a sequence."""
        value = self.node.inputs[i]
        node = value.producer() if value is not None else None
        if node is None or operator(node) != "SplitToSequence":
            raise self.unsupported("reads a sequence that is not a split")
        return Call(self.model, node)

    def is_made_by(self, i: int, operator_type: str) -> bool:
        """Whether a node of this type makes input ``i``."""
        value = self.node.inputs[i]
        node = value.producer() if value is not None else None
        return node is not None and operator(node) == operator_type

    def readers(self) -> list[ir.Node]:
        """Nodes that read the first output; an output of the model is read by none of them."""
        value = self.node.outputs[0]
        if value.is_graph_output():
            raise self.unsupported("makes an output of the model")
        return [use.node for use in value.uses()]

    def lengths(self, i: int) -> list[int]:
        """Lengths of the parts that ``SplitToSequence`` splits input ``i`` into."""
        shape = self.shape(self.data(i))
        n = shape[self.attribute("axis", 0) % len(shape)]
        if not self.has(1):
            return [1] * n
        given = self.value(1)
        if given.ndim:
            return [int(length) for length in given]
        step = int(given)
        return [min(step, n - start) for start in range(0, n, step)]

    def unsupported(self, reason: str) -> Unsupported:
        """To raise: the operator cannot be described."""
        return Unsupported(f"the operator {self.op} {reason}")

    # --- what the rule answers ----------------------------------------------------------------

    def data(self, i: int) -> str:
        """The tensor that input ``i`` is in the structural graph."""
        return self.model.tensor(self._name(i), self.op)

    def every_input(self) -> tuple[str, ...]:
        """All inputs that are there."""
        return tuple(self.data(i) for i in range(len(self.node.inputs)) if self.has(i))

    def output(self, i: int = 0) -> str:
        """The tensor that output ``i`` is."""
        return self.model.register(str(self.node.outputs[i].name))

    def gives(self, i: int) -> bool:
        """Whether output ``i`` is wanted."""
        return i < len(self.node.outputs) and bool(self.node.outputs[i].name)

    def outputs(self) -> tuple[str, ...]:
        """All outputs that have a name."""
        names = [str(value.name) for value in self.node.outputs if value.name]
        return tuple(self.model.register(name) for name in names)

    def temporary(self, shape: Sequence[int]) -> str:
        """A tensor that exists in the structural graph only."""
        return self.graph.temporary(tuple(shape))

    def emit(self, *nodes: Node) -> None:
        """Append structural nodes."""
        self.graph.nodes += nodes

    def finish(self) -> None:
        """Every output that is read has to be described."""
        made = {name for node in self.graph.nodes[self._start :] for name in output_names(node)}
        for value in self.node.outputs:
            read = value.uses() or value.is_graph_output()
            sequence = value.name not in self.model.shapes  # described where it is read
            if value.name and read and value.name not in made and not sequence:
                raise self.unsupported(f"has a further output {value.name!r} that is read")
        if (self.node.domain, self.op) in REGISTERED:
            self._check_read()

    def _check_read(self) -> None:
        """What a rule passes over would have no link to what is made from it."""
        read = {name for node in self.graph.nodes[self._start :] for name in input_names(node)}
        for i, value in enumerate(self.node.inputs):
            if value is None or (self.is_known(i) and value.name not in self.model.weights):
                continue
            if self.data(i) not in read:
                raise self.unsupported(f"has an input {value.name!r} that its rule does not read")

    def not_trained(self, *inputs: int) -> None:
        """These inputs are statistics or settings: no optimizer changes them."""
        for i in inputs:
            if self.has(i):
                name = self._name(i)
                self.model.graph.buffers.add(self.model.alias.get(name, name))

    def _name(self, i: int) -> str:
        value = self.node.inputs[i]
        if value is None:
            raise self.unsupported(f"lacks its input {i}")
        return str(value.name)
