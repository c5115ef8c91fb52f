"""Permute the channels of any network, and see that it still computes what it did."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from .change.surgery import restricted, transform
from .collecting import described
from .find.channels import ChannelGroup
from .measure.verdict import DOUBLE, SINGLE, Limits, judge, limits_of
from .network import Data, Follow, Network, Transaction
from .plan.planning import arrange_plan
from .plan.selection import refuse_named, select_groups
from .report import Report

MORE_SHAKES = 5  # of inputs and weights, before a change of the outputs is called an error


def arrange(
    network: Network,
    data: Data | None,
    groups: str | Sequence[str | ChannelGroup] = "all",
    order: str | np.ndarray | Mapping[str, np.ndarray] = "sofm",
    seed: int = 0,
    *,
    classes: int | Sequence[str | int] | None = None,
    follow: Follow | None = None,
) -> Report:
    """Permute channels; the function of the network is unchanged to rounding.

    Parameters
    ----------
    network : Network
        Changed in place.
    data : Data or None
        Needed for ``order="sofm"``.
    groups : str or sequence of str
        Layers, patterns, ``"last"`` or ``"all"``.
    order : {"sofm", "random"}, ndarray of int, or mapping of group name to ndarray
        By place on the map, at random, or given for one group or several.
    seed : int
    classes : int or sequence, optional
        As in :func:`rejuvenet.graph.collecting.collect`.
    follow : callable, optional
        Changes what goes along with the network.

    Returns
    -------
    Report
        ``verdict`` and ``output_change`` are of the inputs that the graph was made with.

    Raises
    ------
    ValueError
        For a layer that is unknown or cannot move, an order that is no permutation within the
        exchangeable sets, or outputs that changed by more than the network's own noise; the
        network is then as it was.
    """
    start = time.perf_counter()
    by_map = isinstance(order, str) and order == "sofm"
    chosen, skipped = select_groups(network.groups, groups, activations=by_map, permute=True)
    found = [choice.group for choice in chosen]
    if isinstance(order, np.ndarray):
        if len(found) != 1:
            raise ValueError(f"one order was given for {len(found)} groups: name one layer")
        order = {found[0].name: order}
    means = None
    if by_map:
        if data is None:
            raise ValueError("order 'sofm' needs batches of (inputs, labels); or give 'random'")
        means, refused = described(network, data, found, classes=classes)
        refuse_named(chosen, refused)
        found, skipped = [g for g in found if g.name in means], skipped | refused
    plan = arrange_plan(found, order, means, seed)  # type: ignore[arg-type]
    report = Report.of(plan)
    with network.transaction() as edit:
        limits = limits_of(network.number_types)
        try:
            before = network.example_outputs()
            response = network.example_outputs(limits.shake)
        except ValueError as error:  # operators that the runtime does not have
            before, report.unverified = [], str(error)
        for name in plan.weights:
            edit.write(transform(restricted(plan, {name}), edit.original([name])))
        if follow is not None:
            follow(edit, plan.groups, {}, None)
        if not report.unverified:
            _verify(network, edit, before, response, limits, report)
    report.skipped.update(skipped)
    report.seconds = time.perf_counter() - start
    return report


def _verify(
    network: Network,
    edit: Transaction,
    before: list[np.ndarray],
    response: list[np.ndarray],
    limits: Limits,
    report: Report,
) -> None:
    """Write the verdict into a report, or raise ValueError."""

    def more(shake: float) -> Iterator[list[np.ndarray]]:
        with edit.undone():
            for _ in range(MORE_SHAKES):
                yield network.example_outputs(shake, weights=True)

    def responses() -> Iterator[list[np.ndarray]]:
        yield response
        yield from more(limits.shake)

    after = network.example_outputs()
    verdict = judge(before, after, responses(), limits)
    if verdict is not None and not verdict.within and limits is DOUBLE:
        # A network in double precision may compute in single precision inside.
        verdict = judge(before, after, more(SINGLE.shake), SINGLE)
    if verdict is None:
        report.unverified = "they hold no finite number for the example inputs"
        return
    if not verdict.within:
        raise ValueError(
            f"{verdict}; nothing was changed: the network does something that was not understood"
        )
    report.verdict, report.output_change = verdict, _change(before, after)


def _change(before: list[np.ndarray], after: list[np.ndarray]) -> float:
    """Root mean square of the change over that of the outputs."""
    f, g = (np.nan_to_num(np.concatenate([x.ravel() for x in part])) for part in (before, after))
    difference, size = float(np.linalg.norm(g - f)), float(np.linalg.norm(f))
    return difference / size if size else (0.0 if difference == 0.0 else math.inf)
