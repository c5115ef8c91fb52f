"""A PyTorch module as structural nodes, by recording one forward pass.

The model runs once in evaluation mode under a dispatch mode that sees every ATen call, so that
whatever the module's Python does (control flow, functional calls, hooks, parametrizations) is
seen as it happens.  Parameters and buffers are known by identity, other tensors by the calls that
made them (:mod:`.calls`), which is how :func:`observe` finds them again.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from ...graph.find.channels import ChannelGroup
from ...graph.find.nodes import Graph
from ...graph.find.solve import find_groups
from ...graph.network import NotMade
from ...graph.plan.selection import find_group
from .caches import Caches, made_since, restore
from .calls import UNKNOWN, Call, Calls
from .interrupts import Interruptible
from .model_state import ModelState
from .nested import apart, tensors_within
from .recorder import GraphRecorder, ValuesRead
from .tensors import named_tensors, storage_of, to_numpy

ASIDE = "its layers make nothing that the traced pass returns"


class TracedModel:
    """A model, its structural graph and its channel groups.

    Attributes
    ----------
    model : torch.nn.Module
        The module itself (what a compiled or data-parallel wrapper holds inside).
    graph : rejuvenet.graph.Graph
    example_inputs : tuple
        Inputs of the recorded pass.
    weights : dict of str to ndarray
        Values of every weight of the graph, copied; half precision is widened to float32.
    groups : list of ChannelGroup
        In the order of execution.
    caches : mapping
        Where modules kept tensors that they made in the pass, and what stood there before.
    calls : mapping
        The tensors of the graph by the calls that made them.
    shown : mapping
        Views among these, and the tensors whose elements they show.
    filled : mapping
        Tensors of which a part was filled: the name of the part, and their own in ``calls``.
    unread : tuple of str
        Parameters that the pass did not read: what uses them is in no group.
    aside : collection of str
        Parameters that the pass reads for nothing that it returns.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        graph: Graph,
        example_inputs: tuple[Any, ...],
        caches: Caches,
        calls: Mapping[Call, tuple[str, ...]],
        shown: Mapping[str, str],
        filled: Mapping[str, tuple[str, str]],
        unread: Iterable[str] = (),
        aside: Collection[str] = (),
    ):
        self.model = model
        self.graph = graph
        self.example_inputs = example_inputs
        self.caches = caches
        self.edit: Any = None  # the last change of the model that was begun
        self.calls = calls
        self.shown = shown
        self.filled = filled
        self.unread, self.aside = tuple(unread), aside
        self.told = False  # whether the user was warned of these

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        """Parameters and buffers by name, without copies."""
        return named_tensors(self.model)

    @property
    def weights(self) -> dict[str, np.ndarray]:
        """Name to array for every weight of the graph; half precision is widened to float32."""
        used = set(self.graph.weights.values())
        return {name: to_numpy(t) for name, t in self.tensors.items() if name in used}

    @functools.cached_property
    def groups(self) -> list[ChannelGroup]:
        """Channel groups in the order of execution."""
        return [self._returned(group) for group in find_groups(self.graph)]

    def _returned(self, group: ChannelGroup) -> ChannelGroup:
        """A group, frozen where it makes nothing of what the pass returns: another pass may."""
        if group.frozen is None and all(m.weight in self.aside for m in group.producers):
            return replace(group, frozen=ASIDE, exchangeable=())
        return group

    def group(self, name: str) -> ChannelGroup:
        """The channel group that a layer makes.

        Parameters
        ----------
        name : str
            Of the group, of a weight, of the layer (module), or a pattern.

        Raises
        ------
        ValueError
            No such group; near matches are named.
        """
        return find_group(self.groups, name)


def trace(model: torch.nn.Module, example_inputs: Any) -> TracedModel:
    """Record one forward pass of a model.

    Parameters
    ----------
    model : torch.nn.Module
        Any module that runs; compiled and data-parallel wrappers are looked through.  Its mode,
        its statistics, its random state and what it keeps between passes are left as they were.
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
    model = unwrap(model)
    _check(model)
    args, kwargs = _as_arguments(example_inputs)
    with Interruptible():
        traced = _record(model, args, kwargs, compute=False)
        if traced is None:  # the model looked at values, which that pass did not have
            traced = _record(model, args, kwargs, compute=True)
    assert traced is not None
    return traced


def _check(model: torch.nn.Module) -> None:
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise ValueError(
                f"expected modules of Python, got {f'{name!r} as ' * bool(name)}TorchScript, whose "
                "operators cannot be seen as they are written: give the module that it was made of"
            )
    for name, tensor in named_tensors(model).items():
        if torch.nn.parameter.is_lazy(tensor):
            raise ValueError(
                f"{name!r} has no shape yet (a lazy layer): run the model once on a batch first"
            )
        if tensor.is_meta:
            raise ValueError(f"{name!r} has no values (meta device): load them first")


def _record(
    model: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], compute: bool
) -> TracedModel | None:
    """One forward pass; None where the model looked at values that were not computed."""
    given = tensors_within((args, kwargs))
    with evaluation(model, given) as state:
        recorder = GraphRecorder(model, state, compute)
        for tensor in given:
            recorder.add_input(tensor)
        try:
            with recorder, ValuesRead(recorder):
                result = model(*args, **kwargs)
        except Exception:
            if recorder.looked_at:
                return None
            raise
        if recorder.looked_at:  # and the model went on without
            return None
        caches = made_since(state, model, recorder.follows)
        graph = recorder.finish(result)
        unread = list(recorder.unread)
    return TracedModel(
        model, graph, (args, kwargs), caches, recorder.calls, recorder.shown, recorder.filled,
        unread, recorder.aside,
    )  # fmt: skip


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
    NotMade
        The model did not run the operators that it ran when it was traced.

    Examples
    --------
    >>> import torch
    >>> from rejuvenet.adapters.torch import observe, trace
    >>> net = torch.nn.Sequential(
    ...     torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 3))
    >>> traced = trace(net, torch.zeros(1, 3, 8, 8))
    >>> tensor = traced.group("0").tap.tensor
    >>> y = observe(traced, torch.zeros(5, 3, 8, 8), {tensor: lambda x: print(tuple(x.shape))})
    (5, 8, 6, 6)
    """
    args, kwargs = _as_arguments(inputs)
    given, names = tensors_within((args, kwargs)), traced.graph.inputs
    if len(given) != len(names):
        raise ValueError(
            f"expected as many input tensors as the model was traced with, {len(names)}, got "
            f"{len(given)}"
        )
    example = tensors_within(traced.example_inputs)
    alike = all(a.shape[1:] == b.shape[1:] for a, b in zip(given, example, strict=True))
    with evaluation(traced.model, given, traced.caches) as state:
        watcher = _Watcher(state, traced, taps, alike)
        for tensor, name in zip(given, names, strict=True):
            watcher.name(tensor, name)
        with watcher:
            result = traced.model(*args, **kwargs)
    missing = set(taps) - watcher.seen
    if missing:
        first = f" (the first other call is {watcher.strange!r})" if watcher.strange else ""
        raise NotMade(
            f"the forward pass has changed since the model was traced: tensor {min(missing)!r} "
            f"was not computed{first}; trace the model again"
        )
    return result


def unwrap(model: torch.nn.Module) -> torch.nn.Module:
    """The module inside ``torch.compile`` and data-parallel wrappers.

    Raises
    ------
    TypeError
        It is no module.
    """
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    while True:
        if isinstance(getattr(model, "_orig_mod", None), torch.nn.Module):
            model = model._orig_mod  # type: ignore[assignment]
        elif isinstance(model, (torch.nn.DataParallel, torch.nn.parallel.DistributedDataParallel)):
            model = model.module
        else:
            return model


@contextlib.contextmanager
def evaluation(
    model: torch.nn.Module,
    inputs: Iterable[torch.Tensor] = (),
    caches: Caches | None = None,
) -> Iterator[ModelState]:
    """Evaluation mode without gradients; the model and the inputs are as before afterwards.

    What the model writes in place is put back where the block's dispatch mode is a
    :class:`~rejuvenet.adapters.torch.model_state.Guarded` of this state.
    """
    state = ModelState(model, inputs)
    fast_path = torch.backends.mha.get_fastpath_enabled()
    try:
        restore(model, caches or {})
        for module in model.modules():
            module.training = False
        # The fused attention hides the layout of its heads.
        torch.backends.mha.set_fastpath_enabled(False)
        with torch.inference_mode(False), torch.no_grad():  # operators are not split up there
            yield state
    finally:
        state.restore()
        torch.backends.mha.set_fastpath_enabled(fast_path)


def _as_arguments(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    inputs = apart(inputs)
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


class _Watcher(Calls):
    """Shows tensors as they are made."""

    def __init__(
        self,
        state: ModelState,
        traced: TracedModel,
        taps: Mapping[str, Callable[[torch.Tensor], None]],
        alike: bool,
    ):
        graph, tensors = traced.graph, traced.tensors
        gone = [name for name in graph.weights.values() if name not in tensors]
        if gone:
            raise RuntimeError(
                f"the model has no {gone[0]!r} any more, which it had when it was traced (weight "
                "norm replaces weights); trace the model again"
            )
        super().__init__(state, {name: tensors[name] for name in graph.weights.values()})
        self.calls, self.shapes, self.taps, self.alike = traced.calls, graph.shapes, taps, alike
        self.filled = traced.filled
        self.wanted: dict[str, list[str]] = {}
        for tap in taps:
            name = self.filled[tap][0] if tap in self.filled else traced.shown.get(tap, tap)
            self.wanted.setdefault(name, []).append(tap)
        self.seen: set[str] = set()
        self.strange = ""  # the first operator that the traced pass did not run so

    def returned(
        self, func: Any, operator: str, outputs: list[torch.Tensor], call: Call | None
    ) -> None:
        names = self.calls.get(call, ()) if call is not None else ()
        if call is not None and not names and not self.strange:
            self.strange = operator
        for i, tensor in enumerate(outputs):
            if call is not None:
                self.name(tensor, names[i] if i < len(names) else UNKNOWN)
            for tap in self.wanted.get(self.known_as(tensor), ()):
                meant = self._whole(tap, tensor) if tap in self.filled else tensor
                if tap not in self.seen and meant is not None and self._fits(tap, meant):
                    self.seen.add(tap)
                    self.taps[tap](meant)

    def name_of_call(self, call: Call) -> str:
        return self.calls.get(call, (UNKNOWN,))[0]

    def _whole(self, tap: str, part: torch.Tensor) -> torch.Tensor | None:
        """The tensor of which a part was filled."""
        name, place = self.filled[tap][1], storage_of(part)
        there = (t for t in list(self._made) if storage_of(t) == place)
        return next((t for t in there if self.known_as(t) == name and self._fits(tap, t)), None)

    def _fits(self, tap: str, tensor: torch.Tensor) -> bool:
        """Whether the shape is that of the trace, up to the number of samples."""
        pairs = list(zip(self.shapes[tap], tensor.shape, strict=False))
        if len(self.shapes[tap]) != tensor.ndim:
            return False
        return not self.alike or sum(a != b for a, b in pairs) <= 1
