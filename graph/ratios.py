"""How many channels of each group stay, for a budget of parameters, multiply-adds or time.

One look at the network says for every group ``g`` and number ``k`` of channels what its consumers
would miss (:func:`rejuvenet.graph.plan.subset.subset`), and the graph says what a channel costs.
With ``m_g(k)`` the share that is missed and ``c_g`` what a channel of the group saves::

    k_g = argmin m_g(k) + price * (k c_g)

so that in every group the next channel would cost the same accuracy for what it saves.  The price
is the least under which the network keeps its budget, found by bisection with the cost that the
network would really have.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import Literal, NamedTuple

import numpy as np

from .arguments import check_kind
from .change.removable import removable
from .change.removal import Layout, Removal
from .find.channels import ChannelGroup
from .measure.cost import cost
from .plan.plan import GroupPlan
from .plan.subset import read_by, subset

# No group keeps less than this share of what it would if all kept the same: how much a group's
# residual matters for the outputs is not known, so a budget is not spent on few of them.
FLOOR = 0.9
STEPS = 24  # of a bisection
TRIALS = 7  # with networks that are timed: to a hundredth of the multiply-adds
# Where time counts, groups keep a multiple of so many channels: kernels pack them by 8 or 16, and
# a network with fewer channels, but odd numbers of them, can be slower than the whole one
# (tests/benchmarks/shrunk_latency.py).
PACK = 8

Quantity = Literal["parameters", "multiply_adds"]


class Budget(NamedTuple):
    """What may be left of a network.

    Attributes
    ----------
    quantity : {"parameters", "multiply_adds"}
    share : float in (0, 1]
    """

    quantity: Quantity
    share: float

    @classmethod
    def of(cls, parameters: float | None, multiply_adds: float | None) -> Budget | None:
        """From the two options of which one may be given.

        Raises
        ------
        ValueError
            It is no share.
        """
        given = {"parameters": parameters, "multiply_adds": multiply_adds}
        found = [cls(k, v) for k, v in given.items() if v is not None]  # type: ignore[arg-type]
        check_kind(Real, target_params=parameters, target_flops=multiply_adds)
        for quantity, share in found:
            if not 0 < share <= 1:
                raise ValueError(
                    f"expected the target of {quantity.replace('_', '-')} as a share in (0, 1], "
                    f"got {share!r}"
                )
        return found[0] if found else None

    def ratios(self, prices: Prices) -> dict[str, float]:
        """The ratio of every group, by its name; 1 where none of its channels can go.

        Raises
        ------
        ValueError
            The budget cannot be kept.
        """
        return prices.ratios(self.quantity, self.share)


class TimeBudget(NamedTuple):
    """How long a network may take, by trials with networks that are really smaller.

    Ratios are those that leave a share of the multiply-adds, in multiples of ``PACK`` channels; the
    share is found by bisection.

    Attributes
    ----------
    fits : callable
        Whether what a removal leaves is fast enough.  Raises ValueError where it does not run.
    text : str
        What it is to be, for an error, such as ``"5 ms"``.
    """

    fits: Callable[[Removal], bool]
    text: str

    def ratios(self, prices: Prices) -> dict[str, float]:
        """As those of :class:`Budget`.

        Raises
        ------
        ValueError
            The network cannot become as fast.
        """
        if self.fits(prices.removal({})):
            return dict.fromkeys(prices.groups, 1.0)
        prices = prices.where(self._runs)
        low, high = 0.0, 1.0
        found = None
        for _ in range(TRIALS):
            middle = (low + high) / 2
            try:
                ratios = prices.ratios("multiply_adds", middle, PACK)
            except ValueError:  # too few channels can go
                low = middle
                continue
            if self.fits(prices.removal(ratios)):
                low, found = middle, ratios
            else:
                high = middle
        if found is None:
            raise ValueError(
                f"the model cannot be shrunk to {self.text}: too few of its channels can be "
                "removed, or they take too little of its time"
            )
        return found

    def _runs(self, removal: Removal) -> bool:
        try:
            self.fits(removal)
        except ValueError:
            return False
        return True


class Prices:
    """What channels of every group cost, and what would be missed without them.

    Parameters
    ----------
    layout : Layout
    groups : sequence of ChannelGroup
    grams : mapping of group name to ndarray, shape (channels, channels)
        Second moments; groups without stay as they are.
    weights : mapping of str to ndarray
    samples : int
        How many samples the shapes of the graph are of.
    """

    def __init__(
        self,
        layout: Layout,
        groups: Sequence[ChannelGroup],
        grams: Mapping[str, np.ndarray],
        weights: Mapping[str, np.ndarray],
        samples: int,
    ) -> None:
        self._layout, self._samples, self._groups = layout, samples, groups
        described = [group for group in groups if group.name in grams]
        halves = [_plan(group, 0.5) for group in described]
        self._freed, _ = removable(layout, [plan for plan in halves if plan.new.size])
        self._able = [group for group in described if group.name in self._freed]
        self._curves = {g.name: _curve(g, grams[g.name], weights) for g in self._able}

    @property
    def groups(self) -> list[str]:
        """Names of all groups."""
        return [group.name for group in self._groups]

    def where(self, works: Callable[[Removal], bool]) -> Prices:
        """The same without groups that cannot lose channels, as far as trials show."""
        halves = dict.fromkeys(self._freed, 0.5)
        if not self._able or works(self.removal(halves)):
            return self
        other = copy.copy(self)
        other._able = [g for g in self._able if works(self.removal({g.name: 0.5}))]
        return other

    def removal(self, ratios: Mapping[str, float]) -> Removal:
        """What goes with some ratios; of groups without one, nothing."""
        plans = [_plan(group, ratios[group.name]) for group in self._able if group.name in ratios]
        return self._layout.removal({plan.group: plan.new for plan in plans}, plans)

    def ratios(self, quantity: Quantity, share: float, pack: int = 1) -> dict[str, float]:
        """As :meth:`Budget.ratios`; groups keep a multiple of ``pack`` channels, or all."""
        odd = {g.name: [k % pack > 0 and k < g.channels for k in _kept(g)] for g in self._able}

        def amount(ratios: Mapping[str, float]) -> int:
            left = cost(self._layout.graph, self._samples, self.removal(ratios).shapes)
            return int(getattr(left, quantity))

        whole = amount({})
        saved = {
            group.name: (whole - amount({group.name: 0.5}))
            / max(len(self._freed[group.name]), 1)
            / whole
            for group in self._able
        }
        allowed = share * whole
        low, high = 0.0, 1.0  # the ratio that keeps the budget where all groups have the same
        for _ in range(STEPS // 2):
            middle = (low + high) / 2
            kept = amount(dict.fromkeys(saved, middle)) <= allowed
            low, high = (middle, high) if kept else (low, middle)

        def at(price: float) -> dict[str, float]:
            found = {}
            for group in self._able:
                n, missed = group.channels, self._curves[group.name]
                k = np.arange(len(missed))
                total = missed + price * saved[group.name] * k
                total[: max(1, int(FLOOR * low * n) // pack * pack)] = np.inf
                total[odd[group.name]] = np.inf
                found[group.name] = float(total.argmin()) / n
            return found

        least, most = 1e-12, 1e12
        if not self._able or amount(at(most)) > allowed:
            raise ValueError(
                f"the model cannot be shrunk to {100 * share:g}% of its "
                f"{quantity.replace('_', '-')}: too few of its channels can be removed"
            )
        for _ in range(STEPS if amount(at(least)) > allowed else 0):
            price = float(np.sqrt(least * most))
            least, most = (least, price) if amount(at(price)) <= allowed else (price, most)
        chosen = at(most if amount(at(least)) > allowed else least)
        return {name: chosen.get(name, 1.0) for name in self.groups}


def _curve(
    group: ChannelGroup, gram: np.ndarray, weights: Mapping[str, np.ndarray]
) -> np.ndarray:
    """What consumers miss with ``k`` channels of the group, all sets alike: (channels + 1,)."""
    H = read_by(group, weights)
    share = np.linspace(0.0, 1.0, group.channels + 1)
    total, missed = 0.0, np.zeros(group.channels + 1)
    for S in group.exchangeable:
        block = np.ix_(S, S)
        own = subset(gram[block], H[block]).missed
        amount = float(np.sum(gram[block] * H[block]))
        missed += amount * np.interp(share, np.linspace(0.0, 1.0, len(own)), own)
        total += amount
    return missed / total if total > 0.0 else 0.0 * missed


def _kept(group: ChannelGroup) -> list[int]:
    """How many channels stay with a ratio of ``k`` channels, for all ``k`` up to all of them."""
    n = group.channels
    fixed, shares = n - sum(map(len, group.exchangeable)), np.arange(n + 1) / n
    return [
        fixed + sum(max(1, round(share * len(S))) for S in group.exchangeable) for share in shares
    ]


def _plan(group: ChannelGroup, ratio: float) -> GroupPlan:
    """The last channels of every set go, in as many as a plan of this ratio would free."""
    sets = tuple(np.sort(S) for S in group.exchangeable)
    gone = [S[max(1, round(ratio * len(S))) :] for S in sets]
    new = np.sort(np.concatenate([np.zeros(0, dtype=np.int64), *gone]))
    return GroupPlan(group.name, "reorganize", group.channels, group.members, sets, new=new)
