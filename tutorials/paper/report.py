"""Tables and plots of the runs of ``experiments.py``.

Run as ``python tutorials/paper/report.py``; it writes ``README.md`` and ``accuracy-NETWORK.svg``
beside the runs.  With ``d_s`` the top-1 accuracy of an arm minus that of plain training for the
same seed ``s``, the interval is ``mean(d) +- t(0.975, n - 1) std(d) / sqrt(n)`` (Student's t, n
seeds).
"""

from __future__ import annotations

import argparse
import json
import sys
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

TITLES = {
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


def difference(runs: Runs, network: str, arm: str) -> str:
    """Points to plain training, with the interval where there are several seeds."""
    own, plain = (runs.get((network, name), {}) for name in (arm, "plain"))
    seeds = sorted(own.keys() & plain.keys())
    if arm == "plain" or not seeds:
        return "-"
    d = np.array([100 * (own[seed]["top1"] - plain[seed]["top1"]) for seed in seeds])
    return f"{d.mean():+.2f}" + (f" ± {interval(d):.2f}" if len(d) > 1 else "")


def mean(found: list[Run], name: str) -> float:
    return 100 * float(np.mean([run[name] for run in found]))


def at_once(found: list[Run]) -> str:
    """Points that an event costs before any further training."""
    lost = [
        event["after"]["top1"]
        - (run["epochs"][event["epoch"] - 1] if event["epoch"] else run["first"])["top1"]
        for run in found for event in run["events"]
    ]  # fmt: skip
    return f"{100 * np.mean(lost):+.1f}" if lost else "-"


def published(runs: Runs, network: str, printed: tuple[float, ...] | None) -> list[str]:
    """The row of the published weights, which every fine-tuning starts with."""
    found = [run for (name, _), own in runs.items() if name == network for run in own.values()
             if run["settings"]["published"]]  # fmt: skip
    if not found:
        return []
    first = found[0]["first"]
    return [
        f"| {NETWORKS[network].title} | published weights | - | {100 * first['top1']:.2f} "
        f"| {100 * first['top5']:.2f} | - | - | 0 | - | {_figures(printed)} |"
    ]


def _figures(printed: tuple[float, ...] | None) -> str:
    return "-" if printed is None else " / ".join(f"{value:.2f}" for value in printed)


def table(runs: Runs, number: str) -> list[str]:
    """One row for each network and arm of which there are runs."""
    rows = []
    printed = PRINTED[number]
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
                f"| {mean(found, 'top1'):.2f} | {mean(found, 'top5'):.2f} "
                f"| {difference(runs, network, arm)} | {at_once(found)} | {epochs:.0f} "
                f"| {hours:.1f} | {_figures(printed.get((network, arm)))} |"
            )
    if not rows:
        return []
    return [
        "| network | arm | seeds | top 1, % | top 5, % | to plain, points "
        "| an event at once, points | epochs | hours | printed in the paper, % |",
        "| --- | --- |" + " ---: |" * 8,
        *rows,
    ]


def every_run(runs: Runs) -> list[str]:
    """Top-1 accuracy of every run."""
    seeds = sorted({seed for found in runs.values() for seed in found})
    rows = [
        f"| network | arm | {' | '.join(f'seed {seed}' for seed in seeds)} |",
        f"| --- | --- |{' ---: |' * len(seeds)}",
    ]
    for (network, _), found in runs.items():
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


def write(folder: Path) -> str:
    """The page of the runs of a folder, written there with its plots."""
    runs = read(folder)
    if not runs:
        raise SystemExit(f"no runs in {folder}: run tutorials/paper/experiments.py")
    every = [run for found in runs.values() for run in found.values()]
    told = {name: sorted({run["versions"][name] for run in every})
            for name in ("commit", "torch", "device")}  # fmt: skip
    lines = [
        "# The paper's tables, measured",
        f"Written by `python tutorials/paper/report.py` from {len(every)} runs (torch "
        f"{', '.join(told['torch'])}; {', '.join(told['device'])}; commits "
        f"{', '.join(told['commit'])}). Accuracy on the test images after the last epoch; the "
        "difference is the mean over the seeds, with the 95 % interval of Student's t.",
    ]
    for number, title in TITLES.items():
        rows = table(runs, number)
        lines += [f"## {title}", "\n".join(rows)] if rows else []
    for network in dict.fromkeys(network for network, _ in runs):
        name = f"accuracy-{network}.svg"
        plot(runs, network, folder / name)
        lines.append(f"![Test accuracy by epoch, {network}]({name})")
    lines += ["## Every run, top 1, %", "\n".join(every_run(runs))]
    page = "\n\n".join(lines) + "\n"
    (folder / "README.md").write_text(page)
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=RUNS, help="of the runs")
    print(write(parser.parse_args().folder))


if __name__ == "__main__":
    main()
