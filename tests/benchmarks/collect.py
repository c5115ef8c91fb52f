"""What class means cost over plain inference, and a whole reorganization in forward passes.

    python tests/benchmarks/collect.py

One thread.  Processor time of the process, so that other work on the machine hardly shows; the
order of plain and collecting passes alternates, and the median of the ratios of neighbours counts.
``observe`` is a pass that looks at nothing: what watching the operators costs.  Writes
``tests/benchmarks/results/collect.json``.
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

RESULTS = Path(__file__).parent / "results" / "collect.json"
WORKLOADS = (("resnet18", 224, 4), ("resnet18", 64, 32), ("mobilenet_v2", 224, 4))
BATCHES, CLASSES = 2, 4


def processor_seconds(action: Callable[[], Any]) -> float:
    start = time.process_time()
    action()
    return time.process_time() - start


def workload(name: str, size: int, batch: int, repeats: int) -> dict[str, Any]:
    """Ratios to plain inference for one network, image size and batch size."""
    model = torchvision.models.get_model(name, weights=None).eval()
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(BATCHES, batch, 3, size, size, generator=generator)
    data = [(x, torch.arange(batch) % CLASSES) for x in images]
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
    for number in range(repeats):
        for key, action in actions.items():
            first, second = (plain, action) if number % 2 else (action, plain)
            pair = processor_seconds(first), processor_seconds(second)
            own, other = pair[::-1] if number % 2 else pair
            ratios[key].append(own / other)
            seconds.append(other)
    row["plain_seconds"] = statistics.median(seconds)
    row["ratios"] = {key: statistics.median(values) for key, values in ratios.items()}
    row["raw"] = ratios
    changed = copy.deepcopy(model)
    start = time.process_time()
    report = reorganize(changed, data, classes=CLASSES)
    row["reorganize"] = {
        "passes": report.passes,
        "seconds_over_plain": (time.process_time() - start) / row["plain_seconds"],
    }
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name, size, batch in WORKLOADS:
        rows.append(workload(name, size, batch, arguments.repeats))
        print({key: value for key, value in rows[-1].items() if key != "raw"}, flush=True)
    machine = {"processor": platform.processor() or platform.machine(), "torch": torch.__version__}
    arguments.output.parent.mkdir(exist_ok=True)
    arguments.output.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
