"""The marks of a picture of a network, as SVG: strips, lines, boxes, signs, frames.

Where a group has a colour, the element has the class ``g`` and ``g`` with the number of the group,
by which a page lights it up.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from math import log2

from ....graph.find.channels import ChannelGroup
from ...visible import visible
from .colors import ink_on
from .layers import Operation, Strip, Unit
from .layout import FramePart, Piece

BOX = 188.0
EDGE, BETWEEN = 6.0, 4.0  # strips of groups: at the edges of a box, and inside it
TEXT = {"layer": 18.0, "opaque": 18.0, "parameters": 13.0}  # a line of text in a box
WIDEST_LINE = 56.0
MOST_BADGES = 2
SIGNS = {
    "sum": "M-4 0H4M0 -4V4",
    "product": "M-3 -3L3 3M-3 3L3 -3",
    "join": "M-1 0H1M0 -1V1",
    "opaque": "M-2 -2Q-2 -4 0 -4T2 -2Q2 -1 0 0V1M0 3V4.4",
}


class Marks:
    """Draws what has to do with groups, in their colours.

    Parameters
    ----------
    groups : sequence of ChannelGroup
    colors, about : sequence of str
        Of each group: its colour, and what is said where somebody points at it.
    linked : bool
        Whether numbers lead to the rows of a table, ``#group-1`` and so on.
    """

    def __init__(
        self,
        groups: Sequence[ChannelGroup],
        colors: Sequence[str],
        about: Sequence[str],
        linked: bool,
    ):
        self.groups, self.colors, self.about, self.linked = groups, colors, about, linked
        self._anchored: set[int] = set()

    def hatches(self) -> str:
        """Patterns of the frozen groups."""
        return "".join(
            f'<pattern id="f{i + 1}" width="6" height="6" patternUnits="userSpaceOnUse" '
            f'patternTransform="rotate(45)"><rect width="6" height="6" fill="{self.colors[i]}"/>'
            '<path class="hatch" d="M0 0V6"/></pattern>'
            for i, group in enumerate(self.groups)
            if group.frozen
        )

    def paint(self, i: int) -> str:
        """What fills areas of a group."""
        return f"url(#f{i + 1})" if self.groups[i].frozen else self.colors[i]

    def strip(
        self,
        strip: Strip,
        box: tuple[float, float, float, float],
        made: bool = False,
        empty: str = "none",
    ) -> str:
        """Groups side by side in a box ``(x, y, width, height)``.

        ``made`` says that a layer makes these channels: links to a group lead to the first place
        where its channels are made.  ``empty`` is the class of what is in no group.
        """
        x, y, width, height = box
        total = sum(n for _, n in strip)
        parts = []
        for i, n in strip or ((-1, 1),):
            share = width * n / (total or 1)
            area = f'x="{num(x)}" y="{num(y)}" width="{num(share)}" height="{num(height)}"'
            x += share
            if i < 0:
                parts.append(f'<rect class="{empty}" {area}/>' if empty else "")
                continue
            anchor, pin = "", ""
            if made and i not in self._anchored:
                self._anchored.add(i)
                anchor, pin = f' id="at-{i + 1}"', " pin"
            parts.append(
                f'<rect{anchor} class="g hot g{i + 1}{pin}" fill="{self.paint(i)}" {area}>'
                f"<title>{text(self.about[i])}</title></rect>"
            )
        return "".join(parts)

    def line_width(self, strip: Strip) -> float:
        """By the channels of its group, or by the number of its groups."""
        if len(strip) > 1:
            return min(WIDEST_LINE, max(12.0, 2.2 * len(strip)))
        if not strip or strip[0][0] < 0:
            return 2.0
        return 2.0 + 1.1 * log2(max(self.groups[strip[0][0]].channels, 8) / 8)

    def line(self, strip: Strip, pieces: Sequence[Piece], whole: bool) -> str:
        """A line from unit to unit.

        Several groups are stripes, where the line carries the ``whole`` of what its source puts
        out; what turns to another lane is thin and grey, as is what takes its own choice of them.
        """
        groups = [i for i, _ in strip]
        thin = "".join(_path(piece) for piece in pieces)
        if not groups or groups == [-1]:
            return f'<path class="line" d="{thin}"/>'
        width = self.line_width(strip)
        if len(groups) == 1:
            (i,) = groups
            return (
                f'<path class="g hot g{i + 1}" fill="none" stroke="{self.paint(i)}" '
                f'stroke-width="{num(width)}" stroke-linejoin="round" d="{thin}">'
                f"<title>{text(self.about[i])}</title></path>"
            )
        if not whole and any(x1 != x2 for x1, _, x2, _ in pieces):
            return f'<path class="line" d="{thin}"/>'
        return "".join(
            self.strip(strip, (x1 - width / 2, y1, width, y2 - y1))
            if x1 == x2
            else f'<path class="line" d="{_path((x1, y1, x2, y2))}"/>'
            for x1, y1, x2, y2 in pieces
        )

    def box(self, unit: Unit, x: float, y: float, names: Sequence[str]) -> str:
        """A layer and its parameters, each operation with the name that is shown."""
        first, last = unit.operations[0], unit.operations[-1]
        height = box_height(unit)
        made = groups_in(last.makes)
        hot = f" hot g{made[0] + 1}" if len(made) == 1 else ""
        parts = [
            f'<rect class="box{hot}" x="{num(x)}" y="{num(y)}" width="{num(BOX)}" '
            f'height="{num(height)}" rx="2"/>',
            self._edge(first.reads, first.read_sets, (x, y, BOX, EDGE)),
        ]
        y += EDGE
        for operation, name in zip(unit.operations, names, strict=True):
            parts.append(self._words(operation, name, x, y))
            y += TEXT[operation.kind]
            edge = EDGE if operation is last else BETWEEN
            box = x, y, BOX, edge
            layer = operation.kind == "layer"
            parts.append(self._edge(operation.makes, operation.made_sets, box, layer))
            y += edge
        return "".join(parts)

    def _edge(
        self,
        channels: Strip,
        sets: Strip,
        box: tuple[float, float, float, float],
        made: bool = False,
    ) -> str:
        """A strip of groups; of groups of sets of channels, a second one on its lower half."""
        x, y, width, height = box
        drawn = self.strip(channels, box, made)
        half = x, y + height / 2, width, height / 2
        return drawn + (self.strip(sets, half, made, empty="") if sets else "")

    def _words(self, operation: Operation, name: str, x: float, y: float) -> str:
        """Name and size in a box, and the numbers of the groups that its layer makes."""
        height = TEXT[operation.kind]
        base = y + height / 2 + 3.5
        right = x + BOX - 5
        parts = []
        size = operation.text
        if operation.kind == "layer":
            made = groups_in(operation.makes + operation.made_sets)
            if len(made) > MOST_BADGES:
                more = f"+{len(made) - MOST_BADGES}"
                parts.append(_said(more, right, base, "size", "end"))
                right -= 6.0 * len(more) + 3
            for i in reversed(made[:MOST_BADGES]):
                width = 8.0 + 6 * len(str(i + 1))
                right -= width
                parts.append(self._badge(i, right, y + height / 2 - 6.5, width))
                right -= 3
        elif operation.kind == "parameters":
            n = len(operation.weights)
            size = f"{n} parameter{'s' * (n != 1)}"
        else:
            size = "unknown"
        parts.append(_said(size, right - 2, base, "size", "end"))
        room = right - 2 - 5.4 * len(size) - (x + 6) - 4
        parts.append(_said(shortened(name, room, 6.0), x + 6, base))
        return "".join(parts)

    def _badge(self, i: int, x: float, y: float, width: float) -> str:
        """The number of a group on its colour."""
        color = self.colors[i]
        badge = (
            f'<g class="g hot g{i + 1}"><title>{text(self.about[i])}</title>'
            f'<rect x="{num(x)}" y="{num(y)}" width="{num(width)}" height="13" rx="3" '
            f'fill="{color}"/><text class="badge" x="{num(x + width / 2)}" y="{num(y + 9.8)}" '
            f'style="fill:{ink_on(color)}">{i + 1}</text></g>'
        )
        return f'<a href="#group-{i + 1}">{badge}</a>' if self.linked else badge


def terminal(name: str, x: float, y: float, width: float, height: float) -> str:
    """An input or output of the network, with its middle at ``x``."""
    return (
        f'<rect class="box" x="{num(x - width / 2)}" y="{num(y)}" width="{num(width)}" '
        f'height="{num(height)}" rx="8"/>'
        + _said(shortened(name, width - 12, 6.0), x, y + 11.5, "", "middle")
    )


def sign(kind: str, x: float, y: float) -> str:
    """A sum, a product, or another join, with its middle there."""
    return (
        f'<g transform="translate({num(x)} {num(y)})"><circle class="box" r="7"/>'
        f'<path class="sign" d="{SIGNS[kind]}"/></g>'
    )


def bracket(x: float, y: float, width: float, height: float) -> str:
    """What holds the strips of a concatenation together."""
    return (
        f'<rect class="bracket" x="{num(x)}" y="{num(y)}" width="{num(width)}" '
        f'height="{num(height)}"/>'
    )


def guide(start: tuple[float, float], goal: tuple[float, float], middle: float) -> str:
    """The way from the foot of a column to the head of the next, up between them at ``middle``."""
    (x1, y1), (x2, y2) = start, goal
    d = (
        f"M{num(x1)} {num(y1)}v5q0 5 5 5H{num(middle - 5)}q5 0 5 -5"
        f"V{num(y2 - 5)}q0 -5 5 -5H{num(x2 - 5)}q5 0 5 5V{num(y2)}"
    )
    return f'<path class="guide" d="{d}"/>'


def frame(part: FramePart) -> str:
    """The sheet of a module."""
    return (
        f'<rect class="frame{part.frame.depth}" x="{num(part.x)}" y="{num(part.y)}" rx="5" '
        f'width="{num(part.width)}" height="{num(part.height)}"/>'
    )


def frame_name(part: FramePart, prefix: str) -> str:
    """The name of a module at the right of its sheet, where no line comes from above."""
    name = part.frame.name
    parts = name.split(".")
    if part.frame.depth:
        name = parts[-1] if not parts[-1].isdecimal() else ".".join(parts[-2:])
    elif not name.removeprefix(f"{prefix}.").isdecimal():
        name = name.removeprefix(f"{prefix}.")
    kind, base = (("stage", 13.0), ("block", 10.0))[part.frame.depth]
    name = f"… {name}" if part.goes_on else name
    return _said(name, part.x + part.width - 7, part.y + base, kind, "end")


def box_height(unit: Unit) -> float:
    """Height of the box of a unit."""
    texts = sum(TEXT[operation.kind] for operation in unit.operations)
    return texts + 2 * EDGE + BETWEEN * (len(unit.operations) - 1)


def groups_in(strip: Strip) -> list[int]:
    """Groups of a strip, each once."""
    return list(dict.fromkeys(i for i, _ in strip if i >= 0))


def note(words: str, x: float, y: float, kind: str = "note") -> str:
    """A line of text beside the picture."""
    return _said(words, x, y, kind)


def _said(words: str, x: float, y: float, kind: str = "", anchor: str = "") -> str:
    kinds = f' class="{kind}"' if kind else ""
    anchors = f' text-anchor="{anchor}"' if anchor else ""
    return f'<text{kinds} x="{num(x)}" y="{num(y)}"{anchors}>{text(words)}</text>'


def _path(piece: Piece) -> str:
    x1, y1, x2, y2 = piece
    if x1 == x2:
        return f"M{num(x1)} {num(y1)}V{num(y2)}"
    half = num((y1 + y2) / 2)
    return f"M{num(x1)} {num(y1)}C{num(x1)} {half} {num(x2)} {half} {num(x2)} {num(y2)}"


def shortened(words: str, room: float, letter: float) -> str:
    """Words with their middle left out, where they are longer than the room for them.

    >>> shortened("features.transition1.conv", 90, 6)
    'featu…ion1.conv'
    """
    words = visible(words)
    most = max(4, int(room / letter))
    if len(words) <= most:
        return words
    tail = (most - 1) * 2 // 3
    return f"{words[: most - 1 - tail]}…{words[-tail:]}"


def wrapped(words: str, room: float, letter: float) -> list[str]:
    """Lines that are no longer than the room for them.

    >>> wrapped("one two three", 42, 6)
    ['one two', 'three']
    """
    lines = [""]
    for word in words.split(" "):
        if lines[-1] and (len(lines[-1]) + 1 + len(word)) * letter > room:
            lines.append("")
        lines[-1] += (" " if lines[-1] else "") + word
    return lines


def text(value: object) -> str:
    r"""Lines escaped for XML; characters that it does not allow, or nobody sees, are written out.

    >>> print(text("<a>\x00"))
    &lt;a&gt;\x00
    """
    return escape("\n".join(map(visible, str(value).split("\n"))))


def num(value: float) -> str:
    """A length with at most two decimals."""
    return f"{value:.2f}".rstrip("0").rstrip(".")
