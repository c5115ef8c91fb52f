"""How much of its capacity a group of channels uses.

- *Occupied nodes*: best matching units that the channels' fingerprints take on a map; channels
  that respond alike share one.  On a map with one node a channel, a quarter to a third of the
  nodes stays empty even where all channels differ: its neighbourhood pulls nodes together.  The
  map sees the fingerprints by their leading principal coordinates, 64 at most.  Channels that are
  equal stay so; where the spectrum falls off as trained layers' do, the count is that of a map of
  all coordinates to 5 % (512 and 1,024 channels), and to 13 % where all directions are alike, at a
  seventh to a tenth of the time.
- *Effective rank* (Roy and Vetterli 2007) of the channel-by-slice matrix: the exponential of the
  entropy of its singular values, each divided by their sum.  The matrix is not centred; with ``C``
  classes of ``h * w`` positions it is at most ``C * h * w``, however many channels there are.
- *Dormant channels* (Sokar et al. 2023): those whose mean absolute activation is at most ``tau``
  times the mean of the layer.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from ..one_thread import on_one_thread
from .clustering import best_matching_units, coordinates
from .mapping import fingerprints
from .recipe import DORMANT_TAU, Recipe
from .redundancy import dormant_channels

MAP_FEATURES = 64  # principal coordinates that the map sees, see above


@dataclass(frozen=True)
class Capacity:
    """Figures of one group at one time.

    Attributes
    ----------
    channels : int
    nodes : int
        Nodes of the map.
    occupied : int
        Nodes that at least one channel maps to.
    effective_rank : float
        Between 1 and ``min(channels, features)``; 0 where every activation is zero.
    dormant : float
        Share of dormant channels, 0 to 1.
    features : int
        Columns of the channel-by-slice matrix, ``C * h * w``.
    """

    channels: int
    nodes: int
    occupied: int
    effective_rank: float
    dormant: float
    features: int

    def to_dict(self) -> dict[str, float]:
        """Figures by name, ready for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        return (
            f"{self.occupied} of {self.nodes} nodes, effective rank {self.effective_rank:.1f} of "
            f"{self.channels}, {self.dormant:.0%} dormant"
        )


@on_one_thread
def capacity(
    Q: np.ndarray, n_nodes: int | None = None, activity: np.ndarray | None = None, seed: int = 0
) -> Capacity:
    """Measure a group from its class-representative activations.

    Parameters
    ----------
    Q : ndarray, shape (C, o, h, w)
        Class-representative activations (:attr:`ClassMeans.Q`).
    n_nodes : int, optional
        Nodes of the map; as many as channels by default.
    activity : ndarray, shape (o,), optional
        Mean absolute activations (:attr:`ClassMeans.activity`); from ``Q`` by default.
    seed : int

    Returns
    -------
    Capacity

    Raises
    ------
    ValueError
        ``Q`` has another number of axes, or there is no node.

    Examples
    --------
    Eight channels, of which four are copies:

    >>> Q = np.random.default_rng(0).random((3, 4, 2, 2))
    >>> found = capacity(np.concatenate([Q, Q], axis=1))
    >>> found.channels, found.occupied, found.dormant
    (8, 4, 0.0)
    """
    if Q.ndim != 4:
        raise ValueError(f"expected Q of shape (classes, channels, h, w), got {Q.shape}")
    K = Q.shape[1] if n_nodes is None else int(n_nodes)
    if K < 1:
        raise ValueError(f"expected at least one node, got {n_nodes!r}")
    X = principal_coordinates(fingerprints(Q))
    leading = np.ascontiguousarray(X[:, :MAP_FEATURES], dtype=np.float32)
    units, _ = best_matching_units(leading, K, Recipe(), seed)
    if activity is None:
        activity = np.abs(Q).mean(axis=(0, 2, 3), dtype=np.float64)
    return Capacity(
        channels=Q.shape[1],
        nodes=K,
        occupied=len(np.unique(units)),
        effective_rank=effective_rank(np.linalg.norm(X, axis=0)),
        dormant=float(dormant_channels(activity, DORMANT_TAU).mean()),
        features=Q[:, 0].size,
    )


def principal_coordinates(X: np.ndarray) -> np.ndarray:
    """The samples in the basis of their right singular vectors, the largest singular value first.

    Parameters
    ----------
    X : ndarray, shape (samples, features)

    Returns
    -------
    ndarray of float64, shape (samples, min(samples, features))
        Orthogonal columns, whose norms are the singular values.
    """
    if X.shape[1] > X.shape[0]:
        return coordinates(X)[:, ::-1]
    X = X.astype(np.float64)
    _, vectors = np.linalg.eigh(X.T @ X)
    return X @ vectors[:, ::-1]


def effective_rank(values: np.ndarray) -> float:
    """Exponential of the entropy of singular values, each divided by their sum.

    >>> effective_rank(np.ones(4))
    4.0
    """
    # Below the rounding of float32 activations a singular value is noise.
    values = values[values > values.max(initial=0.0) * 1e-6]
    if values.size == 0:
        return 0.0
    p = values / values.sum()
    return float(np.exp(-(p * np.log(p)).sum()))
