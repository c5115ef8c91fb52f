"""What training makes smaller.

With labels, the cross entropy between the model's classes and targets ``t`` that are smoothed by
``s`` over ``k`` classes and may be mixed of two images (mixup)::

    t = (1 - s) e_label + s / k              loss = -sum_c t_c log p_c

``p`` is what the file makes of its scores: where it ends in a softmax its output is ``p``, where it
ends in a sigmoid every class is a question of its own, else the softmax is the loss's.

With a teacher, the divergence between both models' classes at a temperature of 2 (Hinton et al.
2015, arXiv 1503.02531), or, where there are no classes, the squared difference of every output over
the teacher's own square.  With both, the mean of the two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from ..onnx.operator_names import operator

if TYPE_CHECKING:
    import onnx_ir as ir

TEMPERATURE = 2.0
LEAST = 1e-30  # of a probability: its logarithm stays a number, and its gradient with it
SHAPING = ("Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Cast", "Dropout")


@dataclass(frozen=True)
class Classes:
    """The output that has one score a class.

    Attributes
    ----------
    output : int
        Its place among the outputs.
    kind : {"scores", "probabilities", "questions"}
        What it holds: scores before a softmax, after it, or one sigmoid for each class.
    """

    output: int
    kind: str

    def log(self, values: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
        """Logarithms of the probabilities ``(n, classes)``."""
        values = values.float().flatten(1)
        if self.kind == "probabilities":
            if temperature == 1:
                return values.clamp_min(LEAST).log()
            values = values.clamp_min(LEAST).log()
        return functional.log_softmax(values / temperature, 1)


def classes_of(graph: ir.Graph, output: str | None) -> Classes | None:
    """What the output named ``output`` of a graph holds; None where there is none."""
    names = [str(value.name) for value in graph.outputs]
    if output is None or output not in names:
        return None
    value = graph.outputs[names.index(output)]
    maker = value.producer()
    while maker is not None and operator(maker) in SHAPING and maker.inputs[0] is not None:
        maker = maker.inputs[0].producer()
    made = {"Softmax": "probabilities", "Sigmoid": "questions", "HardSigmoid": "questions"}
    kind = "scores" if maker is None else made.get(operator(maker), "scores")
    return Classes(names.index(output), kind)


@dataclass(frozen=True)
class Objective:
    """What is made smaller.

    Attributes
    ----------
    classes : Classes or None
        Of the model that is trained.
    taught : Classes or None
        Of the teacher.
    """

    classes: Classes | None
    taught: Classes | None = None

    def __call__(
        self,
        outputs: Sequence[torch.Tensor],
        targets: torch.Tensor | None,
        teacher: Sequence[torch.Tensor] | None,
    ) -> torch.Tensor:
        """The loss of one batch.

        Parameters
        ----------
        outputs : sequence of Tensor
        targets : Tensor or None, shape (n, classes)
            Share of every class.
        teacher : sequence of Tensor or None
            The teacher's outputs in the same order.
        """
        losses = []
        if targets is not None:
            assert self.classes is not None
            losses.append(self._by_targets(outputs[self.classes.output], targets))
        if teacher is not None:
            losses.append(self._by_teacher(outputs, teacher))
        return torch.stack(losses).mean()

    def _by_targets(self, values: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        assert self.classes is not None
        if self.classes.kind == "questions":
            shares = values.float().flatten(1).clamp(0, 1)
            return functional.binary_cross_entropy(shares, targets, reduction="sum") / len(shares)
        return -(targets * self.classes.log(values)).sum(1).mean()

    def _by_teacher(
        self, outputs: Sequence[torch.Tensor], teacher: Sequence[torch.Tensor]
    ) -> torch.Tensor:
        if self.classes is None or self.taught is None:
            pairs = [(a.float().flatten(), b.float().flatten())
                     for a, b in zip(outputs, teacher, strict=True) if a.is_floating_point()]
            parts = [(a - b).square().mean() / b.square().mean().clamp_min(LEAST) for a, b in pairs]
            return torch.stack(parts).mean()
        mine, theirs = outputs[self.classes.output], teacher[self.taught.output]
        if self.classes.kind == "questions":
            return self._by_targets(mine, theirs.float().flatten(1).clamp(0, 1))
        a, b = (c.log(x, TEMPERATURE) for c, x in ((self.classes, mine), (self.taught, theirs)))
        return functional.kl_div(a, b, log_target=True, reduction="batchmean") * TEMPERATURE**2


def one_hot(labels: torch.Tensor, classes: int, smoothing: float = 0.0) -> torch.Tensor:
    """Share of every class, ``(n, classes)``.

    >>> one_hot(torch.tensor([1]), 2, smoothing=0.2)
    tensor([[0.1000, 0.9000]])
    """
    sure = functional.one_hot(labels, classes).float()
    return sure * (1 - smoothing) + smoothing / classes
