"""Sums of activations by class (eq. 1), on the device of the activations.

    Q[c] = (1 / N_c) * sum of the tap over the samples of class c

Sums are float64 where the device has it, so that the order of the batches does not show in a plan.
On a CPU samples are added one by one: the conversion then happens on the way and needs no copy,
three to six times as fast for large taps as one call for all.  Other devices get that call,
``index_put_``, which adds in a fixed order on a GPU as well, where ``index_add_`` does not.  Memory
is ``8 * C * o * h * w`` bytes a group; the extents that fit are known from the traced shapes,
before the first batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch.nn import functional as F

from ...graph.channels import ChannelGroup, Tap, Unfit
from ...graph.class_means import ClassMeans, extent_within, joined
from .batches import samples
from .distributed import Processes
from .passes import Callback, by_tensor, exact_type, full_precision
from .trace import TracedModel

MAX_BYTES = 2**31
BLOCK = 2**20  # elements
ROW_BY_ROW = frozenset({"cpu"})  # devices on which samples are added one by one

Extent = tuple[int, int]


def channels_first(activation: torch.Tensor, tap: Tap, n: int) -> torch.Tensor:
    """The group's channels of a tap, as (n, o, *spatial).

    ``n`` is the number of samples.  Several places of a channel and several rows of a sample
    (windows of attention) become spatial axes.

    Raises
    ------
    Unfit
        The axis of samples does not hold ``n`` of them.
    """
    x = activation.movedim((tap.samples, tap.axis), (0, 1))
    if len(x) % n:
        raise Unfit(
            f"the tensor {tap.tensor!r} of shape {tuple(activation.shape)}, which holds its "
            f"channels, has no axis of {n} samples"
        )
    index = tap.index.ravel()
    if not np.array_equal(index, np.arange(x.shape[1])):
        x = x.index_select(1, torch.as_tensor(index, device=x.device))
    if tap.index.ndim > 1:
        x = x.unflatten(1, tap.index.shape)
    windows = len(x) // n
    return x if windows == 1 else x.unflatten(0, (n, windows)).movedim(1, 2)


def two_axes(spatial: tuple[int, ...]) -> Extent:
    """``(h, w)`` of spatial axes of any number, as :class:`ClassMeans` counts them."""
    return (math.prod(spatial[:-1]), spatial[-1]) if spatial else (1, 1)


def views_of(groups: Sequence[ChannelGroup]) -> dict[str, tuple[ChannelGroup, Tap]]:
    """All tensors that describe the groups, the last of each under the name of the group."""
    return {
        group.name if tap is group.tap else f"{group.name} in {tap.tensor}": (group, tap)
        for group in groups
        if group.tap is not None
        for tap in group.tap.each
    }


def traced_extent(traced: TracedModel, tap: Tap) -> Extent:
    """``(h, w)`` of a tensor for the inputs that the model was traced with."""
    args, kwargs = traced.example_inputs
    shape = torch.empty(traced.graph.shapes[tap.tensor], device="meta")
    return two_axes(tuple(channels_first(shape, tap, samples(args or kwargs)).shape[2:]))


def absolute_means(x: torch.Tensor, exact: torch.dtype) -> torch.Tensor:
    """Sum over samples of each channel's mean absolute activation; (n, o, h, w) to (o,)."""
    if x.device.type == "cpu" and x.amin() >= 0:  # after a ReLU; elsewhere it would have to wait
        return x.mean((2, 3), dtype=torch.float32).sum(0, dtype=exact)
    # Blocks of a size that stays in the cache.
    block = max(1, BLOCK // max(1, x[0].numel()))
    parts = (rows.abs().mean((2, 3), dtype=torch.float32) for rows in x.split(block))
    return torch.cat(list(parts)).sum(0, dtype=exact)


class ClassSums:
    """Sums by class of all tensors that describe some groups.

    Parameters
    ----------
    traced : TracedModel
        Its example inputs give the extents of the taps; others are pooled to them.
    groups : sequence of ChannelGroup
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
        traced: TracedModel,
        groups: Sequence[ChannelGroup],
        classes: int | Sequence[str | int] | None = None,
        size: int | tuple[int, int] | None = None,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        if isinstance(classes, int):
            classes = list(range(classes))
        if classes is not None and len(classes) == 0:
            raise ValueError("expected at least one class, got none")
        self.groups = list(groups)
        self.names = None if classes is None else list(classes)
        self.max_bytes = max_bytes
        self.sums: dict[str, torch.Tensor] = {}
        self.magnitudes: dict[str, torch.Tensor] = {}
        self.refused: dict[str, str] = {}
        self.views = views_of(groups)
        self.extents = {name: traced_extent(traced, tap) for name, (_, tap) in self.views.items()}
        if size is not None:
            limit = (size, size) if isinstance(size, int) else size
            for name, (h, w) in self.extents.items():
                self.extents[name] = (min(h, limit[0]), min(w, limit[1]))
        self.counts = torch.zeros(0, dtype=torch.float64)
        self.samples = 0
        self._weights: torch.Tensor | None = None
        self._labels: torch.Tensor | None = None
        self._n = 0
        if self.names is not None:
            self._resize(len(self.names))

    @property
    def bytes(self) -> int:
        """Memory of the sums for the classes known so far."""
        rows = (g.channels * math.prod(self.extents[n]) for n, (g, _) in self.views.items())
        return 8 * len(self.counts) * sum(rows)

    def taps(
        self, labels: torch.Tensor | None, n: int, device: torch.device
    ) -> dict[str, Callback]:
        """Callbacks of a forward pass that add the activations of ``n`` labelled samples."""
        if labels is None:
            labels = torch.zeros(n, dtype=torch.long, device=device)
        C = len(self.counts)
        self._labels = self._weights = None
        if labels.ndim == 2:
            if self.names is None and self.samples == 0:
                C = labels.shape[1]
            if labels.shape[1] != C:
                raise ValueError(
                    f"expected class weights of shape ({n}, {C}), got {tuple(labels.shape)}"
                )
            self._weights = labels.detach().to(exact_type(device))
            if not bool((self._weights >= 0).all() and self._weights.isfinite().all()):
                raise ValueError(
                    "expected class weights of at least 0, got "
                    f"{labels.amin().item():g} to {labels.amax().item():g}"
                )
            counts = self._weights.sum(0)
        elif labels.ndim == 1 and not labels.is_floating_point():
            self._labels = labels.long()
            low, high = (int(v) for v in torch.aminmax(self._labels))
            if low < 0 or (self.names is not None and high >= C):
                raise ValueError(
                    f"expected labels from 0 to {C - 1 if self.names else 'the number of classes'}"
                    f", got {low if low < 0 else high}"
                )
            C = max(C, high + 1)
            counts = torch.bincount(self._labels, minlength=C)
        else:
            raise ValueError(
                "expected integer labels of shape (n,) or class weights of shape (n, C), got "
                f"{labels.dtype} of shape {tuple(labels.shape)}"
            )
        if len(self.counts) < C:
            self._resize(C)
        self.counts += counts.to("cpu", torch.float64)
        self.samples += n
        self._n = n
        return by_tensor(
            (tap.tensor, partial(self.add, name)) for name, (_, tap) in self.views.items()
        )

    def add(self, name: str, activation: torch.Tensor) -> None:
        """Add one tensor of the present batch."""
        group, tap = self.views[name]
        if group.name in self.refused:
            return
        try:
            x = channels_first(activation.detach(), tap, self._n)
        except Unfit as error:
            self.refused[group.name] = str(error)
            return
        x = x.reshape(*x.shape[:2], *two_axes(tuple(x.shape[2:])))
        exact, extent = exact_type(x.device), self.extents[name]
        with full_precision(x.device):
            magnitude = absolute_means(x, exact)
            if tuple(x.shape[2:]) != extent:
                x = F.adaptive_avg_pool2d(x.float(), extent)
            if name not in self.sums:
                shape = (len(self.counts), group.channels * math.prod(extent))
                self.sums[name] = torch.zeros(shape, dtype=exact, device=x.device)
                self.magnitudes[name] = torch.zeros_like(magnitude)
            flat, sums = x.reshape(self._n, -1), self.sums[name]
            if self._labels is None:
                assert self._weights is not None
                sums.addmm_(self._weights.T, flat.to(exact))
            elif x.device.type in ROW_BY_ROW:
                for row, label in zip(flat, self._labels.tolist(), strict=True):
                    sums[label].add_(row)
            else:
                sums.index_put_((self._labels,), flat.to(exact), accumulate=True)
            self.magnitudes[name] += magnitude

    def share(self, processes: Processes) -> None:
        """Sums over all processes; labels that only some have seen, and extents, are agreed on."""
        if processes.world == 1:
            return
        everyone = processes.gather((len(self.counts), self.samples, self.extents, self.refused))
        self.samples = sum(samples for _, samples, _, _ in everyone)
        self.refused = {name: why for *_, refused in everyone for name, why in refused.items()}
        names = sorted(n for n, (group, _) in self.views.items() if group.name not in self.refused)
        for name in names:
            others = [extents[name] for _, _, extents, _ in everyone]
            smallest = (min(h for h, _ in others), min(w for _, w in others))
            if smallest != self.extents[name]:
                channels = self.views[name][0].channels
                sums = self.sums[name].unflatten(1, (channels, *self.extents[name]))
                self.sums[name] = F.adaptive_avg_pool2d(sums, smallest).flatten(1)
                self.extents[name] = smallest
        self._grow(max(C for C, *_ in everyone))
        tensors = (t[name] for name in names for t in (self.sums, self.magnitudes))
        processes.sum([self.counts, *tensors])

    def means(self) -> dict[str, ClassMeans]:
        """Of every group that was not refused.

        Raises
        ------
        ValueError
            Where a class is empty or a channel not finite.
        """
        names = self.names or list(range(len(self.counts)))
        parts: dict[str, list[ClassMeans]] = {}
        for name, (group, _) in self.views.items():
            if group.name in self.refused:
                continue
            sums = self.sums[name].cpu().double().numpy()
            shape = (len(names), group.channels, *self.extents[name])
            means = ClassMeans(
                sums.reshape(shape),
                self.counts.numpy().copy(),
                list(names),
                self.magnitudes[name].cpu().double().numpy(),
                self.samples,
            )
            try:
                means.check()
            except ValueError as error:
                raise ValueError(f"group {group.name!r}: {error}") from None
            parts.setdefault(group.name, []).append(means)
        return {name: joined(several) for name, several in parts.items()}

    def _resize(self, C: int) -> None:
        """Make room for ``C`` classes; before the first batch, pool until the sums fit."""
        if not self.sums:
            budget = self.max_bytes / max(1, len(self.groups))
            for name, (group, _) in self.views.items():
                assert group.tap is not None
                position, own = 8 * C * group.channels, budget / len(group.tap.each)
                self.extents[name] = extent_within(*self.extents[name], position, own, group.name)
        self._grow(C)
        if self.bytes > self.max_bytes:
            raise ValueError(
                f"the class means of {C} classes need {self.bytes:,} bytes and "
                f"{self.max_bytes:,} are allowed; pass classes=number of classes, so that the "
                "taps are pooled to fit"
            )

    def _grow(self, C: int) -> None:
        added = C - len(self.counts)
        self.counts = F.pad(self.counts, (0, added))
        self.sums = {name: F.pad(sums, (0, 0, 0, added)) for name, sums in self.sums.items()}
