"""Tensors that modules keep from one pass to the next beside parameters and buffers.

LeViT looks its attention biases up once and keeps them.  Such a tensor would no longer be true
after the weights were changed, and a pass that finds it runs other operators than one that makes
it.  So a pass of ours starts without those that the traced pass made (and without the marks that
say so, which stand in the same module), and a change of the weights throws them away.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from .model_state import ModelState

Place = tuple[str, str]  # name of the module, attribute
Caches = Mapping[Place, Any]  # what stood there before the pass; ABSENT where nothing did

ABSENT = object()
OWN = frozenset(vars(nn.Module()))  # modules, parameters, hooks, mode


def made_since(
    state: ModelState, model: nn.Module, depends: Callable[[torch.Tensor], bool]
) -> Caches:
    """What stood in the places that have changed, in modules that keep what ``depends``."""
    found: dict[Place, Any] = {}
    for path, module in model.named_modules():
        changed, stale = {}, False
        for held in (vars(module), module._buffers):
            before = state.before(held) or {}
            for name, value in held.items():
                old = before.get(name, ABSENT)
                if value is old and isinstance(value, (dict, list)) and name not in OWN:
                    old = state.before(value)
                    old = value if old is None or _same(value, old) else old
                if value is not old and name not in OWN:
                    changed[path, name] = old
                    stale = stale or any(map(depends, _tensors(value)))
        if stale:
            found.update(changed)
    return found


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


def _same(value: Any, before: Any) -> bool:
    pairs = zip(_parts(value), _parts(before), strict=False)
    return len(value) == len(before) and all(a is b for a, b in pairs)


def _parts(value: Any) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else list(value)


def _tensors(value: Any) -> list[torch.Tensor]:
    """Tensors in an attribute, and in the containers that it holds."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, (dict, list, tuple)):
        return [tensor for part in _parts(value) for tensor in _tensors(part)]
    return []
