"""Normalization for training, where a file has its own folded into its convolutions.

With ``z = W * x + b`` what a convolution of the file makes, the next layers read in training::

    n = gamma (z - mu) / s + beta        s = sqrt(var + eps)

``mu`` and ``var`` are those of the batch, and their running means in evaluation.  At first these
are the mean and the variance of ``z`` on the data, ``gamma = s`` and ``beta = mu``: so ``n = z``,
and the file computes what it did.  After training it is folded away::

    W' = f W        b' = f (b - mu) + beta        f = gamma / s
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional

EPSILON = 1e-5
LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
NORMALIZATIONS = (
    "BatchNormalization", "InstanceNormalization", "GroupNormalization", "LayerNormalization",
)  # fmt: skip


class Normalization(nn.Module):
    """Normalizes the channels of what a convolution makes; see above.

    Parameters
    ----------
    channels : int
    momentum : float
        Of the newest batch in the running statistics.
    """

    mean: torch.Tensor
    variance: torch.Tensor

    def __init__(self, channels: int, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.gamma = nn.Parameter(torch.ones(channels))
        self.beta = nn.Parameter(torch.zeros(channels))
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("variance", torch.ones(channels))
        self.sums: list[torch.Tensor] | None = None  # of z and of its squares, while it is measured
        self.count = self.positions = 0

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """What the next layers read."""
        if self.sums is not None:
            wide, axes = z.double(), [0, *range(2, z.dim())]
            self.sums[0] += wide.sum(axes)
            self.sums[1] += wide.square().sum(axes)
            self.count += z.numel() // z.shape[1]
            self.positions = z[0, 0].numel()
            return z
        return functional.batch_norm(
            z, self.mean, self.variance, self.gamma, self.beta, self.training, self.momentum,
            EPSILON,
        )  # fmt: skip

    def begin(self) -> None:
        """Measure what comes, until :meth:`end`."""
        self.sums = [torch.zeros(len(self.gamma), dtype=torch.float64) for _ in range(2)]

    def end(self) -> None:
        """Begin with what was measured."""
        assert self.sums is not None
        mean, square = (x / max(self.count, 1) for x in self.sums)
        self.mean.copy_(mean)
        self.variance.copy_((square - mean.square()).clamp_min(0))
        self.gamma.copy_(self._deviation())
        self.beta.copy_(self.mean)
        self.sums = None

    def folded(self, weight: torch.Tensor, bias: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The convolution that does both; the given one, bit by bit, where nothing was trained."""
        f = self.gamma / self._deviation()
        shape = (-1, *[1] * (weight.dim() - 1))
        return f.reshape(shape) * weight, f * bias + (self.beta - f * self.mean)

    def _deviation(self) -> torch.Tensor:
        return (self.variance + EPSILON).sqrt()


def insert(
    module: fx.GraphModule, momentum: float, inputs: Iterable[tuple[torch.Tensor, ...]]
) -> dict[str, tuple[str, str]]:
    """Normalize behind convolutions with a bias that hold no normalization of their own.

    Not behind those that make outputs, whose scale says something, nor where there is one position
    for each channel, as in gates.

    Parameters
    ----------
    module : fx.GraphModule
        Its weights are parameters.
    momentum : float
    inputs : iterable of tuple of Tensor
        What is measured on.

    Returns
    -------
    dict of str to (str, str)
        Names of the new modules, each with the attributes of its convolution: weight and bias.
    """
    found: dict[str, tuple[str, str]] = {}
    read = _readers(module)
    for number, node in enumerate(list(module.graph.nodes)):
        own = _weight_and_bias(module, node, read)
        if own is None or not _read_by_layers(node):
            continue
        name = f"renormalization_{number}"
        module.add_submodule(name, Normalization(len(getattr(module, own[1])), momentum))
        _place(module, node, name)
        found[name] = own
    module.recompile()
    made: dict[str, Any] = {name: module.get_submodule(name) for name in found}
    for each in made.values():
        each.begin()
    module.eval()
    with torch.no_grad():
        for given in inputs:
            module(*given)
        for each in made.values():
            each.end()
    for name, each in made.items():
        if each.positions < 2:
            _remove(module, name)
            del found[name]
    module.recompile()
    return found


def _readers(module: fx.GraphModule) -> dict[str, int]:
    """How many uses every attribute has."""
    uses: dict[str, int] = {}
    for node in module.graph.nodes:
        if node.op == "get_attr":
            uses[str(node.target)] = uses.get(str(node.target), 0) + len(node.users)
    return uses


def _weight_and_bias(
    module: fx.GraphModule, node: fx.Node, uses: dict[str, int]
) -> tuple[str, str] | None:
    """The attributes of a convolution that nothing else reads and that both are trained."""
    if node.meta.get("onnx_op_type") != "Conv" or len(node.args) < 3:
        return None
    names = []
    for part in node.args[1:3]:
        if not isinstance(part, fx.Node) or part.op != "get_attr" or uses[str(part.target)] > 1:
            return None
        held = getattr(module, str(part.target), None)
        if not isinstance(held, nn.Parameter):
            return None
        names.append(str(part.target))
    return names[0], names[1]


def _read_by_layers(node: fx.Node) -> bool:
    """Whether layers with weights come after it, and no normalization at once."""
    if any(_is(user, NORMALIZATIONS) for user in node.users):
        return False
    seen, waiting = {node}, list(node.users)
    while waiting:
        reader = waiting.pop()
        if _is(reader, LAYERS):
            return True
        if reader not in seen:
            seen.add(reader)
            waiting.extend(reader.users)
    return False


def _is(node: fx.Node, kinds: tuple[str, ...]) -> bool:
    if node.op == "call_module" and str(node.target).startswith("batch_normalization"):
        return "BatchNormalization" in kinds
    return node.meta.get("onnx_op_type") in kinds


def _place(module: fx.GraphModule, node: fx.Node, name: str) -> None:
    with module.graph.inserting_after(node):
        normal = module.graph.call_module(name, (node,))
    node.replace_all_uses_with(normal, delete_user_cb=lambda user: user is not normal)


def _remove(module: fx.GraphModule, name: str) -> None:
    node = next(n for n in module.graph.nodes if n.op == "call_module" and n.target == name)
    node.replace_all_uses_with(node.args[0])
    module.graph.erase_node(node)
    module.delete_submodule(name)
