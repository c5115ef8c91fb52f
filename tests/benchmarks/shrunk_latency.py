"""How fast onnxruntime runs files without some of their channels: any number, or multiples of 8.

    python tests/benchmarks/shrunk_latency.py

Shrinks MobileNetV2 and ResNet-18 of torchvision, which need no weights for this, to equal shares of
the channels of every layer, with the numbers that result and with these rounded to multiples of 8,
and times each file in turn with the whole one.  Writes ``results/shrunk_latency.json``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import torch
from rejuvenet.adapters.onnx import load, shrink
from rejuvenet.adapters.onnx.latency import latencies
from rejuvenet.graph import Recipe
from rejuvenet.graph.ratios import PACK
from torchvision.models import mobilenet_v2, resnet18

RESULTS = Path(__file__).parent / "results" / "shrunk_latency.json"
RATIOS = (0.9, 0.8, 0.7, 0.6, 0.5)
RECIPE = Recipe.shrinking(method="random")


def main() -> None:
    rows = []
    for make in (mobilenet_v2, resnet18):
        torch.manual_seed(0)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            image = torch.zeros(1, 3, 224, 224)
            torch.onnx.export(make().eval(), (image,), path, dynamo=False)
            model = load(path)
        sizes = {g.name: g.channels for g in model.groups if g.frozen is None}
        for ratio in RATIOS:
            for pack in (1, PACK):
                kept = {n: max(1, round(ratio * size / pack)) * pack for n, size in sizes.items()}
                shares = {n: min(1.0, k / sizes[n]) for n, k in kept.items()}
                smaller, report = shrink(model, recipe=RECIPE, ratio={**shares, "*": 1.0})
                both = latencies([model, smaller], [model.example_inputs] * 2)
                assert report.cost is not None
                assert report.cost_before is not None
                rows.append({
                    "network": make.__name__,
                    "ratio": ratio,
                    "multiples of": pack,
                    "share of the multiply-adds": report.cost.multiply_adds
                    / report.cost_before.multiply_adds,
                    "share of the time": both[1].milliseconds / both[0].milliseconds,
                    "milliseconds": [x.milliseconds for x in both],
                    "how": both[0].how,
                })  # fmt: skip
                print(rows[-1], flush=True)
    RESULTS.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    main()
