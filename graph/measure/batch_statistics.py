"""Mean and variance of what normalizations read, batch by batch and over all batches."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from ..arrays import Arrays
from ..change.normalizations import TINY, Normalization, Statistics
from ..change.surgery import transform
from ..network import BatchNormalization, Team
from ..plan.plan import GroupPlan

Sums = tuple[np.ndarray, np.ndarray, float]  # of values, of their squares, and how many


class Moments:
    """Moments of every channel of what normalizations read, in float64.

    Parameters
    ----------
    normalizations : sequence of Normalization
    arrays : Arrays

    Attributes
    ----------
    batches : list of dict
        For every batch, sums by the tensor that a normalization reads: 16 bytes a channel.
    """

    def __init__(self, normalizations: Sequence[Normalization], arrays: Arrays) -> None:
        self.normalizations = list(normalizations)
        self.batches: list[dict[str, Sums]] = []
        self._arrays = arrays
        self._totals: list[Sums] = []

    def watch(self) -> list[tuple[str, Callable[[Any], None]]]:
        """What to look at in the run of the next batch."""
        self.batches.append({})
        return [(n.tensor, partial(self._add, n)) for n in self.normalizations]

    def _add(self, normalization: Normalization, activation: Any) -> None:
        sums = self._arrays.moments(activation, normalization.axis)
        self.batches[-1][normalization.tensor] = sums

    def share(self, team: Team) -> None:
        """Sums of all batches, over all processes."""
        totals: dict[str, Sums] = {}
        for n in self.normalizations:
            # A normalization that is used twice has the statistics of both uses.
            for batch in self.batches:
                total, squares, count = totals.get(n.mean, (0.0, 0.0, 0.0))
                added = batch[n.tensor]
                totals[n.mean] = (total + added[0], squares + added[1], count + added[2])
        parts = [part for name in sorted(totals) for part in totals[name]]
        shared = iter(team.sum_arrays(*parts))
        totals = {
            name: (next(shared), next(shared), float(next(shared))) for name in sorted(totals)
        }
        self._totals = [totals[n.mean] for n in self.normalizations]

    def only(self, normalizations: Sequence[Normalization]) -> Moments:
        """Those of some of the normalizations."""
        kept = {n.tensor: sums for n, sums in zip(self.normalizations, self._totals, strict=True)}
        part = Moments(normalizations, self._arrays)
        part.batches = self.batches
        part._totals = [kept[n.tensor] for n in normalizations]
        return part

    def statistics(self) -> Statistics:
        """Mean and (biased) variance over all batches, by the names of the running buffers."""
        found: Statistics = {}
        for n, sums in zip(self.normalizations, self._totals, strict=True):
            found[n.mean], found[n.variance] = _mean_variance(sums)
        return found


def _mean_variance(sums: Sums) -> tuple[np.ndarray, np.ndarray]:
    total, squares, count = sums
    mean = total / count
    return mean, np.maximum(squares / count - mean**2, 0.0)


def batch_normalizations(
    moments: Moments,
    number: int,
    merged: Mapping[str, np.ndarray],
    plans: Mapping[str, Sequence[GroupPlan]],
) -> list[BatchNormalization]:
    """How every normalization uses the statistics of one batch after a change.

    The correction of :mod:`.normalizations`, within one batch: with ``m, v`` the merged running
    statistics, ``m_0, v_0`` those of the batch before the change, merged the same way, and
    ``m_1, v_1`` those after it, ``mean = m + (m_1 - m_0)`` and ``var = v v_1 / v_0``.  Both come
    from the same samples, so that a change that does not change the function changes nothing here.

    Parameters
    ----------
    moments : Moments
        Of the network before the change.
    number : int
        Of the batch.
    merged : mapping of str to ndarray
        Running statistics as the plans merged them.
    plans : mapping of str to sequence of GroupPlan
        What changes the statistics, by the name of the running mean.
    """
    found = []
    for n in moments.normalizations:
        mean, variance = _mean_variance(moments.batches[number][n.tensor])
        values = {n.mean: mean, n.variance: variance}
        values |= transform(plans[n.mean], values)
        m_0, v_0 = values[n.mean], values[n.variance]
        m, v = (np.asarray(merged[name], np.float64) for name in (n.mean, n.variance))
        varies = v_0 > TINY
        factor = np.divide(v, v_0, out=np.zeros_like(v_0), where=varies)
        constant = np.where(varies, 0.0, v)
        found.append(BatchNormalization(n.tensor, n.mean, m - m_0, factor, constant))
    return found


def by_tensor(
    watched: Sequence[tuple[str, Callable[[Any], None]]],
) -> dict[str, list[Callable[[Any], None]]]:
    """Callbacks by the tensor that they look at."""
    found: dict[str, list[Callable[[Any], None]]] = defaultdict(list)
    for tensor, callback in watched:
        found[tensor].append(callback)
    return dict(found)
