"""What merging half of a layer costs, before any training.

Run as (training about 25 minutes on one core; the tables took 18 on two that were shared)::

    python tutorials/merging_figures.py --data DIR --checkpoint FILE

Two networks: a ResNet-20 trained on the first 20 classes of CIFAR-100 (``layer3.2.conv1``, the
last inner group, 64 channels), and a small one trained on scikit-learn's digits (its second
convolution, 32 channels).  Half of the channels are merged or dropped by each recipe; the
accuracy on the test images right after, mean and range over the seeds, goes to
``tutorials/results/merging_figures.json``.  Calibration uses training images only.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import cifar100
import torch
from rejuvenet.adapters.torch import reorganize
from rejuvenet.graph import Recipe
from torch import nn
from torch.nn import functional as F

CLASSES = 20
EPOCHS = 20
CALIBRATION = 1000
RESULTS = Path(__file__).parent / "results" / "merging_figures.json"

Recipes = dict[str, Callable[[int], Recipe]]

RECIPES: Recipes = {
    "paper's literal rule": lambda seed: Recipe.paper(seed=seed),
    "fingerprint + sum": lambda seed: Recipe.preserving(outgoing="sum", seed=seed),
    "fingerprint + least squares": lambda seed: Recipe.preserving(seed=seed),
    "k-means + least squares": lambda seed: Recipe.preserving(method="kmeans", seed=seed),
    "zero half at random": lambda seed: dropped("random", seed),
    "zero half by l2": lambda seed: dropped("l2", seed),
    "zero half by BatchNorm scale": lambda seed: dropped("l1", seed),
    "random + least squares": lambda seed: Recipe(method="random", seed=seed),
}

WITHOUT_CHANCE = (
    "fingerprint + sum",
    "fingerprint + least squares",
    "zero half by l2",
    "zero half by BatchNorm scale",
)


def dropped(method: str, seed: int) -> Recipe:
    """Half of the channels stop contributing; nothing else changes."""
    return Recipe.comparison(method, batchnorm="merge", seed=seed)  # type: ignore[arg-type]


def trained_resnet(data: str, checkpoint: Path) -> nn.Module:
    """The ResNet-20, trained unless ``checkpoint`` holds it."""
    torch.manual_seed(0)
    model = cifar100.ResNet20(CLASSES).to(memory_format=torch.channels_last)
    x, y = cifar100.load(data, "train", CLASSES)
    cifar100.train(model, x.contiguous(memory_format=torch.channels_last), y, EPOCHS, checkpoint)
    return model.eval()


def digits() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Training and test images of scikit-learn's digits, 1,297 and 500."""
    from sklearn.datasets import load_digits

    loaded = load_digits()
    x = torch.tensor(loaded.images, dtype=torch.float32)[:, None] / 16
    y = torch.tensor(loaded.target)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    x, y = x[order], y[order]
    return x[:1297], y[:1297], x[1297:], y[1297:]


def trained_digits(x: torch.Tensor, y: torch.Tensor) -> nn.Module:
    """A small convolutional network, trained for 15 epochs."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(128, 10),
    )  # fmt: skip
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(15):
        for picked in torch.randperm(len(x)).split(64):
            loss = F.cross_entropy(model(x[picked]), y[picked])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval()


def measure(
    model: nn.Module,
    layer: str,
    calibration: list[tuple[torch.Tensor, torch.Tensor]],
    test: tuple[torch.Tensor, torch.Tensor],
    seeds: int,
) -> dict:
    """Accuracy right after each recipe, with the number of surviving channels."""
    table: dict = {"layer": layer, "accuracy": cifar100.accuracy(model, *test), "recipes": {}}
    print(f"{layer}: {table['accuracy']:.1%} before")
    for name, recipe in RECIPES.items():
        runs = []
        for seed in range(seeds):
            changed = copy.deepcopy(model)
            report = reorganize(changed, calibration, [layer], recipe(seed))
            runs.append(
                {
                    "accuracy": cifar100.accuracy(changed, *test),
                    "survivors": report.groups[0].survivors,
                    "output_change": report.output_change,
                }
            )
            if name in WITHOUT_CHANCE:
                break
        values = [run["accuracy"] for run in runs]
        table["recipes"][name] = runs
        print(
            f"  {name:30} {sum(values) / len(values):6.1%}"
            f"  ({min(values):.1%} to {max(values):.1%}, {runs[0]['survivors']} survive)",
            flush=True,
        )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="../shared/data/cifar100", help="folder of mosaics")
    parser.add_argument("--checkpoint", type=Path, required=True, help="of the ResNet-20")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    start = time.time()
    x, y, *test = digits()
    calibration = list(zip(x.split(128), y.split(128), strict=True))
    results = {
        "digits": measure(trained_digits(x, y), "4", calibration, tuple(test), arguments.seeds)
    }
    model = trained_resnet(arguments.data, arguments.checkpoint)
    x, y = cifar100.load(arguments.data, "train", CLASSES)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:CALIBRATION]
    calibration = [(x[picked], y[picked]) for picked in order.split(250)]
    test = cifar100.load(arguments.data, "test", CLASSES)
    results["cifar100"] = measure(model, "layer3.2.conv1", calibration, test, arguments.seeds)
    results["cifar100"]["classes"] = CLASSES
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    beside = arguments.output.with_suffix(".part")
    beside.write_text(json.dumps(results, indent=1) + "\n")
    os.replace(beside, arguments.output)
    print(f"{time.time() - start:.0f} s; written to {arguments.output.name}")


if __name__ == "__main__":
    main()
