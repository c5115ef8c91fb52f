"""What a search reads of a codebook, and its memory for a block of rows."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..compiled import compiled
from .tile import n_groups
from .vectors import GROUP_NODES, PANEL, TILE_ROWS, WIDTH

LANES = 16  # rows are padded to a multiple of the widest vector


class Nodes(NamedTuple):
    """A codebook as a search reads it; made by :class:`.prepared.Prepared`.

    Attributes
    ----------
    codebook : array of shape (K, D), of the samples' type
    centre : array of shape (D,), of that type
        Scaled.
    scale : float of that type
        A power of two; coordinates are then at most 1.
    centred : float32 array of shape (K, D padded to a multiple of LANES)
        The codebook, scaled and centred.
    halves : float32 array of shape (K,)
        Its lowered biases, of scores in all features.
    panels : float32 array of shape (n_panels, 1 + D or 2 + q, PANEL)
        Packed nodes with lowered biases, of all features or on the directions.
    directions : float32 array of shape (n, 1 + D, PANEL)
        Packed and negated; empty with ``q`` = 0.
    q : int
        Directions to search in; 0 searches in all features.
    means : float32 array of shape (n_words, 1 + D or 2 + q, PANEL)
        The middles of the panels' balls, packed as nodes are; none (0 words): all panels count.
    balls : float32 array of shape (5, n_words * PANEL)
        See :mod:`.balls`.
    bounds : float64 array of shape (4,)
        ``slack``, ``margin``, the margin in all features and ``G``; see :mod:`.prepared`.
    block_rows : int
        Rows that are searched together, a multiple of ``TILE_ROWS``.
    """

    codebook: NDArray
    centre: NDArray
    scale: np.floating
    centred: NDArray
    halves: NDArray
    panels: NDArray
    directions: NDArray
    q: int
    means: NDArray
    balls: NDArray
    bounds: NDArray
    block_rows: int


class Kept(NamedTuple):
    """What a search found out about samples on directions, for the next one on the same.

    Attributes
    ----------
    coordinates : float32 array of shape (N, q + 1), or (0, 1)
        On the directions, and the norm of the rest; no rows: nothing is kept.
    squares : float64 array of shape (N,)
        ``|x|^2``.
    known : bool
        Whether they are to be read, else they are written.
    """

    coordinates: NDArray
    squares: NDArray
    known: bool


class Block(NamedTuple):
    """Memory for a block of rows: what is read, its scores, and what was found."""

    rows: NDArray  # float32 (m, D padded)
    squares: NDArray  # |x|^2
    coordinates: NDArray  # on the directions, and the norm of the rest
    scores: NDArray  # (m, groups * GROUP_NODES + PANEL)
    flat: NDArray  # the same memory; pair by pair where panels are left out
    minima: NDArray  # (m, groups * WIDTH)
    lanes: NDArray  # minima that nobody looks at
    ball_scores: NDArray
    pairs: NDArray  # rows and panels that are left, see .balls
    firsts: NDArray  # where those of each row begin
    reaches: NDArray
    limits: NDArray
    listed: NDArray  # (2, n_panels, m + TILE_ROWS): rows of each panel, and where scores go
    n_listed: NDArray
    found: NDArray  # nodes of one row that are still to be looked at
    places: NDArray  # where their scores are
    winners: NDArray
    distances: NDArray  # squared, of the winners
    before: NDArray  # winners of an epoch before


@compiled(inner=True)
def memory_for(nodes):
    """A :class:`Block` for a search among ``nodes``; one way to ask for memory is compiled."""
    m, n_panels, n_words = nodes.block_rows, nodes.panels.shape[0], nodes.means.shape[0]
    padded, groups = nodes.centred.shape[1], n_groups(n_panels)
    n_directions = nodes.directions.shape[0]
    lanes = max(n_groups(n_directions), n_groups(n_words)) * WIDTH
    listed = m + TILE_ROWS if n_words > 0 else 0
    # One panel more than needed keeps rows off a multiple of 4096 bytes, where stores collide.
    width, searched = groups * GROUP_NODES + PANEL, n_panels * PANEL
    rows, flat = np.empty(m * padded, np.float32), np.empty(m * width, np.float32)
    for i in range(m * padded):
        rows[i] = 0
    for r in range(m):
        for k in range(searched, width):
            flat[r * width + k] = np.inf
    firsts = np.empty(m + 1, np.int64)
    for r in range(m + 1):
        firsts[r] = 0
    return Block(
        rows.reshape(m, padded),
        np.empty(m, np.float64),
        np.empty(m * n_directions * PANEL, np.float32).reshape(m, n_directions * PANEL),
        flat.reshape(m, width),
        flat,
        np.empty(m * groups * WIDTH, np.float32).reshape(m, groups * WIDTH),
        np.empty(m * lanes, np.float32).reshape(m, lanes),
        np.empty(m * n_words * PANEL, np.float32).reshape(m, n_words * PANEL),
        np.empty(m * n_panels + 8 if n_words > 0 else 0, np.int64),
        firsts,
        np.empty(m, np.float32),
        np.empty(m, np.float32),
        np.empty(2 * n_panels * listed, np.int64).reshape(2, n_panels, listed),
        np.empty(n_panels, np.int64),
        np.empty(searched, np.int64),
        np.empty(searched, np.int64),
        np.empty(m, np.int64),
        np.empty(m, np.float64),
        np.empty(m, np.int64),
    )
