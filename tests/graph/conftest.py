"""A small network of two layers on numpy arrays, and the group between them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from rejuvenet.graph import ChannelGroup, ClassMeans, Member, Tap

INPUTS, HIDDEN, OUTPUTS, CLASSES = 6, 12, 5, 3


def whole_axis(weight, kind, role, shape, axis, m=1, trained=True, origin="first"):
    """A member whose channels own ``m`` neighbouring rows of one axis each."""
    positions = np.arange(shape[axis]).reshape(-1, m)
    return Member(weight, kind, role, tuple(shape), (axis,), positions, origin, trained)


@dataclass
class TwoLayers:
    """``outputs = second @ relu(scale * (first @ x + bias - mean) / sqrt(var) + shift)``."""

    weights: dict[str, np.ndarray]
    group: ChannelGroup
    x: np.ndarray
    labels: np.ndarray

    def tap(self, weights=None):
        w = self.weights if weights is None else weights
        h = self.x @ w["first"].T + w["bias"]
        h = w["scale"] * (h - w["mean"]) / np.sqrt(w["var"]) + w["shift"]
        return np.maximum(h, 0.0)

    def run(self, weights=None):
        w = self.weights if weights is None else weights
        return self.tap(w) @ w["second"].T

    def means(self):
        return ClassMeans.of(self.tap(), self.labels, range(CLASSES))


def two_layers(hidden=HIDDEN, seed=0, copies=1, dtype=np.float32):
    """A network of ``hidden`` channels, every one ``copies`` times, in a shuffled order."""
    rng = np.random.default_rng(seed)
    distinct = hidden // copies
    source = rng.permutation(np.repeat(np.arange(distinct), copies))
    weights = {
        "first": rng.normal(size=(distinct, INPUTS))[source],
        "bias": rng.normal(size=distinct)[source],
        "scale": rng.uniform(0.5, 2.0, size=distinct)[source],
        "shift": rng.normal(size=distinct)[source] + 0.5,
        "mean": rng.normal(size=distinct)[source],
        "var": rng.uniform(0.5, 2.0, size=distinct)[source],
        "second": rng.normal(size=(OUTPUTS, hidden)),
    }
    weights = {name: value.astype(dtype) for name, value in weights.items()}
    members = (
        whole_axis("first", "producer", "weight", (hidden, INPUTS), 0),
        whole_axis("bias", "producer", "bias", (hidden,), 0),
        whole_axis("scale", "per_channel", "scale", (hidden,), 0),
        whole_axis("shift", "per_channel", "shift", (hidden,), 0),
        whole_axis("mean", "per_channel", "running_mean", (hidden,), 0, trained=False),
        whole_axis("var", "per_channel", "running_var", (hidden,), 0, trained=False),
        whole_axis("second", "consumer", "weight", (OUTPUTS, hidden), 1),
    )
    tap = Tap("h", 1, np.arange(hidden))
    group = ChannelGroup("first", hidden, members, tap, (np.arange(hidden),))
    x = rng.normal(size=(300, INPUTS)).astype(dtype)
    return TwoLayers(weights, group, x, rng.integers(0, CLASSES, size=300))


@pytest.fixture
def network():
    return two_layers()


@pytest.fixture(scope="session")
def make_network():
    """The function that makes such a network."""
    return two_layers


@pytest.fixture(scope="session")
def make_member():
    """The function that makes a member of a whole axis."""
    return whole_axis
