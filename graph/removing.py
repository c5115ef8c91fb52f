"""Which groups a network can lose channels of, seen by running it without them.

The channels are silent already: what reads them holds zeros for them.  So the network without them
computes the same to rounding, or something in it tells their number that was not understood: then
halves of the groups are tried, until the groups that cannot are known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from .change.removal import Layout
from .find.channels import Unfit
from .measure.verdict import DOUBLE, SINGLE, Limits, judge, limits_of
from .network import Network
from .plan.plan import GroupPlan

SHAKES = 3  # of inputs and weights, before a change of the outputs is called an error


def unremovable(
    network: Network,
    layout: Layout,
    freed: Mapping[str, np.ndarray],
    plans: Sequence[GroupPlan],
) -> dict[str, str]:
    """The groups whose channels cannot go, with the reason.

    Parameters
    ----------
    network : Network
        With its silent channels.
    layout : Layout
    freed : mapping of group name to ndarray of int
        Silent channels.
    plans : sequence of GroupPlan

    Raises
    ------
    ValueError
        The network does not run on its example inputs, so that nothing can be verified.
    """
    trials = _Trials(network, layout, freed)
    against = trials.search(list(plans))
    left = [plan for plan in plans if plan.group not in against]
    if against and left and trials.reason(left) is not None:  # each may go, not all together
        going: list[GroupPlan] = []
        for plan in left:
            reason = trials.reason([*going, plan])
            if reason is None:
                going.append(plan)
            else:
                against[plan.group] = reason
    return against


class _Trials:
    def __init__(self, network: Network, layout: Layout, freed: Mapping[str, np.ndarray]) -> None:
        self.network, self.layout, self.freed = network, layout, freed
        self.limits = limits_of(network.number_types)
        self.before = network.example_outputs()
        self._responses: dict[float, list[list[np.ndarray]]] = {}

    def search(self, plans: list[GroupPlan]) -> dict[str, str]:
        reason = self.reason(plans)
        if reason is None:
            return {}
        if len(plans) == 1:
            return {plans[0].group: reason}
        half = len(plans) // 2
        return {**self.search(plans[:half]), **self.search(plans[half:])}

    def reason(self, plans: Sequence[GroupPlan]) -> str | None:
        """Why the channels of these groups cannot go together."""
        try:
            removal = self.layout.removal(self.freed, plans)
            with self.network.without(removal):
                after = self.network.example_outputs()
        except Unfit as error:
            return str(error)
        except ValueError as error:
            return f"the model does not run without its channels: {error}"
        if self._same(after, self.limits):
            return None
        # A network in double precision may compute in single precision inside.
        if self.limits is DOUBLE and self._same(after, SINGLE):
            return None
        return "the outputs change where its channels are removed, though they are silent"

    def _same(self, after: list[np.ndarray], limits: Limits) -> bool:
        verdict = judge(self.before, after, self._shaken(limits.shake), limits)
        return verdict is not None and verdict.within

    def _shaken(self, shake: float) -> list[list[np.ndarray]]:
        if shake not in self._responses:
            self._responses[shake] = [
                self.network.example_outputs(shake, weights=i > 0) for i in range(SHAKES)
            ]
        return self._responses[shake]
