"""What class means cost over plain inference, and a whole reorganization in forward passes.

    python tests/benchmarks/collect.py
    python tests/benchmarks/collect.py --device cuda

One thread.  Processor time of the process, so that other work on the machine hardly shows; on a
GPU, whose work that does not count, elapsed time until it has finished.  The order of plain and
collecting passes alternates, and the median of the ratios of neighbours counts.  ``observe`` is a
pass that looks at nothing: what watching the operators costs.  Writes
``tests/benchmarks/results/collect.json``, and ``collect_cuda.json`` for a GPU.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torchvision
from rejuvenet.adapters.torch import collect, observe, reorganize, trace

RESULTS = Path(__file__).parent / "results"
WORKLOADS = {
    "cpu": (("resnet18", 224, 4), ("resnet18", 64, 32), ("mobilenet_v2", 224, 4)),
    "cuda": (("resnet18", 224, 256), ("resnet50", 224, 128), ("mobilenet_v2", 224, 256)),
}
BATCHES, CLASSES = {"cpu": 2, "cuda": 8}, 4


def seconds_of(action: Callable[[], Any], device: str) -> float:
    if device == "cpu":
        start = time.process_time()
        action()
        return time.process_time() - start
    torch.cuda.synchronize()
    start = time.perf_counter()
    action()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def workload(name: str, size: int, batch: int, repeats: int, device: str) -> dict[str, Any]:
    """Ratios to plain inference for one network, image size and batch size."""
    model = torchvision.models.get_model(name, weights=None).eval().to(device)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(BATCHES[device], batch, 3, size, size, generator=generator).to(device)
    data = [(x, (torch.arange(batch) % CLASSES).to(device)) for x in images]
    traced = trace(model, data[0][0][:2])
    every = [g for g in traced.groups if g.frozen is None and g.tap is not None]

    def plain() -> None:
        with torch.no_grad():
            for x, _ in data:
                model(x)

    actions = {
        "observe": lambda: [observe(traced, x, {}) for x, _ in data],
        "last group": lambda: collect(traced, data, every[-1:], classes=CLASSES),
        "all groups": lambda: collect(traced, data, every, classes=CLASSES),
    }
    row: dict[str, Any] = {"network": name, "size": size, "batch": batch, "groups": len(every)}
    seconds = []
    ratios: dict[str, list[float]] = {key: [] for key in actions}
    for action in (plain, *actions.values()):
        action()  # algorithms are chosen and memory is taken
    for number in range(repeats):
        for key, action in actions.items():
            first, second = (plain, action) if number % 2 else (action, plain)
            pair = seconds_of(first, device), seconds_of(second, device)
            own, other = pair[::-1] if number % 2 else pair
            ratios[key].append(own / other)
            seconds.append(other)
    row["plain_seconds"] = statistics.median(seconds)
    row["ratios"] = {key: statistics.median(values) for key, values in ratios.items()}
    row["raw"] = ratios
    changed = copy.deepcopy(model)
    reports = []
    took = seconds_of(lambda: reports.append(reorganize(changed, data, classes=CLASSES)), device)
    row["reorganize"] = {
        "passes": reports[0].passes,
        "seconds_over_plain": took / row["plain_seconds"],
    }
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--device", choices=list(WORKLOADS), default="cpu")
    parser.add_argument("--output", type=Path, help="where to write the JSON")
    arguments = parser.parse_args()
    device = arguments.device
    torch.set_num_threads(1)
    rows = []
    for name, size, batch in WORKLOADS[device]:
        rows.append(workload(name, size, batch, arguments.repeats, device))
        print({key: value for key, value in rows[-1].items() if key != "raw"}, flush=True)
    machine = {"processor": platform.processor() or platform.machine(), "torch": torch.__version__}
    if device == "cuda":
        machine["processor"] = torch.cuda.get_device_name()
    output = arguments.output or RESULTS / (
        "collect.json" if device == "cpu" else "collect_cuda.json"
    )
    output.parent.mkdir(exist_ok=True)
    output.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
