"""Classes for data without labels: clusters of samples that a model sees alike.

A sample is described by the mean activation of every channel of the deepest group.  k-means finds
the clusters, which then take the place of classes in eq. 1.
"""

from __future__ import annotations

import warnings
from functools import partial

import numpy as np
import torch

from ...graph.channels import ChannelGroup
from .batches import Batches, samples
from .class_sums import channels_first
from .distributed import Processes
from .passes import glance
from .trace import TracedModel


def with_pseudo_classes(
    traced: TracedModel, batches: Batches, classes: int, processes: Processes, seed: int = 0
) -> Batches:
    """The batches, labelled with clusters, in one pass.

    Parameters
    ----------
    traced : TracedModel
    batches : Batches
        Labels that they have are left aside.
    classes : int
        Number of clusters.
    processes : Processes
        All read a share of the data; the clusters are those of all shares.
    seed : int

    Raises
    ------
    ValueError
        For fewer samples than clusters, or a model in which no group has activations.
    """
    with processes.together():
        if classes < 1:
            raise ValueError(f"expected at least one pseudo-class, got {classes!r}")
        deepest = [group for group in traced.groups if group.tap is not None][-1:]
        if not deepest:
            raise ValueError("the model has no channel group whose activations tell samples apart")
        own = descriptions(traced, batches, deepest[0])
    rows = np.concatenate(processes.gather(np.concatenate(own)))
    with processes.together():
        if len(rows) < classes:
            raise ValueError(f"expected at least {classes} samples to cluster, got {len(rows)}")
        centers = _centers(rows, classes, seed) if processes.first else None
    centers = processes.from_first(centers)
    assert centers is not None
    labels = [((x[:, None] - centers) ** 2).sum(2).argmin(1) for x in own]
    return batches.labelled([torch.from_numpy(label) for label in labels])


def descriptions(traced: TracedModel, batches: Batches, group: ChannelGroup) -> list[np.ndarray]:
    """Mean activation of every channel for every sample, one array (n, o) a batch."""
    tap = group.tap
    assert tap is not None
    found: list[np.ndarray] = []

    def describe(n: int, activation: torch.Tensor) -> None:
        x = channels_first(activation.detach(), tap, n)
        means = x.reshape(*x.shape[:2], -1).mean(2, dtype=torch.float32)
        found.append(means.cpu().numpy())

    for inputs, _ in batches.read("samples to cluster"):
        glance(traced, inputs, {tap.tensor: partial(describe, samples(inputs))})
    return found


def _centers(rows: np.ndarray, classes: int, seed: int) -> np.ndarray:
    """Cluster centers, of no fewer clusters than asked for."""
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    # One thread: scikit-learn adds the threads' partial sums in the order in which they finish.
    with threadpool_limits(limits=1), warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        try:
            fitted = KMeans(classes, n_init=4, random_state=seed).fit(rows)
        except ConvergenceWarning:
            raise ValueError(
                f"the model sees fewer than {classes} different samples: ask for fewer "
                "pseudo-classes"
            ) from None
    return fitted.cluster_centers_
