"""What a user should be told of a reorganization: poor samples, no classes, nothing freed.

One warning says one thing, once a call, whatever number of groups it is of.
"""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from types import FrameType

from .change.least_squares import Sums
from .measure.class_means import ClassMeans
from .measure.output_change import OutputChange
from .plan.plan import GroupPlan
from .report import Report

BEYOND = "its change is beyond the budget"  # why a group was put back
FEW = 2.0  # values for each channel of a refit below which a warning is due
ENOUGH = 250  # samples: 2,000 could not be told apart from as many (tutorials/how_many_images.py)
MOST_NAMES = 5
ROOT = __package__.rpartition(".")[0]
OURS = tuple(f"{ROOT}.{part}." for part in ("graph", "adapters"))


def warn(message: str) -> None:
    """Warn at the line of the user that called this package, whatever lies between."""
    frame: FrameType | None = sys._getframe()
    level = outermost = 0
    while frame is not None:
        level += 1
        if str(frame.f_globals.get("__name__")).startswith(OURS):
            outermost = level
        frame = frame.f_back
    warnings.warn(message, stacklevel=outermost + 1)


def some_of(names: Sequence[str]) -> str:
    """The first few of some names, and how many more there are.

    >>> some_of(["a", "b"]), some_of(list("abcdefg"))
    ("'a', 'b'", "'a', 'b', 'c', 'd', 'e' and 2 more")
    """
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return f"{', '.join(map(repr, names[:MOST_NAMES]))}{more}"


def warn_of_few_samples(refits: Iterable[tuple[GroupPlan, Sums, ClassMeans | None]]) -> None:
    """Say what refits cannot know, before anything is written."""
    poor: dict[str, tuple[float, float, int, int]] = {}
    for plan, sums, means in refits:
        samples, unknown = sums.fitted.samples + sums.held.samples, len(plan.survivors)
        values = sums.fitted.samples * (1 if means is None else means.positions)
        if values < FEW * unknown:
            enough = math.ceil(FEW * unknown / (values / samples))
            poor[plan.group] = samples, values, unknown, enough
    if poor:
        (first, (samples, values, unknown, _)), *others = poor.items()
        also = f", and too few for {some_of([name for name, _ in others])}" if others else ""
        enough = max(ENOUGH, *(enough for *_, enough in poor.values()))
        warn(
            f"{samples:.0f} sample{'s give' if samples > 1 else ' gives'} {values:.0f} values for "
            f"the refit of {unknown} channels of {first!r}{also}: give {enough} samples or more"
        )


def warn_of_equal_samples(outputs: OutputChange) -> None:
    """Say that the samples cannot show what the network does with others."""
    if outputs.alike:
        warn(
            "the outputs are the same for every sample, so that no figure tells what becomes of "
            "others: are the samples all the same? Give some that differ"
        )


def warn_about_classes(unlabelled: bool, means: Mapping[str, ClassMeans]) -> None:
    """Say what class means of these samples cannot show."""
    for own in list(means.values())[:1]:
        if unlabelled and len(own.counts) < 2:
            warn(
                "the batches have no labels, so that all samples count as one class: give "
                "(inputs, labels), or pseudo_classes=number"
            )
        if len(own.counts) > 1 and max(own.counts) <= 1:
            warn("every class has one sample, which a class mean is hardly made of: give more data")


def warn_where_nothing_changed(report: Report, target: bool = False) -> None:
    """Say in which groups no channel became free.

    A ``target`` chose how many: then it is worth a warning only where all channels stay.
    """
    idle = [group for group in report.groups if not group.new]
    if not report.groups and any(BEYOND in reason for reason in report.skipped.values()):
        warn("nothing was changed: the outputs would have changed by more than the budget allows")
    elif target:
        if len(idle) == len(report.groups):
            warn("nothing was removed: the model keeps within the target as it is")
    elif not report.groups:
        warn(
            "nothing was reorganized: every group uses its capacity; name layers to reorganize "
            "them all the same"
        )
    elif idle:
        names = some_of([group.group for group in idle])
        of = "in the first, " if len(idle) > 1 else ""
        warn(f"nothing was freed in {names}: {of}{idle[0].reason}")
