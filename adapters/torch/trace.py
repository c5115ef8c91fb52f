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
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch.utils._pytree import tree_flatten

from ...graph.channels import ChannelGroup
from ...graph.nodes import Graph
from ...graph.selection import find_group
from ...graph.solve import find_groups
from .caches import Caches, Place, kept, made_since, restore
from .recorder import GraphRecorder, Numbering, named_tensors, to_numpy


class TracedModel:
    """A model, its structural graph and its channel groups.

    Attributes
    ----------
    model : torch.nn.Module
        The module itself (what a compiled or data-parallel wrapper holds inside).
    graph : rejuvenet.graph.Graph
    example_inputs : tuple
        Inputs of the recorded pass.
    caches : mapping
        Where modules kept tensors that they made in the pass, and what stood there before.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        graph: Graph,
        example_inputs: tuple[Any, ...],
        caches: Caches,
    ):
        self.model = model
        self.graph = graph
        self.example_inputs = example_inputs
        self.caches = caches

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
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    model = unwrap(model)
    args, kwargs = _as_arguments(example_inputs)
    try:
        graph, caches = _record(model, args, kwargs, compute=False)
    except Exception:  # the model looked at values, which this pass does not have
        graph, caches = _record(model, args, kwargs, compute=True)
    return TracedModel(model, graph, (args, kwargs), caches)


def _record(
    model: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], compute: bool
) -> tuple[Graph, Caches]:
    """The structural graph of one forward pass, and the caches that it filled."""
    recorder = GraphRecorder(model, compute)
    for tensor in tree_flatten((args, kwargs))[0]:
        if isinstance(tensor, torch.Tensor):
            recorder.graph.inputs.append(recorder.name_of(tensor, computed=True))
    with evaluation(model) as before:
        with recorder:
            result = model(*args, **kwargs)
        caches = made_since(before, model)
    if recorder.looked_at:
        raise RuntimeError(f"the model looked at values: {recorder.looked_at}")
    return recorder.finish(result), caches


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
    restore(traced.model, traced.caches)
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
def evaluation(model: torch.nn.Module) -> Iterator[dict[Place, Any]]:
    """Evaluation mode without gradients; every module's mode and caches are restored afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    before = kept(model)
    fast_path = torch.backends.mha.get_fastpath_enabled()
    try:
        for module, _ in modes:
            module.training = False
        # The fused attention hides the layout of its heads.
        torch.backends.mha.set_fastpath_enabled(False)
        with torch.no_grad():
            yield before
    finally:
        restore(model, made_since(before, model))
        torch.backends.mha.set_fastpath_enabled(fast_path)
        for module, mode in modes:
            module.training = mode


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


class _Watcher(Numbering):
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
