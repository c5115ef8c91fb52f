"""How long models take: the median of warm runs of onnxruntime, one model in turn with the others.

The first runs allocate what later ones use again and do not count.  What a busy machine adds is
added to all models alike, as they take turns; a median leaves out single interruptions.  Models
whose weights are large, and rearranged for the run, are timed one after the other.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .model import OnnxModel
from .runner import run
from .session import PACKED

WARM = 3  # runs before those that count
LEAST, MOST = 7, 1000  # runs that count


@dataclass(frozen=True)
class Latency:
    """Of one model on one machine.

    Attributes
    ----------
    milliseconds : float
        Median of the time of a run.
    batch : int
        Samples of a run.
    threads : int
        That an operator may use.
    provider : str
        What onnxruntime ran it on, such as ``"CPUExecutionProvider"``.
    runs : int
        How many were counted.
    """

    milliseconds: float
    batch: int
    threads: int
    provider: str
    runs: int

    def __str__(self) -> str:
        return f"{self.milliseconds:.3g} ms ({self.how})"

    @property
    def how(self) -> str:
        """What the figure is of."""
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        place = self.provider.removesuffix("ExecutionProvider")
        return f"batch size {self.batch}, {threads}, {place}, median of {self.runs} runs"


def latencies(
    models: Sequence[OnnxModel],
    inputs: Sequence[Mapping[str, np.ndarray]],
    threads: int = 1,
    seconds: float = 1.0,
) -> list[Latency]:
    """Latency of each model on its inputs.

    Parameters
    ----------
    models : sequence of OnnxModel
    inputs : sequence of mapping of input name to ndarray
        Of each model.
    threads : int
    seconds : float
        How long each model is run, within the limits of ``LEAST`` and ``MOST`` runs.

    Raises
    ------
    ValueError
        One of them does not run on its inputs.
    """
    pairs = list(zip(models, inputs, strict=True))
    if sum(model.weight_bytes for model in models) > PACKED:
        return [_in_turn([pair], threads, seconds)[0] for pair in pairs]
    return _in_turn(pairs, threads, seconds)


def _in_turn(
    pairs: Sequence[tuple[OnnxModel, Mapping[str, np.ndarray]]], threads: int, seconds: float
) -> list[Latency]:
    sessions = [(model.session(threads=threads), dict(feeds)) for model, feeds in pairs]
    taken: list[list[float]] = [[] for _ in sessions]
    until = np.inf
    for number in range(-WARM, MOST):
        if number == 0:
            until = time.perf_counter() + seconds * len(sessions)
        if number >= LEAST and time.perf_counter() > until:
            break
        for (session, feeds), own in zip(sessions, taken, strict=True):
            began = time.perf_counter()
            run(session, None, feeds)
            if number >= 0:
                own.append(time.perf_counter() - began)
    return [
        Latency(
            1000 * float(np.median(own)),
            next((len(x) for x in feeds.values() if x.ndim), 1),
            threads,
            session.get_providers()[0],
            len(own),
        )
        for (session, feeds), own in zip(sessions, taken, strict=True)
    ]
