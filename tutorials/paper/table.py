"""The page of the study from its runs: paired differences with 95 % intervals, and every run.

Run as ``python tutorials/paper/study.py --table``.  With ``d_s`` the accuracy of an arm minus that
of plain training for the same seed ``s``, the interval is
``mean(d) +- t(0.975, n - 1) std(d) / sqrt(n)`` (Student's t, n seeds).
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from paired import interval

SCHEDULES = {"step": "step decay", "cyclic": "cosine restarts"}

ARMS = {
    "plain": "plain training",
    "paper": "`Recipe.paper()`",
    "preserving": "`Recipe.preserving()`",
    "redundant": '`ratio="redundant"`',
    "random": '`Recipe.comparison("random")`',
    "kmeans": '`method="kmeans"`',
    "tolerant": '`ratio="redundant", tolerance=0.5`',
    "early": "`stop=0.25` (after epoch 5 only)",
    "narrow": "plain, half as many channels in the last convolution",
}

CONCLUSIONS = (
    "- No arm gains from being reorganized. Freeing half of the last convolution three times costs "
    "one to two points, by the map or by k-means. Restarts of the rate do not make that vanish "
    "here; they help only the arms that lose most, which are dropping half at random and the "
    "paper's literal rule. The latter averages the consumers and leaves the statistics of the "
    "normalization as merged, loses most of the accuracy at every event and recovers in part.",
    "- Freeing only what others nearly replace (`tolerance=0.5`), or half but once and early, is "
    "not told apart from plain training; five seeds would not show less than the widths of these "
    "intervals.",
    "- The network is less over-wide than its effective rank suggests: trained with half of the "
    "channels from the start (last row of each rate) it loses about as much as by freeing half. A "
    "low effective rank says that the class means of the channels lie in few directions, not that "
    'any two channels respond alike; at its default tolerance `ratio="redundant"` finds nothing to '
    "free, and does no harm. What reorganizing does where channels are idle is not measured here.",
    '- The default of `Reorganizer` follows from it: `Recipe.preserving(ratio="redundant")`, that '
    "is merging with a refit of the consumers and fresh statistics, and only what is redundant in "
    "place of a fixed half. It supports no claim that accuracy rises.",
    "- Limits: one small network that its 20 epochs do not exhaust, 16 x 16 images, five seeds, "
    "events five epochs apart; the paper trains 200 epochs with 20 between events. "
    '"tolerance=0.5", "stop=0.25" and the narrow network were added after runs had been seen.',
)

Runs = dict[tuple[str, str], dict[int, dict[str, Any]]]


def read(folder: Path) -> Runs:
    """Runs by schedule and arm, and by seed."""
    runs: Runs = defaultdict(dict)
    for path in sorted(folder.glob("*.json")):
        run = json.loads(path.read_text())
        runs[run["schedule"], run["arm"]][run["seed"]] = run
    return runs


def paired(runs: Runs, schedule: str, arm: str) -> np.ndarray:
    """Differences to plain training in points, for the seeds that both have."""
    own, plain = runs[schedule, arm], runs[schedule, "plain"]
    seeds = sorted(own.keys() & plain.keys())
    return np.array([100 * (own[s]["accuracy"] - plain[s]["accuracy"]) for s in seeds])


def with_interval(d: np.ndarray) -> str:
    """Mean and interval; differences that are all zero need none."""
    if not len(d):
        return "-"
    return f"{d.mean():+.2f} ± {interval(d):.2f}" if d.any() else "0 (each run as plain)"


def events(runs: Runs, schedule: str, arm: str) -> str:
    """New channels an event, and the accuracy that an event costs at once."""
    found = [
        (group["new"], 100 * (event["accuracy_after"] - run["epochs"][event["epoch"]]["accuracy"]))
        for run in runs[schedule, arm].values()
        for event in run["events"]
        for group in event["groups"]
    ]
    if not found:
        return "- | -"
    new, cost = np.array(found).T
    return f"{new.mean():.0f} | {cost.mean():+.1f}"


def main_table(runs: Runs) -> list[str]:
    """One row for each schedule and arm."""
    rows = [
        "| rate | arm | seeds | accuracy, % | difference to plain, points "
        "| new channels an event | at once, points |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for schedule, rate in SCHEDULES.items():
        for arm, name in ARMS.items():
            values = [100 * run["accuracy"] for run in runs[schedule, arm].values()]
            if not values:
                continue
            difference = with_interval(paired(runs, schedule, arm)) if arm != "plain" else "-"
            rows.append(
                f"| {rate} | {name} | {len(values)} | {np.mean(values):.1f} | {difference} "
                f"| {events(runs, schedule, arm)} |"
            )
    return rows


def all_runs(runs: Runs) -> list[str]:
    """Accuracy of every run, one column a seed."""
    seeds = sorted({seed for found in runs.values() for seed in found})
    rows = [
        f"| rate | arm | {' | '.join(f'seed {seed}' for seed in seeds)} |",
        f"| --- | --- |{' ---: |' * len(seeds)}",
    ]
    for schedule, rate in SCHEDULES.items():
        for arm, name in ARMS.items():
            found = runs[schedule, arm]
            if found:
                values = [f"{100 * found[s]['accuracy']:.2f}" if s in found else "-" for s in seeds]
                rows.append(f"| {rate} | {name} | {' | '.join(values)} |")
    return rows


def verdict(runs: Runs) -> list[str]:
    """Which arms the intervals tell apart from plain training, one line a schedule."""
    lines = []
    for schedule, rate in SCHEDULES.items():
        groups: dict[str, list[str]] = {"worse": [], "not told apart": [], "better": []}
        for arm, name in ARMS.items():
            d = paired(runs, schedule, arm)
            if arm == "plain" or len(d) < 2:
                continue
            width = interval(d)
            place = "worse" if d.mean() < -width else "better" if d.mean() > width else None
            groups[place or "not told apart"].append(f"{name} ({with_interval(d)})")
        found = "; ".join(f"{what}: {', '.join(arms) or 'none'}" for what, arms in groups.items())
        lines.append(f"- {rate}: {found}.")
    return lines


def plot(runs: Runs, path: Path) -> None:
    """Test accuracy by epoch, mean over the seeds."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "study"  # the same file for the same runs
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4), sharey=True, layout="constrained")
    for axis, (schedule, rate) in zip(axes, SCHEDULES.items(), strict=True):
        for arm, name in ARMS.items():
            curves = [
                [100 * epoch["accuracy"] for epoch in run["epochs"]]
                for run in runs[schedule, arm].values()
            ]
            if curves:
                mean = np.mean(curves, axis=0)
                axis.plot(np.arange(1, len(mean) + 1), mean, label=name.strip("`"), linewidth=1.2)
        axis.set(title=rate, xlabel="epoch")
    axes[0].set_ylabel("test accuracy, %")
    axes[1].legend(fontsize=7)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def capacity(runs: Runs) -> str:
    """What plain training leaves unused, in one sentence."""
    found = [r["capacity"] for s in SCHEDULES for r in runs[s, "plain"].values()]
    rank = [c["effective_rank"] for c in found]
    occupied = [c["occupied"] for c in found]
    dormant = max(c["dormant"] for c in found)
    features = next(
        group["before"]["features"]
        for run in runs["step", "redundant"].values()
        for event in run["events"]
        for group in event["groups"]
    )
    return (
        f"After plain training its {found[0]['channels']} channels have an effective rank of "
        f"{min(rank):.0f} to {max(rank):.0f} (class means have {features} values a channel, so no "
        f"more is possible than that) and take {min(occupied)} to {max(occupied)} of "
        f"{found[0]['nodes']} nodes of a map; {f'{dormant:.0%} are' if dormant else 'none is'} "
        "dormant."
    )


def write(folder: Path) -> None:
    """``README.md`` and ``accuracy.svg`` beside the folder of the runs."""
    runs = read(folder)
    page = folder.parent
    plot(runs, page / "accuracy.svg")
    every = [run for found in runs.values() for run in found.values()]
    plain = next(iter(runs["step", "plain"].values()))
    settings, versions = plain["settings"], plain["versions"]
    commits = sorted({run["versions"]["commit"] for run in every})
    seconds = np.median([run["seconds"] for run in every])
    lines = [
        "# Does reorganizing during training help? A first measurement",
        f"CIFAR-100 restricted to its first {settings['classes']} classes, images averaged down "
        f"to 16 x 16 ({settings['train']:,} to train on, {settings['test']:,} to test), three "
        f"strided 3 x 3 convolutions of {', '.join(map(str, settings['widths']))} channels with "
        f"BatchNorm, {settings['epochs']} epochs of SGD. {capacity(runs)} Every arm starts from "
        "the same weights as plain training with the same seed and sees the same batches, for "
        "as many epochs; the last convolution is reorganized after epochs 5, 10 and 15.",
        f"Written by `python tutorials/paper/study.py --table` from the {len(every)} runs in "
        f"`runs/` (one JSON file each, median {seconds:.0f} s on a shared core; torch "
        f"{versions['torch']}, numpy {versions['numpy']}, commits {', '.join(commits)}). To "
        "repeat them: `OMP_NUM_THREADS=1 python tutorials/paper/study.py --data DIR --seeds 0:5`.",
        "\n".join(main_table(runs)),
        "Accuracy on the test images after the last epoch. The difference is the mean over the "
        "seeds with the 95 % interval of Student's t; *at once* is what an event changes before "
        "any further training.",
        "![Test accuracy by epoch](accuracy.svg)",
        "## What it says",
        "Beside plain training of equal length, by the intervals:",
        "\n".join(verdict(runs)),
        *CONCLUSIONS,
        "## Every run",
        "\n".join(all_runs(runs)),
    ]
    (page / "README.md").write_text("\n\n".join(lines) + "\n")
    print("\n".join(main_table(runs)))
