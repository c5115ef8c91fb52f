"""Streams x arms x seeds: one JSON for each run, and a page of them.

Run as (one core; runs that exist are not repeated, so it goes on after a kill)::

    OMP_NUM_THREADS=1 python tutorials/streams/study.py --data DIR --streams 5+1 permuted
    OMP_NUM_THREADS=1 python tutorials/streams/study.py --data DIR --streams 5+1 --tune
    python tutorials/streams/table.py

``DIR`` holds ``cifar100/`` (mosaics, see ``tutorials/cifar100.py``) and, unless Debian's package
is installed, ``fashion-mnist/``.  Every arm of one seed starts from the same weights and sees the
same batches.  ``--tune`` runs what ``arms.TRIED`` has beside the published settings on seeds of
their own, and then, on the seeds of the table, what was best there.  Online accuracy is that of
every batch before it is learned.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import arms  # noqa: E402
import tasks  # noqa: E402
from run_files import save, versions  # noqa: E402

RUNS = HERE / "runs"
CALIBRATION = 500
TUNING = range(100, 102)  # seeds that choose among settings, and that no comparison uses


def occasions(stream: tasks.Stream, task: tasks.Task) -> set[str]:
    """What the end of a task is an occasion for.

    Every task is one, ``"task"``; ``"hard"`` are those that are not easy, and a ``"round"`` ends
    with the easy one, where the stream has such.
    """
    found = {"task"}
    if not task.easy:
        found.add("hard")
    if task.easy or not stream.alternates:
        found.add("round")
    return found


def batches(n: int, stream: tasks.Stream, generator: torch.Generator) -> list[torch.Tensor]:
    """Rows of every step of a task: epochs of shuffled images, one after the other."""
    needed = stream.steps * stream.batch
    epochs = [torch.randperm(n, generator=generator) for _ in range(-(-needed // n))]
    return list(torch.cat(epochs)[:needed].split(stream.batch))


@torch.no_grad()
def accuracy(model: nn.Module, test: tasks.Labelled | None) -> float | None:
    """Share of the images that the model gets right."""
    if test is None:
        return None
    model.eval()
    right = sum(
        int((model(x).argmax(1) == y).sum())
        for x, y in zip(*(part.split(2000) for part in test), strict=True)
    )
    model.train()
    return round(right / len(test[1]), 5)


def calibration(
    recent: list[tasks.Task], generator: torch.Generator
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """``CALIBRATION`` images, equally many of each task since the last round."""
    share = CALIBRATION // len(recent)
    picked = []
    for task in recent:
        x, y = task.train
        rows = torch.randperm(len(x), generator=generator)[:share]
        picked.append((x[rows], y[rows]))
    return picked


def run(name: str, stream: tasks.Stream, arm_name: str, seed: int, data: Any) -> dict[str, Any]:
    """One arm on one stream: accuracies of every task and what the events did."""
    start, cpu = time.time(), time.process_time()
    arm = arms.make(arm_name, stream.published)
    torch.manual_seed(seed)
    model = stream.network(arm.layer_norm)
    optimizer = torch.optim.Adam(model.parameters(), arm.rate)
    arm.start(model, optimizer, seed)
    online, tests, easy, events = [], [], [], []
    recent: list[tasks.Task] = []
    following = stream.tasks(data, seed)
    for number in range(stream.n_tasks):
        task = next(following)
        generator = torch.Generator().manual_seed(1_000_003 * seed + number)
        rows = batches(len(task.train[1]), stream, generator)
        online.append(learn(model, optimizer, arm, task, rows))
        tests.append(accuracy(model, task.test))
        easy.append(task.easy)
        recent.append(task)
        now = occasions(stream, task)
        if arm.occasion in now and number < stream.n_tasks - 1:
            judged = calibration(recent, generator)
            held = recent[0].test or recent[0].train
            before = accuracy(model, held)
            began = time.process_time()
            freed = arm.event(judged)
            seconds = round(time.process_time() - began, 3)
            after = accuracy(model, held)
            events.append({"task": number, "before": before, "after": after, "freed": freed,
                           "seconds": seconds})  # fmt: skip
        if "round" in now:
            recent = []
    hard = [value for value, skip in zip(online, easy, strict=True) if not skip]
    return {
        "stream": name, "arm": arm_name, "seed": seed,
        "final": round(float(np.mean(hard[-stream.last:])), 5),
        "mean": round(float(np.mean(hard)), 5),
        "online": online, "test": tests, "easy": easy, "events": events,
        "settings": {
            **dict(arms.settings(arm)), "tasks": stream.n_tasks, "steps": stream.steps,
            "batch": stream.batch, "calibration": CALIBRATION, "title": stream.title,
            "last": stream.last,
        },
        "seconds": round(time.time() - start, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
        "versions": versions(),
    }  # fmt: skip


def learn(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    arm: arms.Arm,
    task: tasks.Task,
    rows: list[torch.Tensor],
) -> float:
    """One task; its online accuracy."""
    x, y = task.train
    right = torch.zeros((), dtype=torch.long)
    for batch in rows:
        inputs, labels = x[batch], y[batch]
        scores = model(inputs)
        right += (scores.argmax(1) == labels).sum()
        optimizer.zero_grad()
        F.cross_entropy(scores, labels).backward()
        arm.before_step()
        optimizer.step()
        arm.after_step(inputs, labels)
    return round(int(right) / sum(map(len, rows)), 5)


def best(folder: Path, stream: str, name: str) -> str:
    """The arm, or the variant of it, that ends best on the seeds that choose.

    Raises
    ------
    FileNotFoundError
        Not all of them have been run.
    """

    def mean(variant: str) -> float:
        paths = [folder / f"{stream}-{variant}-{seed}.json" for seed in TUNING]
        return float(np.mean([json.loads(path.read_text())["final"] for path in paths]))

    return max(candidates(stream, name), key=mean)


def candidates(stream: str, name: str) -> list[str]:
    """The arm and its variants, but for those that are what was published for the stream."""

    def settings(variant: str) -> dict[str, Any]:
        found = dict(arms.settings(arms.make(variant, tasks.STREAMS[stream].published)))
        if found["occasion"] and not tasks.STREAMS[stream].alternates:
            found["occasion"] = "task"  # whatever it is called: every task is one
        return found

    variants = [arms.variant(name, changes) for changes in arms.TRIED[name]]
    return [name, *(variant for variant in variants if settings(variant) != settings(name))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of data")
    parser.add_argument("--streams", nargs="+", choices=tasks.STREAMS, default=["5+1", "permuted"])
    arms_of = {"choices": arms.NAMES, "metavar": "ARM", "help": " ".join(arms.NAMES)}
    parser.add_argument("--arms", nargs="+", default=list(arms.ARMS), **arms_of)
    parser.add_argument(
        "--tune", action="store_true", help="choose the settings of the arms on other seeds first"
    )
    parser.add_argument("--seeds", default="0:5", help="first and end, as in range()")
    parser.add_argument("--output", type=Path, default=RUNS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.set_flush_denormal(True)  # or what L2 shrinks to nothing takes 5 x as long
    options.output.mkdir(parents=True, exist_ok=True)
    seeds = range(*map(int, options.seeds.split(":")))
    if not options.tune:
        complete(options.data, options.output, options.streams, options.arms, seeds)
        return
    tuned = [arm for arm in options.arms if arm in arms.TRIED]
    for name in options.streams:
        tried = [variant for arm in tuned for variant in candidates(name, arm)]
        complete(options.data, options.output, [name], tried, TUNING)
        chosen = [best(options.output, name, arm) for arm in tuned]
        complete(options.data, options.output, [name], chosen, seeds)


def complete(root: Path, output: Path, streams: list[str], names: list[str], seeds: range) -> None:
    """Every run that has no file yet; seeds outermost, so that after each all arms are complete."""
    for seed in seeds:
        for name in streams:
            stream = tasks.STREAMS[name]
            try:
                data = stream.load(root)
            except FileNotFoundError as error:
                print(f"{name} is skipped: {error}", flush=True)
                continue
            for arm in names:
                if arm.endswith("-round") and not stream.alternates:
                    continue  # the same as without
                path = output / f"{name}-{arm}-{seed}.json"
                if path.exists():
                    continue
                result = run(name, stream, arm, seed, data)
                save(result, path)
                print(f"{path.stem}: final {result['final']:.1%}, mean {result['mean']:.1%}, "
                      f"{result['seconds']:.0f} s", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
