"""Which of the channels that plans free can be removed, alone or along with those of others."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from ..find.channels import Unfit
from ..plan.plan import GroupPlan
from .removal import Layout


def compacted(plan: GroupPlan) -> GroupPlan:
    """The plan with the survivors of every set at its first places; new channels lie behind."""
    assert plan.A is not None
    assert plan.B is not None
    source = np.arange(plan.channels)
    for S in plan.sets:
        dead = np.isin(S, plan.new)
        source[np.sort(S)] = np.concatenate([S[~dead], S[dead]])
    new = np.flatnonzero(np.isin(source, plan.new))
    shares = None if plan.shares is None else plan.shares[source]
    return replace(plan, A=plan.A[source], B=plan.B[source], shares=shares, new=new, filters={})


def removable(
    layout: Layout, plans: Sequence[GroupPlan]
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The channels of compacted plans that can go, and the groups of which none can.

    Groups that only go together, as the halves that a channel shuffle mixes, are tried all at once
    and each with the next one.

    Returns
    -------
    freed : dict of str to ndarray of int
        By group.
    against : dict of str to str
        Reasons by group.
    """
    freed: dict[str, np.ndarray] = {}
    against: dict[str, str] = {}
    waiting = []
    for plan in plans:
        try:
            freed[plan.group] = _alone(layout, plan)
        except Unfit as error:
            against[plan.group] = str(error)
            waiting.append(plan)
    for several in (waiting, *itertools.pairwise(waiting)):
        still = [plan for plan in several if plan.group not in freed]
        wanted = {plan.group: plan.new for plan in still}
        if len(still) > 1 and all(map(_is_read, still)) and _fits(layout, wanted, still):
            freed |= wanted
            for plan in still:
                del against[plan.group]
    return freed, against


def _alone(layout: Layout, plan: GroupPlan) -> np.ndarray:
    """The channels that can go, if the group were the only one; Unfit is raised where none can."""
    if not _is_read(plan):
        raise Unfit("no weight reads its channels, so that none of them can be silent")
    try:
        layout.removal({plan.group: plan.new}, [plan])
    except Unfit:
        equal = _equally_many(plan)
        if not len(equal) or not _fits(layout, {plan.group: equal}, [plan]):
            raise
        return equal
    return plan.new


def _is_read(plan: GroupPlan) -> bool:
    return any(member.kind == "consumer" for member in plan.members)


def _fits(layout: Layout, freed: Mapping[str, np.ndarray], plans: Sequence[GroupPlan]) -> bool:
    try:
        layout.removal(freed, plans)
    except Unfit:
        return False
    return True


def _equally_many(plan: GroupPlan) -> np.ndarray:
    """As many new channels of every set as of the one with the fewest: what grouped layers need."""
    least = min(int(np.isin(S, plan.new).sum()) for S in plan.sets)
    return np.sort(np.concatenate([np.sort(S)[len(S) - least :] for S in plan.sets]))
