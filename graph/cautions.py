"""What a user should be told of a reorganization: poor samples, no classes, nothing freed."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping

from .change.least_squares import Sums
from .measure.class_means import ClassMeans
from .measure.output_change import OutputChange
from .plan.plan import GroupPlan
from .report import Report

BEYOND = "its change is beyond the budget"  # why a group was put back
FEW = 2.0  # values for each channel of a refit below which a warning is due
ENOUGH = 250  # samples: 2,000 could not be told apart from as many (tutorials/how_many_images.py)


def warn_of_few_samples(plan: GroupPlan, sums: Sums, means: ClassMeans | None) -> None:
    """Say what a refit cannot know, before anything is written."""
    samples, unknown = sums.fitted.samples + sums.held.samples, len(plan.survivors)
    values = sums.fitted.samples * (1 if means is None else means.positions)
    if values < FEW * unknown:
        enough = max(ENOUGH, math.ceil(FEW * unknown / (values / samples)))
        warnings.warn(
            f"{samples:.0f} sample{'s give' if samples > 1 else ' gives'} {values:.0f} values for "
            f"the refit of {unknown} channels of {plan.group!r}: give {enough} samples or more",
            stacklevel=7,
        )


def warn_of_equal_samples(outputs: OutputChange) -> None:
    """Say that the samples cannot show what the network does with others."""
    if outputs.alike:
        warnings.warn(
            "the outputs are the same for every sample, so that no figure tells what becomes of "
            "others: are the samples all the same? Give some that differ",
            stacklevel=5,
        )


def warn_about_classes(unlabelled: bool, means: Mapping[str, ClassMeans]) -> None:
    """Say what class means of these samples cannot show."""
    for own in list(means.values())[:1]:
        if unlabelled and len(own.counts) < 2:
            warnings.warn(
                "the batches have no labels, so that all samples count as one class: give "
                "(inputs, labels), or pseudo_classes=number",
                stacklevel=5,
            )
        if len(own.counts) > 1 and max(own.counts) <= 1:
            warnings.warn(
                "every class has one sample, which a class mean is hardly made of: give more data",
                stacklevel=5,
            )


def warn_where_nothing_changed(report: Report, target: bool = False) -> None:
    """A warning for every group in which no channel became free.

    A ``target`` chose how many: then it is worth one only where all channels stay.
    """
    if not report.groups and any(BEYOND in reason for reason in report.skipped.values()):
        warnings.warn(
            "nothing was changed: the outputs would have changed by more than the budget allows",
            stacklevel=3,
        )
        return
    if target:
        if not any(group.new for group in report.groups):
            warnings.warn(
                "nothing was removed: the model keeps within the target as it is", stacklevel=3
            )
        return
    if not report.groups:
        warnings.warn(
            "nothing was reorganized: every group uses its capacity; name layers to reorganize "
            "them all the same",
            stacklevel=3,
        )
    for group in report.groups:
        if not group.new:
            warnings.warn(f"nothing was freed in {group.group!r}: {group.reason}", stacklevel=3)
