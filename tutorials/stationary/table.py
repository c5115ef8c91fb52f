"""The page of the stationary cases from their runs: a table a case, and every run.

Run as ``python tutorials/stationary/table.py``.  With ``d_s`` the final test accuracy of an arm
minus that of another one for the same seed ``s``, the interval is
``mean(d) +- t(0.975, n - 1) std(d) / sqrt(n)`` (Student's t, n seeds).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from arms import COMPARED, FOUND, SEARCHED, TITLES  # noqa: E402
from cases import CASES, CLASSES  # noqa: E402
from paired import by_seed, interval, leading, with_interval  # noqa: E402
from scipy.stats import spearmanr  # noqa: E402

Run = dict[str, Any]
Runs = dict[tuple[str, str], dict[int, Run]]

# Seeds from here on are those of tuning.
TUNING = 100
# Paired seeds that a claim needs.
ENOUGH = 10
# Points over every control that were aimed at.
AIM = 2
# Of the labels, in percent: no arm that ends below has learned them by heart.
UNFINISHED = 60
# Rank correlation from which on test accuracy follows training.
TOGETHER = 0.8
# The same network where the data are better, and how: what a case can gain at most, or nearly.
BETTER = {
    "noise": ("noise-told", "that is told which labels are wrong and leaves these images out"),
    "growing": ("memorizing", "that has all of these images from the start, for as many steps,"),
    "memorizing": ("few-50", "that sees the same images flipped and cropped"),
}
SEARCHED_BESIDE = ("searched-later-layers", "searched-random")
# Of an event that frees what is redundant, and what it is compared with.
REVIVED = "ours-redundant"
REVIVED_BESIDE = ("redo", "random-redundant", "searched-plain")
OURS = [arm for arm in COMPARED if "ours" in arm]
# ReDo is no control: it revives what idles, as ours does, without the map.
CONTROLS = [arm for arm in COMPARED if arm not in OURS and arm != "redo"]


def read(folder: Path) -> Runs:
    """Runs by case and arm, and by seed."""
    runs: Runs = defaultdict(dict)
    for path in sorted(folder.glob("*.json")):
        run = json.loads(path.read_text())
        runs[run["case"], run["arm"]][run["seed"]] = run
    return runs


def paired(runs: Runs, case: str, arm: str, other: str, since: int = 0) -> np.ndarray:
    """Differences of the final accuracy in points, for the seeds that both have."""
    own, base = runs[case, arm], runs[case, other]
    seeds = sorted(s for s in own.keys() & base.keys() if since <= s < TUNING)
    return np.array([100 * (own[s]["accuracy"] - base[s]["accuracy"]) for s in seeds])


def event_columns(found: list[Run]) -> str:
    """Channels freed an event, and what it costs at once."""
    events = [event for run in found for event in run["events"]]
    if all(event["after"] == event["before"] for event in events):
        return "- | -"
    freed = np.mean([event["freed"] for event in events])
    cost = 100 * np.mean([event["after"] - event["before"] for event in events])
    return f"{f'{freed:.0f}' if freed else '-'} | {cost:+.1f}"


def table(runs: Runs, case: str) -> list[str]:
    """One row an arm; the best of ours in bold."""
    ours = best(runs, case, OURS)
    rows = [
        "| arm | seeds | test, % | to plain, points | best of ours to it, points | trained, % "
        "| channels freed an event | at once, points | CPU, s |",
        "| --- |" + " ---: |" * 8,
    ]
    for arm in COMPARED:
        found = [run for seed, run in runs[case, arm].items() if seed < TUNING]
        if not found:
            continue
        test, train = (
            100 * np.mean([figure(run) for run in found]) for figure in (accuracy, trained)
        )
        to_plain = "-" if arm == "plain" else with_interval(paired(runs, case, arm, "plain"))
        to_it = "-" if ours in (arm, None) else with_interval(paired(runs, case, ours, arm))
        title = f"**{TITLES[arm]}**" if arm == ours else TITLES[arm]
        seconds = np.median([run["cpu_seconds"] for run in found])
        rows.append(
            f"| {title} | {len(found)} | {test:.1f} | {to_plain} | {to_it} | {train:.0f} "
            f"| {event_columns(found)} | {seconds:.0f} |"
        )
    return rows


def accuracy(run: Run) -> float:
    """On test images at the end."""
    return run["accuracy"]


def trained(run: Run) -> float:
    """Accuracy on the labels that were trained on, at the end."""
    return run["train"][-1]


def every_run(runs: Runs, case: str) -> list[str]:
    """Final accuracy of every run."""
    found = {title: runs[case, arm] for arm, title in TITLES.items() if runs[case, arm]}
    return by_seed(
        {
            title: {seed: run["accuracy"] for seed, run in own.items()}
            for title, own in found.items()
        }
    )


def best(runs: Runs, case: str, arms: Sequence[str]) -> str | None:
    """Of these arms that with the highest mean accuracy of those with the most seeds."""
    return leading({
        arm: [accuracy(run) for seed, run in runs[case, arm].items() if seed < TUNING]
        for arm in arms
    })  # fmt: skip


def means(
    runs: Runs, case: str, figure: Callable[[Run], float], arms: Sequence[str] = tuple(COMPARED)
) -> list[float]:
    """Of a figure of every arm that was run, in percent."""
    by_arm = [
        [figure(run) for seed, run in runs[case, arm].items() if seed < TUNING] for arm in arms
    ]
    return [100 * float(np.mean(figures)) for figures in by_arm if figures]


def explained(runs: Runs, names: list[str]) -> list[str]:
    """Why little is gained: what the trained share of the labels says about the test accuracy."""
    found = {}
    for case in names:
        learned = means(runs, case, trained)
        tests = means(runs, case, accuracy)
        if len(tests) > 2 and max(learned) < UNFINISHED and not gained(runs, case):
            together = float(spearmanr(learned, tests).statistic)
            if together >= TOGETHER:
                found[case] = together
    if not found:
        return []
    shown = " and ".join(f"{value:.2f} in `{case}`" for case, value in found.items())
    return [
        f"- Why not in {' and '.join(f'`{case}`' for case in found)}: there nothing is learned by "
        f"heart in these steps (no arm reaches {UNFINISHED} % of the labels it trains on), so that "
        "nothing is to be forgotten, and an arm ends as far as its training got: the rank "
        f"correlation of trained and test accuracy over the arms is {shown}. Whatever is freed "
        "there has to be learned once more, and the best event is the one that changes nothing."
    ]


def gained(runs: Runs, case: str) -> bool:
    """Whether the best of ours is ahead of plain training by an interval that excludes zero."""
    ours = best(runs, case, OURS)
    d = paired(runs, case, ours, "plain") if ours else np.array([])
    return len(d) > 2 and bool(d.mean() > interval(d))


def idling(runs: Runs, names: list[str]) -> list[str]:
    """Where the network cannot learn all, and a part of it idles: what reviving that is worth."""
    lines = []
    for case in names:
        if not case.startswith("narrow") or not (own := runs[case, REVIVED]):
            continue
        weights = [v for v in CASES[case].network().state_dict().values() if v.ndim > 1]
        channels = sum(map(len, weights[:-1]))
        images = CASES[case].stages.keywords["per_class"] * CLASSES
        first = np.mean([run["events"][0]["freed"] for seed, run in own.items() if seed < TUNING])
        plain, revived = (
            [means(runs, case, figure, [arm])[0] for figure in (trained, accuracy)]
            for arm in ("plain", REVIVED)
        )
        beside = ", ".join(
            f"{with_interval(paired(runs, case, REVIVED, other))} to {TITLES[other]}"
            for other in REVIVED_BESIDE if runs[case, other]
        )
        lines.append(
            f"- In `{case}` the network is too small for its {images:,} images, and a part "
            f"of it idles all the same: of {channels} hidden channels {first:.0f} are freed before "
            f"the second stage. With them ({TITLES[REVIVED]}) it learns {revived[0]:.1f} % of its "
            f"images instead of {plain[0]:.1f} %, and ends at {revived[1]:.1f} instead of "
            f"{plain[1]:.1f} % on test images; differences in points: {beside}."
        )
    return lines


def ceiling(runs: Runs, names: list[str]) -> list[str]:
    """What was aimed at beside what the same network reaches where the data are better."""
    lines = []
    for case, (better, how) in BETTER.items():
        if not {case, better} <= set(names):
            continue
        ends = {
            arm: means(runs, case, accuracy, [arm])[0]
            for arm in CONTROLS if runs[case, arm]
        }  # fmt: skip
        had = {
            arm: means(runs, better, accuracy, [arm])[0]
            for arm in COMPARED if runs[better, arm]
        }  # fmt: skip
        if not ends or "plain" not in had:
            continue
        strongest, most = max(ends, key=ends.__getitem__), max(had, key=had.__getitem__)
        asked, worth = ends[strongest] + AIM, had[most] - ends[strongest]
        lines.append(
            f"- What was asked for in `{case}`: {AIM} points over {TITLES[strongest]} would be "
            f"{asked:.1f} %. The same network {how} (`{better}`) ends at {had['plain']:.1f} % if "
            f"trained plainly, and at {had[most]:.1f} % with the best of all arms "
            f"({TITLES[most]}): "
            + (
                "not even that is so much."
                if worth < AIM
                else f"{AIM} points are {100 * AIM / worth:.0f} % of what that is worth"
                + ", and more than plain training makes of it." * (asked > had["plain"])
                + "." * (asked <= had["plain"])
            )
        )
    return lines


def searched(runs: Runs, names: list[str]) -> list[str]:
    """What the search found on its seeds, and what that reached on those of the table."""
    lines = []
    for case in names:
        told = []
        for arm, (title, space) in SEARCHED.items():
            if not runs[case, arm] or "random" in arm:
                continue
            found = json.loads((FOUND / f"{case}-{space}.json").read_text())
            (end,) = means(runs, case, accuracy, [arm])
            told.append(
                f"{title}: the best of {len(found['tried'])} settings "
                f"{100 * found['mean']:.1f} % there, {end:.1f} % here"
            )
        if told:
            lines.append(f"- The search in `{case}`: {'; '.join(told)}.")
    beside = {
        case: [paired(runs, case, "searched-ours", other) for other in SEARCHED_BESIDE]
        for case in names if runs[case, "searched-ours"]
    }  # fmt: skip
    if beside:
        found = "; ".join(
            f"{with_interval(later)} and {with_interval(chance)} points in `{case}`"
            for case, (later, chance) in beside.items()
        )
        far = max(abs(float(d.mean())) for differences in beside.values() for d in differences)
        lines.append(
            f"- Once all are searched, ours ends beside later-layer forgetting, and beside its own "
            f"shares at random: {found}."
            + " How much is forgotten decides there; which channels go, little."
            * (far < 1)
        )
    return lines


def overview(runs: Runs, names: list[str]) -> list[str]:
    """A row a case: plain training, the best control and the best of ours."""
    rows = [
        "| case | plain, % | best control | % | best of ours | % | to plain, points "
        "| to the best control, points |",
        "| --- | ---: | --- | ---: | --- | ---: | ---: | ---: |",
    ]
    for case in names:
        ours, control = best(runs, case, OURS), best(runs, case, CONTROLS)
        if ours is None or control is None or not runs[case, "plain"]:
            continue
        plain, theirs, own = (
            means(runs, case, accuracy, [arm])[0] for arm in ("plain", control, ours)
        )
        rows.append(
            f"| `{case}` | {plain:.1f} | {TITLES[control]} | {theirs:.1f} | {TITLES[ours]} "
            f"| {own:.1f} | {with_interval(paired(runs, case, ours, 'plain'))} "
            f"| {with_interval(paired(runs, case, ours, control))} |"
        )
    return rows


def beside_controls(runs: Runs, case: str, since: int = 0) -> list[np.ndarray]:
    """What the best of ours is ahead of every control by, on the seeds from one on."""
    ours = best(runs, case, OURS)
    if ours is None:
        return []
    return [paired(runs, case, ours, other, since) for other in CONTROLS if runs[case, other]]


def reached(runs: Runs, case: str) -> bool:
    """Whether the best of ours is ahead of every control as far as was aimed at."""
    beside = beside_controls(runs, case)
    return bool(beside) and all(
        len(d) >= ENOUGH and d.mean() >= AIM and d.mean() > interval(d) for d in beside
    )


def aimed(runs: Runs, names: list[str]) -> str:
    """What was aimed at, and where it was reached; on the later seeds alone, where there are."""
    said = f"Aimed at: {AIM} points over every control, with an interval that excludes zero."
    met = [case for case in names if reached(runs, case)]
    if not met:
        return f"- {said} Reached in no case."
    for case in met:
        least = min(beside_controls(runs, case), key=np.mean)
        said += f" **Reached in `{case}`**: {with_interval(least)} points to the closest"
        later = [d for d in beside_controls(runs, case, ENOUGH) if len(d) >= ENOUGH]
        if later:
            least = min(later, key=np.mean)
            said += (
                f", and {with_interval(least)} on the seeds from {ENOUGH} on alone, which were "
                f"run since the first {ENOUGH} had left it open"
            )
        said += "."
    return f"- {said} ReDo is no control: it revives what idles as well, without the map."


def conclusions(runs: Runs, names: list[str]) -> list[str]:
    """What was aimed at, what was reached, and why no more."""
    return [
        aimed(runs, names),
        "- Data that grow for longer, in twenty chunks that bring new classes, are in "
        "`tutorials/streams` (`incremental`), with later-layer forgetting, shrink and perturb and "
        "units at random beside.",
        *idling(runs, names),
        *explained(runs, names),
        *ceiling(runs, names),
        "- The arms that are *searched* have, for each case, the best of many settings on seeds "
        "100 to 104 (`search.py`, every setting in `search/`): shares of every layer, method, kind "
        "of merging, new weights, a new head and weight decay of ours; layers and weight decay of "
        "later-layer forgetting; both strengths and weight decay of shrink and perturb. The best "
        "of many on five seeds is best by chance in part, and ends lower on others.",
        *searched(runs, names),
        "- Looked at before: shorter and longer stages, 100 images a class, shares of 0.2, sums "
        "instead of the refit, and these arms together with weight decay, on seeds 100 to 102. "
        "With labels at random nothing of ours was ahead of tuned weight decay and of later-layer "
        "forgetting there, and of the same share at random only with decay. On growing data "
        "freeing few early channels, most later ones, and drawing the head again led on seed 100, "
        "and was then run on the seeds of the table, which had not been seen; for the ResNet, the "
        "shares and which layers are the later ones led there among a few. On noise, reviving "
        "early channels beside later-layer forgetting was behind later-layer forgetting alone "
        "(seeds 100 to 104), and so was keeping the channels that tell classes best, by the "
        "variance between class means over all (seeds 100 to 103). Of networks of few channels, "
        "three to eight convolutions of 4 to 32 channels were looked at at two or three rates, "
        "with initial weights by PyTorch or He, on seeds 100 to 102: reviving what is redundant "
        "was ahead of plain training in all but one, by 0.5 to 4 points where the last hidden "
        "layer has 8 channels, by 1.2 or less where it has 16 or 32; in stages twice as long "
        "it was ahead by 1.7 instead of 3.5 points. Those looks are no runs in the sense of this "
        "page and have left no files.",
        "- Merging a fifth of every layer, or what is redundant, preserves what the network does, "
        "labels learned by heart included (*trained*); where those are to be forgotten that is no "
        "help.",
        "- Limits: a small network, short stages and images of 16 x 16, since this was measured on "
        "a small part of one processor core. What is not searched runs at one setting, and its "
        "weight decay is tuned on three seeds (the ResNet's on one), where the last table has runs "
        "of a grid.",
    ]


def write(folder: Path = HERE / "runs", page: Path = HERE) -> None:
    """``README.md``."""
    runs = read(folder)
    names = [name for name in CASES if any(case == name for case, _ in runs)]
    every = [run for found in runs.values() for run in found.values()]
    commits = ", ".join(sorted({run["versions"]["commit"] for run in every}))
    settings = every[0]["settings"]
    lines = [
        "# Data that stay: does reorganizing help?",
        "Label noise, few images, memorizing without augmentation, data that only grow: where a "
        'network learns by heart, forgetting a part of it may help (Zhou et al. 2022, "Fortuitous '
        'forgetting in connectionist networks"; Ash and Adams 2020, "On warm-starting neural '
        'network training"; Prakash et al. 2019, RePr). A network of few channels: where a part of '
        "it idles, reviving that may help. Written by `python "
        f"tutorials/stationary/table.py` from the {len(every)} runs in `runs/`. To repeat them, or "
        "to add to them: `OMP_NUM_THREADS=1 python tutorials/stationary/study.py --data DIR "
        "--seeds 0:10`.",
        "The first 20 classes of CIFAR-100, images averaged down to 16 x 16, three convolutions "
        "and a hidden linear layer without normalization (in one case a ResNet-8 with BatchNorm), "
        f"{settings['stages']} stages of "
        f"{settings['steps']} steps of AdamW, batches of {settings['batch']} (`narrow`: four "
        f"convolutions, {CASES['narrow-8'].steps} steps). In every arm, every "
        "stage begins with a new optimizer and the full rate, which falls along a cosine; an event "
        "takes place before every stage but the first. Every arm of one seed starts from the same "
        "weights and sees the same batches, for equally many steps. *Test* is the accuracy on "
        "2,000 test images at the end, without choosing a stage by it; *trained* the accuracy on "
        "the labels that were trained on, wrong ones included; *at once* what an event changes on "
        "the test images before any further training. Differences are paired over seeds, with the "
        "95 % interval of Student's t from three seeds on.",
        "## What it says",
        "\n".join(overview(runs, names)),
        "The best are those of the tables below, of the arms with the most seeds.",
        "\n".join(conclusions(runs, names)),
    ]
    for name in names:
        lines += [f"## {CASES[name].title}", f"`--cases {name}`.", "\n".join(table(runs, name))]
    lines += [
        "## Every run: test accuracy, %",
        f"One JSON file each; torch {every[0]['versions']['torch']}, one thread, commits "
        f"{commits}.",
    ]
    for name in names:
        lines += [f"`{name}`", "\n".join(every_run(runs, name))]
    (page / "README.md").write_text("\n\n".join(lines) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=HERE / "runs", help="of the runs")
    parser.add_argument("page", type=Path, nargs="?", default=HERE, help="folder to write to")
    write(**vars(parser.parse_args()))
