"""Writes ``training.md``: the loops of ``training.py`` as they ran and the figures they gave.

    python tutorials/training_page.py --data DIR

DIR holds mosaics of CIFAR-100 (see ``cifar100.py``).  The figures are in
``results/training.json``.
"""

from __future__ import annotations

import argparse
import inspect
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from training import (
    LOOPS,
    Task,
    accelerate,
    averaged,
    cifar,
    cyclic,
    digits,
    ignite,
    lightning,
    plain,
    resumed,
    timm,
    transformers,
)

HERE = Path(__file__).parent
PAGE, RESULTS = HERE / "training.md", HERE / "results" / "training.json"

Loop = Callable[[Task], nn.Module]


def differences(task: Task, loops: Sequence[Loop] = LOOPS) -> dict[str, float]:
    """Largest absolute difference between the weights of ``plain`` and those of other loops."""
    reference = plain(task).state_dict()
    found = {}
    for loop in loops:
        values = loop(task).state_dict()
        found[loop.__name__] = max(
            (reference[name].double() - values[name].double()).abs().max().item()
            for name in reference
        )
        print(f"{loop.__name__}: {found[loop.__name__]}", flush=True)
    return found


def log_of(task: Task) -> list[str]:
    """What the plain loop logs."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.addFilter(lambda record: record.getMessage().startswith("epoch"))
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    log = logging.getLogger("rejuvenet")
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    plain(task)
    log.removeHandler(handler)
    log.setLevel(level)
    return lines


def page(results: dict[str, Any]) -> str:
    """The tutorial: prose, the code above, and the figures of a run of this script."""

    def code(function: Callable[..., Any]) -> str:
        return f"```python\n{inspect.getsource(function).rstrip()}\n```"

    def percent(value: float) -> str:
        return f"{100 * value:.1f} %"

    average = ", ".join(
        f"{percent(event['before'])} to {percent(event['after'])}" for event in results["averaged"]
    )
    restarts = ", ".join(str(event["epoch"]) for event in results["cyclic"])
    new = ", ".join(str(event["groups"][0]["new"]) for event in results["cyclic"])
    rows = ["| loop | " + " | ".join(results["differences"]) + " |", "| --- | ---: | ---: |"]
    for loop in LOOPS:
        figures = (str(found.get(loop.__name__, "-")) for found in results["differences"].values())
        rows.append(f"| `{loop.__name__}` | {' | '.join(figures)} |")
    parts = [
        "# Reorganizing while a network is trained",
        "`Reorganizer` takes a model, its optimizer and calibration data, and is stepped once an "
        "epoch. Written by `python tutorials/training_page.py --data DIR`: the code below is what "
        "ran, the figures are what it gave (`results/training.json`). `task` holds a small "
        "network, scikit-learn's digits, and the settings.",
        code(Task),
        "Whether it helps is another question: [what was measured so far](paper/README.md).",
        "## In a loop of your own",
        code(plain),
        "Every event is one line of the log `rejuvenet`, after one that says what it will take; "
        "they are shown after `logging.basicConfig(level=logging.INFO)`:",
        "```text\n" + "\n".join(results["log"]) + "\n```",
        "`step` comes after an epoch; what the frameworks below do before the next one begins is "
        "the same event, with the same number. `metrics(report)` gives the figures of a report as "
        "plain numbers by name, for any logger:",
        "```python\n"
        "from rejuvenet.adapters.trainers.metrics import metrics\n\n"
        "report = reorganizer.step(epoch)\n"
        "if report is not None:\n"
        "    wandb.log(metrics(report), step=epoch)  # or, with TensorBoard's SummaryWriter:\n"
        "    for name, value in metrics(report).items():\n"
        "        writer.add_scalar(name, value, epoch)\n"
        "```",
        "Weights are edited in place, so optimizer, schedule and compiled code stay valid; the "
        "optimizer begins anew for those that change. `optimizer=\"merge\"` in the recipe merges "
        "its state along: better where all data seen so far stay and more are added "
        "([measured](streams/README.md)). `loader` may be the one that trains, or a smaller one "
        "without augmentation; `max_batches` limits it. `device`, `classes`, `unpack` and "
        "`pseudo_classes` (for data without labels) are as in `collect`.",
        "## Stopped and resumed",
        "The state goes into the checkpoint, in plain types. Every event draws from a seed made "
        "of `seed` and the epoch, so the rest of the training is the one that was interrupted.",
        code(resumed),
        "## An averaged copy",
        "`ema` takes `AveragedModel`, timm's `ModelEmaV3`, or a list of such copies; the plan is "
        "applied to them too.",
        code(averaged),
        f"Accuracy of the average before and after each event: {average}.",
        "## When, how much, how fast",
        "`every` is a number of epochs, a set of them, a function of the epoch, or a schedule of "
        "the rate, where it restarts; none takes place after `stop`, a share of `epochs`. `ratio` "
        'is the share of channels kept, `"redundant"` (the default: only what others do as well is '
        "freed), a function of the epoch, or a mapping of layer patterns to these. `layers` are "
        'names, patterns, `"last"`, `"all"`, or `"auto"`; with `freeze_below=True` they take turns,'
        " the deepest last, and what lies before is frozen. `recipe` decides everything else, and "
        'compares: `recipe=Recipe.paper()`, or `Recipe.comparison("redo")`.',
        code(cyclic),
        f"Events after the epochs {restarts} (counted from 0), with {new} new channels.",
        "## Lightning",
        "Calibration data are the trainer's own unless a loader is given, `epochs` its "
        "`max_epochs`. The state is in Lightning's checkpoints, the figures go to its loggers, "
        "and the average of its `WeightAveraging` callback is changed along.",
        code(lightning),
        "## Hugging Face's Trainer",
        "The state stands in `trainer_state.json`, and a resumed training finds it there.",
        code(transformers),
        "## Accelerate",
        code(accelerate),
        "## PyTorch Ignite",
        "The handler has a state for Ignite's `Checkpoint`, writes its figures into "
        "`trainer.state.metrics`, and fires `ReorganizerEvents.REORGANIZED` for any logger.",
        code(ignite),
        "## timm",
        code(timm),
        "## One seed, one result",
        "Largest absolute difference between the weights of the plain loop and those of the "
        "others. New channels are drawn by the names of the weights: where a framework wraps the "
        'network, `module="net"` gives them the names that they have in a plain loop.',
        "\n".join(rows),
        "The second task is a ResNet-20 of half the usual width on "
        f"{results['cifar100']['images']:,} images of {results['cifar100']['classes']} classes of "
        f"CIFAR-100, {results['cifar100']['epochs']} epochs with an event after each until three "
        "quarters of them.",
    ]
    return "\n\n".join(parts) + "\n"


def measure(data: str) -> dict[str, Any]:
    """All figures of the page."""
    torch.set_num_threads(1)
    task, other = digits(), cifar(data)
    return {
        "log": log_of(task),
        "averaged": averaged(task),
        "cyclic": cyclic(task),
        "differences": {
            "digits": differences(task),
            "CIFAR-100": differences(other, (lightning, transformers)),
        },
        "cifar100": {
            "images": len(other.x), "classes": len(other.y.unique()), "epochs": other.epochs
        },
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="../shared/data/cifar100", help="folder of mosaics")
    parser.add_argument("--page", action="store_true", help="write the page from results/ only")
    options = parser.parse_args()
    if not options.page:
        RESULTS.write_text(json.dumps(measure(options.data), indent=1) + "\n")
    PAGE.write_text(page(json.loads(RESULTS.read_text())))


if __name__ == "__main__":
    main()
