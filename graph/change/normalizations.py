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

import numpy as np

from ..find.channels import Member
from ..find.nodes import Contraction, Graph, PerChannel, input_names, output_names

TINY = 1e-12
Statistics = dict[str, np.ndarray]


@dataclass(frozen=True)
class Normalization:
    """A normalization with running statistics.

    Attributes
    ----------
    tensor, axis
        What it reads, and the axis of its channels.
    mean, variance : str
        Names of the buffers.
    own : bool
        Whether its statistics belong to channels of the plan.
    """

    tensor: str
    axis: int
    mean: str
    variance: str
    own: bool


def touched_normalizations(graph: Graph, members: Iterable[Member]) -> list[Normalization]:
    """The normalizations whose statistics a change of ``members`` moves, in execution order."""
    members = list(members)
    own = {m.weight for m in members}
    consumers = {m.weight for m in members if m.kind == "consumer"}
    made_by = weight_of(graph)
    # Tensors that a changed consumer reaches without a contraction or normalization in between.
    reached: set[str] = set()
    found = []
    for node in graph.nodes:
        inputs = input_names(node)
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
                    Normalization(node.inputs[0], node.axis, mean, variance, mean in own)
                )
            direct = False
        for name in output_names(node):
            if direct:
                reached.add(name)
    return found


def weight_of(graph: Graph) -> dict[str, str]:
    """Tensor to weight, also through what changes its shape alone."""
    found = dict(graph.weights)
    for node in graph.nodes:
        inputs = input_names(node)
        if len(inputs) == 1 and inputs[0] in found and not isinstance(node, Contraction):
            for name in output_names(node):
                found.setdefault(name, found[inputs[0]])
    return found


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
