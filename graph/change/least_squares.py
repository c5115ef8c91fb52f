"""The refit of consumers: what they read before, from what they read once channels merged.

Consumers ``V`` read ``V x`` before, with ``x`` the channels of a group, and ``V' x'`` after.
``V' = V B^T`` comes nearest to it with::

    B = (G + s I)^-1 (C^T + s B_0)        X = E[x x^T],  C = E[x x'^T],  G = E[x' x'^T]

the expectation over samples and positions.  Every group is fitted as if the others stayed, with
``x' = A x``, from one look at the network as it was.  (To fit all to what the others make of it was
worse, the more rounds the worse: errors of one group are then made up for by large weights of the
next, which add up.)

The ridge ``s`` pulls towards the ``B_0`` of the plan, so that channels that merged exactly stay
exact, however collinear the survivors are.  A fifth of the samples is held out.  They take no part
in the fit; the ridge is the one under which ``V' x'`` comes nearest to ``V x`` on them::

    r(B) = tr(X - 2 C B + B^T G B) / tr X

A plan from few samples thus falls back to its own ``B_0``, the limit of a large ridge.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from ..arrays import Arrays
from ..find.channels import ChannelGroup, Tap, Unfit
from ..network import Team
from ..one_thread import on_one_thread
from ..plan.plan import GroupPlan
from .new_channels import fan_in
from .surgery import product

Watched = list[tuple[str, Callable[[Any], None]]]

RIDGES = tuple(10.0**k for k in range(-4, 4))  # relative to the mean of the survivors' E[x'^2]
LARGER = tuple(10.0**k for k in range(-3, 4))  # where nothing is held out: the first that serves
# What refits may let a channel's outgoing weights grow to where scale cannot be moved back
# (:mod:`.balance`), relative to the norm that they have when they are drawn (He et al. 2015).
LARGEST = 5.0
HELD_OUT = 5  # one of so many samples
ROUNDING = 1e-10  # of second moments, relative to the largest


def held_out(first: int, n: int) -> np.ndarray:
    """Which of the samples ``first`` to ``first + n`` of a pass are held out.

    In batches that are large enough this depends on the place in the batch alone, so that it does
    not matter which process reads which batches.

    >>> held_out(100, 8).tolist()
    [False, False, True, False, False, False, False, True]
    """
    start = 0 if n >= HELD_OUT else first
    return (start + np.arange(n)) % HELD_OUT == HELD_OUT // 2


@dataclass
class SecondMoments:
    """Sums over samples and positions of the channels of a group before and after a change.

    Attributes
    ----------
    X, C, G : ndarray, shape (o, o)
        Of ``x x^T``, ``x x'^T`` and ``x' x'^T``.
    samples : float
        How many.
    """

    X: np.ndarray
    C: np.ndarray
    G: np.ndarray
    samples: float = 0.0

    def merged(self, plan: GroupPlan) -> SecondMoments:
        """With ``x' = A x``, as if nothing before the group changed."""
        assert plan.A is not None
        C = product(plan.A, self.X).T  # X is symmetric
        return SecondMoments(self.X, C, product(plan.A, C), self.samples)

    def residual(self, plan: GroupPlan) -> float:
        """``r(B)`` of the exchangeable channels: 0 is perfect, 1 is what silence would give."""
        assert plan.B is not None
        S = plan.movable
        return self.missed(plan.B[np.ix_(S, S)], S, S)

    def missed(self, b: np.ndarray, kept: np.ndarray, S: np.ndarray) -> float:
        """``r(B)`` of the channels ``S``, whose columns of ``B`` are ``b`` at ``kept``, else 0."""
        total = np.trace(self.X[np.ix_(S, S)])
        if total <= 0.0:
            return 0.0
        C, G = self.C[np.ix_(S, kept)], self.G[np.ix_(kept, kept)]
        rest = total - 2.0 * np.sum(C.T * b) + np.sum(b * (G @ b))
        return float(max(rest, 0.0) / total)


class Sums:
    """Second moments of one group as it was (``x' = x``), over all tensors that describe it.

    Attributes
    ----------
    fitted, held : SecondMoments
        Of the samples that the fit uses, and of those that it does not.
    """

    def __init__(self, group: ChannelGroup, arrays: Arrays) -> None:
        zeros = np.zeros((2, group.channels, group.channels))
        self.group, self._arrays = group, arrays
        self.fitted, self.held = (SecondMoments(X, X, X) for X in zeros)

    def watch(self, first: int, n: int) -> Watched:
        """What to look at in a run of the network before, of ``n`` samples after ``first``."""
        out = held_out(first, n)
        self.fitted.samples += n - out.sum()
        self.held.samples += out.sum()
        taps = () if self.group.tap is None else self.group.tap.each
        return [(tap.tensor, partial(self._look, out, tap)) for tap in taps]

    def _look(self, out: np.ndarray, tap: Tap, activation: Any) -> None:
        arrays = self._arrays
        try:
            x = arrays.positions(arrays.channels_first(activation, tap, len(out)))
        except Unfit:  # the class means of the same tensor say so, and the group is left out
            return
        for sums, samples in ((self.fitted, ~out), (self.held, out)):
            if samples.any():
                sums.X += arrays.gram(x, x, np.flatnonzero(samples))

    def share(self, team: Team) -> None:
        """Sums over all processes."""
        for sums in (self.fitted, self.held):
            X, samples = team.sum_arrays(sums.X, sums.samples)
            sums.X = sums.C = sums.G = X
            sums.samples = float(samples)


@on_one_thread
def refit(
    plan: GroupPlan,
    fitted: SecondMoments,
    held: SecondMoments | None = None,
    bounded: Mapping[str, np.ndarray] | None = None,
) -> GroupPlan:
    """Let the consumers reproduce what they read before, by least squares.

    Every exchangeable set is solved on its own, with a ridge of its own; new channels contribute
    nothing.  A plan that changes nothing stays as it is.

    Parameters
    ----------
    plan : GroupPlan
        Of kind ``"reorganize"``; its ``B`` is what the ridge pulls towards.
    fitted : SecondMoments
    held : SecondMoments, optional
        Of held-out samples; without any, the ridge is 1e-3.
    bounded : mapping of str to ndarray, optional
        Weights of the consumers before the change.  With them, only ridges are chosen under which
        no channel's outgoing weights are larger than ``LARGEST`` times what is drawn.  For groups
        in which scale cannot move (:mod:`.balance`), whose survivors would else grow by every
        event of a training.

    Raises
    ------
    ValueError
        Where the plan only permutes, or a matrix has another shape or is not finite.

    Examples
    --------
    Of four channels that are made of two, those two make up for the others:

    >>> import numpy as np
    >>> from rejuvenet.graph import Graph, Recipe, composites, find_groups, refit, reorganize_plan
    >>> from rejuvenet.graph.change.least_squares import SecondMoments
    >>> graph = Graph(inputs=["x"], outputs=["y"], weights={"a": "first", "b": "second"}, shapes={
    ...     "x": (5, 1), "a": (1, 4), "h": (5, 4), "b": (4, 1), "y": (5, 1)})
    >>> composites.multiplied(graph, "x", "a", "h")
    >>> composites.multiplied(graph, "h", "b", "y")
    >>> weights = {"first": np.array([[1.0, 4, 2, 3]]), "second": np.array([[1.0], [2], [3], [4]])}
    >>> recipe = Recipe.comparison("l2", ratio=0.5)
    >>> plan = reorganize_plan(find_groups(graph)[0], weights, recipe)
    >>> x = np.random.default_rng(0).normal(size=(100, 2)) @ [[1, 0, 2, 1], [0, 1, 1, 2]]
    >>> sums = SecondMoments(x.T @ x, x.T @ x, x.T @ x, samples=100).merged(plan)
    >>> sums.residual(plan) > 0.5, sums.residual(refit(plan, sums)) < 1e-3
    (True, True)
    """
    if plan.A is None or plan.B is None:
        raise ValueError(f"expected a plan that reorganizes, got one that arranges {plan.group!r}")
    shape = (plan.channels, plan.channels)
    for matrix in (fitted.X, fitted.C, fitted.G):
        if matrix.shape != shape:
            raise ValueError(
                f"expected matrices of shape {shape} for group {plan.group!r}, got {matrix.shape}"
            )
        if not np.isfinite(matrix).all():
            raise ValueError(
                f"expected finite activations of group {plan.group!r}, got NaN or infinity"
            )
    if plan.idle:
        return plan
    bound = None if bounded is None else _Bound(plan, bounded)
    B0 = plan.B if bound is None else bound.prior
    B = B0.copy()
    judged = held if held is not None and held.samples else None
    missing = fitted.C.T - product(B0.T, fitted.G).T
    wrong = np.abs(missing).max(axis=0) > ROUNDING * np.abs(fitted.C).max()
    for S in plan.sets:
        kept = np.setdiff1d(S, plan.new)
        made_up = S[wrong[S]]  # the others are read as they were, whatever the ridge
        if not made_up.size:
            continue
        block = np.ix_(kept, made_up)
        prior = B0[block]
        solved = _solutions(fitted.G[np.ix_(kept, kept)], missing[block], prior)
        ridges = RIDGES if judged is not None else LARGER
        tried: Iterator[np.ndarray] = itertools.chain(map(solved, ridges), [prior])
        if judged is not None:
            tried = iter(sorted(tried, key=partial(judged.missed, kept=kept, S=made_up)))
        B[block] = next(
            b for b in tried if b is prior or bound is None or bound.allows(b, kept, made_up)
        )
    return replace(plan, B=B, outgoing="least_squares")


class _Bound:
    """How large the outgoing weights of a channel may become.

    Where ``V``, shape (channels, ...), are all the weights that read a group, the squared norms
    of ``B V`` are the diagonal of ``B (V V^T) B^T``.
    """

    def __init__(self, plan: GroupPlan, weights: Mapping[str, np.ndarray]) -> None:
        reading = [m for m in plan.members if m.kind == "consumer"]
        self._products = np.zeros((plan.channels, plan.channels))
        for m in reading:
            V = m.channels(np.asarray(weights[m.weight])).astype(np.float64)
            V = V.reshape(plan.channels, -1)
            self._products += V @ V.T
        self._limit = LARGEST**2 * sum(
            2.0 * weights[m.weight].size / len(m.positions) / fan_in(m) for m in reading
        )
        assert plan.B is not None
        read = product(plan.B, self._products)
        norms = np.sum(read * plan.B, axis=1)
        scale = np.sqrt(self._limit / np.maximum(norms, self._limit))[:, None]
        self.prior, self._read, self._norms = scale * plan.B, scale * read, scale[:, 0] ** 2 * norms

    def allows(self, b: np.ndarray, kept: np.ndarray, S: np.ndarray) -> bool:
        """Whether ``b`` may take the place of the rows ``kept`` and columns ``S`` of the prior."""
        d = b - self.prior[np.ix_(kept, S)]
        norms = self._norms[kept] + np.sum(
            (2.0 * self._read[np.ix_(kept, S)] + d @ self._products[np.ix_(S, S)]) * d, axis=1
        )
        return bool(norms.max(initial=0.0) <= self._limit)


def _solutions(
    G: np.ndarray, missing: np.ndarray, prior: np.ndarray
) -> Callable[[float], np.ndarray]:
    """The rows of ``B`` of the survivors of one set, for every ridge.

    ``prior + (G + s I)^-1 (C^T - G prior)``, which is the solution above.
    """
    scale = np.trace(G) / max(1, len(G))
    values, vectors = np.linalg.eigh(G)
    change = vectors.T @ missing

    def solved(ridge: float) -> np.ndarray:
        if not scale > 0.0:  # silent survivors: there is nothing to fit
            return prior
        return prior + vectors @ (change / (np.maximum(values, 0.0) + ridge * scale)[:, None])

    return solved
