"""Permute the channels of any network, and see that it still computes what it did."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence

import numpy as np

from .arguments import refuse_idle
from .change.surgery import restricted, transform
from .collecting import described
from .measure.verdict import Noise
from .network import Data, Follow, Network
from .plan.planning import arrange_plan
from .plan.selection import Layers, refuse_named, select_groups
from .report import Report


def arrange(
    network: Network,
    data: Data | None,
    groups: Layers = "all",
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
        Changed in place, or as it was where ValueError is raised.
    data : Data or None
        For ``order="sofm"``, which needs it.
    groups, order, seed
        As in :func:`rejuvenet.adapters.torch.arrange`.
    classes : int or sequence, optional
        As in :func:`rejuvenet.adapters.torch.collect`.
    follow : callable, optional
        Changes what goes along with the network.
    """
    start = time.perf_counter()
    by_map = is_by_map(order)
    if not by_map:
        refuse_idle("unless order is 'sofm'", batches=data)
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
        try:
            noise = Noise(network, edit.undone)
        except ValueError as error:  # operators that the runtime does not have
            report.unverified = str(error)
        for name in plan.weights:
            edit.write(transform(restricted(plan, {name}), edit.original([name])))
        if follow is not None:
            follow(edit, plan.groups, {}, None)
        if not report.unverified:
            _verify(noise, network.example_outputs(), report)
    report.skipped.update(skipped)
    report.seconds = time.perf_counter() - start
    return report


def is_by_map(order: object) -> bool:
    """Whether an order is that of a map, which looks at activations."""
    return isinstance(order, str) and order == "sofm"


def _verify(noise: Noise, after: list[np.ndarray], report: Report) -> None:
    """Write the verdict into a report, or raise ValueError."""
    verdict = noise.verdict(after)
    if verdict is None:
        report.unverified = "they hold no finite number for the example inputs"
        return
    if not verdict.within:
        raise ValueError(
            f"{verdict}; nothing was changed: the network does something that was not understood"
        )
    report.verdict, report.output_change = verdict, _change(noise.before, after)


def _change(before: list[np.ndarray], after: list[np.ndarray]) -> float:
    """Root mean square of the change over that of the outputs."""
    f, g = (np.nan_to_num(np.concatenate([x.ravel() for x in part])) for part in (before, after))
    difference, size = float(np.linalg.norm(g - f)), float(np.linalg.norm(f))
    return difference / size if size else (0.0 if difference == 0.0 else math.inf)
