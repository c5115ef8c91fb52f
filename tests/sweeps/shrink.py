"""Remove a quarter of the channels of every group of many networks, and compare with silence.

    python tests/sweeps/shrink.py --most 60                # a sample, one of each family first
    python tests/sweeps/shrink.py --only resnet18 --exporters torch

The smaller network has to compute what the network of full size does whose free channels are silent
(``reorganize`` of the same groups by the same plan), as a module in float64 and as the file that
PyTorch's exporter writes, which onnx.checker has to accept.  The tolerance is a hundred times the
network's own noise.  One line of JSON a network goes to ``tests/sweeps/results/shrink.jsonl``, and
a table to ``tests/sweeps/SHRINK.md``.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import networks  # noqa: E402
from architectures import limit, one_line, version  # noqa: E402

RESULTS = HERE / "results" / "shrink.jsonl"
TABLE = HERE / "SHRINK.md"
FORMS = ("torch", "script")
SECONDS = 300  # of processor time for one network


def check(network: networks.Network, form: str) -> dict[str, Any]:
    """The record of one network in one form."""
    import exactness
    from rejuvenet.graph import Recipe
    from rejuvenet.graph.measure.verdict import limits_of, relative_change

    recipe = Recipe.shrinking(method="random", ratio=0.75)
    model, inputs = networks.build(network)
    model = exactness.randomize(model)
    start = time.perf_counter()
    measure = of_module if form == "torch" else of_file
    report, silent, smaller, shaken = measure(model, inputs, recipe)
    limits = limits_of(["float64" if form == "torch" else "float32"])
    changes = [relative_change(a, b) for a, b in zip(silent, smaller, strict=True)]
    noises = [relative_change(a, b) for a, b in zip(silent, shaken, strict=True)]
    right = all(map(limits.allow, changes, noises))
    return {
        "outcome": "right" if right else "wrong",
        "error": max(changes),
        "noise": max(noises),
        "groups": len(report.groups),
        "parameters": report.cost.parameters / report.cost_before.parameters,
        "multiply_adds": report.cost.multiply_adds / max(report.cost_before.multiply_adds, 1),
        "left": Counter(reason.split(":")[0] for reason in report.skipped.values()),
        "seconds": round(time.perf_counter() - start, 1),
    }


def of_module(model: torch.nn.Module, inputs: tuple[torch.Tensor, ...], recipe: Any) -> tuple:
    """A module in float64."""
    from exactness import outputs
    from rejuvenet.adapters.torch import reorganize, shrink
    from rejuvenet.graph.plan.recipe import shrinking

    model, inputs = model.double(), tuple(x.double() for x in inputs)
    full = copy.deepcopy(model)
    report = shrink(model, recipe=recipe, example_inputs=inputs)
    names = [group.group for group in report.groups]
    reorganize(full, layers=names, recipe=shrinking(recipe), example_inputs=inputs)
    noisy = tuple(x * (1 + 1e-15 * torch.randn_like(x)) for x in inputs)
    found = (outputs(full, inputs), outputs(model, inputs), outputs(full, noisy))
    return report, *([x.numpy()] for x in found)


def of_file(model: torch.nn.Module, inputs: tuple[torch.Tensor, ...], recipe: Any) -> tuple:
    """The file of an exporter in float32."""
    import onnx
    from onnx_exports import export
    from rejuvenet.adapters.onnx import load, reorganize, shrink
    from rejuvenet.adapters.onnx.runner import Runner
    from rejuvenet.graph.measure.verdict import shaken_array
    from rejuvenet.graph.plan.recipe import shrinking

    with tempfile.TemporaryDirectory() as folder:
        path, out = Path(folder) / "model.onnx", Path(folder) / "smaller.onnx"
        export(model, inputs, path, "script, folded")
        smaller, report = shrink(path, recipe=recipe)
        smaller.save(out)
        onnx.checker.check_model(out, full_check=True)
        names = [group.group for group in report.groups]
        full, _ = reorganize(path, layers=names, recipe=shrinking(recipe))
        feeds, random = full.example_inputs, np.random.default_rng(0)
        noisy = {name: shaken_array(x, 3e-7, random) for name, x in feeds.items()}
        found: list[Sequence[np.ndarray]] = []
        for loaded, given in ((full, feeds), (load(out), feeds), (full, noisy)):
            runner = Runner(loaded)
            found.append(runner.compared(runner(given)))
    return report, *found


def run(network: networks.Network, form: str) -> dict[str, Any]:
    """The record, made in a process of its own."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        limit(SECONDS)
        try:
            row = check(network, form)
        except BaseException as error:
            row = {"outcome": "failed", "reason": one_line(error)}  # type: ignore[arg-type]
        with os.fdopen(write, "w") as out:
            out.write(json.dumps(row))
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as lines:
        text = lines.read()
    os.waitpid(child, 0)
    return json.loads(text) if text else {"outcome": "timeout"}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Totals, and a line for each network."""
    lines = [
        "# A quarter of the channels of every group removed",
        "",
        "Written by `python tests/sweeps/shrink.py`, which says how it is checked. `script` is the "
        "file of `torch.onnx.export(dynamo=False)`.",
        "",
        "| form | networks | right | wrong | failed | timeout |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for form in FORMS:
        own = [row for row in rows if row["form"] == form]
        counts = Counter(row["outcome"] for row in own)
        cells = [counts[name] for name in ("right", "wrong", "failed", "timeout")]
        lines.append(f"| {form} | {len(own)} | {' | '.join(map(str, cells))} |")
    lines += ["", "| network | form | outcome | groups | parameters left | multiply-adds left | "
              "stay, by reason |", "| --- | --- | --- | --- | --- | --- | --- |"]  # fmt: skip
    for row in sorted(rows, key=lambda row: (row["network"], row["form"])):
        left = "; ".join(f"{n} {reason}" for reason, n in row.get("left", {}).items())
        cells = [row["network"], row["form"], row["outcome"], row.get("groups", "")]
        cells += [f"{row[k]:.1%}" if k in row else "" for k in ("parameters", "multiply_adds")]
        cells.append(left or row.get("reason", ""))
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--most", type=int, default=60, help="so many networks")
    parser.add_argument("--only", help="names, comma-separated")
    parser.add_argument("--exporters", default=",".join(FORMS), help="comma-separated")
    parser.add_argument("--again", action="store_true", help="repeat what was not right")
    options = parser.parse_args()
    torch.set_num_threads(1)
    import timm  # noqa: F401 (the processes of all networks share what is imported here)
    import torchvision  # noqa: F401

    chosen = networks.networks(networks.LIBRARIES)
    if options.only:
        chosen = [n for n in chosen if n["name"] in options.only.split(",")]
    rows = [json.loads(line) for line in RESULTS.read_text().splitlines()] if (
        RESULTS.exists()
    ) else []  # fmt: skip
    for network in chosen[: options.most]:
        for form in options.exporters.split(","):
            key = networks.key(network), form
            known = [row for row in rows if (row["network"], row["form"]) == key]
            if known and (known[0]["outcome"] == "right" or not options.again):
                continue
            row = {"network": key[0], "form": form, **run(network, form), "version": version()}
            rows = [other for other in rows if other not in known] + [row]
            print(*(f"{name}={value}" for name, value in row.items()), flush=True)
            RESULTS.write_text("".join(json.dumps(row) + "\n" for row in rows))
    TABLE.write_text(table(rows))


if __name__ == "__main__":
    main()
