"""The channels from which what the consumers read of the others is told best.

Greedy column subset selection, one channel after the other.  With ``x`` the channels of a set,
``X = E[x x^T]``, ``S`` the chosen ones and ``V`` the weights of the consumers, by channel::

    R = X - X_S X_SS^-1 X_S^T          what the best linear map from x_S leaves of x
    missed(S) = tr(H R),  H = V V^T    of what the consumers make of it, kernel offsets apart

Choosing ``j`` next changes ``R`` to ``R - r r^T / R_jj`` with ``r`` its column ``j``, and takes
``r^T H r / R_jj`` from what is missed.  The greatest is chosen, of equal ones the first.  With
``H = I`` that is the greedy method of Farahat, Ghodsi and Kamel (2011), "An efficient greedy method
for unsupervised feature selection"; the pivots of a Cholesky decomposition come from ``R_jj``
alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from ..find.channels import ChannelGroup

# Of the largest mean square of a channel: below, what is left of one is rounding (float32 sums).
SILENT = 1e-7
# What two channels that say the same take differs by rounding, which decides nothing.
EQUAL = 1e-5


class Subset(NamedTuple):
    """Channels in the order in which they were chosen.

    Attributes
    ----------
    order : ndarray of int, shape (s,)
        All of them; the last ones add nothing.
    missed : ndarray of float64, shape (s + 1,)
        Share of what consumers make of the set that is missed with the first ``k`` channels,
        ``missed[0] = 1``.
    """

    order: np.ndarray
    missed: np.ndarray


def subset(X: np.ndarray, H: np.ndarray) -> Subset:
    """Choose all channels of one set, the most telling first.

    Parameters
    ----------
    X, H : ndarray of float64, shape (s, s)
        Positive semi-definite.

    Examples
    --------
    >>> x = np.array([[1.0, 0, 1, 0], [0, 2.0, 0, 0]])  # the third channel is the first
    >>> subset(x.T @ x, np.eye(4)).order.tolist()
    [1, 0, 2, 3]
    """
    n = len(X)
    R, M = X.astype(np.float64), H @ X
    total = float(np.trace(M))
    missed, order, waiting = [1.0], list[int](), np.ones(n, dtype=bool)
    least = SILENT * float(np.diagonal(X).max(initial=0.0))
    while len(order) < n and total > 0.0:
        left = np.diagonal(R)
        live = waiting & (left > least)
        if not live.any():
            break
        gain = np.where(live, np.einsum("ij,ij->j", R, M) / np.where(live, left, 1.0), -1.0)
        j = int(np.argmax(gain >= gain.max() - EQUAL * abs(gain.max())))
        r, m = R[:, j] / np.sqrt(R[j, j]), M[:, j] / np.sqrt(R[j, j])
        R -= np.outer(r, r)
        M -= np.outer(m, r)
        waiting[j] = False
        order.append(j)
        missed.append(max(float(np.trace(M)) / total, 0.0))
    rest = np.flatnonzero(waiting)
    order += rest[np.argsort(-np.diagonal(X)[rest], kind="stable")].tolist()
    missed += [missed[-1] if total > 0.0 else 0.0] * (n + 1 - len(missed))
    return Subset(np.array(order, dtype=np.int64), np.array(missed))


def read_by(group: ChannelGroup, weights: Mapping[str, np.ndarray]) -> np.ndarray:
    """``H`` of a group: products of the weights that read its channels, shape (o, o)."""
    H = np.zeros((group.channels, group.channels))
    for member in group.consumers:
        V = member.channels(weights[member.weight]).astype(np.float64)
        V = V.reshape(group.channels, -1)
        H += V @ V.T
    return H
