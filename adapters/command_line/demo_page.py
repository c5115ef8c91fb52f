"""The page of the demo: what it shows on digits, and the commands for a file of one's own."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...graph.measure.class_means import ClassMeans
from ...graph.reorganizing import Outcome
from ...graph.report import Report
from ..images.accuracy import wilson
from ..onnx import load
from ..report.before_after import accuracy_card, add_cost, cost_cards, gain
from ..report.curves import STYLE, curves
from ..report.network.section import add_network
from ..report.page import Page, Step, percent
from ..report.reorganization import add_groups, add_pictures
from ..report.shares import Share, add_classes, add_shares
from .change_page import panels_of, picture_of
from .comparison import compare

if TYPE_CHECKING:
    from ..images.image_data import Batches
    from .demo import Results

TOGETHER = 5  # tasks of the stream that one point of its curves is the mean of


def demo_page(
    folder: Path,
    call: str,
    results: Results,
    report: Report,
    shrunk: Report,
    means: Sequence[Mapping[str, ClassMeans]],
    stream: Mapping[str, Sequence[float]],
    test: Batches,
) -> str:
    """The page, as HTML.

    Parameters
    ----------
    folder : Path
        Where the files are.
    call : str
        The command that made them.
    results : Results
        Accuracy of every file.
    report, shrunk : Report
        Of the deepest group, and of all groups of the smaller file.
    means : sequence of dict
        Class means before, after reorganization, after training.
    stream : mapping of str to sequence of float
        Accuracy on every task, by name of the training.
    test : Batches
    """
    images = f"{len(test.rows)} test images"
    paths = {name: str(results.path(name)) for name in results.scores}
    figures = compare(paths["original"], paths["smaller"], test).to_dict()
    said, tone = gain(figures, images)
    ours, theirs = (share for _, share, _ in late(stream)[-1::-2])
    page = Page("What rejuvenet does", "on scikit-learn's digits, real images of 8 x 8")
    page.lead(
        f"Without a quarter of its channels, and no training after: {said[0].lower()}{said[1:]} "
        f"Where data keep changing, the last tasks are learned to {percent(ours)} with a "
        f"Reorganizer, to {percent(theirs)} by plain training.",
        "worse" if tone == "worse" else "better",
        [
            *cost_cards(figures["files"]),
            *accuracy_card(figures),
            ("data that keep changing", percent(ours), f"{percent(theirs)} by plain training"),
        ],
        _steps(folder, paths["original"]),
    )
    n = len(test.rows)
    rows = [
        (name, None if share is None else Share(share, wilson(round(share * n), n)), remark)
        for name, share, remark in results.rows
    ]
    add_shares(page, rows, f"On {images}.")
    add_classes(page, ("original", "shrunk"), figures["classes"])
    add_cost(page, ("original", "shrunk"), figures["files"])
    _add_stream(page, stream)
    add_groups(
        page, {"groups": [line.to_dict() for line in shrunk.groups], "skipped": {}}, "Shrunk"
    )
    add_groups(page, report.to_dict())
    before, after, trained = means
    add_pictures(page, panels_of(Outcome(report, dict(before), dict(after)), trained))
    add_network(page, picture_of(load(paths["original"]), "original.onnx"))
    recipe = report.plan.recipe if report.plan else None
    settings = recipe.to_dict() if recipe is not None else {}
    page.made_by([("This page and all files:", call)], settings)
    return str(page)


def late(stream: Mapping[str, Sequence[float]]) -> list[tuple[str, float, str]]:
    """The accuracy on the first and the last quarter of the tasks, one after the other.

    >>> late({"plain": [0.8, 0.7, 0.6, 0.5]})
    [('plain', 0.8, 'tasks 1 to 1'), ('plain', 0.5, 'tasks 4 to 4')]
    """
    rows = []
    for name, online in stream.items():
        n = max(1, len(online) // 4)
        rows.append((name, float(np.mean(online[:n])), f"tasks 1 to {n}"))
        last = f"tasks {len(online) - n + 1} to {len(online)}"
        rows.append((name, float(np.mean(online[-n:])), last))
    return rows


def _steps(folder: Path, original: str) -> list[Step]:
    """The same on the command line, and on a file of one's own."""
    data, test, made = (
        shlex.quote(str(folder / name))
        for name in ("digits_train.npz", "digits_test.npz", "half.onnx")
    )
    page = made.replace(".onnx", ".html")
    return [
        (
            "See what your own file leaves unused (a folder of images, one sub-folder a class):",
            "rejuvenet inspect MODEL.onnx --data DIR --html inspected.html",
        ),
        (
            "Halve this one, and read its page:",
            f"rejuvenet shrink {shlex.quote(original)} --data {data} --ratio 0.5 -o {made} "
            f"--html {page} --test {test}",
        ),
    ]


def _add_stream(page: Page, stream: Mapping[str, Sequence[float]]) -> None:
    tasks = len(next(iter(stream.values())))
    n = min(TOGETHER, tasks // 2)
    smooth = {name: np.convolve(o, np.ones(n) / n, "valid").tolist() for name, o in stream.items()}
    rows = [(name, percent(share), of) for name, share, of in late(stream)]
    page.add(
        "Data that keep changing",
        "Every task shuffles the pixels of the digits anew. Shown is the accuracy on every batch "
        f"before it is learned, a mean of {n} tasks: plain training, and with a Reorganizer, which "
        "lets redundant channels start anew.",
        curves(smooth, f"tasks 1 to {n}", f"tasks {tasks - n + 1} to {tasks}")
        + page.rows(["training", "accuracy", "of"], rows),
        STYLE,
    )
