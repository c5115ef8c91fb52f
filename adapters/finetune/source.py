"""The PyTorch module that an ONNX file came from, in the place of the file's own graph.

The weights travel by name: initializer ``conv1.weight`` is the module's parameter of that name.
A file whose BatchNorm was folded into its convolutions is met by folding the module's as well.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from ..onnx.model import OnnxModel
from ..onnx.operator_names import operator
from ..user_code import named_in


class SourceModule(nn.Module):
    """A module with the weights of the file that it came from.

    Parameters
    ----------
    model : OnnxModel
    module : nn.Module
        Its weights become those of the file.
    output : str
        Name of the output that it makes.

    Attributes
    ----------
    names, outputs
        As :class:`.training.Trainable` says.

    Raises
    ------
    ValueError
        As :func:`pair`.
    """

    def __init__(self, model: OnnxModel, module: nn.Module, output: str) -> None:
        super().__init__()
        self.module, pairs = carry(model, module)
        self.names = {f"module.{own}": name for own, name in pairs.items()}
        self.outputs = [output]

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor]:
        """The module's one output."""
        return (self.module(*inputs),)

    def arrays(self) -> dict[str, np.ndarray]:
        """Present values by their names in the file.

        Raises
        ------
        ValueError
            If one initializer would have to hold two different weights (an exporter shared them).
        """
        state = self.state_dict()
        found: dict[str, np.ndarray] = {}
        for own, name in self.names.items():
            value = state[own].detach().cpu().numpy()
            if name in found and not np.array_equal(found[name], value):
                raise ValueError(
                    f"Initializer {name} stands for several weights of the module, {own} among "
                    "them, which now differ; export the file with one initializer for each."
                )
            found[name] = value
        return found


def make_module(where: str) -> nn.Module:
    """Call the factory that ``where`` names, ``package.module:factory`` or ``file.py:factory``.

    Raises
    ------
    ValueError
        If it cannot be imported, has no such name, or does not give a ``torch.nn.Module``.

    Examples
    --------
    >>> make_module("torch.nn:Identity")
    Identity()
    """
    factory = named_in(where, "--module")
    try:
        module = factory if isinstance(factory, nn.Module) else factory()
    except Exception as error:
        raise ValueError(f"{where} failed: {type(error).__name__}: {error}.") from error
    if not isinstance(module, nn.Module):
        raise ValueError(f"{where} gave {type(module).__name__}, expected a torch.nn.Module.")
    return module


def pair(weights: Mapping[str, np.ndarray], biases: Mapping[str, str], module: nn.Module) -> dict:
    """Names of a module's state, each with the name of its initializer.

    Parameters
    ----------
    weights : mapping of str to ndarray
        Initializers of the file.
    biases : mapping of str to str
        Name of a layer's weight, with the initializer that is its bias: exporters give the
        biases that folding makes a name of their own.
    module : nn.Module
        Its parameters and buffers are looked up by name.

    Raises
    ------
    ValueError
        If one is missing in the file or has another shape.
    """
    pairs = {}
    missing = []
    for name, value in module.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        found = name
        if name not in weights and name.endswith(".bias"):
            found = biases.get(name.removesuffix("bias") + "weight", name)
        if found not in weights:
            missing.append(name)
        elif weights[found].shape != tuple(value.shape):
            raise ValueError(
                f"{name} has shape {tuple(value.shape)} in the module and "
                f"{weights[found].shape} in the file; give the module that the file came from."
            )
        else:
            pairs[name] = found
    if missing:
        raise ValueError(
            f"{len(missing)} of the module's weights are not in the file, {missing[0]} among "
            "them; give the module that the file came from, exported with its parameter names."
        )
    return pairs


def carry(model: OnnxModel, module: nn.Module) -> tuple[nn.Module, dict[str, str]]:
    """Load the initializers of a model into the module that it came from, by name.

    Returns
    -------
    module : nn.Module
        The same module; a copy with BatchNorm folded where the file has it folded.
    pairs : dict of str to str
        Names of its state, each with the name of its initializer.

    Raises
    ------
    ValueError
        As :func:`pair`.
    """
    weights, biases = _weights(model)
    try:
        pairs = pair(weights, biases, module)
    except ValueError as unpaired:
        from torch.fx.experimental.optimization import fuse

        try:
            module = fuse(module.eval())
            pairs = pair(weights, biases, module)
        except Exception:  # not traceable, or folding does not explain it either
            raise unpaired from None
    state = module.state_dict()
    with torch.no_grad():
        for name, initializer in pairs.items():
            state[name].copy_(torch.from_numpy(np.array(weights[initializer])))
    return module, pairs


def _weights(model: OnnxModel) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Initializers, and the name of each layer's weight with that of the bias that its node adds.

    Equal values that an exporter shares have a name for each use.
    """
    graph = model.analysed.graph
    held = {str(name): v.const_value for name, v in graph.initializers.items()}
    biases = {}
    for node in graph:
        if operator(node) in ("Conv", "ConvTranspose", "Gemm") and len(node.inputs) == 3:
            weight, bias = node.inputs[1:]
            if weight is not None and bias is not None and weight.name and bias.name:
                biases[weight.name] = bias.name
    return {name: v.numpy() for name, v in held.items() if v is not None}, biases
