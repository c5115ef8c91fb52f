"""``compare``: two ONNX files on the same images."""

from __future__ import annotations

from dataclasses import asdict

from .. import terminal
from ..options import (
    BatchSize,
    DataPath,
    InputShape,
    Json,
    Mean,
    Model,
    Preprocess,
    Size,
    Std,
    open_batches,
)
from ..terminal import Listing, guarded, percent, print_json, progress


@guarded
def compare(
    first: Model,
    second: Model,
    data: DataPath,
    input_shape: InputShape = None,
    size: Size = None,
    mean: Mean = None,
    std: Std = None,
    preprocess: Preprocess = None,
    batch_size: BatchSize = 64,
    as_json: Json = False,
) -> None:
    """Run two ONNX files on the same images; compare outputs, weights and running time."""
    from .. import comparison

    batches = open_batches(first, data, size, mean, std, preprocess, batch_size, input_shape)
    result = comparison.compare(str(first), str(second), batches, progress("images", as_json))
    if as_json:
        print_json({"first": str(first), "second": str(second), **result.to_dict()})
        return
    scores = result.accuracy or (None, None)
    rate = [1000 * seconds / result.images for seconds in result.seconds]
    rows = [
        ("images", result.images),
        ("accuracy of the first", percent(scores[0])),
        ("accuracy of the second", percent(scores[1])),
        ("same first class", percent(result.top1)),
        ("first five classes in common", percent(result.top5)),
        ("outputs", len(result.outputs)),
        ("greatest difference of the outputs", result.max_difference),
        ("mean difference of the outputs", result.mean_difference),
        ("relative difference of the outputs", result.relative_difference),
        ("weights that are equal", result.equal),
        ("weights that differ", len(result.changed)),
        ("weights of one file only", len(result.only_first) + len(result.only_second)),
        ("ms an image, first", rate[0]),
        ("ms an image, second", rate[1]),
    ]
    terminal.out.print(Listing(f"{first} and {second}", ["figure", "value"], rows))
    if len(result.outputs) > 1:
        names = ["output", "greatest difference", "mean", "relative", "note"]
        rows = [(name, *asdict(found).values()) for name, found in result.outputs.items()]
        terminal.out.print(Listing("Outputs", names, rows))
    if result.changed:
        changed = sorted(result.changed.items(), key=lambda item: -item[1])
        terminal.out.print(Listing("Weights that differ", ["weight", "by at most"], changed))
