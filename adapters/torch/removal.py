"""A module without some of its channels: smaller parameters, and modules that know it.

A parameter cannot become smaller and stay the same object to those that hold it (optimizers,
data-parallel buckets), so each that loses channels is replaced by a new one, and the lengths that
modules keep as attributes change along.  Modules of PyTorch are known by type, those derived from
them too.  A parameter of any other module may lose channels where none of its attributes says how
many there are.  What Python code says about lengths (``view``, a slice) cannot be seen; whether it
fits is seen by a run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from ...graph.change.removal import Removal
from ...graph.find.channels import Unfit
from ...graph.find.nodes import Contraction
from .trace import TracedModel

Change = tuple[Any, str, Any, Any]  # an object, the name of its attribute, the new and the old one


def changes(traced: TracedModel, removal: Removal) -> list[Change]:
    """What has to be set for a removal; nothing is set.

    Raises
    ------
    Unfit
        A module keeps lengths in a way that is not known.
    """
    tensors, groups = traced.tensors, _groups(removal)
    new: dict[int, torch.Tensor] = {}
    names: dict[int, str] = {}
    for name, kept in removal.weights.items():
        tensor = tensors[name]
        new[id(tensor)] = _smaller(tensor, kept)
        names[id(tensor)] = name
    found: list[Change] = []
    for module in traced.model.modules():
        held = {**module._parameters, **module._buffers}
        own = {k: t for k, t in held.items() if t is not None and id(t) in new}
        if not own:
            continue
        shapes = {k: tuple(new.get(id(t), t).shape) for k, t in held.items() if t is not None}
        shared = {groups[names[id(t)]] for t in own.values() if names[id(t)] in groups}
        lengths = dict(_lengths(module, own, shapes, shared.pop() if shared else None))
        for name, tensor in own.items():
            found.append((module, name, new[id(tensor)], tensor))
        for name, length in lengths.items():
            found.append((module, name, length, getattr(module, name)))
    return found


def carry_out(changed: list[Change]) -> None:
    """Set all of :func:`changes`, or nothing."""
    done = 0
    try:
        for owner, name, value, _ in changed:
            done += 1
            setattr(owner, name, value)
    except BaseException:
        undo(changed[:done])
        raise


def undo(changed: list[Change]) -> None:
    """What was there before."""
    for owner, name, _, before in reversed(changed):
        setattr(owner, name, before)


def _smaller(tensor: torch.Tensor, kept: Mapping[int, np.ndarray]) -> torch.Tensor:
    values = tensor.detach()
    for axis, positions in kept.items():
        values = values.index_select(axis, torch.as_tensor(positions, device=values.device))
    values = _laid_out_as(tensor, values)
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(values, requires_grad=tensor.requires_grad)
    return values


def _laid_out_as(like: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Values whose axes lie in memory in the order of those of another tensor (channels last)."""
    order = sorted(range(like.ndim), key=lambda axis: -like.stride()[axis])
    places = sorted(range(like.ndim), key=order.__getitem__)
    return values.permute(order).contiguous().permute(places)


def _groups(removal: Removal) -> dict[str, int]:
    """By weight of a grouped convolution: the number of groups that it will have."""
    graph = removal.graph
    return {
        graph.weights[node.inputs[1]]: removal.groups(node)
        for node in graph.nodes
        if isinstance(node, Contraction) and node.groups > 1 and node.inputs[1] in graph.weights
    }


def _lengths(
    module: nn.Module,
    own: Mapping[str, torch.Tensor],
    shapes: Mapping[str, tuple[int, ...]],
    groups: int | None,
) -> Iterator[tuple[str, int]]:
    """Attributes of a module that say lengths, as they will be."""
    if isinstance(module, _ConvNd):
        groups = groups or module.groups
        first, second = shapes["weight"][:2]
        ends = (first, second * groups) if module.transposed else (second * groups, first)
        yield from zip(("in_channels", "out_channels", "groups"), (*ends, groups), strict=True)
    elif isinstance(module, nn.Linear):
        yield from zip(("out_features", "in_features"), shapes["weight"], strict=True)
    elif isinstance(module, nn.Bilinear):
        names = "out_features", "in1_features", "in2_features"
        yield from zip(names, shapes["weight"], strict=True)
    elif isinstance(module, _NormBase):
        yield "num_features", next(shapes[name][0] for name in own)
    elif isinstance(module, nn.PReLU):
        yield "num_parameters", shapes["weight"][0]
    elif isinstance(module, nn.Embedding):
        yield from zip(("num_embeddings", "embedding_dim"), shapes["weight"], strict=True)
    elif isinstance(module, nn.RNNBase):
        gates = len(module.get_parameter("weight_ih_l0")) // module.hidden_size
        yield "input_size", shapes["weight_ih_l0"][1]
        yield "hidden_size", shapes["weight_ih_l0"][0] // gates
        if module.proj_size:
            yield "proj_size", shapes["weight_hh_l0"][1]
    elif isinstance(module, nn.RNNCellBase):
        yield "input_size", shapes["weight_ih"][1]
        yield "hidden_size", shapes["weight_hh"][1]
    else:
        yield from ()
        _refuse_counted(module, own)


def _refuse_counted(module: nn.Module, own: Mapping[str, torch.Tensor]) -> None:
    """Raise Unfit where an attribute of a module may say how many channels there are."""
    sizes = {n for tensor in own.values() for n in tensor.shape if n > 1}
    for name, value in vars(module).items():
        values = value if isinstance(value, (tuple, list)) else (value,)
        if any(isinstance(v, int) and not isinstance(v, bool) and v in sizes for v in values):
            raise Unfit(
                f"a module of type {type(module).__name__} keeps its parameters, and its attribute "
                f"{name!r} may say how many there are"
            )
