"""A PyTorch module as structural nodes, by recording one forward pass.

The model runs once in evaluation mode under a dispatch mode that sees every ATen call, so that
whatever the module's Python does (control flow, functional calls, hooks, parametrizations) is
seen as it happens.  Parameters and buffers are known by identity.  Calls are numbered; tensor
``"v12"`` is the twelfth tensor that a call returned, in this and in every later pass, which is how
:func:`observe` finds it again.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_leaves

from ...graph.channels import ChannelGroup
from ...graph.nodes import Elementwise, Graph, Opaque, input_names, output_names, uniform_axes
from ...graph.selection import find_group
from ...graph.solve import find_groups
from .operators import RULES, Rule, Value, elementwise

CONSTANT_LIMIT = 1 << 20  # elements; larger constants are taken as having a fixed order
# Operators whose result does not depend on the values of their tensor arguments.
FACTORIES = frozenset(
    ("zeros_like", "ones_like", "full_like", "empty_like", "rand_like", "randn_like", "new_zeros",
     "new_ones", "new_full", "new_empty", "new_empty_strided")
)  # fmt: skip
FILLS = frozenset(("zero_", "fill_"))
LOOKS = frozenset((torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape))
KEPT = "a value made from it is kept by the model"
PREALLOCATED = "written in place into a part of another tensor"


class TracedModel:
    """A model, its structural graph and its channel groups.

    Attributes
    ----------
    model : torch.nn.Module
        The module itself (what a compiled or data-parallel wrapper holds inside).
    graph : rejuvenet.graph.Graph
    example_inputs : tuple
        Inputs of the recorded pass.
    """

    def __init__(self, model: torch.nn.Module, graph: Graph, example_inputs: tuple[Any, ...]):
        self.model = model
        self.graph = graph
        self.example_inputs = example_inputs

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        """Parameters and buffers by name, without copies."""
        return _named_tensors(self.model)

    @property
    def weights(self) -> dict[str, np.ndarray]:
        """Name to array for every weight of the graph; half precision is widened to float32."""
        used = set(self.graph.weights.values())
        return {name: to_numpy(t) for name, t in self.tensors.items() if name in used}

    @functools.cached_property
    def groups(self) -> list[ChannelGroup]:
        """Channel groups in the order of execution."""
        return find_groups(self.graph)

    def group(self, name: str) -> ChannelGroup:
        """The channel group that a layer makes; see :func:`find_group`."""
        return find_group(self.groups, name)


def trace(model: torch.nn.Module, example_inputs: Any) -> TracedModel:
    """Record one forward pass of a model.

    Parameters
    ----------
    model : torch.nn.Module
        Any module that runs; compiled and data-parallel wrappers are looked through.  Its mode,
        its statistics and its random state are left as they were.
    example_inputs : tensor, tuple, or dict of tensors
        Positional (or keyword) arguments of the forward pass; a small batch is enough.

    Returns
    -------
    TracedModel

    Raises
    ------
    TypeError
        ``model`` is no module.

    Notes
    -----
    Products and convolutions are only computed where the model asks for values that depend on
    its inputs (``tensor.item()``, ``nonzero``): else their shapes are enough.

    Examples
    --------
    >>> import torch
    >>> from rejuvenet.adapters.torch import trace
    >>> net = torch.nn.Sequential(
    ...     torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.ReLU(),
    ...     torch.nn.Conv2d(8, 4, 3))
    >>> traced = trace(net, torch.zeros(1, 3, 8, 8))
    >>> for group in traced.groups:
    ...     print(group.name, group.channels, group.frozen)
    0.weight 8 None
    3.weight 4 reaches an output of the model
    """
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    model = unwrap(model)
    args, kwargs = _as_arguments(example_inputs)
    try:
        graph = _record(model, args, kwargs, compute=False)
    except Exception:  # the model looked at values, which this pass does not have
        graph = _record(model, args, kwargs, compute=True)
    return TracedModel(model, graph, (args, kwargs))


def _record(
    model: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], compute: bool
) -> Graph:
    """The structural graph of one forward pass."""
    recorder = _GraphRecorder(model, compute)
    for tensor in tree_flatten((args, kwargs))[0]:
        if isinstance(tensor, torch.Tensor):
            recorder.graph.inputs.append(recorder.name_of(tensor, computed=True))
    with evaluation(model), recorder:
        result = model(*args, **kwargs)
    if recorder.looked_at:
        raise RuntimeError(f"the model looked at values: {recorder.looked_at}")
    return recorder.finish(result, [t for m in model.modules() for t in tree_leaves(vars(m))])


def observe(
    traced: TracedModel, inputs: Any, taps: Mapping[str, Callable[[torch.Tensor], None]]
) -> Any:
    """One forward pass in evaluation mode that shows some intermediate tensors.

    Parameters
    ----------
    traced : TracedModel
    inputs : tensor, tuple, or dict of tensors
        A batch of any size.
    taps : dict of str to callable
        Called with the tensor as soon as it is made; it may be overwritten in place later.

    Returns
    -------
    object
        What the model returned.

    Raises
    ------
    RuntimeError
        The model did not run the operators that it ran when it was traced.
    """
    args, kwargs = _as_arguments(inputs)
    watcher = _Watcher(taps)
    with evaluation(traced.model), watcher:
        for tensor in tree_flatten((args, kwargs))[0]:
            if isinstance(tensor, torch.Tensor):
                watcher.skip_input()
        result = traced.model(*args, **kwargs)
    missing = set(taps) - watcher.seen
    if missing:
        raise RuntimeError(
            f"the forward pass has changed since the model was traced: tensor {min(missing)!r} "
            "was not computed; trace the model again"
        )
    return result


def unwrap(model: torch.nn.Module) -> torch.nn.Module:
    """The module inside ``torch.compile`` and data-parallel wrappers."""
    while True:
        if isinstance(getattr(model, "_orig_mod", None), torch.nn.Module):
            model = model._orig_mod  # type: ignore[assignment]
        elif isinstance(model, (torch.nn.DataParallel, torch.nn.parallel.DistributedDataParallel)):
            model = model.module
        else:
            return model


@contextlib.contextmanager
def evaluation(model: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; every module's own mode is restored afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    fast_path = torch.backends.mha.get_fastpath_enabled()
    try:
        for module, _ in modes:
            module.training = False
        # The fused attention hides the layout of its heads.
        torch.backends.mha.set_fastpath_enabled(False)
        with torch.no_grad():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
        for module, mode in modes:
            module.training = mode


def to_numpy(tensor: torch.Tensor) -> np.ndarray:
    """The values on the host; half precision is widened, which loses nothing."""
    tensor = tensor.detach()
    if tensor.dtype in (torch.float16, torch.bfloat16):
        tensor = tensor.float()
    return tensor.cpu().numpy()


def _storage(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _named_tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _as_arguments(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if (
        isinstance(inputs, tuple)
        and len(inputs) == 2
        and isinstance(inputs[0], tuple)
        and isinstance(inputs[1], dict)
    ):
        return inputs
    if isinstance(inputs, dict):
        return (), inputs
    return (tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)), {}


class _Numbering(TorchDispatchMode):
    """Numbers every tensor that a call returns."""

    def __init__(self) -> None:
        super().__init__()
        self.number = 0

    def next_name(self) -> str:
        self.number += 1
        return f"v{self.number}"


class _Watcher(_Numbering):
    def __init__(self, taps: Mapping[str, Callable[[torch.Tensor], None]]):
        super().__init__()
        self.taps = taps
        self.seen: set[str] = set()

    def skip_input(self) -> None:
        self.next_name()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, torch.Tensor):
                name = self.next_name()
                if name in self.taps:
                    self.seen.add(name)
                    self.taps[name](tensor)
        return result


class _GraphRecorder(_Numbering):
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
        for name, tensor in _named_tensors(model).items():
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
        for tensor, _ in written:
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
            if alias is not written:
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

    def finish(self, result: Any, held: list[Any]) -> Graph:
        """The graph without what no output needs.

        ``held`` is what the model holds after the pass.  What it made from weights and keeps would
        no longer be true if these moved.
        """
        graph = self.graph
        names = {self.names[id(t)] for t in held if id(t) in self.names}
        made = {name for node in graph.nodes for name in output_names(node)}
        stale = sorted(names & self.derived & made)
        for tensor in tree_flatten(_plain(result))[0]:
            if isinstance(tensor, torch.Tensor) and id(tensor) in self.names:
                graph.outputs.append(self.names[id(tensor)])
        needed = set(graph.outputs)
        kept = []
        for node in reversed(graph.nodes):
            if needed.intersection(output_names(node)):
                needed.update(input_names(node))
                kept.append(node)
        graph.nodes = kept[::-1] + [Opaque((name,), (), KEPT) for name in stale if name in needed]
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
