"""What lies before a layer, frozen while the layer learns (section 3.1.1 of the paper).

    "After the proposed method was applied to layer 4, the model was frozen until that layer and
    the proposed method was applied to layer 5."

Frozen is what the input of the layer depends on: its parameters get no gradients, and none are
left, so that no optimizer moves them.  Running statistics of normalizations follow the data as
they do in training.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from ....graph.cautions import some_of, warn
from ....graph.change.normalizations import weight_of
from ....graph.find.channels import ChannelGroup
from ....graph.find.nodes import Graph, input_names, output_names
from ....graph.plan.plan import GroupPlan


def weights_before(graph: Graph, group: ChannelGroup) -> set[str]:
    """Names of the weights that the input of a group's first producer depends on."""
    made_by = weight_of(graph)
    first = group.producers[0].weight
    start = next(
        node for node in graph.nodes if first in {made_by.get(name) for name in input_names(node)}
        and any(name not in made_by for name in input_names(node))
    )  # fmt: skip
    needed = {name for name in input_names(start) if name not in made_by}
    for node in reversed(graph.nodes):
        if needed.intersection(output_names(node)):
            needed.update(input_names(node))
    own = {member.weight for member in group.members}
    return {made_by[name] for name in needed if name in made_by} - own


class Frozen:
    """Parameters that were frozen, to be given back as they were.

    Attributes
    ----------
    names : list of str
    """

    def __init__(self) -> None:
        self.names: list[str] = []

    def freeze(self, tensors: Mapping[str, torch.Tensor], names: Iterable[str]) -> None:
        """Freeze these parameters (those that were trained), and no others."""
        self.release(tensors)
        for name in sorted(names):
            tensor = tensors[name]
            if isinstance(tensor, nn.Parameter) and tensor.requires_grad:
                tensor.requires_grad_(False)
                tensor.grad = None
                self.names.append(name)

    def release(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Train again what was frozen."""
        for name in self.names:
            tensors[name].requires_grad_(True)
        self.names = []


def warn_of_frozen(tensors: Mapping[str, torch.Tensor], plans: Iterable[GroupPlan]) -> None:
    """Say which weights get new channels that no training will change."""
    making = {m.weight for p in plans if len(p.new) for m in p.members if m.kind == "producer"}
    frozen = [
        name for name in sorted(making)
        if isinstance(tensors[name], nn.Parameter) and not tensors[name].requires_grad
    ]  # fmt: skip
    if frozen:
        warn(
            f"new channels in {some_of(frozen)} do not learn, as requires_grad is False: choose "
            "layers that are trained, or train these again"
        )


def refuse_freezing(model: nn.Module, layers: Any) -> None:
    """Raise ValueError where a model or the choice of its layers does not allow it."""
    if layers == "auto":
        raise ValueError(
            "freeze_below needs layers by name: those that layers='auto' chooses differ from "
            "event to event"
        )
    outside: Any = getattr(model, "_orig_mod", model)
    parallel = isinstance(outside, nn.parallel.DistributedDataParallel)
    if parallel and not outside.find_unused_parameters:
        raise ValueError(
            "freeze_below leaves parameters without gradients, for which DistributedDataParallel "
            "waits: make it with find_unused_parameters=True"
        )
