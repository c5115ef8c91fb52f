"""Incoming and outgoing weights of new channels ("rejuvenated" ones, section 2.4).

==============  ===================================================================
``kaiming``     normal, standard deviation ``sqrt(2 / fan_in)`` (He et al. 2015)
``match``       normal, with the median size that the layer's weights have
``orthogonal``  orthonormal rows times ``sqrt(2)`` (Saxe et al. 2014)
``null_space``  orthogonal to the filters of the layer (:mod:`.new_filters`)
``gradient``    along the gradient of the layer (:mod:`.new_filters`)
``keep``        what the place holds
==============  ===================================================================

The last three say nothing about outgoing weights, which are drawn as for ``match``.

Draws depend on a seed and names only: the same on every rank and for any number of threads.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np

from ..find.channels import Member

GAIN = 2.0**0.5  # of a rectifier


def named_seed(seed: int, *names: str) -> int:
    """A seed of 32 bits for one thing of many, the same on every machine."""
    digest = hashlib.sha256("\0".join([str(seed), *names]).encode()).digest()
    return int.from_bytes(digest[:4], "little")


def generator(seed: int, *names: str) -> np.random.Generator:
    """A generator of its own for one weight of one group."""
    return np.random.Generator(np.random.Philox(named_seed(seed, *names)))


def fan_in(member: Member) -> int:
    """Number of inputs of one output of the member's weight.

    A producer's or per-channel row holds just these.  Of a consumer whose product is not known,
    the first axis that is not the member's own counts outputs; in ``(groups, o, i, ...)`` with
    joint axes 0 and 2, so does the axis of the groups.
    """
    if member.kind == "consumer" and member.fan_in:
        return member.fan_in
    size = math.prod(member.view)
    if member.kind != "consumer":
        return max(1, size // max(1, math.prod(member.view[axis] for axis in member.axes)))
    others = [axis for axis in range(len(member.view)) if axis not in member.axes]
    outputs = member.view[others[0]] if others else 1
    if member.axes == (0, 2):
        outputs *= member.view[0]
    return max(1, size // max(1, outputs))


def draw(
    shape: tuple[int, ...],
    init: str,
    member: Member,
    present: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """Weights of new channels.

    Parameters
    ----------
    shape : tuple of int
        ``(new channels, rows of each, ...)``.
    init : str
        As in :class:`Recipe`.
    member : Member
        For its fan-in.
    present : ndarray
        Weights of the surviving channels, for their spread; where it is zero (or nothing
        survives) all draw like ``"kaiming"``.
    rng : Generator

    Returns
    -------
    ndarray of float64
    """
    values = rng.standard_normal(shape)
    if init == "orthogonal":
        return GAIN * _orthonormal(values)
    spread = typical_spread(present) if init != "kaiming" else 0.0
    return values * (spread if spread > 0.0 else GAIN / fan_in(member) ** 0.5)


def typical_spread(weights: np.ndarray) -> float:
    """Standard deviation of the normal distribution with the same median size; zeros left out.

    At most the standard deviation: a few channels that took over the weights of many do not make
    it large, nor do outgoing weights that are still zero make it small.

    >>> round(typical_spread(np.array([0.0, 0.0, -0.6745, 0.6745, 0.6745, 80.0])), 3)
    1.0
    """
    sizes = np.abs(weights[weights != 0.0])
    return min(float(np.median(sizes)) / 0.6745, float(weights.std())) if sizes.size else 0.0


def _orthonormal(values: np.ndarray) -> np.ndarray:
    """Orthonormal rows (columns, where there are more rows than columns) from normal values."""
    rows = values.reshape(values.shape[0] * values.shape[1], -1)
    wide = rows.shape[0] <= rows.shape[1]
    q, r = np.linalg.qr(rows.T if wide else rows)
    q = q * np.where(np.diagonal(r) < 0, -1.0, 1.0)  # unique, whatever the LAPACK
    return (q.T if wide else q).reshape(values.shape)
