"""Sums of activations by class (eq. 1), of all tensors that describe some groups, in one pass.

    Q[c] = (1 / N_c) * sum of the tap over the samples of class c

Sums are float64, so that the order of the batches does not show in a plan, and activations are
never kept.  Memory is ``8 * C * o * h * w`` bytes a group; the extents that fit are known from the
shapes of the graph, before the first batch, and every batch is pooled to them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from ..arrays import Extent, NumpyArrays, rows_of_a_sample, two_axes
from ..find.channels import ChannelGroup, Tap, Unfit
from ..network import Network, Team
from .class_means import ClassMeans, class_counts, extent_within, joined

MAX_BYTES = 2**31


class ClassSums:
    """Sums by class of all tensors that describe some groups.

    Parameters
    ----------
    network : Network
    groups : sequence of ChannelGroup
        Those without a tap are left out.
    classes : int or sequence, optional
        Number or names of the classes; by default as many as the labels that turn up.
    size : int or (int, int), optional
        Pool every tap to at most this extent.
    max_bytes : int
        For the sums of all groups; taps are pooled further until they fit.

    Raises
    ------
    ValueError
        Where not even one position of each channel fits.

    Attributes
    ----------
    refused : dict of str to str
        Groups whose tensors turned out to hold no samples, and how.
    """

    def __init__(
        self,
        network: Network,
        groups: Sequence[ChannelGroup],
        classes: int | Sequence[str | int] | None,
        size: int | tuple[int, int] | None,
        max_bytes: int,
    ) -> None:
        self.names: list[str | int] | None = None
        self.max_bytes = max_bytes
        self.refused: dict[str, str] = {}
        self.counts = np.zeros(0)
        self.samples = 0
        self._labelled = False
        self._arrays = network.arrays
        self._views = _views(groups)
        self._extents: dict[str, Extent] = {}
        for name, (group, tap) in list(self._views.items()):
            try:
                self._extents[name] = _extent(network, tap, size)
            except Unfit as error:
                self.refused[group.name] = str(error)
        self._sums: dict[str, Any] = {}
        self._magnitudes = {n: np.zeros(g.channels) for n, (g, _) in self._views.items()}
        if classes is not None:
            number = classes if isinstance(classes, int) else len(classes)
            if number < 1:
                raise ValueError("expected at least one class, got none")
            self._resize(number)
            self.names = list(range(number) if isinstance(classes, int) else classes)

    def watch(self, labels: np.ndarray | None, n: int) -> list[tuple[str, Callable[[Any], None]]]:
        """What to look at in a run of ``n`` labelled samples, to add their activations."""
        labelled = labels is not None
        if self.samples and labelled != self._labelled:
            raise ValueError("some batches have labels and some have none: give all of them labels")
        self._labelled = labelled
        labels = np.asarray(labels) if labelled else np.zeros(n, np.int64)
        counts = class_counts(labels, n, len(self.counts), self._more)
        if len(self.counts) < len(counts):
            self._resize(len(counts))
        self.counts += counts
        self.samples += n
        return [
            (tap.tensor, partial(self._add, name, labels, n))
            for name, (group, tap) in self._views.items()
            if group.name not in self.refused
        ]

    def _add(self, name: str, labels: np.ndarray, n: int, activation: Any) -> None:
        group, tap = self._views[name]
        arrays = self._arrays
        try:
            x = arrays.channels_first(activation, tap, n)
        except Unfit as error:
            self.refused[group.name] = str(error)
            return
        self._magnitudes[name] += arrays.magnitudes(x)
        if name not in self._sums:  # smaller inputs than those that the graph was made with
            (h, w), (own_h, own_w) = self._extents[name], x.shape[2:]
            self._extents[name] = (min(h, own_h), min(w, own_w))
        x = arrays.pooled(x, self._extents[name])
        self._sums[name] = arrays.sums_by_class(self._sums.get(name), x, labels, len(self.counts))

    def share(self, team: Team) -> None:
        """Sums over all processes; labels that only some have seen, and extents, are agreed on."""
        if team.world == 1:
            return
        everyone = team.gather((len(self.counts), self.samples, self._extents, self.refused))
        self.samples = sum(samples for _, samples, _, _ in everyone)
        self.refused = {name: why for *_, refused in everyone for name, why in refused.items()}
        C = max(classes for classes, *_ in everyone)
        self._resize(C)
        for name in self._present:
            sums = self._known(name)
            smallest = tuple(min(e[name][axis] for _, _, e, _ in everyone) for axis in (0, 1))
            if smallest != self._extents[name]:
                sums = NumpyArrays().pooled(sums, smallest)  # type: ignore[arg-type]
                self._extents[name] = smallest  # type: ignore[assignment]
            self._sums[name], self._magnitudes[name] = team.sum_arrays(
                sums.reshape(C, -1), self._magnitudes[name]
            )
        (self.counts,) = team.sum_arrays(self.counts)

    def means(self, complete: bool = True) -> dict[str, ClassMeans]:
        """Of every group that was not refused.

        Parameters
        ----------
        complete : bool
            Whether every class must have samples; else those without are left out.

        Raises
        ------
        ValueError
            Where a class is empty or a channel not finite.
        """
        names = self.names or list(range(len(self.counts)))
        some = slice(None) if complete else np.flatnonzero(self.counts > 0)
        known = [names[c] for c in np.arange(len(names))[some]]
        parts: dict[str, list[ClassMeans]] = {}
        for name in self._present:
            group, _ = self._views[name]
            counts, sums = self.counts[some].copy(), self._known(name)[some]
            means = ClassMeans(sums, counts, known, self._magnitudes[name], self.samples)
            try:
                means.check()
            except ValueError as error:
                raise ValueError(f"group {group.name!r}: {error}") from None
            parts.setdefault(group.name, []).append(means)
        return {name: joined(several) for name, several in parts.items()}

    @property
    def _more(self) -> int:
        """How many further classes there is room for, at one position of every channel."""
        if self.names is not None:
            return 0
        channels = sum(self._views[name][0].channels for name in self._present)
        return self.max_bytes // (8 * max(1, channels)) - len(self.counts)

    @property
    def _present(self) -> list[str]:
        return [n for n, (group, _) in self._views.items() if group.name not in self.refused]

    def _known(self, name: str) -> np.ndarray:
        """The sums of one tensor as (C, o, h, w)."""
        group, _ = self._views[name]
        shape = (len(self.counts), group.channels, *self._extents[name])
        sums = self._sums.get(name)
        if sums is None:
            return np.zeros(shape)
        if not isinstance(sums, np.ndarray):
            sums = self._arrays.to_numpy(sums)
        missing = shape[0] - len(sums)  # classes of which this tensor saw no sample
        return np.pad(sums, ((0, missing), (0, 0))).reshape(shape)

    def _resize(self, C: int) -> None:
        """Make room for ``C`` classes; before the first batch, pool until the sums fit."""
        channels = {name: self._views[name][0].channels for name in self._present}
        if not self._sums:
            budget = self.max_bytes / max(1, len(channels))
            for name, o in channels.items():
                group = self._views[name][0].name
                self._extents[name] = extent_within(*self._extents[name], 8 * C * o, budget, group)
        values = sum(o * math.prod(self._extents[name]) for name, o in channels.items())
        size = 8 * C * max(1, values)
        if size > self.max_bytes:
            raise ValueError(
                f"the class means of {C} classes need {size:,} bytes and {self.max_bytes:,} are "
                "allowed; pass classes=number of classes, so that the taps are pooled to fit"
            )
        self.counts = np.pad(self.counts, (0, C - len(self.counts)))


def _views(groups: Sequence[ChannelGroup]) -> dict[str, tuple[ChannelGroup, Tap]]:
    """All tensors that describe the groups, the last of each under the name of the group."""
    return {
        group.name if tap is group.tap else f"{group.name} in {tap.tensor}": (group, tap)
        for group in groups
        if group.tap is not None
        for tap in group.tap.each
    }


def _extent(network: Network, tap: Tap, size: int | tuple[int, int] | None) -> Extent:
    """``(h, w)`` of a tap for the inputs that the graph was made with, at most ``size``."""
    shape = network.graph.shapes[tap.tensor]
    rows = rows_of_a_sample(tap, tuple(shape), network.example_samples)
    spatial = [n for axis, n in enumerate(shape) if axis not in (tap.samples, tap.axis)]
    places = tap.index.shape[1:]
    h, w = two_axes((*((rows,) if rows > 1 else ()), *places, *spatial))
    if size is None:
        return h, w
    limit = (size, size) if isinstance(size, int) else size
    return min(h, limit[0]), min(w, limit[1])
