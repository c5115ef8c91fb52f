"""Epochs of the batch rule on data in memory, with threads.

A :class:`Sweep` knows one array of samples and computes, for a codebook, the winners and the sums
and counts per node of eq. 8 (:func:`.search.accumulate`), pruned where that is cheaper.

Threads are Python threads around kernels that release the global interpreter lock: they need no
threading layer (forked processes and other libraries' thread pools are safe), and the caller works
too.  While they run, BLAS has nothing to do, so its threads do not spin beside them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from . import search
from .tile import PANEL, TILE_ROWS, pack_panels

LEVELS = (7, 15, 31)  # directions to search in; with the residual's norm 8, 16 and 32 numbers
PROJECTED_BYTES = 32 << 20  # projections are kept up to this size, else recomputed by chunk
SCORES_BYTES = 192 << 10  # scores of a block, to stay in a second-level cache with the nodes
SUMS_BYTES = 24 << 20  # sums and counts of all threads together
PILOT_ROWS = 512
WORTH_THREADS = 2e6  # multiply-adds of an epoch under which waking a thread costs more


def n_threads(n_jobs: int | None) -> int:
    """Threads to use: all that the process may run on for ``None`` or -1."""
    try:
        available = len(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        available = os.cpu_count() or 1
    if n_jobs is None:
        return available
    return max(1, n_jobs if n_jobs > 0 else available + 1 + n_jobs)


@cache
def _libraries() -> ThreadpoolController:
    """The process's thread pools; looked for once, for that takes as long as ten small epochs."""
    return ThreadpoolController()


@contextmanager
def threads_for(n_jobs: int | None, samples, n_nodes: int):
    """The number of threads for an epoch, and a pool of all but the caller's.

    BLAS keeps to one thread meanwhile: spinning beside the pool, its threads cost up to 6 times.
    """
    small = samples.n_rows * samples.n_features * n_nodes < WORTH_THREADS
    threads = 1 if small else n_threads(n_jobs)
    with _libraries().limit(limits=1, user_api="blas"):
        if threads == 1:
            yield 1, None
            return
        with ThreadPoolExecutor(threads - 1) as pool:
            yield threads, pool


def share(pool: ThreadPoolExecutor | None, threads: int, work: Callable[[int], object]) -> list:
    """``[work(0), ..., work(threads - 1)]``, the first in the calling thread."""
    if pool is None or threads == 1:
        return [work(t) for t in range(threads)]
    others = [pool.submit(work, t) for t in range(1, threads)]
    return [work(0), *(other.result() for other in others)]


def rows_per_block(n_nodes: int) -> int:
    """Rows whose scores fit ``SCORES_BYTES``: between four tiles and sixteen."""
    tiles = SCORES_BYTES // (4 * (n_nodes + PANEL)) // TILE_ROWS
    return TILE_ROWS * int(np.clip(tiles, 4, 16))


def packed(weights: NDArray, bias: NDArray) -> NDArray[np.float32]:
    """Panels of ``weights`` (K, n) with ``bias`` (K,), see :func:`.tile.pack_panels`."""
    n_nodes, n = weights.shape
    panels = np.empty((-(-n_nodes // PANEL), 1 + n, PANEL), np.float32)
    pack_panels(weights, bias, panels)
    return panels


class Nodes:
    """A codebook made ready for a search: centred, scaled and packed."""

    def __init__(self, codebook: NDArray, centre: NDArray, scale) -> None:
        K, D = codebook.shape
        self.codebook = codebook
        self.gamma = search.gamma_full(D)
        self.nodes = np.zeros((K, -(-D // search.LANES) * search.LANES), np.float32)
        self.halves = np.empty((3, K), np.float32)
        search.prepare_nodes(
            codebook, centre, float(scale), self.gamma, self.nodes, self.halves
        )

    def panels(self) -> NDArray[np.float32]:
        return packed(self.nodes[:, : self.codebook.shape[1]], self.halves[1])


class Sweep:
    """Winners, sums and counts for one array of samples and any codebook.

    Parameters
    ----------
    X : float32 or float64 array of shape (N, D), C-contiguous, finite
    weights : float64 array of shape (N,), or None
    centre : array of shape (D,), of X's type
        A point amid the data, to keep float32 scores precise.
    reach : float
        Largest ``|x - centre|`` of any feature, of samples and nodes.
    grids : tuple of three floats
        :func:`.search.grid_constant` of sums, counts and errors.
    directions : float32 array of shape (q, D), or None
        Orthonormal; None searches the full space.
    threads : int
    pool : ThreadPoolExecutor or None
    labels : int32 array of shape (N,), or None
        Winners of the epoch before (-1: unknown); every epoch overwrites them.
    """

    def __init__(
        self, X, weights, centre, reach, grids, directions, threads, pool, labels=None
    ) -> None:
        self.X = X
        self.weights = np.empty(0) if weights is None else weights
        self.centre = centre
        self.scale = X.dtype.type(np.ldexp(1.0, -int(np.frexp(reach)[1])) if reach > 0 else 1.0)
        self.grids = grids
        self.threads, self.pool = threads, pool
        self.labels = np.full(len(X), -1, np.int32) if labels is None else labels
        self.full_share = 0.0  # share of nodes scored in full in the last epoch
        self.q = 0
        self._set_directions(directions)

    def _set_directions(self, directions) -> None:
        self.levels = np.empty(0, np.int64)
        self.projected: NDArray[np.float32] | None = None
        if directions is None:
            return
        q, D = directions.shape
        self.levels = np.array([level for level in LEVELS if level <= q], np.int64)
        slack = [3 * search.epsilon_projection(D, level) for level in self.levels.tolist()]
        self.slack = np.array(slack)
        self.directions = packed(-directions.astype(np.float32), np.zeros(q, np.float32))
        self.width = int(self.levels[-1]) + len(self.levels)
        if len(self.X) * self.width * 4 <= PROJECTED_BYTES:
            self.projected = np.empty((len(self.X), self.width), np.float32)
            self._each_thread(self._project_into)

    def _each_thread(self, work: Callable[[int, int], object]) -> list:
        """``work(first, last)`` for one range of rows per thread."""
        edges = np.linspace(0, len(self.X), self.threads + 1).astype(int)
        return share(self.pool, self.threads, lambda t: work(int(edges[t]), int(edges[t + 1])))

    def _project(self, X, first, last, out) -> None:
        search.project(
            X, first, last, self.centre, self.scale, self.directions, self.levels, self.slack, out
        )

    def _project_into(self, first: int, last: int) -> None:
        assert self.projected is not None
        self._project(self.X, first, last, self.projected[first:last])

    def _ranges(self, first: int, last: int) -> Iterator[tuple[int, int, NDArray, int]]:
        """Row ranges with their projections and the row where those begin."""
        if self.q == 0:
            yield first, last, np.empty((0, 0), np.float32), 0
        elif self.projected is not None:
            yield first, last, self.projected, 0
        else:
            buffer = np.empty((8192, self.width), np.float32)
            for start in range(first, last, len(buffer)):
                stop = min(start + len(buffer), last)
                self._project(self.X, start, stop, buffer)
                yield start, stop, buffer, start

    def _panels(self, nodes: Nodes, q: int) -> tuple[NDArray, int, float]:
        """Packed nodes, the column of the residual and gamma, for ``q`` directions."""
        if q == 0:
            return nodes.panels(), 0, 0.0
        level = int(np.searchsorted(self.levels, q))
        K, D = nodes.codebook.shape
        gamma_q = search.gamma_projected(D, q)
        bias = nodes.halves[0] * np.float32(1 - 2 * gamma_q)
        column = int(self.levels[-1]) + level
        panels = np.empty((-(-K // PANEL), q + 2, PANEL), np.float32)
        search.pack_projected(self._projected_nodes, q, column, bias, panels)
        return panels, column, gamma_q

    def _accumulate(self, nodes, panels, column, gamma_q, ranges, q, labels, sums, counts):
        error, full = 0.0, 0
        big, big_weight, big_error = self.grids
        for first, last, projected, offset in ranges:
            e, f = search.accumulate(
                self.X, self.weights, first, last, self.centre, self.scale,
                nodes.codebook, nodes.nodes, nodes.halves, nodes.gamma,
                panels, projected, offset, q, column, gamma_q,
                rows_per_block(len(nodes.codebook)), labels,
                big, big_weight, big_error, sums, counts,
            )  # fmt: skip
            error += e
            full += f
        return error, full

    def _choose(self, nodes: Nodes) -> int:
        """Directions for this codebook: the cheapest on the first rows (0: the full space).

        The cost of a node that is scored in full is about that of ``D + 24`` multiply-adds of the
        micro-kernel times 3 (its row is fetched and its sum reduced alone; measured with AVX2).
        """
        K, D = nodes.codebook.shape
        rows = min(PILOT_ROWS, len(self.X))
        cost = {0: K * D}
        for q in self.levels.tolist():
            panels, column, gamma_q = self._panels(nodes, q)
            projected = self.projected
            if projected is None:
                projected = np.empty((rows, self.width), np.float32)
                self._project(self.X, 0, rows, projected)
            nothing = np.empty((0, 0)), np.empty(0)
            _, full = self._accumulate(
                nodes, panels, column, gamma_q, [(0, rows, projected, 0)], q,
                self.labels[:rows].copy(), *nothing,
            )  # fmt: skip
            cost[q] = K * (q + 1) + 3 * (D + 24) * full / rows
        return min(cost, key=cost.__getitem__)

    def epoch(self, codebook: NDArray, update: bool = True):
        """Winners (in ``labels``), sums, counts and the sum of distances for a codebook.

        Returns
        -------
        sums : float64 array of shape (K, D)
        counts : float64 array of shape (K,)
        error : float
        """
        K, D = codebook.shape
        nodes = Nodes(codebook, self.centre, self.scale)
        if len(self.levels):
            self._projected_nodes = np.empty((K, self.width), np.float32)
            self._project(codebook, 0, K, self._projected_nodes)
            self.q = self._choose(nodes)
        panels, column, gamma_q = self._panels(nodes, self.q)
        shape = (K, D) if update else (0, 0)

        def work(first: int, last: int):
            sums, counts = np.zeros(shape), np.zeros(K if update else 0)
            error, full = self._accumulate(
                nodes, panels, column, gamma_q, self._ranges(first, last), self.q,
                self.labels, sums, counts,
            )  # fmt: skip
            return sums, counts, error, full

        parts = self._each_thread(work)
        sums, counts, error, full = parts[0]
        for s, n, e, f in parts[1:]:
            sums += s
            counts += n
            error += e
            full += f
        self.full_share = full / (len(self.X) * K)
        return sums, counts, error / float(self.scale)

    def two_nearest(self, codebook: NDArray):
        """The two best matching units (N, 2) and the float64 distance to the first (N,)."""
        nodes = Nodes(codebook, self.centre, self.scale)
        panels = nodes.panels()
        nearest = np.empty((len(self.X), 2), np.int32)
        distances = np.empty(len(self.X))
        block_rows = rows_per_block(len(codebook))

        def work(first: int, last: int) -> None:
            search.two_nearest(
                self.X, first, last, self.centre, self.scale, codebook, panels, nodes.halves,
                nodes.gamma, block_rows, nearest, distances,
            )  # fmt: skip

        self._each_thread(work)
        return nearest, distances
