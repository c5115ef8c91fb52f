"""The page of the streams from their runs: one table a stream, a plot, and every run.

Run as ``python tutorials/streams/table.py``.  With ``d_s`` the final accuracy of an arm minus that
of plain training for the same seed ``s``, the interval is
``mean(d) +- t(0.975, n - 1) std(d) / sqrt(n)`` (Student's t, n seeds).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from arms import DORMANT, NAMES, TRIED, title, variant  # noqa: E402
from paired import by_seed, interval, leading, with_interval  # noqa: E402
from study import TUNING, best, candidates  # noqa: E402
from tasks import STREAMS  # noqa: E402

# Which arm of ours a stream's choice is compared with.
OURS = {
    "incremental": "ours-redundant", "permuted": "ours-redundant-reset",
    "random-labels": "ours-redundant-reset",
}  # fmt: skip

Run = dict[str, Any]
Runs = dict[tuple[str, str], dict[int, Run]]

ENOUGH = 10  # paired seeds that a claim needs

# What others propose against the loss of plasticity, or for data that stay.
REMEDIES = (
    "l2", "l2-init", "shrink-perturb", "redo", "cbp", "snr", "layer-norm", "later-layers",
)  # fmt: skip

# Those that draw single units again.
RECYCLERS = ("redo", "cbp", "snr")

# What the plot over time shows; all of them would hide each other.
SHOWN = (
    "plain", "optimizer-reset", "l2-init", "cbp", "redo", "snr", "reset", "ours-0.5",
    "ours-0.8-reset", "ours-redundant-reset",
)  # fmt: skip


def read(folder: Path) -> tuple[Runs, Runs]:
    """Runs by stream and arm, and by seed: those that are compared, and those that tuned."""
    compared: Runs = defaultdict(dict)
    tuning: Runs = defaultdict(dict)
    for path in sorted(folder.glob("*.json")):
        run = json.loads(path.read_text())
        runs = tuning if run["seed"] in TUNING else compared
        runs[run["stream"], run["arm"]][run["seed"]] = run
    return compared, tuning


def final(run: Run) -> float:
    """Online accuracy over the last tasks, in points."""
    return 100 * run["final"]


def last_test(run: Run) -> float:
    """Accuracy on test images at the very end, in points."""
    return 100 * run["test"][-1]


def paired(
    runs: Runs, stream: str, arm: str, other: str = "plain", figure: Callable[[Run], float] = final
) -> np.ndarray:
    """Differences of a figure, for the seeds that both have."""
    own, base = runs[stream, arm], runs[stream, other]
    return np.array([figure(own[s]) - figure(base[s]) for s in sorted(own.keys() & base.keys())])


def hard(run: Run, name: str) -> list[float]:
    """Figures of the tasks that are not easy."""
    return [v for v, easy in zip(run[name], run["easy"], strict=True) if not easy]


def test(found: list[Run]) -> str:
    """Accuracy on test images at the end of each of the last tasks."""
    values = [hard(run, "test")[-run["settings"]["last"] :] for run in found]
    return "-" if None in values[0] else f"{100 * np.mean(values):.1f}"


def cost(run: Run) -> float:
    """Points that an event costs at once, on images of the task before it; mean of all events."""
    return 100 * float(np.mean([event["after"] - event["before"] for event in run["events"]]))


def event_columns(found: list[Run]) -> str:
    """Freed units an event, the accuracy before it, and what it costs."""
    events = [event for run in found for event in run["events"]]
    if not events:
        return "- | - | -"
    freed = np.mean([event["freed"] for event in events])
    before = 100 * np.mean([event["before"] for event in events])
    return f"{freed:.0f} | {before:.1f} | {np.mean([cost(run) for run in found]):+.1f}"


def table(runs: Runs, stream: str) -> list[str]:
    """One row an arm."""
    rows = [
        "| arm | seeds | final online, % | difference to plain, points "
        "| to L2-Init, points | mean online, % | test, % | units freed an event "
        "| accuracy before, % | at once, points | CPU, s |",
        "| --- |" + " ---: |" * 10,
    ]
    for arm in NAMES:
        found = list(runs[stream, arm].values())
        if not found:
            continue
        online, mean = (100 * np.mean([run[name] for run in found]) for name in ("final", "mean"))
        to_plain, to_l2_init = (
            "-" if arm == other else with_interval(paired(runs, stream, arm, other))
            for other in ("plain", "l2-init")
        )
        seconds = np.median([run["cpu_seconds"] for run in found])
        rows.append(
            f"| {title(arm)} | {len(found)} | {online:.1f} | {to_plain} | {to_l2_init} "
            f"| {mean:.1f} | {test(found)} | {event_columns(found)} | {seconds:.0f} |"
        )
    return rows


def is_ours(arm: str) -> bool:
    """Ours alone: nothing drawn at random, which is a control, no LayerNorm and no L2 beside it."""
    return arm.startswith("ours") and not any(w in arm for w in ("random", "norm", "strength"))


def strongest(runs: Runs, stream: str, wanted: Callable[[str], bool]) -> str | None:
    """Of the wanted arms that with the highest mean of those with the most seeds."""
    finals = {
        arm: [final(run) for run in runs[stream, arm].values()] for arm in NAMES if wanted(arm)
    }
    return leading(finals)


def overview(runs: Runs, names: list[str]) -> list[str]:
    """A row a stream: plain training, a network made anew, the best remedy, the best of ours."""
    rows = [
        "| stream | plain, % | made anew, % | best of the others | % | best of ours | % "
        "| to plain, points | to made anew, points | to the best of the others, points |",
        "| --- | ---: | ---: | --- | ---: | --- | ---: | ---: | ---: | ---: |",
    ]
    for stream in names:
        ours = strongest(runs, stream, is_ours)
        theirs = strongest(runs, stream, lambda arm: arm.partition(",")[0] in REMEDIES)
        if not ours or not theirs or not runs[stream, "plain"] or not runs[stream, "reset"]:
            continue
        others = ("plain", "reset", theirs)
        plain, anew, best_of_others, own = (
            f"{np.mean([final(run) for run in runs[stream, arm].values()]):.1f}"
            for arm in (*others, ours)
        )
        apart = (with_interval(paired(runs, stream, ours, other)) for other in others)
        rows.append(
            f"| {STREAMS[stream].title} | {plain} | {anew} | {title(theirs)} | {best_of_others} "
            f"| {title(ours)} | {own} | {' | '.join(apart)} |"
        )
    return rows


def conclusions(runs: Runs) -> list[str]:
    """What the runs say, in words."""

    def apart(stream: str, arm: str, other: str, figure: Callable[[Run], float] = final) -> str:
        d = paired(runs, stream, arm, other, figure)
        seeds = f" ({len(d)} seed{'s' * (len(d) != 1)})" if len(d) != ENOUGH else ""
        return f"{with_interval(d)} points{seeds}"

    def ahead(arm: str, other: str) -> str:
        return apart("5+1", arm, other)

    def lost(arm: str, stream: str = "5+1") -> str:
        points = -np.mean([cost(run) for run in runs[stream, arm].values()])
        return f"{round(points, 1) + 0.0:.1f}"

    found = [
        "**Confirmed: reorganizing keeps the network able to learn.** Freeing a fifth of every "
        'layer after each hard task (`ratio=0.8`, `optimizer="reset"`) ends '
        f"{ahead('ours-0.8-reset', 'plain')} ahead of plain training, "
        f"{ahead('ours-0.8-reset', 'l2-init')} ahead of L2-Init and "
        f"{ahead('ours-0.8-reset', 'reset')} ahead of starting anew after every task. Freeing "
        f"only what is redundant ends {ahead('ours-redundant-reset', 'plain')} ahead of plain "
        f"training; its difference to 0.8 is {ahead('ours-redundant-reset', 'ours-0.8-reset')}.",
        "**Confirmed: which units go decides what an event costs.** Of the accuracy on the task "
        f"that was just learned, freeing a fifth by the map costs {lost('ours-0.8-reset')} points "
        f"at once, half by the map {lost('ours-0.5-reset')}, half by k-means "
        f"{lost('ours-kmeans-reset')}, half at random with the same refit "
        f"{lost('ours-random-reset')}, what is redundant {lost('ours-redundant-reset')}, a full "
        f"reset {lost('reset')}. In the end halves at random differ from halves by the map by "
        f"{ahead('ours-random-reset', 'ours-0.5-reset')}.",
        "**Confirmed: where tasks replace each other, the optimizer decides.** Beginning anew with "
        f"the state of what changed is {ahead('ours-0.5-reset', 'ours-0.5')} ahead of merging it "
        f"along at 0.5, and {ahead('ours-redundant-reset', 'ours-redundant')} where only what is "
        "redundant is freed. A new optimizer alone is "
        f"{ahead('optimizer-reset', 'plain')} from plain training, so it is the two together. "
        '`optimizer="reset"` is therefore the default.',
        "**Confirmed: where all data stay, merging makes room and nothing is lost.** On the "
        "class-incremental stream, freeing what is redundant with the state merged along "
        '(`ratio="redundant"`, `optimizer="merge"`) ends '
        f"{apart('incremental', 'ours-redundant', 'plain')} ahead of plain training online and "
        f"{apart('incremental', 'ours-redundant', 'plain', last_test)} on test images of all "
        f"classes, {apart('incremental', 'ours-redundant', 'redo')} ahead of ReDo (test "
        f"{apart('incremental', 'ours-redundant', 'redo', last_test)}), and far ahead of starting "
        f"anew. An event costs {lost('ours-redundant', 'incremental')} points at once. Here a new "
        "state costs what it gains elsewhere: "
        f"{apart('incremental', 'ours-redundant-reset', 'plain')} from plain training, and so does "
        f"freeing a fifth: {apart('incremental', 'ours-0.8', 'plain')}.",
    ]
    if runs["5+1", "ours-0.8-sum-reset"]:
        found.append(
            "**The refit matters, and freeing more than what is idle** on `5+1`: consumers of "
            "merged channels summed, without least squares, end "
            f"{ahead('ours-0.8-sum-reset', 'ours-0.8-reset')} from the same share with them; "
            "freeing only what is dormant ends "
            f"{ahead('ours-dormant-reset', 'ours-redundant-reset')} from freeing copies as well, "
            f"and {ahead('ours-dormant-reset', 'ours-0.8-reset')} from a fifth."
        )
    if runs["incremental", "random-redundant"] and runs["incremental", "later-layers"]:
        found.append(
            "**Beside the controls of data that stay**, on the same stream, what is redundant ends "
            f"{apart('incremental', 'ours-redundant', 'later-layers')} ahead of later-layer "
            f"forgetting, {apart('incremental', 'ours-redundant', 'shrink-perturb')} ahead of "
            f"shrink and perturb, {apart('incremental', 'ours-redundant', 'l2')} ahead of L2 "
            f"({apart('incremental', 'ours-redundant', 'l2,strength=0.0001')} once tuned), and "
            f"{apart('incremental', 'ours-redundant', 'random-redundant')} ahead of units at "
            "random, as many of every layer at every event, with the same refit and state."
        )
    if runs["5+1", "ours-0.8-steps"]:
        found.append(
            "**Not told where a task ends**, a `Reorganizer` that counts 500 steps, and judges by "
            "512 images seen since the last event, as many of every class as there are, ends "
            f"{ahead('ours-0.8-steps', 'plain')} from plain training and "
            f"{ahead('ours-0.8-steps', 'ours-0.8-reset')} from the same share at the ends of hard "
            "tasks: give it these where they are known."
        )
    recycled = {
        stream: (ours, theirs)
        for stream in STREAMS
        if (ours := strongest(runs, stream, is_ours))
        and (theirs := strongest(runs, stream, lambda arm: arm.partition(",")[0] in RECYCLERS))
    }
    if recycled:
        found.append(
            "**Beside the others that recycle units** (ReDo, continual backprop, self-normalized "
            "resets), the best of each stream's rows: "
            + ", ".join(
                f"{apart(stream, ours, theirs)} to {title(theirs)} on `{stream}`"
                for stream, (ours, theirs) in recycled.items()
            )
            + "."
        )
    if runs["incremental", "ours-redundant-norm"] and runs["permuted", "l2-init,strength=0.003"]:
        norm, decayed = "layer-norm,rate=0.001", "ours-redundant-reset,strength=0.003"
        freed, idle = (
            np.mean([
                event["freed"] for run in runs["incremental", arm].values()
                for event in run["events"]
            ])
            for arm in ("ours-redundant-norm", "ours-redundant")
        )  # fmt: skip
        found.append(
            "**Beside normalization and regularization, once tuned**, it is not ahead of all: on "
            "`incremental` a network with LayerNorm at ten times its published rate ends "
            f"{apart('incremental', norm, 'ours-redundant')} from ours without. In it little is "
            f"redundant (an event frees {freed:.0f}, and {idle:.0f} without), and ours changes its "
            f"end by {apart('incremental', 'ours-redundant-norm', norm)}. On `permuted` a third of "
            "the published strength brings L2-Init "
            f"{apart('permuted', 'l2-init,strength=0.003', 'ours-redundant-reset')} ahead of ours, "
            f"and {apart('permuted', 'l2-init,strength=0.003', decayed)} of ours with L2."
        )
    shares = [
        f"{apart(stream, variant(arm, {'dormant': share}), arm)} on `{stream}` ({share})"
        for stream in STREAMS
        for arm in ("ours-redundant", "ours-redundant-reset")
        for share in DORMANT
        if runs[stream, variant(arm, {"dormant": share})]
    ]
    if shares:
        found.append(
            "How little a unit must respond to count as dormant (`dormant`): another share in "
            "place of 0.025, the default of `Recipe`, changes the end by "
            f"{', '.join(shares)}. 0.2 costs where data stay, on the seeds that choose; 0.1 is the "
            "default of `Reorganizer`."
        )
    if len(runs["permuted", "reset"]):
        found.append(
            "On permuted Fashion-MNIST, in 50 tasks, little is lost that could be gained: a "
            f"network made anew for every task ends {apart('permuted', 'reset', 'plain')} from "
            "plain training."
        )
    found += [
        "ReDo, and ours in one row, are called after the easy tasks, as published for ReDo. That "
        "leaves nothing to measure at once: one class in a row makes the network forget the task "
        "before it.",
        f"Limits: an interval is given from three seeds on, and only rows of {ENOUGH}, as all are "
        "here that name no other number, are a result; a "
        "small network, images of 16 x 16, half of the published steps (but for 5+1-full). The "
        "arms with "
        '`optimizer="reset"` other than 0.5 were added after that one had been seen to help on '
        "seeds 0 and 1; the seeds from 2 on had not been seen by then. On the class-incremental "
        "stream, the state was merged along after two seeds with a new state had been seen to "
        "lose; its later seeds had not been seen. Where no table says so, no arm, ours included, "
        "was tuned, but for rows that name `dormant`. Ours and a full reset are told where a task "
        "ends, L2-Init is not.",
    ]
    return [f"- {text}" for text in found]


def every_run(runs: Runs, stream: str) -> list[str]:
    """Final accuracy of every run."""
    return by_seed({
        title(arm): {seed: run["final"] for seed, run in runs[stream, arm].items()}
        for arm in NAMES if runs[stream, arm]
    })  # fmt: skip


def tuned(runs: Runs, tuning: Runs, stream: str, folder: Path) -> list[str]:
    """What was tried on the seeds that choose, and the chosen beside ours, where all of it ran."""
    rows, ahead = [], {}
    ours = OURS.get(stream, "ours-0.8-reset")
    if len(tuning[stream, ours]) == len(TUNING):
        ours = best(folder, stream, ours)
    for arm in TRIED:
        if not all(len(tuning[stream, name]) == len(TUNING) for name in candidates(stream, arm)):
            continue
        chosen = best(folder, stream, arm)
        if len(runs[stream, chosen]) < ENOUGH:
            continue
        for name in candidates(stream, arm):
            online = 100 * np.mean([run["final"] for run in tuning[stream, name].values()])
            values = f"{online:.1f} | - | - | -"
            if name == chosen:
                found = list(runs[stream, name].values())
                if name != ours:
                    ahead[name] = paired(runs, stream, ours, name)
                values = (
                    f"**{online:.1f}** | {len(found)} "
                    f"| {100 * np.mean([run['final'] for run in found]):.1f} "
                    f"| {with_interval(ahead[name]) if name in ahead else '-'}"
                )
            rows.append(f"| {title(name)} | {values} |")
    head = [
        "| arm | final online on the seeds that choose, % | seeds of the table "
        "| final online, % | ours, tuned, to it, points |",
        "| --- |" + " ---: |" * 4,
    ]
    others = {name: d for name, d in ahead.items() if not name.startswith("ours")}
    if not others:
        return []
    nearest = min(others, key=lambda name: float(others[name].mean()))
    d = others[nearest]
    said = (
        f"Ours ends ahead of all of them; the nearest is {title(nearest)}: {with_interval(d)} "
        f"points ({len(d)} seeds)."
        if all(d.mean() > interval(d) for d in others.values())
        else f"Ours is not ahead of all of them: {with_interval(d)} points to {title(nearest)}."
    )
    return [*head, *rows, "", said]


def plot(runs: Runs, names: list[str], path: Path) -> None:
    """Online accuracy by task; and plasticity against retention for the arms with events."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "streams"  # the same file for the same runs
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        len(names), 2, figsize=(14, 4.2 * len(names)), layout="constrained", squeeze=False
    )
    colors = dict(zip(SHOWN, pyplot.get_cmap("tab10").colors, strict=True))
    for (left, right), stream in zip(axes, names, strict=True):
        for arm in NAMES:
            found = list(runs[stream, arm].values())
            if not found:
                continue
            color = colors.get(arm, "gray")
            if arm in SHOWN:
                curve = 100 * np.mean([hard(run, "online") for run in found], axis=0)
                width = min(3, len(curve))
                smooth = np.convolve(curve, np.ones(width) / width, "valid")
                tasks = np.arange(len(smooth)) + (width + 1) / 2
                left.plot(
                    tasks, smooth, label=title(arm).replace("`", ""), color=color, linewidth=1.2
                )
            if any(event["before"] for event in found[0]["events"]):  # else nothing to lose
                point = (
                    np.mean([cost(run) for run in found]),
                    np.mean([final(run) for run in found]),
                )
                right.plot(*point, "o", color=color)
                right.annotate(arm, point, xytext=(5, 3), textcoords="offset points", fontsize=7)
        left.set(
            title=STREAMS[stream].title, xlabel="task",
            ylabel="online accuracy, %, mean of three tasks",
        )  # fmt: skip
        left.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
        right.set(
            title="plasticity against retention", ylabel="final online accuracy, %",
            xlabel="what an event costs at once, points of the task before it",
        )  # fmt: skip
        right.margins(0.25)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def write(folder: Path = HERE / "runs", page: Path = HERE) -> None:
    """``README.md`` and ``accuracy.svg``."""
    runs, tuning = read(folder)
    names = [name for name in STREAMS if any(stream == name for stream, _ in runs)]
    plot(runs, names, page / "accuracy.svg")
    every = [run for some in (runs, tuning) for found in some.values() for run in found.values()]
    commits = ", ".join(sorted({run["versions"]["commit"] for run in every}))
    lines = [
        "# Data that keep changing",
        "A network that is trained on one task after the other loses its ability to learn "
        "(Dohare et al., Nature 2024; Kumar et al. 2023, arXiv 2308.11958). Which of the known "
        "remedies help, and does reorganizing? Written by `python tutorials/streams/table.py` from "
        f"the {len(every)} runs in `runs/`. To repeat them, or to add to them: "
        "`OMP_NUM_THREADS=1 python tutorials/streams/study.py --data DIR`.",
        "Every arm of one seed starts from the same weights (except for the parameters of "
        "LayerNorm) and sees the same batches, with Adam. *Online* is the accuracy on every batch "
        "before it is learned, a mean over a task's steps; *final* over the last tasks, *mean* "
        "over all, easy tasks left out. *Test* is the accuracy on test images of the task (of all "
        "classes seen, where data are kept) at the end of the last tasks. *Accuracy before* is "
        "that on test images of the task that just ended (where an arm waits for the easy task, of "
        "the hard one before it) and *at once* what the event changes. Differences (to "
        "plain training at rate 1e-3, and to L2-Init) are paired over seeds, with the 95 % "
        "interval of Student's t.",
        "Hyper-parameters are the optima that Kumar et al. published for the stream in full "
        "length (`arms.PUBLISHED`), and ours those of `Recipe`, unless a row names others.",
        "![Online accuracy by task, and plasticity against retention](accuracy.svg)",
    ]
    if runs["5+1", "plain"]:
        lines += [
            "## What it says",
            "\n".join(overview(runs, names)),
            "Final online accuracy. The best are those of the tables below, of the arms with the "
            "most seeds, tuned or not; ours alone, with no other remedy.",
            "\n".join(conclusions(runs)),
        ]
    for name in names:
        settings = next(run["settings"] for run in every if run["stream"] == name)
        lines += [
            f"## {STREAMS[name].title}",
            f"`--streams {name}`; batches of {settings['batch']}; final: the last "
            f"{settings['last']} {'hard tasks' if STREAMS[name].alternates else 'tasks'}.",
            "\n".join(table(runs, name)),
        ]
        if choice := tuned(runs, tuning, name, folder):
            lines += [
                "Settings once chosen on other seeds "
                f"({' and '.join(map(str, TUNING))}; `study.py --streams {name} --tune`): every "
                "arm with its published settings and those of `arms.TRIED`. What was best there, "
                "in bold, was run on the seeds of the table.",
                "\n".join(choice),
            ]
    lines += [
        "## Every run: final online accuracy, %",
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
