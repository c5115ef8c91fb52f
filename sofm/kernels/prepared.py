r"""A codebook made ready for a search: scores that bound the true ones from below.

Samples and nodes are centred and scaled by a power of two (:class:`Frame`), for the precision of
``s_k = |w_k|^2/2 - x.w_k`` in float32.

**All features.**  A float32 score is off by at most ``G (|w|^2/2 + |x||w|)``, ``G = gamma_D``
(:mod:`.rounding`), and ``|x||w| <= |x|^2/2t + t|w|^2/2`` for any ``t``; the ratio of a typical
``|x|`` to a typical ``|w|`` gives the least.  The bias of every node is lowered by
``G (1 + t) |w|^2/2``, which leaves the sample's ``margin = G/2t``.

**A few directions.**  Let ``p(x)`` be the coordinates of ``x`` on ``q`` orthonormal directions and
``r(x)`` the norm of what they leave.  By Cauchy and Schwarz ``x.w <= p(x).p(w) + r(x) r(w)``, hence
the score of the ``q + 1`` numbers ``(p, r)`` never exceeds the true one: a search ``(q + 1)/D`` as
costly.  Nodes are projected in float64; the samples' rounded coordinates (``eps`` of
:mod:`.rounding`) are met by a larger ``r(x)^2 + 2.2 eps |x|^2`` and ``G = eps + gamma_q``.

The directions are the principal ones of the *codebook*, found anew every epoch or every few
(:class:`Preparation`): a neighbourhood of ``sigma`` nodes leaves a map of ``K`` nodes about
``K / sigma`` dimensions, so that ``r(w)`` nearly vanishes until the last epochs.  (With the
principal directions of the data, 10 times as many nodes were left to compute on a line of 1,024.)
One step of subspace iteration from those of the epoch before is enough: any orthonormal directions
give exact winners.  Bounds from the movement of the nodes (Elkan 2003, Hamerly 2010) do not help
here: every node moves every epoch.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise, product
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..compiled import compiled
from ..rounding import UNIT, WORDS, gamma
from .balls import Balls, has_balls
from .block import LANES, Kept, Nodes
from .search import lifted, search_rows
from .tile import pack_panels
from .vectors import ANY_ORDER, PANEL, TILE_ROWS

LEVELS = (7, 15, 31)  # directions to search in; with the norm of the rest 8, 16 and 32 numbers
WORTH_PRUNING = 3e8  # multiply-adds of an epoch under which finding directions does not pay
WORTH_TIMING = 3e7  # and under which finding out about balls does not pay
PILOT_SHARE, PILOT_ROWS = 512, (32, 512)  # one row in 512 chooses the level, so many at least, most
BLOCK_ROWS = 192  # of a block (with 96, workload b of the benchmark takes 5 % longer, with 48 20 %)
BLOCK_BYTES = 1 << 20  # of its samples and scores
EVERY = 6  # turns
MULTIPLY_ADDS = 1e10  # of a second, nominally: how work is counted
KEPT_SHARE, KEPT_BYTES = 1 / 8, 256 << 20  # of the samples' size, and in all, may be kept of them
NO_BALLS = Balls(1, 0)
NO_KEPT = Kept(np.empty((0, 1), np.float32), np.empty(0), False)
NO_NODES = np.empty((0, 1), np.int32)
NO_GRIDS = np.empty((0, 1)), np.empty((0, 1))
NO_SUMS = np.empty((0, 1, 1)), np.empty((0, 1, 1))


@dataclass(frozen=True)
class Frame:
    """Where the samples are.

    Parameters
    ----------
    centre : array of shape (D,), of the samples' type
        A point amid the data.
    scale : float of that type
        A power of two; coordinates are then at most 1.
    mean_square : float
        Mean ``|x|^2`` of centred, scaled samples.
    """

    centre: NDArray
    scale: np.floating
    mean_square: float

    @property
    def distance_scale(self) -> float:
        """Of the distances that a search adds up."""
        return float(lifted(self.scale))


@compiled(fastmath=ANY_ORDER)
def centre_nodes(codebook, centre, scale, w, nodes, squares):
    """Centred, scaled nodes in float64 (K, D) and float32 (K, padded D), and their squares (K,)."""
    for k in range(w.shape[0]):
        for d in range(w.shape[1]):
            w[k, d] = (np.float64(codebook[k, d]) - np.float64(centre[d])) * scale
        for d in range(w.shape[1]):
            nodes[k, d] = w[k, d]
        total = 0.0
        for d in range(w.shape[1]):
            total += w[k, d] * w[k, d]
        squares[k] = total


@compiled
def lower(squares, mean_square, G, halves):
    """Lowered biases (K,), and the sample's margin; see the top of this module."""
    typical = 0.0
    for square in squares:
        typical += square / squares.shape[0]
    t = np.sqrt(mean_square / typical) if mean_square * typical > 0 else 1.0
    t = min(max(t, 2.0**-8), 2.0**8)
    for k in range(squares.shape[0]):
        halves[k] = squares[k] * (0.5 - G * (1 + t) / 2)
    return G / (2 * t) + 4 * UNIT


def directions_of(w: NDArray, q: int, before: NDArray | None) -> tuple[NDArray, NDArray]:
    """Nearly the first ``q`` principal directions of nodes, orthonormal, and the coordinates.

    Parameters
    ----------
    w : float64 array of shape (K, D)
        Centred nodes.
    before : float64 array of shape (n, D), or None
        Directions to start from; fewer than ``q`` are of no use.

    Returns
    -------
    directions : float64 array of shape (q, D)
    coordinates : float64 array of shape (K, q)
    """
    steps = 1
    if before is None or len(before) < q:
        steps, before = 3, np.random.default_rng(0).standard_normal((q, w.shape[1]))
    before = before[:q]
    rough = w.astype(np.float32)
    for _ in range(steps):
        step = rough.T @ (rough @ before.T.astype(np.float32))
        before = np.linalg.qr(step.astype(np.float64))[0].T
    along = w @ before.T
    turn = np.linalg.eigh(along.T @ along)[1][:, ::-1]
    return turn.T @ before, along @ turn


def packed(weights: NDArray, bias: NDArray) -> NDArray[np.float32]:
    """Panels of ``weights`` (K, n) with ``bias`` (K,), see :func:`.tile.pack_panels`."""
    panels = np.empty((-(-len(weights) // PANEL), 1 + weights.shape[1], PANEL), np.float32)
    pack_panels(weights, bias, panels)
    return panels


def block_rows(n_nodes: int, n_features: int) -> int:
    """Samples that are searched together, a multiple of ``TILE_ROWS``.

    Many, because every block has its price, and where panels are left out several rows should go
    to every panel; but they and their scores should stay in the second-level cache.
    """
    fits = BLOCK_BYTES // (4 * (n_nodes + 2 * n_features)) // TILE_ROWS
    return TILE_ROWS * min(max(fits, 18 // TILE_ROWS), BLOCK_ROWS // TILE_ROWS)


class Prepared:
    """A codebook and what a search needs to know of it.

    Parameters
    ----------
    frame : Frame
    codebook : array of shape (K, D), of the samples' type

    Notes
    -----
    :meth:`in_all_features` or :meth:`in_directions` comes before :meth:`search`.
    """

    def __init__(self, frame: Frame, codebook: NDArray) -> None:
        K, D = codebook.shape
        self.frame, self.codebook = frame, np.empty_like(codebook)
        self.origin, self.block_rows = frame.centre * frame.scale, block_rows(K, D)
        self.w = np.empty((K, D))
        self.centred = np.zeros((K, -(-D // LANES) * LANES), np.float32)
        self.squares, self.halves = np.empty(K), np.empty(K, np.float32)
        self.bounds = np.zeros(4)
        self.work = float(codebook.size)  # of a row, in multiply-adds
        self.panels_of_all = np.empty((-(-K // PANEL), 1 + D, PANEL), np.float32)
        self.balls_of_all = Balls(K, D)
        self.kept = NO_KEPT
        self.fill(codebook)

    def fill(self, codebook: NDArray) -> None:
        """Another codebook, in the same memory."""
        frame = self.frame
        self.codebook[:] = codebook
        centre_nodes(codebook, frame.centre, frame.scale, self.w, self.centred, self.squares)
        self.bounds[2] = self._lowered(gamma(codebook.shape[1]), self.halves)
        self._enclosed = False

    def _lowered(self, G: float, halves: NDArray[np.float32]) -> float:
        return lower(self.squares, self.frame.mean_square, G, halves)

    def _enclose(self) -> None:
        """The balls of the nodes in all features, which other balls need as well."""
        if not self._enclosed:
            self.balls_of_all.enclose(self.w)
            self._enclosed = True

    def in_all_features(self, with_balls: bool = False) -> None:
        D = self.codebook.shape[1]
        G, self.q = gamma(D), 0
        self.bounds[:] = 0.0, self.bounds[2], self.bounds[2], G
        self.directions = np.empty((0, 1 + D, PANEL), np.float32)
        self.panels, self.with_balls = self.panels_of_all, with_balls
        pack_panels(self.w, self.halves, self.panels)
        if with_balls:
            self._enclose()
            self.balls = self.balls_of_all
            self.balls.prepare(self.balls.extents, 0, G)
        self._ready()

    def in_directions(self, directions: NDArray, p: NDArray, with_balls: bool = False) -> None:
        """Search in orthonormal directions (q, D), in which the nodes are ``p`` (K, q)."""
        self.q = q = len(directions)
        eps = np.sqrt(q) * gamma(self.codebook.shape[1])
        halves = np.empty_like(self.halves)
        G = eps + gamma(q + 1)
        self.bounds[:2], self.bounds[3] = (2.2 * eps, self._lowered(G, halves)), G
        rest = self.squares - np.einsum("kq,kq->k", p, p)
        r = np.sqrt(np.maximum(rest, 0) + 1e-13 * self.squares)
        self.directions = packed(-directions, np.zeros(q, np.float32))
        numbers = np.column_stack([p, r])
        self.panels, self.with_balls = packed(numbers, halves), with_balls
        if with_balls:
            self._enclose()
            self.balls = Balls(*numbers.shape)
            self.balls.enclose(numbers)
            self.balls.prepare(self.balls_of_all.extents, q, G)
        self._ready()

    def _ready(self) -> None:
        """Gather what a search reads."""
        frame, balls = self.frame, self.balls if self.with_balls else NO_BALLS
        self.nodes = Nodes(
            self.codebook, self.origin, frame.scale, self.centred, self.halves,
            self.panels, self.directions, self.q, balls.panels, balls.known, self.bounds,
            self.block_rows,
        )  # fmt: skip

    def search(self, X, first, last, weights, grids, before, nearest, sums, counts, error) -> int:
        """:func:`.search.search_rows` with this codebook; ``weights`` may be None."""
        weights = np.empty(0) if weights is None else weights
        return search_rows(
            self.nodes, self.kept, X, first, last, weights, before, *grids,
            nearest, sums, counts, error,
        )  # fmt: skip


class Preparation:
    """Prepares one codebook after the other, each for the fastest way to search it.

    A way is a number of directions (0: all features) and whether panels are left out by their
    balls.  Which is fastest depends on the map, the epoch and the machine: every few turns, and
    after a change in the next, some samples, the pilot, are searched by the clock in the way that
    was last the fastest and in those next to it.

    Of wide samples most time goes into their coordinates.  Where all of them are searched turn by
    turn, these are kept from the second turn on, with the directions, as long as the pilot is
    searched faster on them than on new ones.

    Parameters
    ----------
    frame : Frame
    pilot : array of shape (n, D)
        Samples that stand for all.
    n_rows, n_nodes : int
    same_rows : bool
        Whether every search is of the same samples, ``n_rows`` rows of one array.
    """

    def __init__(
        self, frame: Frame, pilot: NDArray, n_rows: int, n_nodes: int, same_rows: bool = False
    ) -> None:
        D = pilot.shape[1]
        self.frame = frame
        self.n_rows, self.same_rows = n_rows, same_rows
        work = n_rows * D * n_nodes
        levels = [0]
        if D >= 32 and work >= WORTH_PRUNING:
            levels += [q for q in LEVELS if 2 * q < min(D, n_nodes)]
        balls = [False, True] if work >= WORTH_TIMING and has_balls(n_nodes) else [False]
        self.ways = list(product(levels, balls))
        if len(self.ways) > 1:
            rows = min(len(pilot), int(np.clip(n_rows // PILOT_SHARE, *PILOT_ROWS)))
            spread = np.linspace(0, len(pilot) - 1, rows).astype(int)
            self.pilot = np.ascontiguousarray(pilot[spread])
        self.prepared: Prepared | None = None
        self.directions: Any = None
        self.best: tuple[int, bool] | None = None
        self.wait = 0  # turns until others are tried
        self.pilot_kept, self.seconds = NO_KEPT, 0.0  # on new directions, and what these took

    def __call__(self, codebook: NDArray) -> Prepared:
        """The codebook, ready until the next one comes."""
        if self.prepared is None:
            self.prepared = Prepared(self.frame, codebook)
        else:
            self.prepared.fill(codebook)
        prepared = self.prepared
        self.wait -= 1
        if self._goes_on(prepared):
            return prepared
        first = self.directions is None
        ways = [way for way in self.ways if self._is_tried(way)]
        most = max(q for q, _ in ways)
        if most:
            self.directions, p = directions_of(prepared.w, most, self.directions)

        def prepare(way: tuple[int, bool]) -> None:
            q, with_balls = way
            if q == 0:
                prepared.in_all_features(with_balls)
            else:
                prepared.in_directions(self.directions[:q], p[:, :q], with_balls)

        seconds = {}
        for way in ways:
            prepare(way)
            if len(ways) > 1:
                memory = self._memory(len(self.pilot), prepared.q)
                took = self._time(prepared, memory)
                if len(memory.coordinates):  # most turns will know them
                    took = self._time(prepared, memory._replace(known=True))
                seconds[way] = took / len(self.pilot)
        if seconds:
            last, self.best = self.best, min(seconds, key=seconds.__getitem__)
            self.wait = EVERY if self.best == last else 1
            prepared.work = min(codebook.size, MULTIPLY_ADDS * seconds[self.best])
        if self.best not in (None, ways[-1]):
            prepare(self.best)
        self.pilot_kept = NO_KEPT if first else self._memory(len(self.pilot), prepared.q)
        if len(self.pilot_kept.coordinates):
            self.seconds = self._time(prepared, self.pilot_kept)
            prepared.kept = self._memory(self.n_rows, prepared.q)
        return prepared

    def _memory(self, n_rows: int, q: int) -> Kept:
        """Where to keep what becomes known of so many samples, if that pays."""
        D = self.frame.centre.size
        n_bytes = 4 * self.n_rows * (q + 3)
        most = min(KEPT_BYTES, KEPT_SHARE * self.n_rows * D * self.frame.centre.itemsize)
        if not (self.same_rows and q and n_bytes <= most):
            return NO_KEPT
        return Kept(np.empty((n_rows, q + 1), np.float32), np.empty(n_rows), False)

    def _goes_on(self, prepared: Prepared) -> bool:
        """Ready on the directions of the turn before, if they still serve."""
        rows = prepared.kept._replace(known=True)
        prepared.kept = NO_KEPT
        if self.best is None or self.wait <= 0 or not len(rows.coordinates):
            return False
        q, with_balls = self.best
        directions = self.directions[:q]
        prepared.in_directions(directions, prepared.w @ directions.T, with_balls)
        if self._time(prepared, self.pilot_kept._replace(known=True)) > self.seconds:
            return False
        prepared.kept = rows
        return True

    def _is_tried(self, way: tuple[int, bool]) -> bool:
        """Whether a way is the last fastest one or, if its turn has come, one step from it."""
        if self.best is None:
            return True
        if self.wait > 0:
            return way == self.best
        levels = sorted({q for q, _ in self.ways})
        apart = abs(levels.index(way[0]) - levels.index(self.best[0]))
        return apart + (way[1] != self.best[1]) <= 1

    def _time(self, prepared: Prepared, kept: Kept) -> float:
        """Seconds for the pilot: the better of two, as the system may put a thread aside."""
        n = len(self.pilot)
        nearest, words = np.empty((n, 1), np.int32), np.zeros(WORDS, np.int64)
        prepared.kept = kept
        times = [perf_counter()]
        for _ in range(2):
            prepared.search(self.pilot, 0, n, None, NO_GRIDS, NO_NODES, nearest, *NO_SUMS, words)
            times.append(perf_counter())
        prepared.kept = NO_KEPT
        return min(b - a for a, b in pairwise(times))
