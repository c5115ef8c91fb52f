"""What happened to a model: one line and one set of figures for every group."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from .measure.cost import Cost
from .measure.verdict import Verdict
from .plan.capacity import Capacity
from .plan.plan import GroupPlan, Plan, skipped_lines


@dataclass
class GroupReport:
    """What happened to one group.

    Attributes
    ----------
    group : str
    kind : {"arrange", "reorganize"}
    channels : int
    moved : int
        Channels at another place (arrange).
    survivors, merged, dropped, new : int
        Places with a surviving channel, old channels that share a place, those that came to none
        (dormant ones, or those of the lowest score), re-initialized places.
    nodes, occupied : int
        Nodes of the map, and those with channels.
    before, after : Capacity or None
        Use of the group's capacity.
    missed : float or None
        What consumers miss of what they read before, after the refit, on samples that it did not
        use: root mean square relative to what they read.
    removed : int or None
        Channels that are gone, where free places were removed.
    note : str
        What the reader should know.
    reason : str
        Why nothing was freed, or empty.
    """

    group: str
    kind: str
    channels: int
    moved: int = 0
    survivors: int = 0
    merged: int = 0
    dropped: int = 0
    new: int = 0
    nodes: int = 0
    occupied: int = 0
    before: Capacity | None = None
    after: Capacity | None = None
    missed: float | None = None
    removed: int | None = None
    note: str = ""
    reason: str = ""

    @classmethod
    def of(cls, plan: GroupPlan, after: Capacity | None = None) -> GroupReport:
        """The report of a plan that was applied."""
        reorganized = plan.kind == "reorganize"
        return cls(
            group=plan.group,
            kind=plan.kind,
            channels=plan.channels,
            moved=plan.moved,
            survivors=len(plan.survivors) if reorganized else plan.channels,
            merged=plan.merged,
            dropped=len(plan.dropped),
            new=len(plan.new),
            nodes=plan.nodes,
            occupied=plan.occupied,
            before=plan.capacity,
            after=after,
            note=plan.note,
            reason=plan.reason,
        )

    def to_dict(self) -> dict[str, Any]:
        """Figures by name, ready for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        if self.kind == "arrange":
            text = f"{self.group}: {self.moved} of {self.channels} channels moved"
        elif self.removed is not None:
            text = (
                f"{self.group}: {self.channels - self.removed} of {self.channels} channels left, "
                f"{self.merged} were merged"
            )
        else:
            text = (
                f"{self.group}: {self.channels} channels, {self.survivors} survive, "
                f"{self.merged} merged, {self.dropped} dropped, {self.new} new; "
                f"{self.occupied} of {self.nodes} nodes"
            )
        if self.before is not None:
            text += f"; before: {self.before}"
        if self.after is not None:
            text += f"; after: {self.after}"
        if self.missed is not None:
            text += f"; its consumers miss {self.missed:.1%} of what they read"
        remarks = "; ".join(filter(None, (self.reason, self.note)))
        return f"{text} ({remarks})" if remarks else text


@dataclass
class Report:
    """What happened to a model.

    Attributes
    ----------
    groups : list of GroupReport
    skipped : dict of str to str
        Groups that were left as they are, and why.
    plan : Plan or None
        The plan that was applied.
    output_change : float or None
        Root mean square of the change of the model's outputs on the calibration data over that of
        the outputs.
    largest_change : float or None
        Largest absolute change of one output.
    agreement : float or None
        Share of decisions (the largest of several outputs) that stayed.
    held_out : int
        Samples that these figures are of, which no refit has used; 0 where they are of all.
    passes : int
        How often the model ran over the calibration data.
    seconds : float
    verdict : Verdict or None
        Of a permutation: whether the outputs stayed within the network's own noise.
    unverified : str
        Why a permutation has no verdict.
    unread : list of str
        Modules whose parameters the traced pass did not use: what reads channels there is as it
        was.
    cost_before, cost : Cost or None
        Of the model before and after its channels were removed.
    latency_before, latency : float or None
        Milliseconds of a run before and after, where a latency was asked for.
    latency_of : str
        What these are of: batch size, threads, device.
    """

    groups: list[GroupReport] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    plan: Plan | None = None
    output_change: float | None = None
    seconds: float = 0.0
    largest_change: float | None = None
    agreement: float | None = None
    held_out: int = 0
    passes: int = 0
    verdict: Verdict | None = None
    unverified: str = ""
    unread: list[str] = field(default_factory=list)
    cost_before: Cost | None = None
    cost: Cost | None = None
    latency_before: float | None = None
    latency: float | None = None
    latency_of: str = ""

    @classmethod
    def of(cls, plan: Plan, after: Mapping[str, Capacity] | None = None) -> Report:
        """The report of a plan that was applied."""
        groups = [
            GroupReport.of(group_plan, (after or {}).get(group_plan.group))
            for group_plan in plan.groups
        ]
        return cls(groups, dict(plan.skipped), plan)

    def __getitem__(self, group: str) -> GroupReport:
        for report in self.groups:
            if report.group == group:
                return report
        raise KeyError(group)

    def to_dict(self) -> dict[str, Any]:
        """Figures by name, ready for JSON; the plan is saved on its own."""
        figures = asdict(replace(self, plan=None))
        del figures["plan"]
        return figures

    def outputs(self) -> str:
        """What became of the model's outputs, in one line; empty where it was not measured."""
        if self.verdict is not None:
            return str(self.verdict)
        if self.unverified:
            return f"outputs were not compared: {self.unverified}"
        if self.output_change is None:
            return ""
        share = f"{100 * self.output_change:.3g}%"
        line = f"outputs changed by {share} of their size (root mean square)"
        if self.largest_change is not None:
            line += f", a single value by at most {self.largest_change:.3g}"
        if self.agreement is not None:
            line += f"; {self.agreement:.1%} of the decisions stayed"
        if not self.held_out:
            return f"{line} (samples that the refit used among them)"
        return f"{line} (on {self.held_out} sample{'s' * (self.held_out > 1)} that no refit used)"

    def saved(self) -> str:
        """What the removal of channels saved, in one line; empty where none was removed."""
        if self.cost is None or self.cost_before is None:
            return ""
        parameters, before = self.cost.parameters, self.cost_before.parameters
        products, products_before = self.cost.multiply_adds, self.cost_before.multiply_adds
        said = (
            f"{parameters:,} of {before:,} parameters left ({parameters / max(before, 1):.1%}), "
            f"{products / 1e6:,.1f} of {products_before / 1e6:,.1f} million multiply-adds a sample "
            f"({products / max(products_before, 1):.1%})"
        )
        if self.latency is not None and self.latency_before is not None:
            said += (
                f"; {self.latency:.3g} of {self.latency_before:.3g} ms "
                f"({self.latency / self.latency_before:.1%}; {self.latency_of})"
            )
        return said

    def __str__(self) -> str:
        lines = [str(report) for report in self.groups]
        lines += skipped_lines(self.skipped)
        if self.unread:
            names = ", ".join(map(repr, self.unread))
            lines.append(f"not used by the pass that was traced, and not changed along: {names}")
        lines += filter(None, [self.saved(), self.outputs()])
        n = len(self.groups)
        lines.append(f"{n} group{'s' * (n != 1)}, {self.seconds:.2f} s")
        return "\n".join(lines)
