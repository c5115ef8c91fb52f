"""What ``ratio="redundant"`` frees, what that costs, and how much of its capacity a layer uses.

Run as (about 5 minutes on one core; the checkpoint is that of ``merging_figures.py``)::

    python tutorials/redundancy_figures.py --data DIR --checkpoint FILE

The defaults of ``Recipe.tolerance`` and ``least_used`` come from here.  Networks: small CNNs
trained on scikit-learn's digits, with and without normalization, and a ResNet-20 trained on the
first 20 classes of CIFAR-100.  Raw numbers go to ``tutorials/results/redundancy_figures.json``:

- ``groups``: how far apart each group's two most similar channels lie, the activity of its least
  active one relative to the layer, and its capacity;
- ``freed``: for tolerances and dormancy thresholds, the share of the channels that is freed in all
  groups, the relative change of the outputs on the training images, and the test accuracy, with
  the consumers summed and refitted;
- ``planted``: the same where half of the channels of a layer copy others, with noise on filters.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import warnings
from pathlib import Path
from typing import Any

import cifar100
import numpy as np
import torch
from merging_figures import CALIBRATION, CLASSES, digits, trained_resnet
from rejuvenet.adapters.torch import collect, reorganize, trace
from rejuvenet.graph import Recipe, capacity
from rejuvenet.graph.plan.automatic_layers import used_share
from rejuvenet.graph.plan.mapping import fingerprints
from rejuvenet.graph.plan.redundancy import distances
from torch import nn
from torch.nn import functional as F

RESULTS = Path(__file__).parent / "results" / "redundancy_figures.json"
TOLERANCES = (0.05, 0.1, 0.2, 0.3, 0.5)
DORMANT = (0.0, 0.01, 0.025, 0.1)
NOISE = (0.01, 0.03, 0.1, 0.3)

Batches = list[tuple[torch.Tensor, torch.Tensor]]
Labelled = tuple[torch.Tensor, torch.Tensor]


def network(width: int) -> nn.Sequential:
    """Two convolutions of ``width`` and twice that many channels, with normalization."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(width, 2 * width, 3, padding=1, bias=False), nn.BatchNorm2d(2 * width), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(8 * width, 10),
    )  # fmt: skip


def plain_network(width: int) -> nn.Sequential:
    """The same without normalization."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(width, 2 * width, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(8 * width, 10),
    )  # fmt: skip


def trained(model: nn.Sequential, x: torch.Tensor, y: torch.Tensor, rate: float) -> nn.Sequential:
    """15 epochs of Adam."""
    optimizer = torch.optim.Adam(model.parameters(), rate)
    for _ in range(15):
        for picked in torch.randperm(len(x)).split(64):
            loss = F.cross_entropy(model(x[picked]), y[picked])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval()


def figures_of_groups(model: nn.Module, batches: Batches) -> dict[str, Any]:
    """Nearest channels, least active channel and capacity of every group that may move."""
    traced = trace(model, (batches[0][0][:2],))
    rows = {}
    for name, means in collect(traced, batches).items():
        d = distances(fingerprints(means.Q))
        activity = means.activity
        assert activity is not None
        found = capacity(means.Q, activity=activity)
        rows[name] = {
            "nearest": float(d[~np.eye(len(d), dtype=bool)].min()),
            "least_active": float(activity.min() / activity.mean()),
            "used": used_share(found),
            **found.to_dict(),
        }
    return rows


def freed(model: nn.Module, batches: Batches, test: Labelled, **options: Any) -> dict[str, Any]:
    """What a plan frees, and what that costs."""
    row: dict[str, Any] = dict(options)
    for outgoing in ("sum", "least_squares"):
        changed = copy.deepcopy(model)
        recipe = Recipe(ratio="redundant", outgoing=outgoing, **options)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that nothing is redundant is a result here
            report = reorganize(changed, batches, "all", recipe)
        row["freed"] = sum(g.new for g in report.groups) / sum(g.channels for g in report.groups)
        row[outgoing] = {
            "output_change": report.output_change or 0.0,
            "accuracy": cifar100.accuracy(changed, *test),
        }
    return row


@torch.no_grad()
def with_copies(model: nn.Sequential, noise: float) -> nn.Sequential:
    """Half of the second convolution's channels become copies of the others, with noise."""
    model = copy.deepcopy(model)
    convolution, norm = model[4], model[5]
    half = len(convolution.weight) // 2
    kept, copies = slice(0, half), slice(half, 2 * half)
    filters = convolution.weight[kept]
    generator = torch.Generator().manual_seed(0)
    random = torch.randn(filters.shape, generator=generator) * filters.std()
    convolution.weight[copies] = filters + noise * random
    for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
        tensor[copies] = tensor[kept]
    return model


def study(model: nn.Module, batches: Batches, test: Labelled) -> dict[str, Any]:
    """All figures of one network."""
    return {
        "accuracy": cifar100.accuracy(model, *test),
        "groups": figures_of_groups(model, batches),
        "freed": [
            *(freed(model, batches, test, dormant=0.0, tolerance=t) for t in TOLERANCES),
            *(freed(model, batches, test, dormant=d, tolerance=0.0) for d in DORMANT),
        ],
    }


def show(name: str, result: dict[str, Any]) -> None:
    """A line for every group and every setting."""
    print(f"{name}: {result['accuracy']:.1%}", flush=True)
    for group, row in result["groups"].items():
        print(
            f"  {group:24} {row['channels']:4} channels, nearest {row['nearest']:.2f}, "
            f"least active {row['least_active']:.3f}, uses {row['used']:.2f}"
        )
    for row in result.get("freed", []):
        summed, refitted = row["sum"], row["least_squares"]
        print(
            f"  tolerance {row['tolerance']:<5} dormant {row['dormant']:<6} "
            f"frees {row['freed']:6.1%}  "
            f"sum: {summed['output_change']:.3f}, {summed['accuracy']:.1%}  "
            f"refit: {refitted['output_change']:.3f}, {refitted['accuracy']:.1%}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="../shared/data/cifar100", help="folder of mosaics")
    parser.add_argument("--checkpoint", type=Path, required=True, help="of the ResNet-20")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    x, y, *rest = digits()
    test = (rest[0], rest[1])
    batches = list(zip(x.split(256), y.split(256), strict=True))
    wide = trained(network(64), x, y, 3e-3)
    networks = {
        "digits 16": trained(network(16), x, y, 3e-3),
        "digits 64": wide,
        "digits 64, no normalization": trained(plain_network(64), x, y, 1e-2),
    }
    results: dict[str, Any] = {}
    for name, model in networks.items():
        results[name] = study(model, batches, test)
        show(name, results[name])
    results["planted"] = []
    for noise in NOISE:
        changed = with_copies(wide, noise)
        row: dict[str, Any] = {"noise": noise, "accuracy": cifar100.accuracy(changed, *test)}
        row["groups"] = figures_of_groups(changed, batches)
        settings = [{"dormant": 0.0, "tolerance": t} for t in TOLERANCES]
        row["freed"] = [freed(changed, batches, test, **options) for options in settings]
        results["planted"].append(row)
        show(f"digits 64, half of 4.weight copies with noise {noise}", row)
    resnet = trained_resnet(arguments.data, arguments.checkpoint)
    x, y = cifar100.load(arguments.data, "train", CLASSES)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:CALIBRATION]
    test = cifar100.load(arguments.data, "test", CLASSES)
    results["ResNet-20"] = {
        "accuracy": cifar100.accuracy(resnet, *test),
        "groups": figures_of_groups(resnet, [(x[p], y[p]) for p in order.split(250)]),
    }
    show("ResNet-20", results["ResNet-20"])
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    beside = arguments.output.with_suffix(".part")
    beside.write_text(json.dumps(results, indent=1) + "\n")
    os.replace(beside, arguments.output)


if __name__ == "__main__":
    main()
