"""Class-representative activations of a PyTorch model (eq. 1), in one pass over the data.

Evaluation mode: no activation is stored, no statistic, mode or random state of the model changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from ...graph import collecting
from ...graph.batches import Unpack
from ...graph.measure.class_means import ClassMeans
from ...graph.measure.class_sums import MAX_BYTES
from ...graph.plan.selection import Layers
from .batches import Batches
from .distributed import Processes
from .network import TorchNetwork
from .trace import TracedModel


def collect(
    traced: TracedModel,
    batches: Iterable[Any] | Batches,
    groups: Layers = "all",
    *,
    classes: int | Sequence[str | int] | None = None,
    pseudo_classes: int | None = None,
    unpack: Unpack | None = None,
    max_batches: int | None = None,
    device: torch.device | str | None = None,
    size: int | tuple[int, int] | None = None,
    max_bytes: int = MAX_BYTES,
    process_group: Any = None,
    progress: bool = False,
) -> dict[str, ClassMeans]:
    """Class means of the taps of several groups in one pass.

    Parameters
    ----------
    traced : TracedModel
    batches : iterable
        Yields ``(inputs, labels)``; ``inputs`` alone (a tensor or an array); or a mapping with a
        key such as ``"labels"``, the rest of which is the model's keyword arguments (or, where it
        is one tensor, its positional one).  An iterator, which can be read once only, is kept in
        memory.  Labels are class indices of shape (n,) or (n, 1), class weights of shape
        (n, C) (soft or several labels a sample), or None: then all samples are one class.
    groups : sequence of ChannelGroup or str, or "all"
        The groups, or names that ``traced.group`` resolves.
    classes : int or sequence, optional
        Number or names of the classes; by default the labels up to the highest one seen.
    pseudo_classes : int, optional
        For data without labels: as many clusters of samples that the model sees alike (k-means of
        the mean activations of the deepest group) take the place of classes; one more pass.
    unpack : callable, optional
        Turns one batch into ``(inputs, labels)``.
    max_batches : int, optional
    device : torch.device or str, optional
        Where batches go; the model's device by default.
    size : int or (int, int), optional
        Pool every tap to at most this extent.  By default the extent that it has for the
        inputs that the model was traced with, and batches of another size are pooled to it.
    max_bytes : int
        Memory for the sums of all groups; taps are pooled further until the sums fit, which is
        known before the first batch where ``classes`` is given.
    process_group : torch.distributed.ProcessGroup, optional
        Processes that read a share of the data each; all of the default group where one is in
        use.
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
        named), inputs and labels that do not pair, or a group that no activations describe.

    Examples
    --------
    >>> import torch
    >>> from rejuvenet.adapters.torch import collect, trace
    >>> net = torch.nn.Sequential(
    ...     torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 3))
    >>> batches = [(torch.randn(6, 3, 8, 8), torch.tensor([0, 1, 2, 0, 1, 2]))]
    >>> means = collect(trace(net, batches[0][0]), batches, ["0"])["0.weight"]
    >>> means.Q.shape, means.counts.tolist()  # classes, channels, height and width
    ((3, 8, 6, 6), [2.0, 2.0, 2.0])
    """
    processes = Processes(process_group)
    with processes.together():
        if not isinstance(batches, Batches):
            batches = Batches(batches, traced.model, unpack, max_batches, progress, device)
    return collecting.collect(
        TorchNetwork(traced, processes),
        batches,
        groups,
        classes=classes,
        pseudo_classes=pseudo_classes,
        size=size,
        max_bytes=max_bytes,
        team=processes,
    )
