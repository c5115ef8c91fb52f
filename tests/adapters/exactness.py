"""How a permutation is checked honestly (design of the verification).

Statistics, affine terms and layer scales get random values first, because fresh networks hide wrong
permutations.  Everything is permuted at once, in float64.  The tolerance is a hundred times the
network's own noise floor: its response to a relative input change of 1e-15.  A negative control
leaves one weight behind and must change the outputs.
"""

from __future__ import annotations

import copy
from typing import NamedTuple

import numpy as np
import torch
from rejuvenet.adapters.torch import trace
from rejuvenet.graph import arrange_plan, transform
from torch.utils._pytree import tree_flatten


class Verdict(NamedTuple):
    """What one check found; changes are relative to the largest output.

    A convolution is moved where its output channels are permuted.
    """

    error: float
    noise: float
    control: float
    convolutions: int
    moved: int
    frozen: dict[str, str]

    @property
    def outcome(self) -> str:
        """``"right"``, ``"wrong"``, or ``"unverifiable"`` where the control changed nothing."""
        if self.error > max(1e-12, 100 * self.noise):
            return "wrong"
        return "right" if self.control > 1e3 * max(self.error, 1e-15) else "unverifiable"


def randomize(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Random running statistics, affine terms and layer scales; evaluation mode."""
    generator = torch.Generator().manual_seed(seed)

    def noise(like):
        return torch.randn(like.shape, generator=generator).to(like)

    with torch.no_grad():
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.copy_(0.1 * noise(buffer))
            elif name.endswith("running_var"):
                buffer.copy_(0.5 + noise(buffer).abs())
        for parameter in model.parameters():
            constant = bool((parameter == parameter.ravel()[0]).all())
            if parameter.dim() == 1 or constant:
                parameter.add_(0.1 * noise(parameter))
            if constant and parameter.dim() > 1:
                parameter.add_(0.5)
    return model.eval()


def outputs(model: torch.nn.Module, inputs: tuple, weights: dict | None = None) -> torch.Tensor:
    """All outputs in one vector."""
    with torch.no_grad():
        result = torch.func.functional_call(model, weights or {}, inputs)
    result = dict(result) if isinstance(result, dict) else result
    flat = [t.double().ravel() for t in tree_flatten(result)[0] if isinstance(t, torch.Tensor)]
    return torch.cat(flat)


def convolutions(model: torch.nn.Module) -> set[str]:
    """Names of the weights of all convolutions."""
    kinds = (torch.nn.modules.conv._ConvNd,)
    return {f"{name}.weight" for name, m in model.named_modules() if isinstance(m, kinds)}


def verify(model: torch.nn.Module, *inputs: torch.Tensor, seed: int = 0) -> Verdict:
    """Permute all movable groups of a copy of ``model`` at random and compare."""
    model = copy.deepcopy(model).double().eval()
    inputs = tuple(x.double() if x.is_floating_point() else x for x in inputs)
    randomize(model, seed)
    traced = trace(model, inputs)
    weights = traced.weights
    plan = arrange_plan(traced.groups, order="random", seed=seed)
    changed = transform(plan, weights)

    def swapped(names):
        return {name: torch.from_numpy(changed[name]) for name in names}

    before = outputs(model, inputs)
    scale = float(before.abs().max())

    def change(after):
        return float((after - before).abs().max()) / scale

    shaken = tuple(x * (1 + 1e-15 * torch.randn_like(x)) if x.is_floating_point() else x
                   for x in inputs)  # fmt: skip
    touched = [n for n in changed if not np.array_equal(changed[n], weights[n])]
    left_behind = [touched[i] for i in {0, len(touched) // 2, len(touched) - 1}] if touched else []
    control = max(
        (change(outputs(model, inputs, swapped(n for n in changed if n != left)))
         for left in left_behind), default=0.0,
    )  # fmt: skip
    convs = convolutions(model)
    orders = {p.group: p.order for p in plan.groups}
    produced = {
        member.weight
        for group in traced.groups
        if group.name in orders and (orders[group.name] != np.arange(group.channels)).any()
        for member in group.members
        if member.role == "weight" and member.kind in ("producer", "per_channel")
    }
    return Verdict(
        error=change(outputs(model, inputs, swapped(changed))),
        noise=change(outputs(model, shaken)),
        control=control,
        convolutions=len(convs),
        moved=len(convs & produced),
        frozen={g.name: g.frozen for g in traced.groups if g.frozen},
    )
