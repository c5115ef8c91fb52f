"""A latency that a smaller model is to have: milliseconds of a run, or a share of today's.

Nothing is predicted: models without some of their channels are made and timed beside the whole one,
so that a machine that is busy for a while slows both down.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ...graph.cautions import warn
from ...graph.change.removal import Removal
from ...graph.ratios import TimeBudget
from ...graph.report import Report
from .latency import Latency, latencies
from .model import OnnxModel
from .removal import without_channels

SECONDS = 0.4  # that a model of a trial is run
MARGIN = 1.05  # what the smaller model may take more, in the end, before it is said


class LatencyTarget:
    """The latency that a model is to have.

    Parameters
    ----------
    target : float or str
        A share of today's in (0, 1], or milliseconds such as ``"5ms"``.
    model : OnnxModel
    inputs : mapping of input name to ndarray
        What a run reads: one sample, or as many as the model takes at a time.
    threads : int
        That an operator may use.

    Raises
    ------
    ValueError
        ``target`` says neither.
    """

    def __init__(
        self, target: float | str, model: OnnxModel, inputs: Mapping[str, np.ndarray], threads: int
    ) -> None:
        text = str(target).strip()
        self._absolute = text.endswith("ms")
        try:
            self._limit = float(text.removesuffix("ms"))
        except ValueError:
            self._limit = 0.0
        if not 0 < self._limit < np.inf or (self._limit > 1 and not self._absolute):
            raise ValueError(
                "expected the target of latency as a share of today's in (0, 1] or as "
                f"milliseconds such as 5ms, got {target!r}"
            )
        share = f"{100 * self._limit:g}% of its latency"
        self.text = f"{self._limit:g} ms" if self._absolute else share
        self._model, self._inputs, self._threads = model, inputs, threads

    def budget(self) -> TimeBudget:
        """What the search for ratios asks."""
        return TimeBudget(self._fits, self.text)

    def describe(self, report: Report, smaller: OnnxModel) -> None:
        """Say in a report how long both models take; warn where that is more than was asked for."""
        before, after = self._timed(smaller, 1.0)
        report.latency_before, report.latency = before.milliseconds, after.milliseconds
        report.latency_of = after.how
        if self._excess(before, after) > MARGIN:
            warn(
                f"the smaller model takes {after.milliseconds:.3g} of {before.milliseconds:.3g} "
                f"ms, more than the target of {self.text}: some of the layers that were to lose "
                "channels could not, or the machine is busy"
            )

    def _fits(self, removal: Removal) -> bool:
        if not any(map(len, removal.channels.values())) and not self._absolute:
            return self._limit >= 1  # a clock does not know it to be the same model
        return self._excess(*self._timed(without_channels(self._model, removal), SECONDS)) <= 1

    def _excess(self, before: Latency, after: Latency) -> float:
        """The latency over the target."""
        whole = 1.0 if self._absolute else before.milliseconds
        return after.milliseconds / (self._limit * whole)

    def _timed(self, smaller: OnnxModel, seconds: float) -> list[Latency]:
        both, inputs = (self._model, smaller), (self._inputs, self._inputs)
        return latencies(both, inputs, self._threads, seconds)
