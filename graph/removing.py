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
from .measure.verdict import Noise
from .network import Network
from .plan.plan import GroupPlan


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
    noise = Noise(network)

    def reason(some: Sequence[GroupPlan]) -> str | None:
        """Why the channels of these groups cannot go together."""
        try:
            removal = layout.removal(freed, some)
            with network.without(removal):
                after = network.example_outputs()
        except Unfit as error:
            return str(error)
        except ValueError as error:
            return f"the model does not run without its channels: {error}"
        verdict = noise.verdict(after)
        if verdict is not None and verdict.within:
            return None
        return "the outputs change where its channels are removed, though they are silent"

    def search(some: Sequence[GroupPlan]) -> dict[str, str]:
        found = reason(some)
        if found is None:
            return {}
        if len(some) == 1:
            return {some[0].group: found}
        half = len(some) // 2
        return {**search(some[:half]), **search(some[half:])}

    against = search(plans)
    left = [plan for plan in plans if plan.group not in against]
    if against and left and reason(left) is not None:  # each may go, not all together
        going: list[GroupPlan] = []
        for plan in left:
            found = reason([*going, plan])
            if found is None:
                going.append(plan)
            else:
                against[plan.group] = found
    return against
