"""Places of a picture of a network in pixels: rows folded into columns, like text on a page.

Columns are cut where their heights come close to what makes the picture as wide as a screen, where
few lines cross, and between modules rather than in them: the cheapest set of cuts, found by
dynamic programming.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf, sqrt

from .lanes import Frame, frames_of, lanes_of, rows_of
from .layers import Unit

ASPECT = 1.6  # width to height of a whole picture, as of a screen
LEAST_HEIGHT = 560.0  # a column is not shorter than this for the sake of the aspect
HEADERS = 17.0, 12.0  # above the first row of a stage and of a block: its name
PADS = 11.0, 5.0  # of a stage and of a block
GUTTER = 44.0  # between columns
STRAIGHT, TURN = 9.0, 16.0  # above a row that lines reach from above, and from beside
LANE_GAP = 16.0
STUB = 14.0  # of a line that goes on in another column

Piece = tuple[float, float, float, float]
"""A part of a line from ``(x, y)`` to ``(x, y)``: straight down, or a turn to another lane."""


@dataclass(frozen=True)
class Place:
    """Middle of the upper edge of a unit."""

    x: float
    y: float
    column: int


@dataclass(frozen=True)
class Line:
    """What runs from one unit to another, in pieces from above to below, each in a column."""

    source: int
    target: int
    pieces: tuple[Piece, ...]
    columns: tuple[int, ...]


@dataclass(frozen=True)
class FramePart:
    """The part of a frame that lies in one column."""

    frame: Frame
    column: int
    goes_on: bool
    x: float
    y: float
    width: float
    height: float


@dataclass
class Layout:
    """Places of everything, and the size of the picture.

    ``columns`` are ``(left, width, height)``.  ``guides`` lead from the foot of a column to the
    head of the next: both ends, and where between the columns they go up.
    """

    places: list[Place] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    frames: list[FramePart] = field(default_factory=list)
    guides: list[tuple[tuple[float, float], tuple[float, float], float]] = field(
        default_factory=list
    )
    columns: list[tuple[float, float, float]] = field(default_factory=list)
    width: float = 0.0
    height: float = 0.0
    names: list[Frame] = field(default_factory=list)


def lay_out(
    units: Sequence[Unit],
    sizes: Sequence[tuple[float, float]],
    runs: Sequence[float],
    column: float | None = None,
) -> Layout:
    """Places of the units of a network.

    Parameters
    ----------
    units : sequence of Unit
        In topological order.
    sizes : sequence of (width, height)
    runs : sequence of float
        Width of the line below each unit.
    column : float, optional
        Height of the columns; by default what makes the whole picture as wide as a screen.
    """
    return _Setter(units, sizes, runs, column).layout()


class _Setter:
    def __init__(
        self,
        units: Sequence[Unit],
        sizes: Sequence[tuple[float, float]],
        runs: Sequence[float],
        column: float | None,
    ):
        self.units, self.sizes, self.runs, self.column = units, sizes, runs, column
        self.row = rows_of(units)
        self.lane = lanes_of(units, self.row)
        self.frames = frames_of(units, self.row, self.lane)
        self.n_rows = max(self.row, default=-1) + 1
        self.height = [0.0] * self.n_rows
        self.gap = [STRAIGHT] * self.n_rows
        for i, unit in enumerate(units):
            r = self.row[i]
            self.height[r] = max(self.height[r], sizes[i][1])
            if any(self.lane[j] != self.lane[i] for j in unit.sources):
                self.gap[r] = TURN
        self.above = [0.0] * self.n_rows  # heads of the frames that start at a row
        self.below = [0.0] * self.n_rows
        for frame in self.frames:
            self.above[frame.rows[0]] += HEADERS[frame.depth]
            self.below[frame.rows[1]] += PADS[frame.depth]
        # The last row that the line below each unit passes, and the lines that pass each cut.
        self.end = list(self.row)
        for i, unit in enumerate(units):
            for j in unit.sources:
                self.end[j] = max(self.end[j], self.row[i])
        self.crossing = [0] * (self.n_rows + 1)  # before row r
        for i in range(len(units)):
            for r in range(self.row[i] + 1, self.end[i] + 1):
                self.crossing[r] += 1

    def layout(self) -> Layout:
        """Everything in its place."""
        made = Layout(names=self.frames)
        self.cuts = self._cuts()
        column_of = [0] * self.n_rows
        for column, (first, stop) in enumerate(self._columns()):
            column_of[first:stop] = [column] * (stop - first)
        left = 0.0
        self.top = [0.0] * self.n_rows  # of each row
        self.middle: list[dict[int, float]] = []  # of each lane, by column
        self.bottom: list[float] = []
        right: list[float] = []
        for column, (first, stop) in enumerate(self._columns()):
            middle, width = self._lanes(first, stop, left)
            self.middle.append(middle)
            right.append(left + width)
            y = STUB if first else 0.0
            for r in range(first, stop):
                heads = sum(HEADERS[f.depth] for f in self.frames if f.rows[0] < r <= f.rows[1])
                y += self.above[r] + (heads if r == first and first else 0.0) + self.gap[r]
                self.top[r] = y
                y += self.height[r] + self.below[r]
            self.bottom.append(y + (STUB if stop < self.n_rows else 0.0))
            made.frames += self._frame_parts(column, first, stop, middle)
            made.columns.append((left, width, self.bottom[-1]))
            left += width + GUTTER
        made.width, made.height = max(right, default=0.0), max(self.bottom, default=0.0)
        for i in range(len(self.units)):
            column = column_of[self.row[i]]
            made.places.append(
                Place(self.middle[column][self.lane[i]], self.top[self.row[i]], column)
            )
        for i, unit in enumerate(self.units):
            made.lines += [Line(j, i, *self._pieces(made.places, j, i)) for j in unit.sources]
        for column in range(len(right) - 1):
            stop = self._columns()[column][1]
            passing = [i for i in range(len(self.units)) if self.row[i] < stop <= self.end[i]]
            for k, i in enumerate(passing):
                start, goal = (
                    self.middle[column][self.lane[i]],
                    self.middle[column + 1][self.lane[i]],
                )
                between = right[column] + GUTTER / 2 + 4 * (k - (len(passing) - 1) / 2)
                made.guides.append(((start, self.bottom[column]), (goal, 0.0), between))
        return made

    def _columns(self) -> list[tuple[int, int]]:
        edges = [0, *self.cuts, self.n_rows]
        return list(itertools.pairwise(edges)) if self.n_rows else []

    def _cuts(self) -> list[int]:
        """First rows of the second column and of those behind it."""
        n = self.n_rows
        whole = [0.0]
        for r in range(n):
            whole.append(whole[-1] + self.above[r] + self.gap[r] + self.height[r] + self.below[r])
        cuts: list[int] = []
        for _ in range(3):  # the columns' width depends on where they are cut
            edges = list(itertools.pairwise([0, *cuts, n]))
            width = sum(self._lanes(*edge, 0.0)[1] + GUTTER for edge in edges) / len(edges)
            wanted = self.column or max(LEAST_HEIGHT, sqrt(whole[n] * width / ASPECT))
            if whole[n] <= 1.25 * wanted:
                return []
            cuts = self._cheapest_cuts(whole, whole[n] / round(whole[n] / wanted))
        return cuts

    def _cheapest_cuts(self, whole: list[float], wanted: float) -> list[int]:
        """Cuts into columns that are about as high as wanted; ``whole`` is the height so far."""
        n = self.n_rows
        price_of = [0.1 * (lines - 1) for lines in self.crossing]
        for frame in self.frames:
            for r in range(frame.rows[0] + 1, frame.rows[1] + 1):
                price_of[r] += (0.04, 0.4)[frame.depth]
        price_of[n] = 0.0
        best, cut = [0.0] + [inf] * n, [0] * (n + 1)
        for stop in range(1, n + 1):
            for first in reversed(range(stop)):
                height = whole[stop] - whole[first]
                if height > 1.5 * wanted and first < stop - 1:
                    break
                price = best[first] + ((height - wanted) / wanted) ** 2 + price_of[stop]
                if price < best[stop]:
                    best[stop], cut[stop] = price, first
        cuts = []
        while n:
            n = cut[n]
            cuts.append(n)
        return cuts[-2::-1]

    def _lanes(self, first: int, stop: int, left: float) -> tuple[dict[int, float], float]:
        """Middle of each lane in a column, and the width of the column.

        Two lanes are as far apart as they have to be in the rows that both take: a branch stands
        close to the line beside it, whatever stands in the lane of that line elsewhere.
        """
        half: dict[int, dict[int, float]] = {}  # of each lane, by row
        for i in range(len(self.units)):
            taken = half.setdefault(self.lane[i], {})
            for r in range(max(first, self.row[i]), min(stop, max(self.end[i], self.row[i] + 1))):
                taken[r] = max(taken.get(r, 0.0), self.runs[i] / 2)
            if first <= self.row[i] < stop:
                taken[self.row[i]] = max(taken[self.row[i]], self.sizes[i][0] / 2)
            if self.row[i] < first <= self.end[i]:  # it comes in, if only to turn at once
                taken[first] = max(taken.get(first, 0.0), self.runs[i] / 2)
        self.half = half = {lane: half[lane] for lane in sorted(half) if half[lane]}
        middle: dict[int, float] = {}
        for lane, taken in half.items():
            least = [0.0]
            for other, x in middle.items():
                gaps = [h + half[other][r] for r, h in taken.items() if r in half[other]]
                least.append(x + (max(gaps) + LANE_GAP if gaps else 0.0))
            middle[lane] = max(least)
        pad = sum(PADS)
        widest = {lane: max(taken.values()) for lane, taken in half.items()}
        start = min((middle[lane] - h for lane, h in widest.items()), default=0.0)
        right = max((middle[lane] + h for lane, h in widest.items()), default=0.0)
        shift = left + pad - start
        return {lane: x + shift for lane, x in middle.items()}, right - start + 2 * pad

    def _frame_parts(
        self, column: int, first: int, stop: int, middle: dict[int, float]
    ) -> list[FramePart]:
        parts = []
        for frame in self.frames:
            rows = max(first, frame.rows[0]), min(stop - 1, frame.rows[1])
            if rows[0] > rows[1]:
                continue
            lanes = [lane for lane in middle if frame.lanes[0] <= lane <= frame.lanes[1]]
            inner = [
                f for f in self.frames if f is not frame and f.name.startswith(f"{frame.name}.")
            ]
            pad = PADS[frame.depth] + (0.0 if frame.depth else PADS[1])
            inside = [
                (middle[lane], half)
                for lane in lanes
                for r, half in self.half[lane].items()
                if rows[0] <= r <= rows[1]
            ]
            a = min(x - half for x, half in inside) - pad
            b = max(x + half for x, half in inside) + pad
            heads = HEADERS[frame.depth]
            heads += sum(HEADERS[1] for f in inner if f.rows[0] <= rows[0] <= f.rows[1])
            tails = sum(PADS[1] for f in inner if f.rows[1] == rows[1])
            y = self.top[rows[0]] - self.gap[rows[0]] - heads + 1
            end = self.top[rows[1]] + self.height[rows[1]] + tails + PADS[frame.depth] - 1
            parts.append(FramePart(frame, column, rows[0] > frame.rows[0], a, y, b - a, end - y))
        return parts

    def _pieces(
        self, places: list[Place], j: int, i: int
    ) -> tuple[tuple[Piece, ...], tuple[int, ...]]:
        """The line from unit ``j`` to unit ``i``, and the column of each piece."""
        source, target = places[j], places[i]
        y = source.y + self.sizes[j][1]
        pieces: list[Piece] = []
        for column in range(source.column, target.column):
            x = self.middle[column][self.lane[j]]
            pieces.append((x, y, x, self.bottom[column]))
            y = 0.0
        x = self.middle[target.column][self.lane[j]]
        columns = list(range(source.column, target.column))
        if x == target.x:
            pieces.append((x, y, x, target.y))
        else:
            turn = max(y, target.y - TURN)
            if turn > y:
                pieces.append((x, y, x, turn))
            pieces.append((x, turn, target.x, target.y))
        columns += [target.column] * (len(pieces) - len(columns))
        return tuple(pieces), tuple(columns)
