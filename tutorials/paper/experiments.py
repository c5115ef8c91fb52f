"""Tables 1 to 4 of the paper, with the controls that it lacks: one JSON for each run.

Run as (on a GPU; runs that exist are not repeated, one that was killed goes on)::

    python tutorials/paper/experiments.py 1 2 --data cifar100/ --seeds 0:3
    python tutorials/paper/experiments.py 3 4 --data imagenet/
    python tutorials/paper/experiments.py 1 2 3 4 --trial
    python tutorials/paper/experiments.py first --data cifar100/ --seeds 0:5 --device cpu
    python tutorials/paper/report.py

Tables 1 and 2 are of CIFAR-100, which is downloaded to ``DIR`` where it is not there; 3 and 4 of
ImageNet, in ``DIR/train`` and ``DIR/val`` with one folder a class.  ``--trial`` needs no data:
three epochs of two batches of noise for every run.  Expected hours are printed before anything
starts, and ``--hours`` prints nothing else.  Arms are explained in ``arms.py``.  ``first`` is the
first study of the page, a minute a run on one core, ``resnet20`` one of a few hours a run, and
``resnet20-small`` that in half the width on images of half the size, half an hour a run, and
``resnet18-short`` the paper's ResNet-18 in 40 epochs instead of 200.  ``--eager`` saves the minutes
that compiling takes at the start of a run, where the run is a matter of minutes itself.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import arms  # noqa: E402
import images  # noqa: E402
from networks import NETWORKS, Network  # noqa: E402
from protocols import PROTOCOLS, Protocol  # noqa: E402
from run_files import save  # noqa: E402
from training import Training, deterministic, seconds_a_step  # noqa: E402

RUNS = HERE / "runs"
PASSES = 5  # of an event over the images that judge, at most
CONTROLS = ("random", "preserving", "refit")


def by_block(network: Network) -> list[str]:
    """The paper's recipe and its controls, for every block and the last two."""
    blocks = [*network.blocks, network.both]
    return ["plain", *(f"{how}-{block}" for how in ("paper", *CONTROLS) for block in blocks)]


def by_method(network: Network) -> list[str]:
    """All methods at the last block."""
    return ["plain", *(f"{how}-{network.last}" for how in ("l2", "l1", "paper", *CONTROLS))]


def first(network: Network) -> list[str]:
    """Arms of the first study."""
    hows = ("paper", "merged", "redundant", "dropped", "kmeans", "tolerant", "early")
    return ["plain", *(f"{how}-{network.last}" for how in hows), "narrow"]


def fine_tuned(network: Network) -> list[str]:
    """Published weights, reorganized once; Neural Rejuvenation where the paper has it."""
    own = ["nr"] if network.title != "ResNet-152" else []
    blocks = [network.last, network.both]
    return ["plain", *own, *(f"{how}-{block}" for how in ("paper", *CONTROLS) for block in blocks)]


SHORT = ("resnet20", "resnet20-small", "resnet18-short")
SMALL = ("alexnet", "resnet18", "resnet50", "mobilenet")
LARGE = tuple(name for name in NETWORKS if name.startswith("imagenet"))
TABLES: dict[str, dict[str, list[str]]] = {
    "1": {name: by_block(NETWORKS[name]) for name in SMALL},
    "2": {name: by_method(NETWORKS[name]) for name in SMALL},
    "3": {name: fine_tuned(NETWORKS[name]) for name in LARGE},
    "4": {
        "imagenet-resnet50": [*fine_tuned(NETWORKS["imagenet-resnet50"]), "rigl", "sac"],
    },
    "first": {name: first(NETWORKS[name]) for name in ("small-step", "small-cyclic")},
    **{name: {name: by_method(NETWORKS[name])} for name in SHORT},
}  # fmt: skip


class Cell(NamedTuple):
    """One run to do."""

    network: str
    arm: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.network}-{self.arm}-{self.seed}"


def cells(
    tables: Sequence[str], seeds: Sequence[int], networks: Sequence[str], chosen: Sequence[str]
) -> list[Cell]:
    """Runs of some tables, each once; seeds outermost, so that after each all arms are complete.

    >>> [cell.name for cell in cells(["1", "2"], [0], ["resnet18"], ["plain", "paper-conv5"])]
    ['resnet18-plain-0', 'resnet18-paper-conv5-0']
    """
    found = {
        Cell(network, arm, seed): None
        for seed in seeds
        for table in tables
        for network, own in TABLES[table].items()
        for arm in own
        if (not networks or network in networks) and (not chosen or arm in chosen)
    }
    return list(found)


def tried_out(protocol: Protocol) -> Protocol:
    """The same in three epochs of a few images, with all events."""
    events = tuple(range(1, 3)) if protocol.events else ()
    return replace(protocol, epochs=3, batch=8, warmup=0, events=events, published=False)


class Study:
    """Runs of some tables on one device.

    Parameters
    ----------
    device : torch.device
    folder : Path or None
        Of the images; None for noise.
    output : Path
    workers : int
        That decode images of ImageNet.
    keep : bool
        Write the weights of every run.
    eager : bool
        Compile nothing.
    """

    def __init__(
        self, device: torch.device, folder: Path | None, output: Path, workers: int = 8,
        keep: bool = False, eager: bool = False,
    ) -> None:  # fmt: skip
        self.device, self.folder, self.output, self.workers = device, folder, output, workers
        self.keep, self.eager = keep, eager
        self._images: dict[str, images.Images] = {}

    def images(self, data: str) -> images.Images:
        """Images of a data set, read once."""
        if data not in self._images:
            self._images[data] = self._read(data)
        return self._images[data]

    def _read(self, data: str) -> images.Images:
        if self.folder is None:
            return images.noise(data, self.device)
        if data.startswith("small"):
            return images.load_small(self.folder, self.device, 20)
        if data == "resnet20-small":
            return images.load_small(self.folder, self.device, 100)
        if data != "imagenet":
            return images.load_cifar100(self.folder, self.device)
        return images.ImageFolders(self.folder, self.device, self.workers)

    def training(self, cell: Cell) -> Training:
        """A run that has not begun."""
        network = NETWORKS[cell.network]
        arm = arms.make(cell.arm, network)
        protocol = arm.protocol(PROTOCOLS[network.data])
        if self.folder is None:
            arm.hurry()
            protocol = tried_out(protocol)
        compiled = self.device.type == "cuda" and self.folder is not None and not self.eager
        return Training(
            network, arm, protocol, self.images(network.data), cell.seed, self.device, compiled
        )

    def path(self, cell: Cell) -> Path:
        return self.output / f"{cell.name}.json"

    def run(self, cell: Cell) -> dict[str, Any]:
        """One run, from where it was killed; its file."""
        checkpoint = self.output / "checkpoints" / f"{cell.name}.pt"
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        training = self.training(cell)
        figures = training.run(checkpoint)
        if self.keep:
            weights = self.output / "weights" / checkpoint.name
            weights.parent.mkdir(exist_ok=True)
            torch.save(training.model.state_dict(), weights)
        result = {"network": cell.network, "arm": cell.arm, **figures}
        save(result, self.path(cell))
        checkpoint.unlink(missing_ok=True)
        return result

    def expected_hours(self, left: Sequence[Cell]) -> Iterator[tuple[str, int, float]]:
        """Network, number of runs and hours, from a few steps of each that are timed.

        A pass without gradients takes a third of a step.  Loading images and compiling are not in
        it, what compiling gains neither, nor the first part of ``nr``.
        """
        for network in dict.fromkeys(cell.network for cell in left):
            own = [cell for cell in left if cell.network == network]
            seconds: dict[str, float] = {}  # of a run without events
            event = total = 0.0
            for cell in own:
                how = cell.arm.partition("-")[0]
                kind = how if how in ("narrow", "nr", "rigl", "sac") else "plain"
                if kind not in seconds:
                    training = self.training(cell)
                    protocol, shown = training.protocol, training.images
                    step = seconds_a_step(training)
                    steps = shown.steps(protocol.batch) + shown.tests / protocol.batch / 3
                    seconds[kind] = step * steps * protocol.epochs
                    if kind == "plain":
                        event = step * PASSES * shown.judges / protocol.batch / 3
                total += seconds[kind]
                if how in arms.RECIPES:
                    total += event * len(PROTOCOLS[NETWORKS[network].data].events)
            yield network, len(own), total / 3600


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tables", nargs="+", choices=TABLES)
    parser.add_argument("--data", type=Path, help="folder of the images")
    parser.add_argument("--seeds", default="0:1", help="first and end, as in range()")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=[])
    parser.add_argument("--arms", nargs="+", default=[], help="some of the table's arms only")
    parser.add_argument("--output", type=Path, default=RUNS)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--workers", type=int, default=8, help="that decode images of ImageNet")
    parser.add_argument("--keep", action="store_true", help="write the weights of every run")
    parser.add_argument("--eager", action="store_true", help="compile nothing on a GPU")
    parser.add_argument("--trial", action="store_true", help="a few images of noise, no data")
    parser.add_argument("--hours", action="store_true", help="say how long it will take, and stop")
    options = parser.parse_args()
    if options.data is None and not options.trial:
        parser.error("expected --data DIR, or --trial, which needs none")
    deterministic()
    with tempfile.TemporaryDirectory() as trial:
        output = Path(trial) if options.trial else options.output
        folder = None if options.trial else options.data
        device = torch.device(options.device)
        study = Study(device, folder, output, options.workers, options.keep, options.eager)
        seeds = range(*map(int, options.seeds.split(":")))
        wanted = cells(options.tables, seeds, options.networks, options.arms)
        if not wanted:
            parser.error("no run of these tables is of these networks and arms")
        left = [cell for cell in wanted if not study.path(cell).exists()]
        print(f"{len(wanted)} runs, {len(wanted) - len(left)} of them done", flush=True)
        hours = 0.0
        for network, number, own in study.expected_hours(left):
            hours += own
            print(f"  {network}: {number} runs, {own:.2f} hours", flush=True)
        print(f"{hours:.2f} hours expected on {options.device}", flush=True)
        for cell in () if options.hours else left:
            result = study.run(cell)
            print(f"{cell.name}: {result['top1']:.2%} (top 5 {result['top5']:.2%}), "
                  f"{result['seconds'] / 3600:.2f} hours", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
