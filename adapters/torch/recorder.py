"""Record the operators of a forward pass as structural nodes.

A ``TorchDispatchMode`` sees every ATen operator.  Parameters and buffers are known by identity;
what is written in place gets a new name, and so do its views and bases.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from ...graph.nodes import Elementwise, Graph, Opaque, input_names, output_names, uniform_axes
from .operators import RULES, Rule, Value, elementwise

CONSTANT_LIMIT = 1 << 20  # elements; larger constants are taken as having a fixed order
# Operators whose result does not depend on the values of their tensor arguments.
FACTORIES = frozenset(
    ("zeros_like", "ones_like", "full_like", "empty_like", "rand_like", "randn_like", "new_zeros",
     "new_ones", "new_full", "new_empty", "new_empty_strided")
)  # fmt: skip
FILLS = frozenset(("zero_", "fill_"))
RESHAPES = frozenset(("transpose_", "squeeze_", "unsqueeze_", "as_strided_"))  # nothing is written
LOOKS = frozenset((torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape))
PREALLOCATED = "written in place into a part of another tensor"


class Numbering(TorchDispatchMode):
    """Numbers every tensor that a call returns."""

    def __init__(self) -> None:
        super().__init__()
        self.number = 0

    def next_name(self) -> str:
        self.number += 1
        return f"v{self.number}"


class GraphRecorder(Numbering):
    """Appends structural nodes for every call."""

    def __init__(self, model: torch.nn.Module, compute: bool):
        super().__init__()
        self.compute = compute
        self.looked_at = ""  # operator that asked for values which were not computed
        self.graph = Graph()
        self.names: dict[int, str] = {}
        # Every tensor seen, by its memory: identities must not be reused during the pass, and
        # what is written in place changes all views.
        self.by_storage: dict[int, dict[int, torch.Tensor]] = {}
        self.constants: dict[str, torch.Tensor] = {}
        self.computed: set[str] = set()  # depend on the inputs
        self.derived: set[str] = set()  # depend on weights, not on the inputs
        trained = {id(p) for p in model.parameters()}
        for name, tensor in named_tensors(model).items():
            if not tensor.is_floating_point() or id(tensor) in self.names:
                continue
            self.names[id(tensor)] = self.graph.add_tensor(name, tensor.shape)
            self.graph.weights[name] = name
            if id(tensor) not in trained:
                self.graph.buffers.add(name)

    def name_of(self, tensor: torch.Tensor, computed: bool = False) -> str:
        name = self.names.get(id(tensor))
        if name is None:
            name = self._register(tensor, self.next_name() if computed else None)
            if computed:
                self.computed.add(name)
            else:
                self.constants[name] = tensor
        return name

    def _register(self, tensor: torch.Tensor, name: str | None) -> str:
        name = name or f"c{len(self.graph.shapes)}"
        self.names[id(tensor)] = self.graph.add_tensor(name, tensor.shape)
        self.by_storage.setdefault(_storage(tensor), {})[id(tensor)] = tensor
        return name

    def value(self, tensor: torch.Tensor) -> Value:
        name = self.name_of(tensor)
        constant = None
        known = name in self.computed or name in self.graph.weights
        if not known and not tensor.is_floating_point() and tensor.numel() <= CONSTANT_LIMIT:
            constant = tensor.detach().cpu().numpy()
        return Value(name, tuple(tensor.shape), tuple(tensor.stride()), constant)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        operator = func.overloadpacket.__name__
        read: list[Value] = []
        values_in = self._values(args, read), {k: self._values(v, read) for k, v in kwargs.items()}
        computed = any(v.name in self.computed for v in read)
        skip = computed and not self.compute
        if skip and not LOOKS.isdisjoint(func.tags):
            self.looked_at = operator
            raise RuntimeError(f"{operator} looks at values")
        if skip and operator in COSTLY:
            first = next(t for t in args if isinstance(t, torch.Tensor))
            result = first.new_zeros(COSTLY[operator](*args))
        else:
            result = func(*args, **kwargs)
        outputs = [
            t
            for t in (result if isinstance(result, (tuple, list)) else (result,))
            if isinstance(t, torch.Tensor)
        ]
        if outputs:
            self._record(func, operator, values_in, read, outputs, computed)
        return result

    def _values(self, argument: Any, read: list[Value]) -> Any:
        """An argument of an operator with values for its tensors, which are added to ``read``."""
        if isinstance(argument, torch.Tensor):
            value = self.value(argument)
            read.append(value)
            return value
        if isinstance(argument, (list, tuple)):
            return [self._values(part, read) for part in argument]
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
        names = [self._register(t, self.next_name()) for t in outputs]
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
        for tensor, _ in written if operator not in RESHAPES else ():
            self._renew_aliases(tensor, self.value(tensor), computed, operator in FILLS)

    def _apply_rule(
        self, func: Any, operator: str, values_in: Any, read: list[Value], outs: list[Value]
    ) -> None:
        args, kwargs = values_in
        rule, parameters = _rule_for(func, operator)
        if rule is not None:
            named = {**kwargs, "operator": operator} if "operator" in parameters else kwargs
            out = outs if "outs" in parameters else outs[0]
            if rule(self.graph, out, *args, **named) is not False:
                return
        self._opaque(read, outs, f"the operator {operator} is not understood")

    def _renew_aliases(
        self, written: torch.Tensor, value: Value, computed: bool, filled: bool
    ) -> None:
        """Views and bases of a tensor that was written in place hold something new.

        Where it was filled with one value, only what it is a part of matters, which the node that
        took the part has said.
        """
        for alias in list(self.by_storage[_storage(written)].values()):
            if alias is not written and _overlap(alias, written):
                old = self.value(alias)
                name = self._register(alias, None)
                (self.computed if computed else self.derived).add(name)
                if filled:
                    self.graph.nodes.append(Elementwise((old.name,), name))
                else:
                    self._opaque([old, value], [Value(name, old.shape)], PREALLOCATED)

    def _opaque(self, read: list[Value], outs: list[Value], reason: str) -> None:
        self.graph.nodes.append(
            Opaque(tuple(v.name for v in read), tuple(v.name for v in outs), reason)
        )

    def finish(self, result: Any) -> Graph:
        """The graph without what no output needs."""
        graph = self.graph
        for tensor in tree_flatten(_plain(result))[0]:
            if isinstance(tensor, torch.Tensor) and id(tensor) in self.names:
                graph.outputs.append(self.names[id(tensor)])
        needed = set(graph.outputs)
        kept = []
        for node in reversed(graph.nodes):
            if needed.intersection(output_names(node)):
                needed.update(input_names(node))
                kept.append(node)
        graph.nodes = kept[::-1]
        for name in needed & set(self.constants):
            tensor = self.constants[name]
            if tensor.numel() <= CONSTANT_LIMIT:
                graph.uniform[name] = uniform_axes(to_numpy(tensor))
        self.by_storage.clear()
        self.constants.clear()
        return graph


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
) -> tuple[int, ...]:
    rank = x.ndim - 2
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


def _product_shape(*operands: torch.Tensor) -> tuple[int, ...]:
    a, b = operands[-2:]
    return (*a.shape[:-1], b.shape[-1])


# Most of the time of a pass goes into these operators; what they compute only matters to a model
# that looks at values.
COSTLY: dict[str, Callable[..., tuple[int, ...]]] = {
    "convolution": _convolution_shape,
    "mm": _product_shape,
    "bmm": _product_shape,
    "addmm": _product_shape,
    "baddbmm": _product_shape,
}


def _plain(result: Any) -> Any:
    """Outputs of any container, dataclasses such as Hugging Face's included."""
    return dict(result) if isinstance(result, Mapping) else result


@functools.cache
def _rule_for(func: Any, operator: str) -> tuple[Rule | None, frozenset[str]]:
    """The rule of an operator and the names of the rule's parameters."""
    found = RULES.get(operator)
    if found is None and torch.Tag.pointwise in func.tags:
        found = elementwise
    return found, frozenset(inspect.signature(found).parameters if found else ())


def to_numpy(tensor: torch.Tensor) -> np.ndarray:
    """The values on the host; half precision is widened, which loses nothing."""
    tensor = tensor.detach()
    if tensor.dtype in (torch.float16, torch.bfloat16):
        tensor = tensor.float()
    return tensor.cpu().numpy()


def named_tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _storage(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _overlap(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two tensors of one storage have elements in common (the parts of a split do not)."""
    size = a.untyped_storage().nbytes() // a.element_size()
    if a.dtype != b.dtype or size > CONSTANT_LIMIT:
        return True
    taken = torch.zeros(size, dtype=torch.bool)
    taken.as_strided(a.shape, a.stride(), a.storage_offset()).fill_(True)
    return bool(taken.as_strided(b.shape, b.stride(), b.storage_offset()).any())
