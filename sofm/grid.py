r"""Where the nodes of a map are, and how far apart.

Node ``k`` of a map of ``(rows, columns)`` sits in row ``k // columns`` and column
``k % columns``; a 1-D map is one row.  Its coordinates ``v_k`` enter the neighbourhood (eq. 7)
through ``|v_b - v_k|``.  On a hexagonal map odd rows are shifted by half a column and rows are
``sqrt(3)/2`` apart, so that all six neighbours are at distance 1.  A periodic map has no border:
each axis wraps, and the distance is the shortest way round.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .compiled import compiled

Topology = Literal["rectangular", "hexagonal"]
ROW_STEP = {"rectangular": 1.0, "hexagonal": np.sqrt(3) / 2}


@compiled
def touch_of(coordinates, around, reach, a, b):
    """Whether nodes ``a`` and ``b`` (M,) are within reach, the shortest way ``around`` (2,)."""
    touch = np.empty(a.shape[0], np.bool_)
    for i in range(a.shape[0]):
        total = 0.0
        for axis in range(2):
            apart = abs(coordinates[a[i], axis] - coordinates[b[i], axis])
            apart = min(apart, abs(around[axis] - apart))
            total += apart * apart
        touch[i] = total <= (reach + 1e-9) ** 2
    return touch


@dataclass(frozen=True)
class Grid:
    """The nodes' places on a map.

    Parameters
    ----------
    rows, columns : int
        One row is a 1-D map.
    topology : {"rectangular", "hexagonal"}
    periodic : bool
        Whether the borders are joined (a ring, or a torus).  On a hexagonal map that takes an even
        number of rows.

    Examples
    --------
    >>> from rejuvenet.sofm.grid import Grid
    >>> Grid(2, 2).distances()[0]
    array([0.        , 1.        , 1.        , 1.41421356])
    >>> Grid(1, 4, periodic=True).distances()[0]
    array([0., 1., 2., 1.])
    """

    rows: int
    columns: int
    topology: Topology = "rectangular"
    periodic: bool = False

    @property
    def n_nodes(self) -> int:
        return self.rows * self.columns

    @property
    def is_line(self) -> bool:
        """Whether the map is 1-D, and its topology therefore of no consequence."""
        return self.rows == 1

    @property
    def is_separable(self) -> bool:
        """Whether squared distances are a sum over rows and columns."""
        return self.topology == "rectangular" or self.is_line

    @cached_property
    def coordinates(self) -> NDArray[np.float64]:
        """``v`` of shape (K, 2): vertical and horizontal place of every node."""
        row, column = np.divmod(np.arange(self.n_nodes), self.columns)
        shift = 0.5 * (row % 2) if self.topology == "hexagonal" else 0.0
        return np.stack([row * ROW_STEP[self.topology], column + shift], axis=1)

    @cached_property
    def around(self) -> NDArray[np.float64]:
        """Length of both axes (2,), the way round; infinite on a map with borders."""
        lengths = np.array([self.rows * ROW_STEP[self.topology], float(self.columns)])
        return lengths if self.periodic else np.full(2, np.inf)

    def distances(self, nodes=slice(None), others=slice(None)) -> NDArray[np.float64]:
        """Distances ``|v_b - v_k|`` from some nodes to others.

        Parameters
        ----------
        nodes, others : int arrays of shapes (n,) and (m,), or slices
            All unless given.

        Returns
        -------
        distances : float64 array of shape (n, m)
            Neighbours in a row are 1 apart.

        Examples
        --------
        >>> from rejuvenet.sofm import Grid
        >>> Grid(2, 3).distances([0], [1, 5])
        array([[1.        , 2.23606798]])
        """
        v = self.coordinates
        apart = np.abs(v[nodes, None, :] - v[None, others, :])
        apart = np.minimum(apart, np.abs(self.around - apart))
        return np.hypot(apart[..., 0], apart[..., 1])

    def share_apart(self, nearest: NDArray, weights: NDArray | None = None) -> float:
        """Share of pairs of nodes that do not touch: the topographic error.

        Parameters
        ----------
        nearest : int array of shape (N, 2)
        weights : array of shape (N,), optional

        Returns
        -------
        share : float
            0 on a map of one node.

        Examples
        --------
        >>> import numpy as np
        >>> from rejuvenet.sofm import Grid
        >>> Grid(1, 3).share_apart(np.array([[0, 1], [2, 0]]), np.array([1.0, 3.0]))
        0.75
        """
        if self.n_nodes == 1:
            return 0.0
        apart = ~self.adjacent(nearest[:, 0], nearest[:, 1])
        return float(np.average(apart, weights=weights))

    def adjacent(self, a: NDArray, b: NDArray) -> NDArray[np.bool_]:
        """Whether the nodes ``a`` and ``b`` touch.

        Six neighbours on a hexagonal map, eight on a rectangular one (diagonals touch, as in
        MiniSom), two on a line.

        Parameters
        ----------
        a, b : int arrays
            Of one shape, or of two that numpy broadcasts.

        Returns
        -------
        touch : bool array
            True for a node and itself.

        Examples
        --------
        >>> import numpy as np
        >>> from rejuvenet.sofm import Grid
        >>> Grid(2, 3).adjacent(np.array([0, 0]), np.array([4, 2]))
        array([ True, False])
        """
        a, b = np.broadcast_arrays(a, b)
        touch = touch_of(
            self.coordinates,
            self.around,
            1.0 if self.topology == "hexagonal" or self.is_line else np.sqrt(2),
            a.ravel(),
            b.ravel(),
        )
        return touch.reshape(a.shape)

    def touching(self) -> NDArray[np.int64]:
        """All pairs of nodes that touch (:meth:`adjacent`), in memory proportional to K.

        Returns
        -------
        pairs : int64 array of shape (M, 2)
            In both orders, ascending; no node touches itself.

        Examples
        --------
        >>> from rejuvenet.sofm import Grid
        >>> Grid(1, 3).touching().tolist()
        [[0, 1], [1, 0], [1, 2], [2, 1]]
        """
        steps = np.arange(-1, 2)  # no neighbour is farther than the next row and the next column
        row, column = np.divmod(np.arange(self.n_nodes), self.columns)
        row = row[:, None, None] + steps[:, None]
        column = column[:, None, None] + steps
        inside = (row >= 0) & (row < self.rows) & (column >= 0) & (column < self.columns)
        node = row % self.rows * self.columns + column % self.columns
        first = np.broadcast_to(np.arange(self.n_nodes)[:, None, None], node.shape)
        some = (inside | self.periodic) & (first != node)
        pairs = np.unique(first[some] * self.n_nodes + node[some])  # a small torus meets itself
        a, b = np.divmod(pairs, self.n_nodes)
        touch = self.adjacent(a, b)
        return np.stack([a[touch], b[touch]], axis=1)
