"""Filters of new channels along directions that the layer tells: orthogonal, or of its gradient.

With ``W`` the ``o`` filters of a layer as rows of ``d`` weights, ``n`` of them new, and ``v_i`` the
right-singular vectors of ``W`` in the order of falling singular values:

``null_space`` (RePr, Prakash et al. 2019)
    Random orthonormal rows in the span of ``v_i``, ``i > min(rank W, d - n)``: orthogonal to every
    filter that the layer had, kept or dropped, as long as the null space has room for all new
    ones.  Where it has not, they take the directions that the layer used least.
``gradient`` (after RigL, Evci et al. 2020)
    The leading right-singular vectors of the gradient ``G = dL/dW``, each turned so that the
    channel with the most to gain from it, ``argmax |G v|``, wants more of it.  RigL grows the
    single connections with the largest ``|G|``, the maximum of ``|g . v|`` over unit vectors
    along the axes; this is the maximum of ``|G v|`` over all directions.

All get the root mean square norm of the surviving filters.  Where there are more new channels than
directions (``d``, or the rank of ``G``), the rest is drawn as for ``match``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from ..find.channels import Member
from ..plan.plan import GroupPlan, filter_name
from .new_channels import draw, generator

# Singular values below this share of the largest are rounding: of float32 weights, squared here.
ROUNDING = 1e-12


def filters_of(members: Iterable[Member]) -> list[Member]:
    """Members whose weights are filters that new channels start with: trained ones.

    Producers' and depthwise weights; their gradients are needed for ``"gradient"``.
    """
    return [m for m in members if m.kind != "consumer" and m.role == "weight" and m.trained]


def prescribed_filters(
    plan: GroupPlan,
    weights: Mapping[str, np.ndarray],
    gradients: Mapping[str, np.ndarray] | None,
) -> dict[str, np.ndarray]:
    """Incoming weights of the new channels of a plan that follow from the layer.

    Parameters
    ----------
    plan : GroupPlan
    weights : mapping of str to ndarray
    gradients : mapping of str to ndarray or None
        Gradient of the loss by the name of the weight.

    Returns
    -------
    dict of str to ndarray, shape (new, rows of a channel, ...)
        By :func:`filter_name`; empty for other ways to start new channels.

    Raises
    ------
    ValueError
        A gradient is missing, of another shape or not finite.
    """
    found: dict[str, np.ndarray] = {}
    if plan.init not in ("null_space", "gradient"):
        return found
    assert plan.A is not None
    for member in filters_of(plan.members):
        name = member.weight
        rows = member.channels(np.asarray(weights[name]).astype(np.float64))
        gradient = None
        if plan.init == "gradient":
            if name not in (gradients or {}):
                raise ValueError(
                    f"expected the gradient of the loss for {name!r}, along which new channels "
                    "grow with init='gradient'; pass gradients={name: array of its shape}"
                )
            given = np.asarray((gradients or {})[name])
            if given.shape != np.shape(weights[name]) or not np.isfinite(given).all():
                raise ValueError(
                    f"expected a finite gradient of {name!r} in its shape "
                    f"{np.shape(weights[name])}, got shape {given.shape}"
                )
            gradient = member.channels(given.astype(np.float64))
        surviving = np.tensordot(plan.A[plan.survivors], rows, 1)
        rng = generator(plan.seed, plan.group, name, member.kind, str(member.axes))
        found[filter_name(member)] = _filters(
            plan.init, member, rows, surviving, len(plan.new), rng, gradient
        )
    return found


def _filters(
    init: str,
    member: Member,
    rows: np.ndarray,
    surviving: np.ndarray,
    n: int,
    rng: np.random.Generator,
    gradient: np.ndarray | None,
) -> np.ndarray:
    """Incoming weights of ``n`` new channels, shape (n, m, ...).

    ``rows`` (o, m, ...) are the filters of all channels as they were, ``surviving`` those that
    stay, after the merge; ``gradient``, like ``rows``, is needed for ``"gradient"``.
    """
    shape = (n, *rows.shape[1:])
    filters = draw(shape, "match", member, surviving, rng)
    flat = filters.reshape(n * rows.shape[1], -1)
    if init == "gradient":
        assert gradient is not None
        found = steepest_directions(gradient.reshape(-1, flat.shape[1]), len(flat))
    else:
        found = unused_directions(rows.reshape(-1, flat.shape[1]), flat)
    norms = np.sqrt((surviving.reshape(-1, flat.shape[1]) ** 2).sum(axis=1))
    norm = np.sqrt((norms**2).mean()) if norms.any() else np.sqrt((flat**2).sum(axis=1).mean())
    flat[: len(found)] = norm * found
    return flat.reshape(shape)


def unused_directions(W: np.ndarray, random: np.ndarray) -> np.ndarray:
    """Orthonormal rows, orthogonal to those of ``W`` or to all but the least used directions.

    Parameters
    ----------
    W : ndarray, shape (rows, d)
    random : ndarray, shape (n, d)
        Normal values, which decide among all such rows.

    Returns
    -------
    ndarray of float64, shape (min(n, d), d)

    Examples
    --------
    >>> W = np.array([[1.0, 0.0, 0.0], [2.0, 1.0, 0.0]])
    >>> abs(unused_directions(W, np.ones((1, 3))).round(6)).tolist()
    [[0.0, 0.0, 1.0]]
    """
    n, d = random.shape
    n = min(n, d)
    values, vectors = _right_singular(W)
    used = vectors[: min(int((values > 0.0).sum()), d - n)]
    free = random[:n]
    for _ in range(2):  # the second time removes what rounding left
        free = free - (free @ used.T) @ used
    q, r = np.linalg.qr(free.T)
    return (q * np.where(np.diagonal(r) < 0, -1.0, 1.0)).T


def steepest_directions(G: np.ndarray, n: int) -> np.ndarray:
    """Leading right-singular vectors of the gradient, at most ``n`` and its rank.

    >>> steepest_directions(np.array([[0.0, -3.0], [0.0, 1.0]]), 2).tolist()
    [[0.0, 1.0]]
    """
    values, vectors = _right_singular(G)
    found = vectors[: min(n, int((values > 0.0).sum()))]
    response = G @ found.T
    strongest = response[np.argmax(np.abs(response), axis=0), np.arange(len(found))]
    return np.where(strongest[:, None] > 0, -1.0, 1.0) * found


def _right_singular(W: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Squared singular values, descending, zero where they are rounding; and their vectors."""
    rows, d = W.shape
    if rows < d:
        values, left = np.linalg.eigh(W @ W.T)
        values = np.where(values > ROUNDING * values.max(initial=0.0), values, 0.0)
        kept = values > 0.0
        vectors = (left[:, kept].T @ W) / np.sqrt(values[kept])[:, None]
        return values[kept][::-1], vectors[::-1]
    values, right = np.linalg.eigh(W.T @ W)
    values = np.where(values > ROUNDING * values.max(initial=0.0), values, 0.0)
    return values[::-1], right.T[::-1]
