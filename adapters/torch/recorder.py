"""Record the operators of a forward pass as structural nodes.

A ``TorchDispatchMode`` sees every ATen operator.  Parameters and buffers are known by identity;
what is written in place gets a new name, and so do its views and bases.
"""

from __future__ import annotations

import functools
import inspect
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from ...graph.find.nodes import (
    Freeze,
    Graph,
    Node,
    Opaque,
    Positional,
    input_names,
    output_names,
    uniform_axes,
)
from ...graph.find.registration import check_nodes
from .calls import FACTORIES, Call, Calls
from .model_state import ModelState
from .nested import tensors_within
from .operators import REGISTERED, RULES, Rule, Value, elementwise
from .product_shapes import COSTLY
from .tensors import named_tensors, storage_of, to_numpy

CONSTANT_LIMIT = 1 << 20  # elements; larger constants are taken as having a fixed order
FILLS = frozenset(("zero_", "fill_"))
RESHAPES = frozenset(("transpose_", "squeeze_", "unsqueeze_", "as_strided_"))  # nothing is written
LOOKS = frozenset((torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape))
PREALLOCATED = "written in place into a part of another tensor"
READ = "its values are read by Python code"


class LooksAtValuesError(RuntimeError):
    """The model looks at values, which a pass without products does not have."""


class GraphRecorder(Calls):
    """Appends structural nodes for every call.

    Parameters
    ----------
    model : torch.nn.Module
    state : ModelState
    compute : bool
        Whether products are computed; else the first look at a value that depends on the inputs
        ends the pass.

    Attributes
    ----------
    looked_at : str
        The operator that asked for values which were not computed.
    calls : dict
        The names of what each call returned.
    shown : dict
        The name of a view in the graph, and of the tensor that it shows.
    filled : dict
        The name of a tensor after a part of it was filled with one value: that of the part, and
        what the tensor was known as.
    unread : dict of str to Tensor
        Parameters that no call has read so far, through no view of them either.
    aside : set of str
        Parameters that the pass reads for nothing that it returns.
    """

    def __init__(self, model: torch.nn.Module, state: ModelState, compute: bool):
        tensors = {n: t for n, t in named_tensors(model).items() if t.is_floating_point()}
        super().__init__(state, tensors)
        self.compute = compute
        self.looked_at = ""
        self.read = False  # values left PyTorch, and may have come back
        self.calls: dict[Call, tuple[str, ...]] = {}
        self.shown: dict[str, str] = {}
        self.filled: dict[str, tuple[str, str]] = {}
        self.graph = Graph()
        self.names: dict[int, str] = {}
        # Every tensor seen, by its memory: identities must not be reused during the pass, and
        # what is written in place changes all views.
        self.by_storage: dict[int, dict[int, torch.Tensor]] = {}
        self.constants: dict[str, torch.Tensor] = {}
        self.computed: set[str] = set()  # depend on the inputs
        self.derived: set[str] = set()  # depend on weights, not on the inputs
        self._number = 0
        self.aside: set[str] = set()
        self._further: set[int] = set()  # nodes for outputs that a rule has left out
        trained = {id(p) for p in model.parameters()}
        self.unread = {n: t for n, t in tensors.items() if id(t) in trained and t.numel() > 1}
        self._unread_in: dict[int, list[str]] = {}  # by their memory
        for name, tensor in self.unread.items():
            self._unread_in.setdefault(storage_of(tensor), []).append(name)
        for name, tensor in tensors.items():
            if id(tensor) in self.names:
                continue
            self._register(tensor, name)
            self.graph.weights[name] = name
            if id(tensor) not in trained:
                self.graph.buffers.add(name)

    def add_input(self, tensor: torch.Tensor) -> None:
        """A tensor that the model is given."""
        if id(tensor) not in self.names:
            name = self._register(tensor, self._next_name())
            self.computed.add(name)
            self.name(tensor, name)
        self.graph.inputs.append(self.names[id(tensor)])

    def name_of(self, tensor: torch.Tensor) -> str:
        name = self.names.get(id(tensor)) or self._same_elements(tensor)
        if name is None:
            name = self._register(tensor, f"c{len(self.graph.shapes)}")
            self.constants[name] = tensor
        return name

    def _same_elements(self, tensor: torch.Tensor) -> str | None:
        """The name of a tensor that is another object (of a subclass) over the same elements."""
        for other in self.by_storage.get(storage_of(tensor), {}).values():
            place = (other.shape, other.stride(), other.storage_offset(), other.dtype)
            if place == (tensor.shape, tensor.stride(), tensor.storage_offset(), tensor.dtype):
                return self._register(tensor, self.names[id(other)])
        return None

    def depends(self, name: str) -> bool:
        """Whether a tensor depends on the inputs or on weights."""
        return name in self.computed or name in self.derived or name in self.graph.weights

    def follows(self, tensor: torch.Tensor) -> bool:
        """Whether a tensor has changed when weights or inputs have."""
        return self.depends(self.names.get(id(tensor), ""))

    def _next_name(self) -> str:
        self._number += 1
        return f"v{self._number}"

    def _register(self, tensor: torch.Tensor, name: str) -> str:
        self.names[id(tensor)] = self.graph.add_tensor(name, tensor.shape)
        self.by_storage.setdefault(storage_of(tensor), {})[id(tensor)] = tensor
        return name

    def value(self, tensor: torch.Tensor) -> Value:
        name = self.name_of(tensor)
        self._read(tensor)
        constant = None
        known = name in self.computed or name in self.graph.weights
        if not known and not tensor.is_floating_point() and tensor.numel() <= CONSTANT_LIMIT:
            constant = tensor.detach().cpu().numpy()
        return Value(name, tuple(tensor.shape), tuple(tensor.stride()), constant)

    def _read(self, tensor: torch.Tensor) -> None:
        for name in self._unread_in.pop(storage_of(tensor), ()) if self._unread_in else ():
            del self.unread[name]

    def run(self, func: Any, operator: str, args: Any, kwargs: Any) -> Any:
        values: list[Value] = []  # as they are before the call
        read = {name: value for name, value in kwargs.items() if name != "out"}
        self._given = self._values(args, values), self._values(read, values), values
        if not self.compute and any(v.name in self.computed for v in values):
            if not LOOKS.isdisjoint(func.tags):
                self.refuse_to_look(operator)
            if operator in COSTLY and (shape := COSTLY[operator](*args)) is not None:
                return next(t for t in args if isinstance(t, torch.Tensor)).new_zeros(shape)
        return func(*args, **kwargs)

    def refuse_to_look(self, operator: str) -> None:
        """End the pass."""
        self.looked_at = operator
        raise LooksAtValuesError(f"{operator} looks at values")

    def looks(self, tensor: torch.Tensor, how: str) -> None:
        """Python reads the values of a tensor."""
        self._read(tensor)
        name = self.names.get(id(tensor)) or self._same_elements(tensor) or ""
        if name in self.computed and not self.compute:
            self.refuse_to_look(how)
        self._freeze(name, how)

    def _freeze(self, name: str, how: str) -> None:
        if self.depends(name):
            self.read = True
            self.graph.nodes.append(Freeze((name,), f"{READ} ({how})"))

    def copied(self, source: torch.Tensor, copy: torch.Tensor) -> None:
        self._register(copy, self.name_of(source))

    def returned(
        self, func: Any, operator: str, outputs: list[torch.Tensor], call: Call | None
    ) -> None:
        given, named, values = self._given
        computed = any(v.name in self.computed for v in values)
        if outputs:
            self._record(func, operator, (given, named), values, outputs, computed)
        elif not LOOKS.isdisjoint(func.tags) or ":" in operator:
            for value in values:
                self._freeze(value.name, operator)
        names = tuple(self.names[id(t)] for t in outputs)
        if call is not None:
            self.calls[call] = names
            for tensor, name in zip(outputs, names, strict=True):
                self.name(tensor, name)
        else:
            for tensor, name in zip(outputs, names, strict=True):
                self.shown[name] = self.known_as(tensor)

    def name_of_call(self, call: Call) -> str:
        name = self._next_name()
        self.calls[call] = (name,)
        return name

    def _values(self, argument: Any, read: list[Value]) -> Any:
        """An argument of an operator with values for its tensors, which are added to ``read``."""
        if isinstance(argument, torch.Tensor):
            value = self.value(argument)
            read.append(value)
            return value
        if isinstance(argument, (list, tuple)):
            if argument and type(argument[0]) in (int, bool):
                return argument
            return [self._values(part, read) for part in argument]
        if isinstance(argument, dict):
            return {name: self._values(part, read) for name, part in argument.items()}
        return argument

    def _record(
        self,
        func: Any,
        operator: str,
        values_in: Any,
        read: list[Value],
        outputs: list[torch.Tensor],
        computed: bool,
    ) -> None:
        graph = self.graph
        weighted = any(v.name in graph.weights or v.name in self.derived for v in read)
        written = [(t, self.names[id(t)]) for t in outputs if id(t) in self.names]
        names = [self._register(t, self._next_name()) for t in outputs]
        outs = [Value(name, graph.shapes[name]) for name in names]
        if operator in FACTORIES or not (computed or weighted):
            for tensor, name in zip(outputs, names, strict=True):
                self.constants[name] = tensor
            return
        (self.computed if computed else self.derived).update(names)
        if any(name in self.constants for _, name in written):
            # A buffer made in the pass and then filled: its parts have a fixed order.
            self._opaque(read, outs, PREALLOCATED)
        else:
            self._apply_rule(func, operator, values_in, read, outs)
        filled = operator in FILLS and not any(self.depends(v.name) for v in read[1:])
        for tensor, _ in written if operator not in RESHAPES else ():
            self._renew_aliases(tensor, self.value(tensor), computed, filled)

    def _apply_rule(
        self, func: Any, operator: str, values_in: Any, read: list[Value], outs: list[Value]
    ) -> None:
        args, kwargs = values_in
        rule, parameters = _rule_for(func, operator)
        if rule is not None:
            nodes = self.graph.nodes
            start = len(nodes)
            named = {**kwargs, "operator": operator} if "operator" in parameters else kwargs
            out = outs if "outs" in parameters else outs[0]
            understood = rule(self.graph, out, *args, **named) is not False
            if rule is REGISTERED.get(operator):
                check_nodes(operator, nodes[start:], self.graph.shapes)
            # What a rule passes over would have no link to what is made from it.
            linked = {name for node in nodes[start:] for name in input_names(node)}
            if understood and all(v.name in linked or not self.depends(v.name) for v in read):
                made = {name for node in nodes[start:] for name in output_names(node)}
                if further := [v for v in outs if v.name not in made]:  # where anything reads it
                    self._opaque(read, further, f"the operator {operator} has a further output")
                    self._further.add(id(nodes[-1]))
                return
            del nodes[start:]
        self._opaque(read, outs, f"the operator {operator} is not understood")

    def _renew_aliases(
        self, written: torch.Tensor, value: Value, computed: bool, filled: bool
    ) -> None:
        """Views and bases of a tensor that was written in place hold something new.

        Where it was filled with one number, only which part of them that was matters.
        """
        for alias in list(self.by_storage[storage_of(written)].values()):
            if alias is not written and _overlap(alias, written):
                old = self.value(alias)
                name = self._register(alias, f"c{len(self.graph.shapes)}")
                (self.computed if computed else self.derived).add(name)
                if filled:
                    apart = _told_apart(alias, written)
                    self.graph.nodes.append(Positional(old.name, name, apart))
                    self.filled[name] = value.name, self.known_as(alias)
                else:
                    self._opaque([old, value], [Value(name, old.shape)], PREALLOCATED)

    def _opaque(self, read: list[Value], outs: list[Value], reason: str) -> None:
        self.graph.nodes.append(
            Opaque(tuple(v.name for v in read), tuple(v.name for v in outs), reason)
        )

    def finish(self, result: Any) -> Graph:
        """The graph without what no output needs and nobody looks at, but for what parameters do.

        A layer whose result is dropped (the last residual sum of a WaveNet, an auxiliary head that
        only training returns) runs all the same, and has to fit what it reads.

        Raises
        ------
        ValueError
            Where the tensors of ``result`` cannot be found.
        """
        graph = self.graph
        for tensor in tensors_within(result):
            self._read(tensor)
            name = self.names.get(id(tensor)) or self._same_elements(tensor)
            if name is not None:
                graph.outputs.append(name)
            elif not (self.read or self.state.holds(tensor)):
                raise ValueError(
                    f"expected outputs that the model's operators made, got a "
                    f"{type(tensor).__name__} of shape {tuple(tensor.shape)} that none of them "
                    "returned"
                )
        _, needed = self._needed(set())
        self.aside = set(graph.weights) - needed - graph.buffers - set(self.unread)
        graph.nodes, needed = self._needed(self._made_from(self.aside))
        for name in needed & set(self.constants):
            tensor = self.constants[name]
            if tensor.numel() <= CONSTANT_LIMIT:
                graph.uniform[name] = uniform_axes(to_numpy(tensor))
        self.by_storage.clear()
        self.constants.clear()
        return graph

    def _needed(self, roots: set[int]) -> tuple[list[Node], set[str]]:
        """The nodes that outputs, looks at values and the ``roots`` need, and their tensors."""
        needed, kept = set(self.graph.outputs), []
        for node in reversed(self.graph.nodes):
            made = output_names(node)
            if not made or id(node) in roots or needed.intersection(made):
                needed.update(input_names(node))
                kept.append(node)
        return kept[::-1], needed

    def _made_from(self, weights: set[str]) -> set[int]:
        """The nodes that lie behind some weights."""
        reached, found = set(weights), set[int]()
        for node in self.graph.nodes if weights else ():
            if reached.intersection(input_names(node)):
                reached.update(output_names(node))
                found.add(id(node))
        return found - self._further


class ValuesRead(TorchFunctionMode):
    """Tells a recorder which tensors leave PyTorch, of which no operator says so."""

    def __init__(self, recorder: GraphRecorder):
        super().__init__()
        self.recorder = recorder

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in LEAVING and isinstance(args[0], torch.Tensor):
            self.recorder.looks(args[0], func.__name__)
        return func(*args, **(kwargs or {}))


LEAVING = frozenset(
    getattr(torch.Tensor, name)
    for name in ("numpy", "tolist", "__array__", "__dlpack__", "data_ptr", "storage",
                 "untyped_storage", "__deepcopy__", "__reduce_ex__")
)  # fmt: skip


def _rule_for(func: Any, operator: str) -> tuple[Rule | None, frozenset[str]]:
    """The rule of an operator and the names of the rule's parameters."""
    found = RULES.get(operator) or REGISTERED.get(operator)
    if found is None and ":" not in operator and torch.Tag.pointwise in func.tags:
        found = elementwise
    return found, _parameters(found)


@functools.cache
def _parameters(rule: Rule | None) -> frozenset[str]:
    return frozenset(inspect.signature(rule).parameters if rule else ())


def _overlap(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two tensors of one storage have elements in common (the parts of a split do not)."""
    size = a.untyped_storage().nbytes() // a.element_size()
    return a.dtype != b.dtype or size > CONSTANT_LIMIT or bool(_common(a, b).any())


def _told_apart(tensor: torch.Tensor, part: torch.Tensor) -> tuple[int, ...]:
    """The axes of a tensor whose positions differ in what another of its storage holds of them."""
    if tensor.dtype != part.dtype:
        return tuple(range(tensor.ndim))
    common = _common(part, tensor)
    return tuple(a for a in range(tensor.ndim) if (common.any(a) != common.all(a)).any())


def _common(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Which elements of ``b`` are elements of ``a`` as well, both of one type and storage."""
    taken = torch.zeros(a.untyped_storage().nbytes() // a.element_size(), dtype=torch.bool)
    taken.as_strided(a.shape, a.stride(), a.storage_offset()).fill_(True)
    return taken.as_strided(b.shape, b.stride(), b.storage_offset())
