"""Cases x arms x seeds: one JSON for each run, and a page of them.

Run as (one core; runs that exist are not repeated, so it goes on after a kill)::

    OMP_NUM_THREADS=1 python tutorials/stationary/study.py --data DIR --seeds 0:10
    python tutorials/stationary/table.py

``DIR`` holds ``cifar100/`` (mosaics, see ``tutorials/cifar100.py``).  Every arm of one seed starts
from the same weights and sees the same batches for as many steps.  Weight decay was tuned by
``--arms decay-0.03 decay-0.1 decay-0.3 decay-1 decay-3 decay-10 --seeds 100:103``; the settings of
the arms that are *searched* come from ``search.py``.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import arms  # noqa: E402
import cases  # noqa: E402
from cifar100 import accuracy, augment  # noqa: E402
from run_files import save, versions  # noqa: E402

RUNS = HERE / "runs"
CALIBRATION = 500


def learn(
    case: cases.Case, model: nn.Module, optimizer: torch.optim.Optimizer, data: cases.Labelled,
    generator: torch.Generator,
) -> None:  # fmt: skip
    """One stage: epochs of shuffled images, one after the other, at a falling rate."""
    x, y = data
    epochs = -(-case.steps * case.batch // len(y))
    order = torch.cat([torch.randperm(len(y), generator=generator) for _ in range(epochs)])
    for step, rows in enumerate(order[: case.steps * case.batch].split(case.batch)):
        optimizer.param_groups[0]["lr"] = (
            case.rate / 2 * (1 + math.cos(math.pi * step / case.steps))
        )
        inputs = augment(x[rows], generator, 2) if case.augment else x[rows]
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), y[rows]).backward()
        optimizer.step()


def run(name: str, case: cases.Case, arm_name: str, seed: int, data: Any) -> dict[str, Any]:
    """One arm of one case, by their names."""
    found = trained(case, arms.make(arm_name, name), seed, data)
    return {"case": name, "arm": arm_name, "seed": seed, **found, "versions": versions()}


def trained(case: cases.Case, arm: arms.Arm, seed: int, data: Any) -> dict[str, Any]:
    """Accuracies of every stage, what the events did, and what decided it."""
    start, cpu = time.time(), time.process_time()
    case, decay = replace(case, rate=arm.rate * case.rate), arm.weight_decay(case)
    torch.manual_seed(seed)
    model = case.network()
    optimizer = torch.optim.AdamW(model.parameters(), case.rate, weight_decay=decay)
    test, train, events = [], [], []
    stages = case.stages(data["train"], seed)
    for number, stage in enumerate(stages):
        own = 1_000_003 * seed + number
        generator = torch.Generator().manual_seed(own)
        optimizer.state.clear()  # as a new one
        if number:
            x, y = stages[number - 1]
            picked = torch.randperm(len(y), generator=generator)[:CALIBRATION]
            freed = arm.event(case, model, optimizer, (x[picked], y[picked]), own)
            after = accuracy(model, *data["test"])
            events.append({"before": test[-1], "after": after, "freed": freed})
        learn(case, model, optimizer, stage, generator)
        test.append(accuracy(model, *data["test"]))
        train.append(accuracy(model, *stage))
    return {
        "accuracy": test[-1], "test": test, "train": train, "events": events,
        "settings": {
            **dict(arms.settings(arm)), "weight_decay": decay, "stages": len(stages),
            "steps": case.steps, "batch": case.batch, "rate": case.rate,
            "calibration": CALIBRATION,
        },
        "seconds": round(time.time() - start, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of data")
    parser.add_argument("--cases", nargs="+", choices=cases.CASES, default=list(cases.CASES))
    arms_of = {"choices": arms.TITLES, "metavar": "ARM", "help": " ".join(arms.TITLES)}
    parser.add_argument("--arms", nargs="+", default=arms.COMPARED, **arms_of)
    parser.add_argument("--seeds", default="0:2", help="first and end, as in range()")
    parser.add_argument("--output", type=Path, default=RUNS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    data = {split: cases.images(options.data, split) for split in ("train", "test")}
    options.output.mkdir(parents=True, exist_ok=True)
    # Seeds outermost: after each, all arms are complete.
    for seed in range(*map(int, options.seeds.split(":"))):
        for name in options.cases:
            for arm in options.arms:
                case = cases.CASES[name]
                path = options.output / f"{name}-{arm}-{seed}.json"
                if path.exists() or not arms.known(arm, name):
                    continue
                result = run(name, case, arm, seed, data)
                save(result, path)
                print(f"{path.stem}: {result['accuracy']:.1%}, trained {result['train'][-1]:.1%}, "
                      f"{result['cpu_seconds']:.0f} s", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
