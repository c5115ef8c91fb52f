"""Tables and plots of the runs of ``experiments.py``.

Run as ``python tutorials/paper/report.py [FOLDER]``.  Of the committed runs it writes what stands
between two marks of the ``README.md`` beside this file, of others a ``README.md`` of their folder;
and ``accuracy-NETWORK.svg`` in the same place.  With ``d_s`` the top-1 accuracy of an arm minus
that of plain training for the same seed ``s``, the interval is ``mean(d) +- t(0.975, n - 1) std(d)
/ sqrt(n)`` (Student's t, n seeds).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from experiments import RUNS, TABLES  # noqa: E402
from networks import NETWORKS  # noqa: E402
from paired import interval  # noqa: E402

Run = dict[str, Any]
Runs = dict[tuple[str, str], dict[int, Run]]

# Top-1 and top-5 accuracy as printed, by table, network and arm.
PRINTED: dict[str, dict[tuple[str, str], tuple[float, ...]]] = {
    "1": {
        ("alexnet", "paper-conv3"): (65.42,), ("alexnet", "paper-conv4"): (66.31,),
        ("alexnet", "paper-conv5"): (67.25,), ("alexnet", "paper-conv4+5"): (68.38,),
        ("alexnet", "plain"): (64.66,),
        ("resnet18", "paper-conv3"): (73.79,), ("resnet18", "paper-conv4"): (75.04,),
        ("resnet18", "paper-conv5"): (77.10,), ("resnet18", "paper-conv4+5"): (78.41,),
        ("resnet18", "plain"): (74.83,),
        ("resnet50", "paper-conv3"): (74.81,), ("resnet50", "paper-conv4"): (76.33,),
        ("resnet50", "paper-conv5"): (78.75,), ("resnet50", "paper-conv4+5"): (79.16,),
        ("resnet50", "plain"): (76.68,),
        ("mobilenet", "paper-conv2"): (62.95,), ("mobilenet", "paper-conv3"): (67.61,),
        ("mobilenet", "paper-conv4"): (68.65,), ("mobilenet", "paper-conv3+4"): (69.77,),
        ("mobilenet", "plain"): (66.69,),
    },
    "2": {
        ("alexnet", "plain"): (64.66, 86.25), ("alexnet", "l2-conv5"): (65.12, 86.83),
        ("alexnet", "l1-conv5"): (64.96, 87.41), ("alexnet", "paper-conv5"): (67.25, 89.97),
        ("resnet18", "plain"): (74.83, 92.17), ("resnet18", "l2-conv5"): (74.44, 92.12),
        ("resnet18", "l1-conv5"): (74.99, 92.75), ("resnet18", "paper-conv5"): (77.10, 93.74),
        ("resnet50", "plain"): (76.68, 92.69), ("resnet50", "l2-conv5"): (77.27, 93.45),
        ("resnet50", "l1-conv5"): (76.54, 93.38), ("resnet50", "paper-conv5"): (78.75, 94.83),
        ("mobilenet", "plain"): (66.69, 87.38), ("mobilenet", "l2-conv4"): (66.28, 88.02),
        ("mobilenet", "l1-conv4"): (66.49, 87.96), ("mobilenet", "paper-conv4"): (68.65, 88.43),
    },
    "3": {
        ("imagenet-resnet50", "published"): (76.15, 92.87),
        ("imagenet-resnet50", "nr"): (77.07, 93.53),
        ("imagenet-resnet50", "paper-conv5"): (77.56, 93.94),
        ("imagenet-resnet50", "paper-conv4+5"): (78.22, 94.16),
        ("imagenet-resnet101", "published"): (77.37, 93.56),
        ("imagenet-resnet101", "nr"): (78.78, 94.24),
        ("imagenet-resnet101", "paper-conv5"): (79.13, 94.63),
        ("imagenet-resnet101", "paper-conv4+5"): (80.04, 94.98),
        ("imagenet-resnet152", "published"): (78.31, 94.06),
        ("imagenet-resnet152", "paper-conv5"): (80.27, 95.11),
        ("imagenet-resnet152", "paper-conv4+5"): (81.47, 95.34),
        ("imagenet-densenet121", "published"): (74.65, 92.17),
        ("imagenet-densenet121", "nr"): (75.50, 92.51),
        ("imagenet-densenet121", "paper-conv5"): (76.47, 93.86),
        ("imagenet-densenet121", "paper-conv4+5"): (77.83, 94.53),
    },
    "4": {
        ("imagenet-resnet50", "published"): (76.15,), ("imagenet-resnet50", "nr"): (77.07,),
        ("imagenet-resnet50", "rigl"): (77.10,), ("imagenet-resnet50", "sac"): (76.60,),
        ("imagenet-resnet50", "paper-conv5"): (77.56,),
        ("imagenet-resnet50", "paper-conv4+5"): (78.22,),
    },
}  # fmt: skip

START, END = "<!-- written by report.py: from here -->", "<!-- written by report.py: to here -->"

TITLES = {
    "first": "First study: CIFAR-100, 20 classes, 16 x 16", "resnet20": "ResNet-20, CIFAR-100",
    "resnet20-small": "ResNet-20, half as wide, CIFAR-100 in 16 x 16",
    "resnet18-short": "ResNet-18, CIFAR-100, fewer epochs",
    "1": "Table 1: layers, CIFAR-100", "2": "Table 2: methods at the last block, CIFAR-100",
    "3": "Table 3: ImageNet", "4": "Table 4: ResNet-50, ImageNet",
}  # fmt: skip


def read(folder: Path) -> Runs:
    """Runs by network and arm, and by seed."""
    runs: Runs = {}
    for path in sorted(folder.glob("*.json")):
        run = json.loads(path.read_text())
        runs.setdefault((run["network"], run["arm"]), {})[run["seed"]] = run
    return runs


def paired(runs: Runs, network: str, arm: str) -> np.ndarray:
    """Points to plain training, for the seeds that both have."""
    own, plain = (runs.get((network, name), {}) for name in (arm, "plain"))
    seeds = sorted(own.keys() & plain.keys())
    return np.array([100 * (own[seed]["top1"] - plain[seed]["top1"]) for seed in seeds])


def difference(runs: Runs, network: str, arm: str) -> str:
    """The mean, with the interval where there are several seeds."""
    d = paired(runs, network, arm)
    if arm == "plain" or not len(d):
        return "-"
    if not d.any():
        return "0 (each run as plain)"
    return f"{d.mean():+.2f}" + (f" ± {interval(d):.2f}" if len(d) > 1 else "")


def verdict(runs: Runs, number: str) -> list[str]:
    """Which arms the intervals tell apart from plain training, one line a network."""
    lines = []
    for network, arms in TABLES[number].items():
        groups: dict[str, list[str]] = {"worse": [], "not told apart": [], "better": []}
        for arm in arms:
            d = paired(runs, network, arm)
            if arm == "plain" or len(d) < 2:
                continue
            far = abs(d.mean()) > interval(d)
            place = "not told apart" if not far else "worse" if d.mean() < 0 else "better"
            title = next(iter(runs[network, arm].values()))["title"]
            groups[place].append(f"{title} ({difference(runs, network, arm)})")
        found = "; ".join(f"{what}: {', '.join(own) or 'none'}" for what, own in groups.items())
        if any(groups.values()):
            lines.append(f"- {NETWORKS[network].title}: {found}.")
    return lines


def mean(found: list[Run], name: str) -> str:
    """Of a share, in percent."""
    values = [run[name] for run in found if name in run]
    return f"{100 * np.mean(values):.2f}" if values else "-"


def of_events(found: list[Run]) -> str:
    """New channels an event, and the points that it costs before any further training."""
    new = [
        sum(group["new"] for group in event["groups"])
        for run in found for event in run["events"] if "groups" in event
    ]  # fmt: skip
    lost = [
        event["after"]["top1"]
        - (run["epochs"][event["epoch"] - 1] if event["epoch"] else run["first"])["top1"]
        for run in found for event in run["events"]
    ]  # fmt: skip
    made = f"{np.mean(new):.0f}" if new else "-"
    return f"{made} | {100 * np.mean(lost):+.1f}" if lost else f"{made} | -"


def between(values: Sequence[float]) -> str:
    """The least and the greatest, where they differ.

    >>> between([3.2, 1.1]), between([2])
    ('1 to 3', '2')
    """
    return " to ".join(dict.fromkeys(f"{value:.0f}" for value in (min(values), max(values))))


def capacities(runs: Runs) -> list[str]:
    """What plain training leaves unused in the last block, one line a network."""
    lines = []
    for network in dict.fromkeys(network for network, _ in runs):
        found = [run["capacity"] for run in runs.get((network, "plain"), {}).values()]
        if not found:
            continue
        rank = [c["effective_rank"] for c in found]
        taken = [c["occupied"] for c in found]
        dormant = max(c["dormant"] for c in found)
        lines.append(
            f"- {NETWORKS[network].title}: its {found[0]['channels']} channels have an effective "
            f"rank of {between(rank)} and take {between(taken)} of {found[0]['nodes']} nodes of a "
            f"map; {f'up to {dormant:.0%} are' if dormant else 'none is'} dormant."
        )
    return lines


def published(runs: Runs, network: str, printed: tuple[float, ...] | None) -> list[str]:
    """The row of the published weights, which every fine-tuning starts with."""
    found = [run for (name, _), own in runs.items() if name == network for run in own.values()
             if run["settings"]["published"]]  # fmt: skip
    if not found:
        return []
    first = found[0]["first"]
    return [
        f"| {NETWORKS[network].title} | published weights | - | {100 * first['top1']:.2f} "
        f"| {100 * first['top5']:.2f} | - | - | - | 0 | - | {_figures(printed)} |"
    ]


def _figures(printed: tuple[float, ...] | None) -> str:
    return "-" if printed is None else " / ".join(f"{value:.2f}" for value in printed)


def table(runs: Runs, number: str) -> list[str]:
    """One row for each network and arm of which there are runs."""
    rows = []
    printed = PRINTED.get(number, {})
    for network, arms in TABLES[number].items():
        rows += published(runs, network, printed.get((network, "published")))
        for arm in arms:
            found = list(runs.get((network, arm), {}).values())
            if not found:
                continue
            epochs = np.median([len(run["epochs"]) for run in found])
            hours = np.median([run["seconds"] for run in found]) / 3600
            rows.append(
                f"| {NETWORKS[network].title} | {found[0]['title']} | {len(found)} "
                f"| {mean(found, 'top1')} | {mean(found, 'top5')} "
                f"| {difference(runs, network, arm)} | {of_events(found)} | {epochs:.0f} "
                f"| {hours:.2g} | {_figures(printed.get((network, arm)))} |"
            )
    if not rows:
        return []
    return [
        "| network | arm | seeds | top 1, % | top 5, % | to plain, points "
        "| new channels an event | at once, points | epochs | hours | printed in the paper, % |",
        "| --- | --- |" + " ---: |" * 9,
        *rows,
    ]


def every_run(runs: Runs) -> list[str]:
    """Top-1 accuracy of every run."""
    seeds = sorted({seed for found in runs.values() for seed in found})
    rows = [
        f"| network | arm | {' | '.join(f'seed {seed}' for seed in seeds)} |",
        f"| --- | --- |{' ---: |' * len(seeds)}",
    ]
    order = {key: None for own in TABLES.values() for n, arms in own.items()
             for key in ((n, arm) for arm in arms)}  # fmt: skip
    for network, arm in order:
        found = runs.get((network, arm))
        if not found:
            continue
        values = [f"{100 * found[s]['top1']:.2f}" if s in found else "-" for s in seeds]
        title = next(iter(found.values()))["title"]
        rows.append(f"| {network} | {title} | {' | '.join(values)} |")
    return rows


def plot(runs: Runs, network: str, path: Path) -> None:
    """Test accuracy by epoch, mean over the seeds."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "paper"  # the same file for the same runs
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    for (name, _), found in runs.items():
        if name != network:
            continue
        curves = [[100 * epoch["top1"] for epoch in run["epochs"]] for run in found.values()]
        shortest = min(map(len, curves))
        average = np.mean([curve[:shortest] for curve in curves], axis=0)
        title = next(iter(found.values()))["title"]
        axis.plot(np.arange(1, shortest + 1), average, label=title, linewidth=1)
    axis.set(title=NETWORKS[network].title, xlabel="epoch", ylabel="test accuracy, %")
    axis.legend(fontsize=6)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def write(folder: Path, page: Path) -> None:
    """The tables of the runs of a folder, between the marks of a page, and plots beside it."""
    runs = read(folder)
    if not runs:
        raise SystemExit(f"no runs in {folder}: run tutorials/paper/experiments.py")
    every = [run for found in runs.values() for run in found.values()]
    told = {name: sorted({run["versions"][name] for run in every})
            for name in ("commit", "torch", "device")}  # fmt: skip
    lines = [
        START,
        f"Written by `python tutorials/paper/report.py` from {len(every)} runs (torch "
        f"{', '.join(told['torch'])}; {', '.join(told['device'])}; commits "
        f"{', '.join(told['commit'])}). Accuracy on the test images after the last epoch; the "
        "difference is the mean over the seeds with the 95 % interval of Student's t; *at once* is "
        "what an event changes before any further training.",
    ]
    for number in TABLES:
        rows = table(runs, number)
        lines += [f"### {TITLES[number]}", "\n".join(rows)] if rows else []
        told_apart = verdict(runs, number)
        if told_apart:
            lines += ["Beside plain training, by the intervals:", "\n".join(told_apart)]
    for network in dict.fromkeys(network for network, _ in runs):
        name = f"accuracy-{network}.svg"
        plot(runs, network, page.parent / name)
        lines.append(f"![Test accuracy by epoch, {network}]({name})")
    lines += [
        "### What plain training leaves unused in the last block", "\n".join(capacities(runs)),
        "### Every run, top 1, %", "\n".join(every_run(runs)), END,
    ]  # fmt: skip
    new = f"# The paper's tables, measured\n\n{START}{END}\n"
    text = page.read_text() if page.exists() else new
    before, _, rest = text.partition(START)
    _, _, after = rest.partition(END)
    page.write_text(before + "\n\n".join(lines) + after)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=RUNS, help="of the runs")
    folder = parser.parse_args().folder
    page = (HERE if folder.resolve() == RUNS.resolve() else folder) / "README.md"
    write(folder, page)
    print(f"{page} is written")


if __name__ == "__main__":
    main()
