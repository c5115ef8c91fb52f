"""An ONNX model as structural nodes.

The model runs once on a small random input with every intermediate tensor exposed, which gives
each shape and each constant exactly, whatever shape arithmetic an exporter left behind.  Then each
node is translated by the table in :mod:`.operators.table`.

What a node reads is one of three things: a *weight* (a float initializer or ``Constant`` with more
than one element, or integers that a quantized operator reads as data), a *constant* (everything
that is computed from shapes and integers alone), or a tensor that another node makes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from ...graph.find.nodes import (
    Contraction,
    Graph,
    Opaque,
    Shape,
    uniform_axes,
)
from ...graph.find.registration import check_nodes
from .budget import EVERYTHING
from .call import Call, Unsupported
from .external import Refused
from .inference import run_as_far_as_known
from .operator_names import operator
from .operators.registration import REGISTERED, rule_of
from .session import DoesNotRun, run_everything
from .subgraphs import captured, has_subgraph, inner_nodes

SMALL = 1 << 20  # constants with more elements are taken as having a fixed order


class Structure:
    """The translation of one model; constants named in ``shared`` belong to functions
    or branches and stay.

    Where a model does not run on its example inputs, shapes are inferred; ``strict`` raises.

    Attributes
    ----------
    graph : Graph
        Named after the model's own values and initializers.
    known : dict of str to ndarray
        Tensors that do not depend on the inputs' values.
    feeds : dict of str to ndarray
        The inputs that shapes and constants were measured with.
    not_run : str or None
        Why onnxruntime could not run the model: shapes are then what ONNX's inference knows.
    """

    def __init__(
        self,
        model: ir.Model,
        candidates: Iterator[dict[str, np.ndarray]],
        shared: frozenset[str],
        strict: bool,
        max_bytes: int,
    ):
        self.ir = model
        self.shared = shared
        self.opset = model.graph.opset_imports.get("", 1)
        self.graph = Graph()
        self.initializers = dict(model.graph.initializers)
        self.inputs = [str(v.name) for v in model.graph.inputs if v.name not in self.initializers]
        first = next(candidates)
        self.not_run: str | None = None
        try:
            values, self.feeds = run_everything(
                model, itertools.chain([first], candidates), EVERYTHING * max_bytes
            )
            # Sequences have no shape.
            values = {name: v for name, v in values.items() if isinstance(v, np.ndarray)}
            self.shapes = {name: value.shape for name, value in values.items()}
        except ValueError as error:  # operators that onnxruntime does not have
            if isinstance(error, Refused) or (strict and isinstance(error, DoesNotRun)):
                raise
            self.not_run, self.feeds = str(error), first
            self.shapes, values = run_as_far_as_known(model, self.feeds, max_bytes)
        self.known: dict[str, np.ndarray] = {}
        self.weights: set[str] = set()
        self.uses: dict[str, int] = {}
        self.alias: dict[str, str] = {}  # ``Identity`` of a weight, as exporters share equal ones
        self.derived: set[str] = set()  # computed from weights alone: no constants of the structure
        self._find_known(values)
        del values
        for name in self.inputs:
            self.graph.inputs.append(self.register(name))
        waiting: dict[str, ir.Node] = {}  # what is computed from weights alone
        for node in model.graph:
            names = [str(v.name) for v in node.outputs if v.name]
            if names and all(name in self.derived for name in names):
                waiting |= dict.fromkeys(names, node)
            else:
                self._translate_after(node, waiting)
        for node in dict.fromkeys(waiting.values()):
            self._translate(node)
        names = [str(v.name) for v in model.graph.outputs]
        # Without a shape, it was made by what is opaque.
        self.graph.outputs += [self.tensor(name, "") for name in names if name in self.shapes]

    def shape(self, name: str) -> Shape:
        """Shape of a value of the model; an absent one is opaque."""
        if name not in self.shapes:
            raise Unsupported(f"the shape of {name!r} is not known")
        return self.shapes[name]

    def register(self, name: str) -> str:
        """A value of the model as a tensor of the structural graph."""
        if name not in self.graph.shapes:
            self.graph.add_tensor(name, self.shape(name))
        return name

    def tensor(self, name: str, op: str) -> str:
        """A value as data of an operator: computed, a weight, or a constant."""
        name = self.alias.get(name, name)
        if name in self.weights:
            values = self.known[name]
            # Ones and zeros that an exporter shares between layers tie nothing.
            if self.uses.get(name, 0) > 1 and op != "BatchNormalization" and values.size <= SMALL:
                uniform = uniform_axes(values)
                if any(values.shape[axis] > 1 for axis in uniform):
                    constant = self.graph.add_tensor(f"{name}@{len(self.graph.shapes)}",
                                                     values.shape)  # fmt: skip
                    self.graph.uniform[constant] = uniform
                    return constant
            self.graph.weights[self.register(name)] = name
            if values.size == max(values.shape):  # one value for each channel, or for each group
                self.graph.uniform[name] = uniform_axes(values)
        elif name in self.known and name not in self.graph.uniform:
            self.register(name)
            if self.known[name].size <= SMALL:
                self.graph.uniform[name] = uniform_axes(self.known[name])
        return self.register(name)

    def _find_known(self, values: dict[str, np.ndarray]) -> None:
        """Weights, and constants that follow from shapes and integers."""
        for name, value in self.initializers.items():
            if value.const_value is None:
                continue
            array = value.const_value.numpy()
            self.known[name], self.shapes[name] = array, array.shape
            if array.size > 1 and _is_data(array.dtype) and name not in self.shared:
                self.weights.add(name)
        for node in self.ir.graph:
            read = [str(v.name) for v in node.inputs if v is not None]
            read = [self.alias.get(name, name) for name in read]
            if operator(node) == "Identity" and read[0] in self.weights:
                self.alias[str(node.outputs[0].name)] = read[0]
                continue
            for name in read:
                self.uses[name] = self.uses.get(name, 0) + 1
            if has_subgraph(node):
                continue
            if operator(node) == "CastLike":  # of its second input it reads the type
                read = read[:1]
            names = [str(v.name) for v in node.outputs if v.name]
            constant = operator(node) in ("Constant", "Shape", "Size")
            fixed = all(n in self.known for n in read) and not operator(node).startswith("Random")
            if not constant and not fixed:
                continue
            weighted = [n for n in read if n in self.weights or n in self.derived]
            if all(n in self.weights and _may_count(self.known[n].dtype) for n in weighted):
                counted = [n for n in names if np.asarray(values.get(n, 0.0)).dtype.kind in "iub"]
                if counted:  # lengths and indices of an exporter that counts in 32 bits
                    self.weights.difference_update(weighted)
                    weighted = []
            for name in names:
                if name not in values:
                    continue
                array = np.asarray(values[name])
                if operator(node) == "Constant" and array.size > 1 and array.dtype.kind == "f":
                    self.known[name] = array
                    if name not in self.shared:
                        self.weights.add(name)
                elif (
                    weighted
                    and operator(node) in ("Expand", "Slice")
                    and all(_all_equal(a) for a in (array, *(self.known[n] for n in weighted)))
                ):
                    self.known[name] = array  # the first state of a recurrent layer
                elif weighted and not constant:
                    self.derived.add(name)
                else:
                    self.known[name] = array

    def _translate_after(self, node: ir.Node, waiting: dict[str, ir.Node]) -> None:
        """A node, and first those that make the weights that it reads.

        A quantizer writes these in front of everything else; groups are in the order of use.
        """
        for name in (*(str(v.name) for v in node.inputs if v is not None), *captured(node)):
            maker = waiting.get(name)
            if maker is not None:
                for value in maker.outputs:
                    waiting.pop(str(value.name), None)
                self._translate_after(maker, waiting)
        self._translate(node)

    def _translate(self, node: ir.Node) -> None:
        names = [str(v.name) for v in node.outputs if v.name]
        if all(name in self.known or name in self.alias for name in names):
            return
        call = Call(self, node)
        before = len(self.graph.nodes)
        try:
            if has_subgraph(node):
                raise Unsupported(f"the operator {operator(node)} holds a graph of its own")
            name = operator(node)
            rule = rule_of(node.domain, node.op_type)
            if rule is None:
                raise Unsupported(f"the operator {name} is not understood")
            rule(call)
            call.finish()
            check_nodes(name, self.graph.nodes[before:], self.graph.shapes)
        except Unsupported as error:
            del self.graph.nodes[before:]
            self._opaque(node, names, str(error))
            if has_subgraph(node):
                self._show_inner_weights(node, str(error))
        except (ArithmeticError, IndexError, KeyError, TypeError, ValueError):
            if (node.domain, node.op_type) in REGISTERED:
                raise
            del self.graph.nodes[before:]  # an invalid or unforeseen form: frozen, never a crash
            self._opaque(node, names, f"the operator {operator(node)} has a form not understood")

    def _opaque(self, node: ir.Node, names: list[str], reason: str) -> None:
        read = [str(v.name) for v in node.inputs if v is not None]
        read += [n for n in captured(node) if n in self.shapes]
        self.graph.nodes.append(
            Opaque(
                tuple(self.tensor(n, operator(node)) for n in read if n in self.shapes),
                tuple(self.register(n) for n in names if n in self.shapes),
                reason,
            )
        )

    def _show_inner_weights(self, node: ir.Node, reason: str) -> None:
        """Layers of a subgraph, between what is unknown: they stay, and ``inspect`` says why."""
        for inner in inner_nodes(node):
            if operator(inner) not in ("Conv", "Gemm", "MatMul") or len(inner.inputs) < 2:
                continue
            value = inner.inputs[1]
            name = str(value.name) if value is not None else ""
            held = _held(value)
            if held is not None and name not in self.known:
                self.known[name] = held.numpy()
                self.shapes[name] = self.known[name].shape
                self.weights.add(name)
            if name not in self.weights:
                continue
            weight, temporary = self.tensor(name, operator(inner)), self.graph.temporary
            shape = self.graph.shapes[weight]
            letters = [f"w{axis}" for axis in range(len(shape))]
            out = 1 if operator(inner) == "MatMul" else 0  # the axis of what it makes, or nearly so
            x = temporary([n for axis, n in enumerate(shape) if axis != out])
            y, end = temporary((shape[out],)), temporary((1,))
            read = tuple(letter for axis, letter in enumerate(letters) if axis != out)
            self.graph.nodes += [
                Opaque(tuple(self.graph.inputs), (x,), reason),
                Contraction((x, weight), y, read, tuple(letters), (letters[out],)),
                Opaque((y,), (end,), reason),
            ]


def _is_data(dtype: np.dtype) -> bool:
    """Floats of any width, and the integers of quantized weights; never 64-bit indices."""
    return dtype.kind not in "b" and dtype not in (np.dtype(np.int64), np.dtype(np.uint64))


def _all_equal(array: np.ndarray) -> bool:
    return 0 < array.size <= SMALL and bool((array == array.flat[0]).all())


def _may_count(dtype: np.dtype) -> bool:
    """Integers that are the bias of a quantized layer, or lengths and indices."""
    return dtype.kind in "iu" and dtype.itemsize == 4


def _held(value: ir.Value | None) -> ir.TensorProtocol | None:
    """The values of an initializer, or of a ``Constant``."""
    maker = value.producer() if value is not None else None
    if maker is not None and operator(maker) == "Constant" and "value" in maker.attributes:
        return maker.attributes["value"].as_tensor()
    return None if value is None else value.const_value
