"""One look at a network: class means of several groups, and classes for data without labels."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from .arguments import refuse_several
from .find.channels import ChannelGroup, Unfit
from .measure.batch_statistics import by_tensor
from .measure.class_means import ClassMeans
from .measure.class_sums import MAX_BYTES, ClassSums
from .network import ALONE, Data, Network, Team
from .plan.clustering import k_means
from .plan.selection import Layers, find_group, listed, unmovable, untapped


def collect(
    network: Network, data: Data, groups: Layers = "all", **options: Any
) -> dict[str, ClassMeans]:
    """Class means of the taps of several groups, in one pass over the data.

    ``groups`` are as in :func:`rejuvenet.adapters.torch.collect`, options those of
    :func:`described`.
    """
    means, refused = described(network, data, _groups_with_taps(network, groups), **options)
    for name, reason in refused.items() if groups != "all" else ():
        raise Unfit(f"group {name!r}: {reason}")
    return means


def described(
    network: Network,
    data: Data,
    groups: Sequence[ChannelGroup],
    *,
    classes: int | Sequence[str | int] | None = None,
    pseudo_classes: int | None = None,
    size: int | tuple[int, int] | None = None,
    max_bytes: int = MAX_BYTES,
    team: Team = ALONE,
) -> tuple[dict[str, ClassMeans], dict[str, str]]:
    """Class means, and why the other groups turned out to have none.

    Options are those of :func:`rejuvenet.adapters.torch.collect`; each process of the team reads a
    share of the data.
    """
    refuse_several(classes=classes, pseudo_classes=pseudo_classes)
    if pseudo_classes is not None:
        classes = pseudo_classes
        data = with_pseudo_classes(network, data, pseudo_classes, team)
    with team.together():
        sums = ClassSums(network, groups, classes, size, max_bytes)
        for inputs, labels in data.read("class means"):
            network.run(inputs, by_tensor(sums.watch(labels, network.samples(inputs))))
    sums.share(team)
    with team.together():
        return sums.means(), sums.refused


def _groups_with_taps(network: Network, groups: Layers) -> list[ChannelGroup]:
    """The groups, each of which has a tap."""
    if isinstance(groups, str) and groups == "all":
        return [g for g in network.groups if g.frozen is None and g.tap is not None]
    found = [find_group(network.groups, g) if isinstance(g, str) else g for g in listed(groups)]
    for group in found:
        if reason := untapped(group):
            reason = unmovable(group) or reason
            raise ValueError(f"group {group.name!r} has no activations to collect: {reason}")
    return found


def with_pseudo_classes(
    network: Network, data: Data, classes: int, team: Team, seed: int = 0
) -> Data:
    """The data, labelled with clusters of samples that the network sees alike, in one pass.

    A sample is described by the mean activation of every channel of the deepest group; k-means
    finds the clusters.  Labels that the data have are left aside.

    Parameters
    ----------
    network : Network
    data : Data
    classes : int
        Number of clusters.
    team : Team
        All read a share of the data; the clusters are those of all shares.
    seed : int

    Raises
    ------
    ValueError
        For fewer samples than clusters, or a network in which no group has activations.
    """
    with team.together():
        if classes < 1:
            raise ValueError(f"expected at least one pseudo-class, got {classes!r}")
        deepest = [group for group in network.groups if group.tap is not None][-1:]
        if not deepest:
            raise ValueError(
                "the model has no channel group whose activations tell samples apart: give batches "
                "of (inputs, labels) in place of pseudo_classes"
            )
        own = _descriptions(network, data, deepest[0])
    rows = np.concatenate(team.gather(np.concatenate(own)))
    with team.together():
        if len(rows) < classes:
            raise ValueError(f"expected at least {classes} samples to cluster, got {len(rows)}")
        centers = _centers(rows, classes, seed) if team.first else None
    centers = team.from_first(centers)
    assert centers is not None
    return data.labelled([((x[:, None] - centers) ** 2).sum(2).argmin(1) for x in own])


def _descriptions(network: Network, data: Data, group: ChannelGroup) -> list[np.ndarray]:
    """Mean activation of every channel for every sample, one array (n, o) a batch."""
    tap, arrays = group.tap, network.arrays
    assert tap is not None
    found: list[np.ndarray] = []

    def describe(n: int, activation: Any) -> None:
        x = arrays.pooled(arrays.channels_first(activation, tap, n), (1, 1))
        found.append(np.array(arrays.to_numpy(x), dtype=np.float64).reshape(n, -1))

    for inputs, _ in data.read("samples to cluster"):
        network.run(inputs, {tap.tensor: [partial(describe, network.samples(inputs))]})
    return found


def _centers(rows: np.ndarray, classes: int, seed: int) -> np.ndarray:
    """Cluster centers, of no fewer clusters than asked for."""
    fitted = k_means(rows, classes, 4, seed)
    if len(np.unique(fitted.labels_)) < classes:
        raise ValueError(
            f"the model sees fewer than {classes} different samples: ask for fewer pseudo-classes"
        )
    return fitted.cluster_centers_
