"""Plans: what to do to channel groups, as data.

A plan is made from a group and its activations, looked at, saved, and then applied.  It holds
everything that its application needs, so that one machine may make it and another apply it.

- ``arrange``: place ``p`` takes channel ``order[p]`` on every member; the function is unchanged.
- ``reorganize``: producers and per-channel parameters become ``A W``, consumers ``V B^T``
  (:mod:`.mapping`); the places in ``new`` hold re-initialized channels.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from ...files import read_arrays, written_beside
from ..find.channels import Member
from .capacity import Capacity
from .recipe import Recipe

FORMAT = "rejuvenet plan"
VERSION = 2

_ARRAYS = ("order", "A", "B", "shares", "new")
_VALUES = (
    "group", "kind", "channels", "method", "init", "new_outgoing", "outgoing", "seed",
    "nodes", "occupied", "merged", "note", "reason",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class GroupPlan:
    """What to do to one group of ``o`` channels.

    Attributes
    ----------
    group : str
        Name of the channel group.
    kind : {"arrange", "reorganize"}
    channels : int
        ``o``.
    members : tuple of Member
        The weight axes that change.
    sets : tuple of ndarray of int
        The exchangeable sets; channels outside of them stay as they are.
    order : ndarray of int, shape (o,), or None
        For ``arrange``: place ``p`` takes old channel ``order[p]``.
    A, B : ndarray of float64, shape (o, o), or None
        For ``reorganize``: ``W'[p] = sum_j A[p, j] W[j]`` and ``V'[p] = sum_j B[p, j] V[j]``.
        Rows of new channels are zero.
    shares : ndarray of float64, shape (o, o), or None
        ``shares[p, j]``: how much of old channel ``j`` came to place ``p``; columns sum to 1 at
        most.  The ``B`` from before a refit, whose coefficients are no shares.
    new : ndarray of int
        Places whose channels are re-initialized.
    method : str
        What decided, for the reader.
    init, new_outgoing, outgoing : str
        As in :class:`Recipe`.
    seed : int
    nodes, occupied : int
        ``K`` over all sets, and how many nodes have channels.
    merged : int
        Old channels that share a place with others.
    capacity : Capacity or None
        Use of the group's capacity before.
    note : str
        What the reader should know (an approximate merge and why).
    reason : str
        Why nothing is rejuvenated; empty where something is, and for ``arrange``.
    filters : dict of str to ndarray, shape (len(new), rows of a channel, ...)
        Incoming weights of new channels that the plan prescribes, by weight; the
        others are drawn as ``init`` says.
    """

    group: str
    kind: Literal["arrange", "reorganize"]
    channels: int
    members: tuple[Member, ...]
    sets: tuple[np.ndarray, ...] = ()
    order: np.ndarray | None = None
    A: np.ndarray | None = None
    B: np.ndarray | None = None
    shares: np.ndarray | None = None
    new: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    method: str = ""
    init: str = "match"
    new_outgoing: str = "zero"
    outgoing: str = "sum"
    seed: int = 0
    nodes: int = 0
    occupied: int = 0
    merged: int = 0
    capacity: Capacity | None = None
    note: str = ""
    reason: str = ""
    filters: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def weights(self) -> tuple[str, ...]:
        """Names of the weights that the plan touches, in the order of execution."""
        return tuple(dict.fromkeys(member.weight for member in self.members))

    @property
    def movable(self) -> np.ndarray:
        """Channels of all exchangeable sets, ascending."""
        return np.sort(np.concatenate([np.zeros(0, dtype=np.int64), *self.sets]))

    @property
    def survivors(self) -> np.ndarray:
        """Places of the exchangeable sets that hold a surviving channel, ascending."""
        return np.setdiff1d(self.movable, self.new)

    @property
    def dropped(self) -> np.ndarray:
        """Old channels that came to no place: dormant ones, or those of the lowest score."""
        if self.shares is None:
            return np.zeros(0, dtype=np.int64)
        return np.setdiff1d(self.movable, np.flatnonzero(self.shares.any(axis=0)))

    @property
    def moved(self) -> int:
        """For ``arrange``: number of places that take another channel."""
        return 0 if self.order is None else int(np.sum(self.order != np.arange(self.channels)))

    @property
    def idle(self) -> bool:
        """Whether the plan leaves everything as it is."""
        if self.kind == "arrange":
            return self.moved == 0
        if self.new.size or self.A is None or self.B is None:
            return False
        here = np.eye(self.channels)
        return np.array_equal(self.A, here) and np.array_equal(self.B, here)

    def inverse(self) -> GroupPlan:
        """The plan that undoes an ``arrange``."""
        if self.order is None:
            raise ValueError(
                f"expected a plan that only permutes, got one that merges {self.group!r}; "
                "keep a copy of the weights to undo it"
            )
        return replace(self, order=np.argsort(self.order))

    def to_dict(self) -> dict[str, Any]:
        """Figures by name, ready for JSON; the matrices are left to :meth:`Plan.save`."""
        return {
            **{name: getattr(self, name) for name in _VALUES},
            "moved": self.moved,
            "survivors": len(self.survivors) if self.kind == "reorganize" else self.channels,
            "dropped": len(self.dropped),
            "new": len(self.new),
            "capacity": None if self.capacity is None else self.capacity.to_dict(),
            "weights": list(self.weights),
        }

    def __str__(self) -> str:
        if self.kind == "arrange":
            text = f"arrange {self.group}: {self.moved} of {self.channels} channels move"
        else:
            text = (
                f"reorganize {self.group} by {self.method}: {self.channels} channels, "
                f"{self.nodes} nodes, {len(self.survivors)} survive, {self.merged} merged, "
                f"{len(self.dropped)} dropped, {len(self.new)} new"
            )
        text += f"; {len(self.weights)} weights"
        remarks = "; ".join(filter(None, (self.reason, self.note)))
        return f"{text} ({remarks})" if remarks else text


def filter_name(member: Member) -> str:
    """The key of a member in :attr:`GroupPlan.filters`: its weight and the axes of its rows."""
    return f"{member.weight} {member.axes}"


@dataclass(frozen=True, eq=False)
class Plan:
    """Plans of several groups, to be applied together.

    Attributes
    ----------
    groups : list of GroupPlan
    recipe : Recipe or None
    skipped : dict of str to str
        Groups that were left out, and why.
    """

    groups: list[GroupPlan]
    recipe: Recipe | None = None
    skipped: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = [plan.group for plan in self.groups]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"expected one plan for each group, got two for {name!r}")

    @property
    def weights(self) -> tuple[str, ...]:
        """Names of the weights that the plan touches."""
        return tuple(dict.fromkeys(name for plan in self.groups for name in plan.weights))

    def inverse(self) -> Plan:
        """The plan that undoes an ``arrange``."""
        return replace(self, groups=[plan.inverse() for plan in self.groups])

    def to_dict(self) -> dict[str, Any]:
        """Figures by name, ready for JSON."""
        return {
            "groups": [plan.to_dict() for plan in self.groups],
            "recipe": None if self.recipe is None else self.recipe.to_dict(),
            "skipped": dict(self.skipped),
        }

    def __str__(self) -> str:
        lines = [str(plan) for plan in self.groups]
        lines += skipped_lines(self.skipped)
        return "\n".join(lines) or "nothing to do"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the plan as one ``.npz`` file, beside and then renamed.

        Raises
        ------
        OSError
            Where the file cannot be written; an existing file is then as it was.
        """
        arrays: dict[str, np.ndarray] = {}
        header = {
            "format": FORMAT,
            "version": VERSION,
            "recipe": None if self.recipe is None else self.recipe.to_dict(),
            "skipped": self.skipped,
            "groups": [_pack(plan, f"{i}", arrays) for i, plan in enumerate(self.groups)],
        }
        arrays["header"] = np.frombuffer(json.dumps(header).encode(), dtype=np.uint8)
        with written_beside(path) as temporary, open(temporary, "wb") as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Plan:
        """Read a plan that :meth:`save` wrote.

        Raises
        ------
        ValueError
            Where the file is missing, damaged, no plan, or of a later version.
        """
        name = os.fspath(path)
        try:
            arrays = read_arrays(path)
            header = json.loads(arrays.pop("header").tobytes())
            known = header["format"] == FORMAT
        except OSError as error:
            raise ValueError(
                f"expected a plan that can be read, got {name!r}: {error.strerror or error}"
            ) from error
        except Exception:  # no archive, no header, no JSON
            known = False
        if not known:
            raise ValueError(f"expected a plan written by Plan.save, got {name!r}")
        if header.get("version") != VERSION:
            raise ValueError(
                f"expected a plan of version {VERSION}, got version {header.get('version')!r} in "
                f"{name!r}; make the plan again, or use the rejuvenet that made it"
            )
        from .plan_check import check_names, check_plan

        try:
            groups = [_unpack(values, arrays) for values in header["groups"]]
            for group in groups:
                check_plan(group)
            check_names(header["skipped"])
            recipe = None if header["recipe"] is None else Recipe(**header["recipe"])
            return cls(groups, recipe, header["skipped"])
        except KeyError as error:
            raise ValueError(f"expected a complete plan, got {name!r} without {error}") from error
        except Exception as error:  # values of any other type than they should have
            reason = " ".join(str(error).split())
            raise ValueError(f"expected a complete plan, got {name!r}: {reason}") from error


def by_reason(skipped: Mapping[str, str]) -> dict[str, list[str]]:
    """The groups that were skipped for each reason."""
    names: dict[str, list[str]] = {}
    for name, reason in skipped.items():
        names.setdefault(reason, []).append(name)
    return names


def shortened(names: Sequence[str]) -> str:
    """Names in a line, three of many.

    >>> shortened(["a", "b", "c", "d", "e"])
    'a, b, c and 2 more'
    """
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{', '.join(names[:3])}{more}"


def skipped_lines(skipped: Mapping[str, str]) -> list[str]:
    """One line for each reason: the groups that were skipped for it."""
    return [f"skipped {shortened(names)}: {why}" for why, names in by_reason(skipped).items()]


def _pack(plan: GroupPlan, key: str, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """JSON values of a plan; its arrays go to ``arrays`` under names that start with ``key``."""

    def put(name: str, array: np.ndarray) -> str:
        arrays[f"{key}.{name}"] = array
        return f"{key}.{name}"

    values: dict[str, Any] = {name: getattr(plan, name) for name in _VALUES}
    values["capacity"] = None if plan.capacity is None else plan.capacity.to_dict()
    values["arrays"] = {
        name: put(name, getattr(plan, name)) for name in _ARRAYS if getattr(plan, name) is not None
    }
    values["filters"] = {
        name: put(f"filters{i}", rows) for i, (name, rows) in enumerate(plan.filters.items())
    }
    values["sets"] = [put(f"set{i}", indices) for i, indices in enumerate(plan.sets)]
    values["members"] = [
        {
            "weight": member.weight,
            "kind": member.kind,
            "role": member.role,
            "view": list(member.view),
            "axes": list(member.axes),
            "positions": put(f"member{i}", member.positions),
            "origin": member.origin,
            "trained": member.trained,
            "fan_in": member.fan_in,
        }
        for i, member in enumerate(plan.members)
    ]
    return values


def _unpack(values: dict[str, Any], arrays: dict[str, np.ndarray]) -> GroupPlan:
    """The plan that :func:`_pack` took apart."""
    members = tuple(
        Member(
            **{
                **member,
                "view": tuple(member["view"]),
                "axes": tuple(member["axes"]),
                "positions": arrays[member["positions"]],
            }
        )
        for member in values["members"]
    )
    figures = values["capacity"]
    fields: dict[str, Any] = {name: values[name] for name in _VALUES}
    fields.update({name: arrays[key] for name, key in values["arrays"].items()})
    return GroupPlan(
        **fields,
        members=members,
        sets=tuple(arrays[key] for key in values["sets"]),
        filters={name: arrays[key] for name, key in values["filters"].items()},
        capacity=None if figures is None else Capacity(**figures),
    )
