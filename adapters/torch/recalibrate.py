"""Running statistics of the normalizations that a plan touches, estimated again from data.

Statistics are touched where they belong to channels of the plan, or where the normalization reads
what a changed consumer makes.  Calibration batches are few and their statistics are not those of
the training, so only the *change* is taken from them.  With ``m, v`` the running mean and
variance as the plan merged them, ``m_0, v_0`` the statistics of the batches before the change,
merged the same way, and ``m_1, v_1`` those after it::

    mean = m + (m_1 - m_0)          var = v * v_1 / v_0

A plan that does not change the function thus leaves its statistics as they are, and new channels,
for which a plan writes ``m = m_0 = 0`` and ``v = v_0 = 1``, get the statistics of the batches.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from ...graph.channels import Member
from ...graph.nodes import Contraction, Graph, PerChannel, input_names, output_names
from .batches import Batches
from .collect import Callback, by_tensor, exact_type
from .trace import TracedModel, observe

TINY = 1e-12


@dataclass(frozen=True)
class Normalization:
    """A normalization with running statistics.

    Attributes
    ----------
    tensor, axis
        What it reads, and the axis of its channels.
    mean, variance : str
        Names of the buffers.
    level : int
        How many touched normalizations lie before it, one behind the other.
    own : bool
        Whether its statistics belong to channels of the plan.
    """

    tensor: str
    axis: int
    mean: str
    variance: str
    level: int
    own: bool


def touched_normalizations(graph: Graph, members: Iterable[Member]) -> list[Normalization]:
    """The normalizations whose statistics a change of ``members`` moves, in execution order."""
    members = list(members)
    own = {m.weight for m in members}
    consumers = {m.weight for m in members if m.kind == "consumer"}
    made_by = weight_of(graph)
    # Tensors that a changed consumer reaches without a contraction or normalization in between.
    reached: set[str] = set()
    level: dict[str, int] = {}
    found = []
    for node in graph.nodes:
        inputs = input_names(node)
        depth = max((level.get(name, 0) for name in inputs), default=0)
        direct = any(name in reached for name in inputs)
        if isinstance(node, Contraction):
            direct = any(made_by.get(name) in consumers for name in node.inputs)
        elif isinstance(node, PerChannel) and {"running_mean", "running_var"} <= set(node.roles):
            names = {
                role: graph.weights.get(name)
                for role, name in zip(node.roles, node.inputs[1:], strict=True)
            }
            mean, variance = names["running_mean"], names["running_var"]
            if mean and variance and (direct or mean in own):
                found.append(
                    Normalization(node.inputs[0], node.axis, mean, variance, depth, mean in own)
                )
                depth += 1
            direct = False
        for name in output_names(node):
            level[name] = depth
            if direct:
                reached.add(name)
    return found


def weight_of(graph: Graph) -> dict[str, str]:
    """Tensor to weight, also through the reshapes of a grouped convolution."""
    found = dict(graph.weights)
    for node in graph.nodes:
        inputs = input_names(node)
        if len(inputs) == 1 and inputs[0] in found and not isinstance(node, Contraction):
            for name in output_names(node):
                found.setdefault(name, found[inputs[0]])
    return found


Statistics = dict[str, np.ndarray]


class Moments:
    """Mean and variance of every channel of what normalizations read, streamed in float64."""

    def __init__(self, normalizations: Iterable[Normalization]) -> None:
        self.normalizations = list(normalizations)
        self._sums: dict[str, tuple[torch.Tensor, torch.Tensor, int]] = {}

    def taps(self) -> dict[str, Callback]:
        """Callbacks for :func:`observe`."""
        return by_tensor((n.tensor, partial(self._add, n)) for n in self.normalizations)

    def _add(self, normalization: Normalization, activation: torch.Tensor) -> None:
        x = activation.detach().movedim(normalization.axis, 0).flatten(1)
        x = x.to(exact_type(x.device))
        total, squares, count = x.sum(1), (x * x).sum(1), x.shape[1]
        # A normalization that is used twice has the statistics of both uses.
        known = self._sums.get(normalization.mean)
        if known is not None:
            total, squares, count = known[0] + total, known[1] + squares, known[2] + count
        self._sums[normalization.mean] = (total, squares, count)

    def statistics(self) -> Statistics:
        """Means and (biased) variances by the names of the running buffers."""
        result: Statistics = {}
        for normalization in self.normalizations:
            total, squares, count = self._sums[normalization.mean]
            mean = total.cpu().double().numpy() / count
            result[normalization.mean] = mean
            square = squares.cpu().double().numpy() / count
            result[normalization.variance] = np.maximum(square - mean**2, 0.0)
        return result


def measure(
    traced: TracedModel, batches: Batches, normalizations: Iterable[Normalization]
) -> Statistics:
    """Statistics of the batches, in one pass."""
    moments = Moments(normalizations)
    for inputs, _ in batches.read("normalization statistics"):
        observe(traced, inputs, moments.taps())
    return moments.statistics()


@dataclass(frozen=True)
class Correction:
    """What recalibration does to the running statistics of one normalization.

    Attributes
    ----------
    normalization : Normalization
    mean : ndarray, shape (channels,)
        Added to the running mean.
    factor : ndarray, shape (channels,)
        Multiplies the running variance.
    """

    normalization: Normalization
    mean: np.ndarray
    factor: np.ndarray

    @classmethod
    def between(
        cls, normalization: Normalization, before: Statistics, after: Statistics
    ) -> Correction:
        """From statistics of the batches before (transformed by the plan) and after the change."""
        v_0, v_1 = before[normalization.variance], after[normalization.variance]
        # Without variance in the batches before, there is no ratio to take.
        factor = np.divide(v_1, v_0, out=np.ones_like(v_1), where=v_0 > TINY)
        return cls(normalization, after[normalization.mean] - before[normalization.mean], factor)

    def repeat(self, values: dict[str, np.ndarray]) -> None:
        """Correct the running statistics in ``values``."""
        mean, variance = self.normalization.mean, self.normalization.variance
        values[mean] = (values[mean] + self.mean).astype(values[mean].dtype)
        values[variance] = (values[variance] * self.factor).astype(values[variance].dtype)
