"""How much of its capacity every group of an ONNX model uses, within a budget of memory.

A quarter of the budget is for the sums of the class means, which are pooled to a smaller extent
until they fit, and a quarter for what one batch of images makes at the taps.  Groups that do not
fit together are taken one part after the other, each with a pass over the images of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from math import prod

from ...graph import Capacity, ChannelGroup, capacity
from ..images.image_data import Batches
from ..onnx.collect import described
from ..onnx.model import OnnxModel

MEMORY = 2**30  # bytes, apart from the model and what onnxruntime needs to run it


def capacity_figures(
    model: OnnxModel,
    batches: Batches,
    progress: bool = False,
    watched: Callable[[Iterable], Iterable] = iter,
) -> dict[str, Capacity]:
    """Capacity by name of the group, of all groups with activations.

    Parameters
    ----------
    model : OnnxModel
    batches : Batches
        Read in smaller batches where theirs would not fit.
    progress : bool
        Show a bar while the model runs.
    watched : callable
        Wraps the groups of a part.
    """
    figures = {}
    classes = len(batches.data.classes)
    for part in _parts(model, classes, MEMORY // 4):
        images = max(1, MEMORY // 4 // sum(_bytes_of_taps(model, group) for group in part))
        widest = max(group.channels for group in part)
        sums = max(MEMORY // 4, 8 * classes * widest * sum(map(_taps, part)))
        smaller = replace(batches, batch_size=min(batches.batch_size, images))
        means, _ = described(model, smaller, part, progress=progress, max_bytes=sums)
        for name in watched(list(means)):
            found = means.pop(name)
            figures[name] = capacity(found.Q, activity=found.activity)
    return figures


def _parts(model: OnnxModel, classes: int, budget: int) -> Iterator[Sequence[ChannelGroup]]:
    """Groups whose class means fit in the budget, each at one position at least.

    Every tap has the same share of the budget.
    """
    part: list[ChannelGroup] = []
    taps = widest = 0
    for group in model.groups:
        if group.tap is None:
            continue
        more, wider = taps + _taps(group), max(widest, group.channels)
        if part and (
            8 * classes * more * wider > budget
            or sum(_bytes_of_taps(model, other) for other in [*part, group]) > budget
        ):
            yield part
            part, more, wider = [], _taps(group), group.channels
        part.append(group)
        taps, widest = more, wider
    if part:
        yield part


def _taps(group: ChannelGroup) -> int:
    return len(list(group.tap.each)) if group.tap is not None else 0


def _bytes_of_taps(model: OnnxModel, group: ChannelGroup) -> int:
    """What the taps of a group hold for one image, in float32."""
    if group.tap is None:
        return 0
    given = next(iter(model.example_inputs.values()))
    images = len(given) if given.ndim else 1
    return max(1, sum(4 * prod(model.graph.shapes[tap.tensor]) for tap in group.tap.each) // images)
