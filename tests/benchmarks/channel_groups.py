"""Time to find, plan and permute channel groups, beside Torch-Pruning.

    python tests/benchmarks/channel_groups.py

One thread, 64 x 64 images, medians; ratios above one mean that we are slower.  Torch-Pruning is
measured where it is installed (``pip install torch-pruning``).  Writes
``tests/benchmarks/results/channel_groups.json``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import platform
import statistics
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import torchvision
from rejuvenet.adapters.torch import trace
from rejuvenet.graph import arrange_plan, find_groups, transform

RESULTS = Path(__file__).parent / "results" / "channel_groups.json"
NETWORKS = ("resnet50", "densenet121", "efficientnet_v2_l")


def median(action: Callable[[], Any], repeats: int = 5) -> tuple[float, Any]:
    """Median seconds of an action, and its last result."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = action()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), result


def measure(name: str) -> dict[str, float]:
    """All steps for one network, in seconds."""
    model = torchvision.models.get_model(name, weights=None).eval()
    x = torch.randn(1, 3, 64, 64)
    row = {}
    with torch.no_grad():
        row["forward"], _ = median(lambda: model(x))
    row["trace"], traced = median(lambda: trace(model, x))
    row["groups"], groups = median(lambda: find_groups(traced.graph))
    weights = traced.weights
    row["plan"], plan = median(lambda: arrange_plan(groups, order="random"))
    row["permute"], _ = median(lambda: transform(plan, weights))
    try:
        import torch_pruning
    except ImportError:
        return row
    row["peer_graph"], graph = median(
        lambda: torch_pruning.DependencyGraph().build_dependency(model, x), 3
    )
    row["peer_groups"], _ = median(lambda: list(graph.get_all_groups()), 3)
    ours, theirs = row["trace"] + row["groups"], row["peer_graph"] + row["peer_groups"]
    row["ratio"] = ours / theirs
    return row


def versions() -> dict[str, str]:
    """Of what is measured."""
    found = {}
    for name in ("torch", "torchvision", "torch-pruning"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def main() -> None:
    torch.set_num_threads(1)
    results: dict[str, Any] = {
        "machine": {"processor": platform.processor() or platform.machine(), **versions()},
        "seconds": {name: measure(name) for name in NETWORKS},
    }
    for name, row in results["seconds"].items():
        print(name, {key: round(value, 3) for key, value in row.items()})
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    main()
