"""A picture of a network in which every channel group has one colour.

A box is a layer; its upper edge shows the groups that it reads, its lower edge those that it makes,
each as wide as its share of the channels.  Lines carry the colour of their group; where several
groups run side by side they are stripes.  What is frozen is hatched.  Every group has a number, for
print and for the colour-blind, and every element says what it is when it is pointed at.

The picture needs no script and nothing from outside: groups light up by CSS alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence

from ....graph.find.channels import ChannelGroup
from ....graph.find.nodes import Graph
from ....graph.plan.capacity import Capacity
from . import marks
from .colors import group_colors
from .lanes import whole_module
from .layers import Network, Strip, Unit, by, network_of
from .layout import Layout, lay_out
from .marks import BOX, Marks, box_height, groups_in, num, text, wrapped
from .stages import stages_of

MARGIN = 20.0
LEAST_WIDTH = 760.0  # of a picture with a heading
COLUMN = 640.0  # height of a column on a page, where columns flow like those of a newspaper
GREY = "#c3cad4"  # of groups that are not shown in colour
FEW = 2  # groups that a layer reads, so that each can have another tone than what it makes

LEGEND = (
    "A box is a layer. Its upper edge has the colours of the channel groups that it reads, its "
    "lower edge of those that it makes, and the number in it is theirs. Lines have the colour of "
    "their group and are wider for more channels; several groups side by side are stripes. "
    "Channels of one extent share a hue. Hatched is frozen, grey is in no group."
)
OF_SETS = (
    "The lower half of an edge shows sets of channels that change places as a whole, such as the "
    "heads of an attention."
)
POINT = "Point at a colour to see where its group goes."

STYLE = """
.net text { font: 10px system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif;
  fill: #1c2330; pointer-events: none; }
.net .size { font-size: 9px; fill: #5b6575; }
.net .badge { font-size: 9px; font-weight: 600; text-anchor: middle; }
.net .title { font-size: 17px; font-weight: 650; }
.net .note { font-size: 11px; fill: #5b6575; }
.net .stage { font-size: 12px; font-weight: 600; fill: #5b6575; }
.net .block { font-size: 9.5px; fill: #5b6575; }
.net .sheet { fill: #ffffff; }
.net .frame0 { fill: #f1f3f6; stroke: #dde1e8; }
.net .frame1 { fill: #fafbfc; stroke: #dde1e8; }
.net .box { fill: #ffffff; stroke: #8b95a5; stroke-width: 0.8; }
.net .sign { fill: none; stroke: #1c2330; stroke-width: 1.4; }
.net .bracket { fill: none; stroke: #1c2330; stroke-width: 1; }
.net .none { fill: #c3cad4; }
.net .line { fill: none; stroke: #a3adba; stroke-width: 2; }
.net .guide { fill: none; stroke: #a3adba; stroke-width: 1; stroke-dasharray: 3 3; }
.net .hatch { stroke: #ffffff; stroke-width: 2.4; }
@media screen and (prefers-color-scheme: dark) {
.net text, .net .title { fill: #e8ebf0; }
.net .size, .net .note, .net .stage, .net .block { fill: #9aa5b5; }
.net .sheet { fill: #1b212a; }
.net .frame0 { fill: #222a35; stroke: #323d4b; }
.net .frame1 { fill: #1c232d; stroke: #323d4b; }
.net .box { fill: #12161c; stroke: #5f6c7d; }
.net .sign, .net .bracket { stroke: #e8ebf0; }
.net .none { fill: #4b5666; }
.net .line, .net .guide { stroke: #66727f; }
.net .hatch { stroke: #12161c; }
}
:root:has(.hot:hover) .g, :root:has(.pin:target) .g { opacity: 0.1; }
"""


class Picture:
    """The picture, its colours, and what it says about the groups.

    Parameters
    ----------
    title : str
    graph : Graph
    groups : sequence of ChannelGroup
        Of the same graph.
    network : Network, optional
        What is drawn of the graph, where that is known already.
    figures : mapping of group name to Capacity, optional
        How much of its capacity each group uses.
    changed : collection of str, optional
        Names of the groups that are shown in colour; all by default.

    Examples
    --------
    >>> from rejuvenet.graph import find_groups
    >>> graph = Graph(inputs=["x"], outputs=["y"])
    >>> for name, shape in {"x": (1, 3, 8, 8), "h": (1, 4, 8, 8), "y": (1, 2, 8, 8),
    ...                     "v": (4, 3, 3, 3), "w": (2, 4, 3, 3)}.items():
    ...     _ = graph.add_tensor(name, shape)
    >>> graph.weights = {"v": "first.weight", "w": "second.weight"}
    >>> graph.add_convolution("x", "v", "h")
    >>> graph.add_convolution("h", "w", "y")
    >>> picture = Picture("two layers", graph, find_groups(graph))
    >>> picture.summary()
    '2 channel groups of 2 weights: 1 can move, 1 is frozen'
    >>> picture.svg().startswith("<?xml")
    True
    """

    def __init__(
        self,
        title: str,
        graph: Graph,
        groups: Sequence[ChannelGroup],
        network: Network | None = None,
        figures: Mapping[str, Capacity] | None = None,
        changed: Collection[str] | None = None,
    ):
        self.title, self.graph, self.groups = title, graph, groups
        self.figures = figures or {}
        self.network = network or network_of(graph, groups)
        self.units = self.network.units
        self.whole = whole_module(self.units)
        stages, names = stages_of(len(groups), self.units, graph)
        colors = group_colors(stages, _neighbors(self.units))
        shown = [changed is None or group.name in changed for group in groups]
        self.colors = [c if kept else GREY for c, kept in zip(colors, shown, strict=True)]
        found: dict[int, str] = {}
        for stage, color, kept in zip(stages, colors, shown, strict=True):
            if kept:
                found.setdefault(stage, color)
        self.stages = [(color, names[stage]) for stage, color in sorted(found.items())]
        self.shapes = {weight: graph.shapes[tensor] for tensor, weight in graph.weights.items()}
        self.marks = self._marks(linked=False)
        self.sizes = [self._size(unit) for unit in self.units]
        runs = [self.marks.line_width(unit.makes) for unit in self.units]
        for unit in self.units:
            for j in unit.sources:
                runs[j] = max(runs[j], self.marks.line_width(self._carried(j, unit)))
        self.runs = runs
        self.layout = lay_out(self.units, self.sizes, runs)

    def svg(self) -> str:
        """A file of its own: with a heading, a legend, and what is frozen and why."""
        self.marks = self._marks(linked=False)
        width = max(self.layout.width + 2 * MARGIN, LEAST_WIDTH)
        heading, top = self._heading(width)
        footing, height = self._footing(top + self.layout.height + MARGIN, width)
        style = f"<style>{STYLE}{self.highlights()}</style>"
        drawing = f'<g transform="translate({num(MARGIN)} {num(top)})">{self._all()}</g>'
        body = [style, *heading, drawing, *footing]
        return '<?xml version="1.0" encoding="UTF-8"?>\n' + self._framed(body, width, height)

    def columns(self, linked: bool) -> str:
        """The drawing in columns of one height, each an SVG of its own that a page lets flow.

        For a page with :data:`STYLE` and :meth:`highlights`, and a table where it is ``linked``.
        """
        self.marks = self._marks(linked)
        layout = lay_out(self.units, self.sizes, self.runs, COLUMN)
        parts = []
        for number, (left, width, height) in enumerate(layout.columns):
            patterns = "" if number else f"<defs>{self.marks.hatches()}</defs>"
            box = f"{num(left - 2)} 0 {num(width + 4)} {num(height + 2)}"
            named = f"{self.title}, part {number + 1} of {len(layout.columns)}"
            parts.append(
                f'<svg class="net" role="group" viewBox="{box}" aria-label="{text(named)}" '
                f'style="width:calc(var(--scale) * {num(width + 4)}px);'
                f'min-width:{num(0.85 * width)}px">'
                f"{patterns}{self._drawn(layout, number)}</svg>"
            )
        return "\n".join(parts)

    def highlights(self) -> str:
        """CSS that lights up a group wherever somebody points at it, or follows a link to it."""
        return "".join(
            ",".join(
                f":root:has({lit}) .g{i}"
                for lit in (f".g{i}:hover", f"#group-{i}:target", f"#at-{i}:target")
            )
            + "{opacity:1!important}\n"
            for i in range(1, len(self.groups) + 1)
        )

    # --- words -----------------------------------------------------------------------------

    def summary(self) -> str:
        """How many groups there are, and how many of them can move."""
        frozen = sum(group.frozen is not None for group in self.groups)
        n, weights = len(self.groups), len(self.shapes)
        return (
            f"{n} channel group{'s' * (n != 1)} of {weights} weight{'s' * (weights != 1)}: "
            f"{n - frozen} can move, {frozen} {'is' if frozen == 1 else 'are'} frozen"
        )

    def legend(self) -> str:
        """How the picture is read."""
        operations = [operation for unit in self.units for operation in unit.operations]
        sets = any(o.read_sets or o.made_sets for o in operations)
        return " ".join(filter(None, (LEGEND, OF_SETS if sets else "", POINT)))

    def module(self, group: ChannelGroup) -> str:
        """Dotted name of the module that makes a group's channels first."""
        first = group.producers[0].weight if group.producers else group.name
        return self.network.modules.get(first, first)

    def about(self, i: int) -> str:
        """One group in one sentence."""
        group = self.groups[i]
        said = f"group {i + 1}, {group.name}: {group.channels} channels"
        if group.name in self.figures:
            said += f"; {self.figures[group.name]}"
        return said + (f"; frozen: {group.frozen}" if group.frozen else "")

    def _about_unit(self, unit: Unit) -> str:
        lines = []
        for operation in unit.operations:
            lines.append(f"{operation.module} {operation.text}".strip())
            lines += [f"  {weight} {by(self.shapes[weight])}" for weight in operation.weights]
            lines += [f"  frozen: {operation.reason}"] if operation.reason else []
        if unit.operations:
            first, last = unit.operations[0], unit.operations[-1]
            ends = ("reads", first.reads + first.read_sets), ("makes", last.makes + last.made_sets)
            for verb, strip in ends:
                found = groups_in(strip)
                if len(found) == 1:
                    lines.append(f"{verb} {self.about(found[0])}")
                elif found:
                    lines.append(f"{verb} groups {', '.join(str(i + 1) for i in found)}")
        else:
            names = {"concat": "concatenation", "join": "joins what it reads"}
            named = f"{unit.kind} {unit.tensor}" if unit.kind in ("input", "output") else unit.kind
            lines.append(names.get(unit.kind, named))
            lines += [f"freezes what it touches: {unit.reason}"] if unit.reason else []
        shape = self.graph.shapes.get(unit.tensor)
        return "\n".join(lines + ([f"{by(shape)} values"] if shape else []))

    def _heading(self, width: float) -> tuple[list[str], float]:
        """Title and legend, and where the drawing begins."""
        parts = [
            marks.note(self.title, MARGIN, 34, "title"),
            marks.note(self.summary(), MARGIN, 53),
        ]
        y = 66.0
        for line in wrapped(self.legend(), width - 2 * MARGIN, 5.9):
            y += 15
            parts.append(marks.note(line, MARGIN, y))
        return parts, y + MARGIN

    def _footing(self, y: float, width: float) -> tuple[list[str], float]:
        """What is frozen and why, the weights that do not take part, and where it ends."""
        parts = []
        indent = MARGIN + 22
        for reason, members in self.frozen().items():
            parts.append(
                f'<rect x="{num(MARGIN)}" y="{num(y)}" width="16" height="10" '
                f'fill="{self.marks.paint(members[0])}"/>'
            )
            named = ", ".join(f"{i + 1} {self.groups[i].name}" for i in members)
            for line in wrapped(f"Frozen ({reason}): {named}", width - indent - MARGIN, 6.0):
                parts.append(marks.note(line, indent, y + 9))
                y += 15
        if self.network.unused:
            said = f"Weights that no input meets: {', '.join(self.network.unused)}"
            for line in wrapped(said, width - 2 * MARGIN, 6.0):
                parts.append(marks.note(line, MARGIN, y + 9))
                y += 15
        return parts, y + MARGIN

    def frozen(self) -> dict[str, list[int]]:
        """Reasons, and the groups that are frozen for them."""
        found: dict[str, list[int]] = {}
        for i, group in enumerate(self.groups):
            if group.frozen:
                found.setdefault(group.frozen, []).append(i)
        return found

    # --- the drawing -----------------------------------------------------------------------

    def _marks(self, linked: bool) -> Marks:
        about = [self.about(i) for i in range(len(self.groups))]
        return Marks(self.groups, self.colors, about, linked)

    def _carried(self, j: int, unit: Unit) -> Strip:
        """Groups on the line from unit ``j``: what its target reads, if it reads nothing else."""
        if unit.operations and len(unit.sources) == 1:
            return unit.operations[0].reads
        return self.units[j].makes

    def _size(self, unit: Unit) -> tuple[float, float]:
        if unit.operations:
            return BOX, box_height(unit)
        if unit.kind == "concat":
            return self.marks.line_width(unit.makes) + 8, 8.0
        return (120.0, 16.0) if unit.kind in ("input", "output") else (14.0, 14.0)

    def _framed(self, body: list[str], width: float, height: float) -> str:
        size = f'width="{num(width)}" height="{num(height)}"'
        lines = [
            f'<svg xmlns="http://www.w3.org/2000/svg" class="net" role="img" {size} '
            f'viewBox="0 0 {num(width)} {num(height)}" preserveAspectRatio="xMidYMin" '
            'aria-labelledby="net-title net-text">',
            f'<title id="net-title">{text(self.title)}</title>',
            f'<desc id="net-text">{text(self.summary())}</desc>',
            f"<defs>{self.marks.hatches()}</defs>",
            f'<rect class="sheet" {size}/>',
            *body,
            "</svg>",
        ]
        return "\n".join(lines) + "\n"

    def _all(self) -> str:
        """Every column, and the ways between them."""
        columns = range(len(self.layout.columns))
        parts = [self._drawn(self.layout, column) for column in columns]
        return "\n".join([*parts, *(marks.guide(*ends) for ends in self.layout.guides)])

    def _drawn(self, layout: Layout, column: int) -> str:
        """What stands in one column."""
        frames = [part for part in layout.frames if part.column == column]
        parts = [marks.frame(part) for part in frames]
        for line in layout.lines:
            pieces = [p for p, c in zip(line.pieces, line.columns, strict=True) if c == column]
            if pieces:
                strip = self._carried(line.source, self.units[line.target])
                whole = strip == self.units[line.source].makes
                parts.append(self.marks.line(strip, pieces, whole))
        parts += [marks.frame_name(part, self.whole) for part in frames]
        places = enumerate(layout.places)
        parts += [self._unit(i, layout) for i, place in places if place.column == column]
        return "\n".join(parts)

    def _name(self, module: str) -> str:
        """A module's name without what the frames around it say."""
        around = [f.name for f in self.layout.names if module.startswith(f"{f.name}.")]
        if around:
            return module.removeprefix(f"{max(around, key=len)}.")
        short = module.removeprefix(f"{self.whole}.")
        return module if short[:1].isdecimal() else short

    def _unit(self, i: int, layout: Layout) -> str:
        unit, place = self.units[i], layout.places[i]
        width, height = self.sizes[i]
        x, y = place.x - width / 2, place.y
        if unit.operations:
            drawn = self.marks.box(unit, x, y, [self._name(o.module) for o in unit.operations])
        elif unit.kind in ("input", "output"):
            name = f"{unit.tensor} {by(self.graph.shapes.get(unit.tensor, ()))}"
            drawn = marks.terminal(name, place.x, y, width, height)
        elif unit.kind == "concat":
            strip = self.marks.strip(unit.makes, (x, y, width, height))
            drawn = strip + marks.bracket(x, y, width, height)
        else:
            drawn = marks.sign(unit.kind, place.x, y + height / 2)
        return f"<g><title>{text(self._about_unit(unit))}</title>{drawn}</g>"


def _neighbors(units: Sequence[Unit]) -> set[tuple[int, int]]:
    """Groups that a reader sees beside each other."""
    found = set()
    for unit in units:
        strips = [unit.makes]
        for operation in unit.operations:
            strips += [operation.reads, operation.makes]
            if len(operation.reads) <= FEW:
                found |= {(a, b) for a, _ in operation.reads for b, _ in operation.makes}
        for strip in strips:
            found |= {(a, b) for (a, _), (b, _) in itertools.pairwise(strip)}
    return {(a, b) for a, b in found if a >= 0 and b >= 0}
