"""Forward passes over calibration data, in which some intermediate tensors are looked at.

A pass whose outputs nobody needs ends as soon as the last tensor was seen.  Models run as they
were written.  Compiled parts are not used: a compiled graph shows no operators, and a call in
evaluation mode would make it compile once more; functions of TorchScript run unoptimized for the
same reason.  Nor is autocast around the call: what it casts,
and when, differs from pass to pass, and class means are wanted in full precision.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch

from .batches import Batches, samples
from .interrupts import Interruptible
from .nested import tensors_within
from .trace import TracedModel, observe
from .trace import trace as record

AUTOCAST = ("cpu", "cuda", "mps", "xpu")

Callback = Callable[[torch.Tensor], None]


class _Enough(BaseException):
    """Ends a forward pass; no model catches it."""


def forward(traced: TracedModel, inputs: Any, taps: Mapping[str, Callback]) -> Any:
    """A whole forward pass in evaluation mode: shows the tensors of ``taps``, gives the output."""
    with Interruptible(), as_written():
        return observe(traced, inputs, taps)


def glance(traced: TracedModel, inputs: Any, taps: Mapping[str, Callback]) -> None:
    """A forward pass that ends once the tensors of ``taps`` were seen."""
    missing = set(taps)

    def look(name: str, callback: Callback, activation: torch.Tensor) -> None:
        callback(activation)
        missing.discard(name)
        if not missing:
            raise _Enough

    if taps:
        with Interruptible(), contextlib.suppress(_Enough), as_written():
            observe(traced, inputs, {name: partial(look, name, taps[name]) for name in taps})


def trace(model: torch.nn.Module, example_inputs: Any) -> TracedModel:
    """As :func:`rejuvenet.adapters.torch.trace`, with compiled parts run as written."""
    with Interruptible(), as_written():
        return record(model, example_inputs)


def trace_first(model: torch.nn.Module, batches: Batches) -> TracedModel:
    """Traced with some samples of the first batch, or all where the model takes no fewer."""
    few = batches.example()
    try:
        return trace(model, few)
    except (RuntimeError, ValueError, AssertionError) as error:
        whole = batches.example(None)
        if isinstance(error, torch.OutOfMemoryError) or samples(whole) <= samples(few):
            raise
    return trace(model, whole)


@contextlib.contextmanager
def as_written() -> Iterator[None]:
    """No compiled code and no autocast in this block; what was compiled stays."""
    # Nothing is compiled where the compiler was never imported, which takes a second.
    imported = "torch._dynamo" in sys.modules
    # An interrupt within the end of a stack would leave open what that holds.
    with (
        torch.jit.optimized_execution(False),
        torch.compiler.set_stance("force_eager") if imported else contextlib.nullcontext(),
        contextlib.ExitStack() as stack,
    ):
        for kind in AUTOCAST:
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield


def leaves(output: Any) -> list[torch.Tensor]:
    """All floating-point tensors of an output, of any structure."""
    return [tensor for tensor in tensors_within(output) if tensor.is_floating_point()]
