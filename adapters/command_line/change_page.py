"""Writes the page of a command that changes channels: measures both files, and hands over."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...files import write_text
from .invocation import Invocation
from .terminal import progress

PICTURE_BYTES = 2**28  # class means of a page are pooled until they fit; its tiles are small

if TYPE_CHECKING:
    from ...graph.find.channels import ChannelGroup
    from ...graph.measure.class_means import ClassMeans
    from ...graph.reorganizing import Outcome
    from ..images.image_data import Batches
    from ..onnx.model import OnnxModel
    from ..report.activations import Panel
    from ..report.network.picture import Picture
    from .reading import Look


def write_change_page(
    html: Path,
    call: Invocation,
    loaded: OnnxModel,
    outcome: Outcome,
    look: Look,
    test: Batches | None,
    quiet: bool,
) -> None:
    """Write the page of ``reorganize`` or ``shrink``, whose file is there already.

    Parameters
    ----------
    html : Path
    call : Invocation
    loaded : OnnxModel
        As it was before.
    outcome : Outcome
        What was done, with class means before and after.
    look : Look
        What the change was fitted to.
    test : Batches or None
        Images to measure on.
    quiet : bool
        Show no progress.
    """
    from ..report.reorganization import reorganization_page
    from .evaluation import evaluated

    report = outcome.report
    comparison, images = evaluated(
        call.settings["model"],
        call.settings["output"],
        look,
        test,
        report.held_out,
        progress("images", quiet),
    )
    recipe = report.plan.recipe if report.plan is not None else None
    names = [line.group for line in report.groups]
    page = reorganization_page(
        call,
        report.to_dict(),
        comparison,
        images,
        recipe.to_dict() if recipe is not None else {},
        panels_of(outcome),
        picture_of(loaded, str(call.settings["model"]), names),
    )
    write_text(html, page)


def panels_of(
    outcome: Outcome, trained: Mapping[str, ClassMeans] | None = None
) -> dict[str, tuple[list[Panel], list]]:
    """The picture of Fig. 2 of each group: panels, and the names of the classes."""
    from ..report.activations import Panel, group_panels

    plans = {p.group: p for p in outcome.report.plan.groups} if outcome.report.plan else {}
    found = {}
    for line in outcome.report.groups:
        before, after = outcome.before.get(line.group), outcome.after.get(line.group)
        if before is None or after is None:
            continue
        new = plans[line.group].new if line.group in plans else np.zeros(0, int)
        panels = group_panels(before, after, new, (trained or {}).get(line.group))
        if line.kind == "arrange":
            panels[1] = Panel("Arranged", panels[1].caption.partition("; ")[2], after.Q)
        elif line.removed is not None:
            gone = plans[line.group].dropped
            panels[0] = Panel("Before", panels[0].caption, before.Q, gone, "removed channel")
            panels[1] = Panel("Shrunk", "what is left", np.delete(after.Q, new, axis=1))
        found[line.group] = panels, list(before.classes)
    return found


def both_panels(
    first: OnnxModel, second: OnnxModel, batches: Batches, names: tuple[str, str]
) -> dict[str, tuple[list[Panel], list]]:
    """The picture of Fig. 2 of the deepest group that differs in two files; of none if none does.

    Parameters
    ----------
    first, second : OnnxModel
    batches : Batches
        Images for both; without labels there is no picture.
    names : tuple of two str
        Titles of the panels.
    """
    from ..onnx.collect import described
    from ..report.activations import Panel, neighbor_similarity

    shared = {group.name: group for group in second.groups if group.tap is not None}
    for group in reversed(first.groups if batches.labelled else ()):
        other = shared.get(group.name)
        if group.tap is None or group.frozen or other is None or not differ(first, second, group):
            continue
        panels, classes = [], list[Any]()
        for model, own, name in zip((first, second), (group, other), names, strict=True):
            means = described(model, batches, [own], max_bytes=PICTURE_BYTES)[0].get(own.name)
            if means is None:
                return {}
            order = f"neighbouring channels correlate by {neighbor_similarity(means.Q):.2f}"
            panels.append(Panel(name, order, means.Q))
            classes = list(means.classes)
        return {group.name: (panels, classes)}
    return {}


def differ(first: OnnxModel, second: OnnxModel, group: ChannelGroup) -> bool:
    """Whether a weight that makes channels of a group of the first is another in the second."""
    names = [member.weight for member in group.producers]
    return any(
        name in second.weights and not np.array_equal(first.weights[name], second.weights[name])
        for name in names
    )


def picture_of(model: OnnxModel, title: str, changed: list[str] | None = None) -> Picture:
    """The picture of a network, with the groups in colour that were changed; else with all."""
    from ..onnx.layer_names import modules_of
    from ..report.network.layers import network_of
    from ..report.network.picture import Picture

    network = network_of(model.graph, model.groups, modules_of(model.analysed))
    return Picture(title, model.graph, model.groups, network, changed=changed)
