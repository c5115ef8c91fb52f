"""Parameters that the traced pass did not read, which no change reaches.

One pass in evaluation mode shows one path through a model.  Auxiliary heads that only training
runs, branches on the size or the values of the inputs, experts that got no sample: what they read
of the channels of others is not seen, and stays in the old order.
"""

from __future__ import annotations

from collections.abc import Collection

from torch import nn

from ...graph.cautions import some_of, warn
from .trace import TracedModel


def unread_modules(model: nn.Module, unread: Collection[str]) -> list[str]:
    """The largest modules none of whose parameters was read, and single parameters of others.

    >>> net = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)))
    >>> unread_modules(net, ["0.bias", "1.0.weight", "1.0.bias", "1.1.weight", "1.1.bias"])
    ['0.bias', '1']
    """
    own = {id(model.get_parameter(name)) for name in unread}
    read = (n for n, p in model.named_parameters(remove_duplicate=False) if id(p) not in own)
    used = {prefix for name in read for prefix in _prefixes(name)}
    found = (next((p for p in _prefixes(name) if p not in used), name) for name in unread)
    return list(dict.fromkeys(found))


def _prefixes(name: str) -> list[str]:
    """The modules that hold a parameter, from the outermost inwards."""
    parts = name.split(".")
    return [".".join(parts[:n]) for n in range(1, len(parts))]


def warn_of_unread(traced: TracedModel, aloud: bool = True) -> list[str]:
    """What is not changed along, by name; ``aloud`` warns the first time that a model changes."""
    names = unread_modules(traced.model, traced.unread)
    aloud = aloud and not traced.told
    if names and aloud and any(group.frozen is None for group in traced.groups):
        traced.told = True
        warn(
            f"the pass that was traced did not use the parameters of {some_of(names)}: what reads "
            "channels of others in another pass (in training, or for other inputs) is not changed "
            "along; give example_inputs for which the model uses them in evaluation mode, or name "
            "layers that they do not read"
        )
    return names
