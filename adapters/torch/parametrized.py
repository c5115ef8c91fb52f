"""Weights that a module computes from others: parametrizations, and what hooks did before them.

``torch.nn.utils.parametrizations`` (``weight_norm``, ``spectral_norm``, ``orthogonal``, any of the
user's own), the older ``torch.nn.utils.weight_norm`` and ``spectral_norm``, and the masks of
``torch.nn.utils.prune`` put a function between a parameter and the weight that is used.  Merging
adds up and averages weights, which such functions do not commute with: a norm over zero outgoing
weights is NaN, and a singular vector of the weight that was is none of the new one.
"""

from __future__ import annotations

from torch import nn
from torch.nn.utils import parametrize, prune

from ...graph.find.channels import ChannelGroup, Unfit


def refuse_parametrized(model: nn.Module, group: ChannelGroup) -> None:
    """Raise Unfit for a group some of whose weights stand behind a function."""
    behind = parametrized_weights(model)
    for member in group.members:
        if member.weight in behind:
            raise Unfit(
                f"{behind[member.weight]} computes a weight from "
                f"{member.weight!r}, which cannot be merged: remove it (torch.nn.utils.parametrize."
                "remove_parametrizations, remove_weight_norm, prune.remove) and register it again "
                "after the event, or arrange"
            )


def parametrized_weights(model: nn.Module) -> dict[str, str]:
    """Names of parameters and buffers that stand behind a weight, and what computes it.

    >>> layer = nn.utils.parametrizations.spectral_norm(nn.Linear(3, 2))
    >>> parametrized_weights(layer)["parametrizations.weight.original"]
    'spectral_norm'
    """
    found: dict[str, str] = {}
    for path, module in model.named_modules():
        lead = f"{path}." if path else ""
        if parametrize.is_parametrized(module):
            assert isinstance(module.parametrizations, nn.ModuleDict)
            for name, listed in module.parametrizations.items():
                assert isinstance(listed, nn.ModuleList)
                label = ", ".join(_label(type(part)) for part in listed)
                for own, _ in [*listed.named_parameters(), *listed.named_buffers()]:
                    found[f"{lead}parametrizations.{name}.{own}"] = label
        for hook in module._forward_pre_hooks.values():
            weight = getattr(hook, "name", getattr(hook, "_tensor_name", None))
            if hasattr(hook, "compute_weight") or isinstance(hook, prune.BasePruningMethod):
                for ending in ("g", "v", "orig", "u", "mask"):
                    found[f"{lead}{weight}_{ending}"] = _label(type(hook))
    return found


def _label(kind: type) -> str:
    known = {"_WeightNorm": "weight_norm", "WeightNorm": "weight_norm"}
    known |= {"_SpectralNorm": "spectral_norm", "SpectralNorm": "spectral_norm"}
    return known.get(kind.__name__, kind.__name__)
