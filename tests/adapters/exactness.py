"""How a permutation is checked honestly (design of the verification).

Statistics, affine terms and layer scales get random values first, because fresh networks hide wrong
permutations.  Everything is permuted at once, in float64, by what users call: ``arrange`` of all
groups.  A convolution that moved is one that it moved.  The tolerance is a hundred times the
network's own noise floor: its response to a relative input change of 1e-15.  A negative control
leaves one weight behind and must change the outputs.

A model in single or half precision is checked as it is; in half precision with an input change of
one rounding, ten times its noise floor, and a control that has to exceed the error tenfold.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from unittest import mock

import numpy as np
import torch
from rejuvenet.adapters.torch import arrange, trace
from rejuvenet.adapters.torch.trace import evaluation
from rejuvenet.graph import ChannelGroup, Graph, Plan
from rejuvenet.graph.find.nodes import input_names, uniform_axes
from rejuvenet.graph.measure import verdict
from torch.utils._pytree import tree_flatten

NO_PAIR = "no two of its channels may be exchanged"
NOT_RUN = "the forward pass does not use it"
ALONE = "it makes a single channel"
EQUAL = "all its kernels are equal, so that their order means nothing"
COMPUTED = "its weight is computed from the data"


@dataclass(frozen=True)
class Limits(verdict.Limits):
    """How far outputs may move, and how much larger than an error the control has to be."""

    control: float

    @classmethod
    def of(cls, limits: verdict.Limits, control: float) -> Limits:
        """The product's limits, with a control."""
        return cls(**asdict(limits), control=control)

    def tell_apart(self, control: float, error: float) -> bool:
        """Whether a change is so much larger than an error that it is none."""
        return control > self.control * max(error, self.least / 100)


DOUBLE = Limits.of(verdict.DOUBLE, 1e3)
SINGLE = Limits.of(verdict.SINGLE, 30)
LIMITS = {
    torch.float64: DOUBLE,
    torch.float32: SINGLE,
    torch.float16: Limits.of(verdict.HALF, 10),
    torch.bfloat16: Limits.of(verdict.BFLOAT16, 10),
}


@dataclass(frozen=True)
class Verdict:
    """What one check found; changes are relative to the largest output.

    A convolution is moved where its output channels are permuted; ``unmoved`` says why the others
    are not.
    """

    error: float
    noise: float
    control: float
    convolutions: int
    moved: int
    unmoved: dict[str, str]
    frozen: dict[str, str]
    limits: Limits = DOUBLE

    @property
    def outcome(self) -> str:
        """``"right"``, ``"wrong"``, or ``"unverifiable"`` where the control changed nothing."""
        if not self.limits.allow(self.error, self.noise):
            return "wrong"
        return "right" if self.limits.tell_apart(self.control, self.error) else "unverifiable"


def randomize(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Random running statistics, affine terms and layer scales; no two weights equal.

    Evaluation mode.
    """
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
            elif parameter.dim() > 1:  # an exporter would store equal ones once
                parameter.mul_(1 + 0.1 * torch.rand(1, generator=generator).to(parameter))
    return model.eval()


def outputs(model: torch.nn.Module, inputs: tuple, weights: dict | None = None) -> torch.Tensor:
    """All outputs in one vector."""
    with evaluation(model):
        result = torch.func.functional_call(model, weights or {}, inputs)
    result = dict(result) if isinstance(result, dict) else result
    flat = [t.double().ravel() for t in tree_flatten(result)[0] if isinstance(t, torch.Tensor)]
    return torch.cat(flat)


def convolutions(model: torch.nn.Module) -> set[str]:
    """Names of the weights of all convolutions; of several that make one, the largest."""
    found = set()
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.modules.conv._ConvNd):
            sizes = {n: p.numel() for n, p in module.named_parameters() if p.dim() > 1}
            own = max(sizes, key=sizes.__getitem__, default="weight")
            found.add(f"{name}.{own}" if name else own)
    return found


def orders(groups: Sequence[ChannelGroup], seed: int = 0) -> dict[str, np.ndarray]:
    """For every group that has any, another order of its exchangeable channels, at random."""
    rng = np.random.default_rng(seed)
    found = {}
    for group in groups:
        order = np.arange(group.channels)
        for indices in group.exchangeable if group.frozen is None else ():
            shuffled = rng.permutation(indices)
            same = len(indices) > 1 and (shuffled == indices).all()
            order[indices] = np.roll(indices, 1) if same else shuffled
        if (order != np.arange(group.channels)).any():
            found[group.name] = order
    return found


def produced(groups: Sequence[ChannelGroup], plan: Plan) -> set[str]:
    """Weights with an axis that makes channels and that the plan permutes."""
    moved = {p.group for p in plan.groups}
    return {
        member.weight
        for group in groups
        if group.name in moved
        for member in group.members
        if member.kind in ("producer", "per_channel")
    }


def reasons(
    groups: Sequence[ChannelGroup], graph: Graph, unmoved: Mapping[str, np.ndarray | None]
) -> dict[str, str]:
    """Why each of some convolutions makes the channels that it made before.

    ``unmoved`` holds the values of the weights by name, None where data make them.
    """
    read = {name for node in graph.nodes for name in input_names(node)}
    used = {weight for name, weight in graph.weights.items() if name in read}
    why = {}
    for name, values in unmoved.items():
        if values is None:
            why[name] = COMPUTED
        elif 0 in uniform_axes(values):  # also where there is one output channel only
            why[name] = ALONE if values.shape[0] == 1 else EQUAL
        else:
            why[name] = ALONE if name in used else NOT_RUN
    for group in groups:
        for member in group.members:
            makes = member.kind in ("producer", "per_channel")
            if makes and why.get(member.weight) in (ALONE, NOT_RUN):
                why[member.weight] = group.frozen or NO_PAIR
    return why


def negative_control(
    touched: Sequence[str],
    left_behind: Callable[[str], float],
    limits: Limits,
    error: float,
) -> float:
    """The change where one weight is left behind: the first, a middle or the last one.

    The first of these changes that can be told from the error, or the largest.
    """
    largest = 0.0
    for i in sorted({0, len(touched) // 2, len(touched) - 1}) if touched else []:
        largest = max(largest, left_behind(touched[i]))
        if limits.tell_apart(largest, error):
            break
    return largest


def verify(
    model: torch.nn.Module,
    *inputs: torch.Tensor,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> Verdict:
    """Permute all movable groups of a copy of ``model`` at random and compare.

    Where a model in double precision computes in single precision inside, it does not here: a
    change of 1e-15 at its input would not show how much its own rounding moves the outputs.
    """
    lifted = torch.Tensor.double if dtype == torch.float64 else torch.Tensor.float
    with mock.patch.object(torch.Tensor, "float", lifted):
        return _verify(model, inputs, seed, dtype)


def _verify(
    model: torch.nn.Module, inputs: tuple[torch.Tensor, ...], seed: int, dtype: torch.dtype
) -> Verdict:
    limits = LIMITS[dtype]
    model = randomize(copy.deepcopy(model).float(), seed).to(dtype)
    inputs = tuple(x.to(dtype) if x.is_floating_point() else x for x in inputs)
    traced = trace(model, inputs)
    before = outputs(model, inputs)
    scale = float(before.abs().max())

    def change(after):
        return float((after - before).abs().max()) / scale

    shaken = tuple(
        x * (1 + limits.shake * torch.randn_like(x)) if x.is_floating_point() else x for x in inputs
    )
    noise = change(outputs(model, shaken))
    tensors, plan = traced.tensors, Plan([])
    old = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    if wanted := orders(traced.groups, seed):
        plan = arrange(traced, groups="all", order=wanted).plan
    error = change(outputs(model, inputs))

    def left_behind(name):
        return change(outputs(model, inputs, {name: old[name]}))

    touched = [name for name in plan.weights if not torch.equal(old[name], tensors[name])]
    convs = convolutions(model)
    moved = convs & produced(traced.groups, plan)
    return Verdict(
        error=error,
        noise=noise,
        control=negative_control(touched, left_behind, limits, error),
        convolutions=len(convs),
        moved=len(moved),
        unmoved=reasons(
            traced.groups,
            traced.graph,
            {n: model.get_parameter(n).detach().double().numpy() for n in sorted(convs - moved)},
        ),
        frozen={g.name: g.frozen for g in traced.groups if g.frozen},
        limits=limits,
    )
