"""Tensors that modules keep from one pass to the next beside parameters and buffers.

LeViT looks its attention biases up once and keeps them.  Such a tensor would no longer be true
after the weights were changed, and a pass that finds it runs other operators than one that makes
it.  So a pass of ours leaves none behind, and starts without those that the traced pass made.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

Place = tuple[str, str]  # name of the module, attribute
Caches = Mapping[Place, Any]  # what stood there before the pass; ABSENT where nothing did

ABSENT = object()
OWN = frozenset(vars(nn.Module()))  # modules, parameters, hooks, mode


def kept(model: nn.Module) -> dict[Place, Any]:
    """All other attributes of all modules, and buffers; containers are copied."""
    return {
        (path, name): value.copy() if isinstance(value, (dict, list)) else value
        for path, module in model.named_modules()
        for held in (vars(module), module._buffers)
        for name, value in held.items()
        if name not in OWN
    }


def made_since(before: Mapping[Place, Any], model: nn.Module) -> Caches:
    """What stood in the places where other tensors stand now."""
    return {
        place: before.get(place, ABSENT)
        for place, value in kept(model).items()
        if _tensors(value) != _tensors(before.get(place))
    }


def restore(model: nn.Module, caches: Caches) -> None:
    """Put back what stood in these places."""
    for (path, name), value in caches.items():
        module = model.get_submodule(path)
        held = module._buffers if name in module._buffers else vars(module)
        now = held.get(name)
        if value is ABSENT:
            held.pop(name, None)
        elif isinstance(now, dict) and isinstance(value, dict):  # several modules may share it
            now.clear()
            now.update(value)
        elif isinstance(now, list) and isinstance(value, list):
            now[:] = value
        else:
            held[name] = value


def _tensors(value: Any) -> list[int]:
    """Identities of the tensors in an attribute."""
    if isinstance(value, torch.Tensor):
        return [id(value)]
    if isinstance(value, (dict, list, tuple)):
        return [id(leaf) for leaf in tree_leaves(value) if isinstance(leaf, torch.Tensor)]
    return []
