"""Trainings: how long, on which batches, at which rate, and when layers are reorganized.

CIFAR-100 is section 3 of the paper.  Its ImageNet section only says that published networks were
reorganized once and fine-tuned end to end; length and rate are our choice: two stretches of 15
epochs, each from 0.01 by tenths, so that "conv4+5" has one for each of its layers.  Every arm that
starts from published weights has both, plain fine-tuning as well.

``small-step`` and ``small-cyclic`` are the first study of this page: the paper's falls of the rate
in 20 epochs, and restarts of a cosine right after each event.  ``resnet20`` has the falls in 60,
and ``cifar100-short`` is the paper's training with everything in proportion, where hours are few.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Protocol:
    """One training.

    Attributes
    ----------
    epochs, batch : int
    rate : float
        Learning rate at the start.
    falls : tuple of int, or "cosine"
        Epochs at which the rate is multiplied by ``factor``; or it follows a cosine to zero.
    factor : float
    stretch : int
        After so many epochs the rate starts anew.
    warmup : int
        Epochs in which the rate grows from 0, at every step.
    decay : float
        Weight decay.
    nesterov : bool
    smoothing : float
        Of the labels.
    events : tuple of int
        A layer is reorganized when so many epochs are done.
    published : bool
        Start from published weights.
    """

    epochs: int
    batch: int
    rate: float
    falls: tuple[int, ...] | str
    factor: float
    stretch: int
    warmup: int = 0
    decay: float = 1e-4
    nesterov: bool = False
    smoothing: float = 0.0
    events: tuple[int, ...] = ()
    published: bool = False

    def rate_at(self, epoch: int, share: float) -> float:
        """Learning rate in ``epoch``, of which ``share`` is done with the present step.

        >>> [round(PROTOCOLS["cifar100"].rate_at(e, 0.5), 5) for e in (0, 1, 60, 120, 160)]
        [0.05, 0.1, 0.02, 0.004, 0.0008]
        >>> [round(PROTOCOLS["imagenet"].rate_at(e, 0.5), 5) for e in (0, 5, 14, 15)]
        [0.01, 0.001, 0.0001, 0.01]
        """
        epoch %= self.stretch
        if epoch < self.warmup:
            return self.rate * (epoch + share) / self.warmup
        if self.falls == "cosine":
            return self.rate / 2 * (1 + math.cos(math.pi * (epoch + share) / self.stretch))
        return self.rate * self.factor ** sum(epoch >= fall for fall in self.falls)

    def shortened(self, epochs: int) -> Protocol:
        """The same in fewer epochs: falls and events in proportion, whole epochs of warm-up.

        >>> short = PROTOCOLS["cifar100"].shortened(60)
        >>> short.falls, short.events, short.stretch
        ((18, 36, 48), (6, 12, 18, 24, 30, 36, 42, 48, 54), 60)
        """

        def moved(*old: int) -> tuple[int, ...]:
            return tuple(round(epoch * epochs / self.epochs) for epoch in old)

        return replace(
            self, epochs=epochs, stretch=moved(self.stretch)[0], events=moved(*self.events),
            falls=self.falls if isinstance(self.falls, str) else moved(*self.falls),
        )  # fmt: skip


RESNET20 = Protocol(
    epochs=60, batch=125, rate=0.1, falls=(18, 36, 48), factor=0.2, stretch=60, decay=5e-4,
    nesterov=True, events=tuple(range(6, 60, 6)),
)  # fmt: skip

CIFAR100 = Protocol(
    epochs=200, batch=128, rate=0.1, falls=(60, 120, 160), factor=0.2, stretch=200, warmup=1,
    decay=5e-4, events=tuple(range(20, 200, 20)),
)  # fmt: skip

PROTOCOLS = {
    "cifar100": CIFAR100, "cifar100-short": CIFAR100.shortened(40),
    "imagenet": Protocol(
        epochs=30, batch=256, rate=0.01, falls=(5, 10), factor=0.1, stretch=15, events=(0, 15),
        published=True,
    ),
    "small-step": Protocol(
        epochs=20, batch=125, rate=0.1, falls=(6, 12, 16), factor=0.2, stretch=20, decay=5e-4,
        nesterov=True, events=(5, 10, 15),
    ),
    "small-cyclic": Protocol(
        epochs=20, batch=125, rate=0.1, falls="cosine", factor=1.0, stretch=5, decay=5e-4,
        nesterov=True, events=(5, 10, 15),
    ),
    "resnet20": RESNET20,
    "resnet20-small": RESNET20,
}  # fmt: skip
