"""Fig. 2 of the paper for any network and block: class means before, after and once trained on.

Run as::

    python tutorials/paper/figure2.py mobilenet conv3 --data cifar100/ --weights plain.pt
    python tutorials/paper/figure2.py imagenet-resnet50 conv5 --data imagenet/ --epochs 1

The weights are those that ``experiments.py --keep`` writes of a run of plain training; networks of
ImageNet have published ones.  The block is reorganized once, and the network is trained for some
epochs at the last rate of its protocol.  The picture is the library's, as on the pages of the
command line.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from arms import RECIPES, Arm, Run  # noqa: E402
from experiments import Study  # noqa: E402
from networks import NETWORKS  # noqa: E402
from protocols import PROTOCOLS  # noqa: E402
from rejuvenet.adapters.report.activations import add_activations, group_panels  # noqa: E402
from rejuvenet.adapters.report.page import Page  # noqa: E402
from rejuvenet.adapters.report.reorganization import add_groups  # noqa: E402
from rejuvenet.adapters.torch import collect, reorganize, trace  # noqa: E402
from rejuvenet.graph import ClassMeans, Report  # noqa: E402
from training import Training, deterministic  # noqa: E402


class Once(Arm):
    """Reorganizes a block before the first epoch, and keeps the class means of all states."""

    title = "Fig. 2"

    def __init__(self, layers: list[str], recipe: str) -> None:
        self.layers, self.recipe = layers, RECIPES[recipe]
        self.report: Report
        self.states: list[Mapping[str, ClassMeans]] = []

    def start(self, run: Run) -> None:
        super().start(run)
        self.batches = run.images.judged()
        self.traced = trace(run.model, next(iter(self.batches))[0][:2])

    def event(self, done: int) -> dict | None:
        if done:
            return None
        self.look()
        self.report = reorganize(
            self.traced, self.batches, self.layers, self.recipe, self.run.optimizer,
            max_batches=len(self.batches),
        )  # fmt: skip
        self.look()
        return {}

    def look(self) -> None:
        groups = [self.traced.group(layer) for layer in self.layers]
        self.states.append(collect(self.traced, self.batches, groups))

    def page(self, title: str) -> str:
        """All states of every group, one below the other."""
        page = Page("Class-representative activations", title)
        before, after, trained = self.states
        assert self.report.plan is not None
        for plan in self.report.plan.groups:
            means = before[plan.group]
            panels = group_panels(means, after[plan.group], plan.new, trained[plan.group])
            add_activations(page, plan.group, panels, means.classes)
        add_groups(page, self.report.to_dict())
        return str(page)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("network", choices=NETWORKS)
    parser.add_argument("block", help="conv2 to conv5, or the last two, as in Table 1")
    parser.add_argument("--data", type=Path, help="folder of the images; noise without it")
    parser.add_argument("--weights", type=Path, help="of the trained network")
    parser.add_argument("--recipe", choices=RECIPES, default="paper")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("-o", "--output", type=Path, default=Path("figure2.html"))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    network = NETWORKS[options.network]
    if options.block not in (*network.blocks, network.both):
        parser.error(f"expected a block of {', '.join([*network.blocks, network.both])}, "
                     f"got {options.block!r}")  # fmt: skip
    deterministic()
    device = torch.device(options.device)
    study = Study(device, options.data, options.output.parent)
    usual = PROTOCOLS[network.data]
    last = usual.rate_at(usual.epochs - 1, 1.0)
    protocol = replace(
        usual, epochs=options.epochs, rate=last, falls=(), warmup=0,
        published=usual.published and options.data is not None and options.weights is None,
    )  # fmt: skip
    arm = Once(network.layers(options.block), options.recipe)
    training = Training(network, arm, protocol, study.images(network.data), 0, device)
    if options.weights is not None:
        weights = torch.load(options.weights, map_location=device, weights_only=True)
        training.model.load_state_dict(weights)
    training.run()
    arm.look()
    options.output.write_text(arm.page(f"{network.title}, {options.block}"))
    print(arm.report)


if __name__ == "__main__":
    main()
