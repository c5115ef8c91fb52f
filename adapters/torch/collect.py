"""Class-representative activations of a PyTorch model (eq. 1), summed on its own device.

    Q[c] = (1 / N_c) * sum of the tap over the samples of class c

One pass in evaluation mode: no activation is stored, no statistic, mode or random state of the
model changes.  The sums are float64 where the device has it, so that neither the order of the
batches nor that of a GPU's atomic additions shows in a plan.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch.nn import functional as F

from ...graph.channels import ChannelGroup, Tap
from ...graph.class_means import ClassMeans, extent_within
from .batches import Batches, Unpack, samples
from .trace import TracedModel, observe

MAX_BYTES = 2**31

Callback = Callable[[torch.Tensor], None]


def collect(
    traced: TracedModel,
    batches: Iterable[Any] | Batches,
    groups: Sequence[ChannelGroup | str] | str = "all",
    *,
    classes: int | Sequence[str | int] | None = None,
    unpack: Unpack | None = None,
    max_batches: int | None = None,
    size: int | tuple[int, int] | None = None,
    max_bytes: int = MAX_BYTES,
    progress: bool = False,
) -> dict[str, ClassMeans]:
    """Class means of the taps of several groups in one pass.

    Parameters
    ----------
    traced : TracedModel
    batches : iterable
        Yields ``(inputs, labels)``; see :class:`~rejuvenet.adapters.torch.batches.Batches` for
        other forms.  Labels are class indices of shape (n,), class weights of shape (n, C) (soft
        or several labels a sample), or None: then all samples are one class.
    groups : sequence of ChannelGroup or str, or "all"
        The groups, or names that ``traced.group`` resolves.
    classes : int or sequence, optional
        Number or names of the classes; by default the labels up to the highest one seen.
    unpack : callable, optional
        Turns one batch into ``(inputs, labels)``.
    max_batches : int, optional
    size : int or (int, int), optional
        Pool every tap to at most this extent.  By default the extent of the first batch, and
        batches of another size are pooled to it.
    max_bytes : int
        Memory for the sums of all groups; taps are pooled further until the sums fit.
    progress : bool
        Show a progress bar.

    Returns
    -------
    dict of str to ClassMeans
        By group name.

    Raises
    ------
    ValueError
        For a class without samples (named), activations that are not finite (group and channel
        named), inputs and labels that do not pair, or a group that nothing reads.
    """
    found = resolve(traced, groups)
    if not isinstance(batches, Batches):
        batches = Batches(batches, traced.model, unpack, max_batches, progress)
    sums = ClassSums(found, classes, size, max_bytes)
    for inputs, labels in batches.read("class means"):
        observe(traced, inputs, sums.taps(labels, samples(inputs), batches.device))
    return sums.means()


def resolve(traced: TracedModel, groups: Sequence[ChannelGroup | str] | str) -> list[ChannelGroup]:
    """The groups, each of which has a tap."""
    if isinstance(groups, str):
        if groups == "all":
            return [g for g in traced.groups if g.frozen is None and g.tap is not None]
        groups = [groups]
    found = [traced.group(group) if isinstance(group, str) else group for group in groups]
    for group in found:
        if group.tap is None:
            raise ValueError(
                f"group {group.name!r} has no activations to collect: nothing reads its channels"
            )
    return found


def channels_first(activation: torch.Tensor, tap: Tap, n: int) -> torch.Tensor:
    """The group's channels of a tap, as (n, o, *spatial).

    ``n`` is the number of samples.  Where the first axis of the tap holds several rows for one
    sample (windows of attention), they become a spatial axis.
    """
    if tap.axis == 0 or activation.shape[0] % n:
        raise ValueError(
            f"the tap {tap.tensor!r} of shape {tuple(activation.shape)} has no axis of "
            f"{n} samples in front"
        )
    index = torch.as_tensor(tap.index, device=activation.device)
    everything = len(tap.index) == activation.shape[tap.axis] and bool(
        (tap.index == range(len(tap.index))).all()
    )
    x = activation if everything else activation.index_select(tap.axis, index)
    x = x.movedim(tap.axis, 1)
    windows = activation.shape[0] // n
    return x if windows == 1 else x.unflatten(0, (n, windows)).movedim(1, 2)


class ClassSums:
    """Sums of several taps by class, on the device of the activations.

    Parameters
    ----------
    groups : list of ChannelGroup
    classes, size, max_bytes
        As in :func:`collect`.
    """

    def __init__(
        self,
        groups: list[ChannelGroup],
        classes: int | Sequence[str | int] | None = None,
        size: int | tuple[int, int] | None = None,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        if isinstance(classes, int):
            classes = list(range(classes))
        if classes is not None and len(classes) == 0:
            raise ValueError("expected at least one class, got none")
        self.groups = groups
        self.names = None if classes is None else list(classes)
        self.size = (size, size) if isinstance(size, int) else size
        self.max_bytes = max_bytes
        self.sums: dict[str, torch.Tensor] = {}
        self.magnitudes: dict[str, torch.Tensor] = {}
        self.extents: dict[str, tuple[int, int]] = {}
        self.counts = torch.zeros(0, dtype=torch.float64)
        self.samples = 0
        self._weights: torch.Tensor | None = None
        self._labels: torch.Tensor | None = None
        self._n = 0

    def taps(
        self, labels: torch.Tensor | None, n: int, device: torch.device
    ) -> dict[str, Callback]:
        """Callbacks for :func:`observe` that add the activations of ``n`` labelled samples."""
        if labels is None:
            labels = torch.zeros(n, dtype=torch.long, device=device)
        C = len(self.counts) if self.names is None else len(self.names)
        self._labels = self._weights = None
        if labels.ndim == 2:
            if self.names is None and self.samples == 0:
                C = labels.shape[1]
            if labels.shape[1] != C:
                raise ValueError(
                    f"expected class weights of shape ({n}, {C}), got {tuple(labels.shape)}"
                )
            self._weights = labels.detach().to(exact_type(device))
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
            self._grow(C)
        self.counts += counts.to("cpu", torch.float64)
        self.samples += n
        self._n = n
        return by_tensor(
            (group.tap.tensor, partial(self.add, group)) for group in self.groups if group.tap
        )

    def add(self, group: ChannelGroup, activation: torch.Tensor) -> None:
        """Add one tap of the present batch."""
        assert group.tap is not None
        x = channels_first(activation.detach(), group.tap, self._n)
        x = x.reshape(*x.shape[:2], *two_axes(tuple(x.shape[2:])))
        exact = exact_type(x.device)
        magnitude = x.abs().mean((2, 3), dtype=torch.float32).sum(0, dtype=exact)
        if group.name not in self.sums:
            self._allocate(group, x)
        extent = self.extents[group.name]
        if tuple(x.shape[2:]) != extent:
            x = F.adaptive_avg_pool2d(x.float(), extent)
        sums = self.sums[group.name]
        flat = x.reshape(self._n, -1).to(exact)
        if self._labels is not None:
            sums.index_add_(0, self._labels, flat)
        else:
            assert self._weights is not None
            sums.addmm_(self._weights.T, flat)
        self.magnitudes[group.name] += magnitude

    def means(self) -> dict[str, ClassMeans]:
        """The class means; raises ValueError where a class is empty or a channel not finite."""
        names = self.names or list(range(len(self.counts)))
        result = {}
        for group in self.groups:
            sums = self.sums[group.name].cpu().double().numpy()
            shape = (len(names), group.channels, *self.extents[group.name])
            means = ClassMeans(
                sums.reshape(shape),
                self.counts.numpy().copy(),
                list(names),
                self.magnitudes[group.name].cpu().double().numpy(),
                self.samples,
            )
            try:
                means.check()
            except ValueError as error:
                raise ValueError(f"group {group.name!r}: {error}") from None
            result[group.name] = means
        return result

    def _allocate(self, group: ChannelGroup, x: torch.Tensor) -> None:
        h, w = x.shape[2:]
        if self.size is not None:
            h, w = min(h, self.size[0]), min(w, self.size[1])
        share = self.max_bytes / len(self.groups)
        per_position = 8 * len(self.counts) * group.channels
        h, w = extent_within(h, w, per_position, share, group.name)
        self.extents[group.name] = (h, w)
        self.sums[group.name] = torch.zeros(
            len(self.counts), group.channels * h * w, dtype=exact_type(x.device), device=x.device
        )
        self.magnitudes[group.name] = torch.zeros(
            group.channels, dtype=exact_type(x.device), device=x.device
        )

    def _grow(self, C: int) -> None:
        """Make room for ``C`` classes, a higher label having turned up."""
        needed = sum(8 * C * sums.shape[1] for sums in self.sums.values())
        if needed > self.max_bytes:
            raise ValueError(
                f"the class means of {C} classes need {needed:,} bytes and {self.max_bytes:,} are "
                "allowed; pass classes=number of classes, so that the taps are pooled to fit"
            )
        added = C - len(self.counts)
        self.counts = F.pad(self.counts, (0, added))
        self.sums = {name: F.pad(sums, (0, 0, 0, added)) for name, sums in self.sums.items()}


def by_tensor(callbacks: Iterable[tuple[str, Callback]]) -> dict[str, Callback]:
    """One callback for each tensor, which calls all that were given for it."""
    several: dict[str, list[Callback]] = {}
    for tensor, callback in callbacks:
        several.setdefault(tensor, []).append(callback)

    def call(listed: list[Callback], activation: torch.Tensor) -> None:
        for callback in listed:
            callback(activation)

    return {tensor: partial(call, listed) for tensor, listed in several.items()}


def two_axes(spatial: tuple[int, ...]) -> tuple[int, int]:
    """``(h, w)`` of spatial axes of any number, as :class:`ClassMeans` counts them."""
    return (math.prod(spatial[:-1]), spatial[-1]) if spatial else (1, 1)


def exact_type(device: torch.device) -> torch.dtype:
    """float64, or float32 on a device without it."""
    return torch.float32 if device.type == "mps" else torch.float64
