"""Which layers to rejuvenate and by how much, from the capacity figures: ``layers="auto"``.

A group uses the smallest of three shares of its capacity::

    used = min(occupied / nodes, effective_rank / min(channels, features), 1 - dormant)

the nodes that its channels occupy, the directions that its responses span of those that they
could, and the channels that respond at all.  The deepest groups with ``used`` of at most ``ENOUGH``
are chosen: deeper layers gain more, and merging in lower layers can do harm (section 3.1.1 of the
paper).  Each keeps the share of its channels that it uses.

A map with one node a channel leaves a quarter to a third of its nodes empty even where all
channels differ, so occupied nodes alone tell little above two thirds.
"""

from __future__ import annotations

from collections.abc import Mapping

from .capacity import Capacity

# Measured by tutorials/redundancy_figures.py: the groups of a ResNet-20 trained on 20 classes use
# 0.46 to 0.60 of their capacity, the layers of a CNN with 56 % dead channels 0.18 and 0.24.
ENOUGH = 0.4
LEAST = 0.25
LAYERS = 2  # as many as the paper combines


def used_share(figures: Capacity) -> float:
    """Share of its capacity that a group uses, 0 to 1.

    >>> used_share(Capacity(8, 8, 6, 3.0, 0.0, features=40))
    0.375
    """
    return min(
        figures.occupied / figures.nodes,
        figures.effective_rank / min(figures.channels, figures.features),
        1.0 - figures.dormant,
    )


def least_used(figures: Mapping[str, Capacity], most: int | None = LAYERS) -> dict[str, float]:
    """Groups that use at most ``ENOUGH`` of their capacity, and the ratio for each.

    Parameters
    ----------
    figures : mapping of str to Capacity
        By the name of the group, in the order of execution.
    most : int or None
        At most so many groups, the deepest; None for no limit.

    Returns
    -------
    dict of str to float
        Ratio (share of the channels to keep, ``LEAST`` or more) by the name of the group, the
        deepest first; empty where every group uses its capacity.

    Examples
    --------
    >>> figures = {
    ...     "stem": Capacity(16, 16, 12, 9.0, 0.0, features=640),
    ...     "wide": Capacity(64, 64, 20, 12.0, 0.5, features=160),
    ...     "last": Capacity(64, 64, 48, 5.0, 0.0, features=10),
    ... }
    >>> least_used(figures)
    {'wide': 0.25}
    """
    shares = {name: used_share(figure) for name, figure in list(figures.items())[::-1]}
    chosen = [name for name, share in shares.items() if share <= ENOUGH][:most]
    return {name: max(LEAST, shares[name]) for name in chosen}
