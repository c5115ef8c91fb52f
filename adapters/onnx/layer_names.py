"""Names of layers in an ONNX file, where an exporter gave the weights names of its own.

The TorchScript exporter calls a folded weight ``onnx::Conv_193`` and keeps the module in the name
of the node: ``/layer4/layer4.1/conv1/Conv`` is the module ``layer4.1.conv1``.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator, Mapping, Sequence

import onnx_ir as ir

from ...graph.find.channels import ChannelGroup
from ...graph.plan.selection import listed, no_group
from .operator_names import operator

SCOPES = "pkg.torch.onnx.name_scopes"  # where PyTorch's exporter notes the modules around a node


def module_of(node_name: str) -> str:
    """The module that a node belongs to, by the TorchScript exporter's naming.

    >>> module_of("/layer4/layer4.1/conv1/Conv")
    'layer4.1.conv1'
    >>> module_of("/features/features.3/Conv")
    'features.3'
    """
    module: list[str] = []
    for part in node_name.strip("/").split("/")[:-1]:
        above = ".".join(module)
        module = [part] if above and part.startswith(f"{above}.") else [*module, part]
    return ".".join(module)


def layers_of(model: ir.Model) -> dict[str, str]:
    """Weight of each layer: the names of nodes and of their modules, to what they read."""
    found: dict[str, str] = {}
    for node, weight in _weights_read(model):
        name = str(node.name)
        found.setdefault(name, weight)
        if name.startswith("/"):
            found.setdefault(module_of(name), weight)
    return found


def modules_of(model: ir.Model) -> dict[str, str]:
    """Module of each weight that an exporter named anew, as far as the exporter says it."""
    found: dict[str, str] = {}
    for node, weight in _weights_read(model):
        if "." in weight:
            continue
        name = str(node.name)
        scopes = re.findall(r"'([^']*)'", node.metadata_props.get(SCOPES, ""))
        module = module_of(name) if name.startswith("/") else "".join(scopes[-2:-1])
        if module:
            found.setdefault(weight, module)
    return found


def _weights_read(model: ir.Model) -> Iterator[tuple[ir.Node, str]]:
    """Nodes that have a name, with the first weight that each of them reads."""
    made_by = {str(v.name): node for node in model.graph for v in node.outputs}
    for node in model.graph:
        if not node.name or operator(node) in ("Identity", "Constant"):
            continue
        weights = [w for v in node.inputs[1:] if (w := _source(v, model, made_by)) is not None]
        if weights:  # scales and zero points stand before the weight of a quantized layer
            yield node, str(min(weights, key=lambda w: len(w.shape or ()) < 2).name)


def _source(
    value: ir.Value | None, model: ir.Model, made_by: Mapping[str, ir.Node]
) -> ir.Value | None:
    """The initializer or constant that a value is, perhaps dequantized."""
    while value is not None and str(value.name) in made_by:
        maker = made_by[str(value.name)]
        if operator(maker) == "Constant":
            return value
        if operator(maker) not in ("Identity", "DequantizeLinear", "QuantizeLinear"):
            return None
        value = maker.inputs[0]
    return value if value is not None and str(value.name) in model.graph.initializers else None


Request = str | ChannelGroup


def resolve(
    layers: Request | Sequence[Request], groups: Sequence[ChannelGroup], known: dict[str, str]
) -> list[Request]:
    """``layers`` with names of nodes and modules replaced by those of their weights.

    Parameters
    ----------
    layers : str, ChannelGroup, or sequence of both
        ``"last"`` and ``"all"`` stay as they are.
    groups : sequence of ChannelGroup
    known : dict of str to str
        From :func:`layers_of`.

    Raises
    ------
    ValueError
        A name or pattern that stands for nothing; near matches are named.
    """
    weights = {group.name for group in groups}
    weights |= {member.weight for group in groups for member in group.producers}
    own = weights | {name.rpartition(".")[0] for name in weights if "." in name}
    layer = {name: weight for name, weight in known.items() if weight in weights}
    resolved: list[Request] = []
    for request in listed(layers):
        if not isinstance(request, str) or request in own or request in ("last", "all"):
            resolved.append(request)
        elif request in layer:
            resolved.append(layer[request])
        elif any(fnmatch.fnmatch(name, request) for name in own):
            resolved.append(request)
        else:
            found = [weight for name, weight in layer.items() if fnmatch.fnmatch(name, request)]
            if not found:
                raise ValueError(no_group(request, (*own, *layer)))
            resolved += dict.fromkeys(found)
    return resolved
