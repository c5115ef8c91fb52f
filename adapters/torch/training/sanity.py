"""Whether weights and what goes along with them are sane after an event."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from ....graph.change.surgery import NotFinite
from ..edit import Edit
from ..trace import unwrap
from .optimizer_state import optimizer_states

# Of the largest value of a tensor, relative to what it was before the first event.
FAR = 1000.0
LARGE = 10.0  # below this nothing is out of range: scales that began at zero rise to 1


def named_values(
    tensors: Mapping[str, torch.Tensor], optimizer: Any, averages: Any
) -> Iterator[tuple[str, torch.Tensor]]:
    """Weights, state of the optimizer and averaged copies, by names for the reader."""
    yield from ((repr(name), tensor) for name, tensor in tensors.items())
    for _, states in optimizer_states(optimizer):
        for name, tensor in tensors.items():
            for key, value in (states.get(tensor) or {}).items():
                if isinstance(value, torch.Tensor) and value.shape == tensor.shape:
                    yield f"{key} of {name!r}", value
    several = averages if isinstance(averages, Sequence) else (averages,)
    for average in several if averages is not None else ():
        inside: Any = getattr(average, "module", average)
        for name, tensor in unwrap(inside).named_parameters():
            yield f"the average of {name!r}", tensor


def refuse_not_finite(edit: Edit, optimizer: Any, averages: Any) -> None:
    """Raise NotFinite where an edit turned finite values into others."""
    for name, tensor in named_values(edit.tensors, optimizer, averages):
        if not torch.isfinite(tensor).all() and torch.isfinite(edit.before(tensor)).all():
            raise NotFinite(
                f"{name} would hold NaN or infinity, so that nothing was changed: check the "
                "weights and the state of the optimizer"
            )


def largest_values(tensors: Mapping[str, torch.Tensor], optimizer: Any, averages: Any) -> dict:
    """The largest absolute value of every tensor of floating type, by name."""
    return {
        name: float(tensor.detach().abs().max())
        for name, tensor in named_values(tensors, optimizer, averages)
        if tensor.is_floating_point() and tensor.numel()
    }


def far_from(first: Mapping[str, float], present: Mapping[str, float]) -> list[str]:
    """What has left the range that it had before the first event.

    >>> far_from({"'a'": 1.0, "'b'": 0.0}, {"'a'": 2000.0, "'b'": 1.0})
    ["'a': 1 to 2e+03"]
    """
    return [
        f"{name}: {first[name]:.3g} to {value:.3g}"
        for name, value in present.items()
        if value > max(LARGE, FAR * first.get(name, value)) and first.get(name)
    ]
