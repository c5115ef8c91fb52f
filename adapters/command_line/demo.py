"""The main job on real data that needs no download, in one to two minutes on two cores.

A small convolutional network learns scikit-learn's digits (1,797 images of 8 x 8, a fixed split)
and is exported to ONNX.  From there on the ONNX file is what is worked on: its groups are found,
the deepest one is reorganized to half its size and rejuvenated, the weights travel by name into
the PyTorch module for fine-tuning, and back into an ONNX file.  Beside it, where it pays to start
channels anew: data that keep changing (:mod:`.demo_stream`).
"""

from __future__ import annotations

import contextlib
import io
import shlex
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ...files import write_text, written_beside
from ...graph import Recipe
from .. import onnx as onnx_adapter
from ..finetune.objective import Classes, Objective
from ..finetune.source import SourceModule
from ..finetune.training import Settings, Training
from ..images.image_data import ArrayFile, Batches
from ..images.image_model import score
from .demo_page import demo_page, late
from .demo_stream import digits_stream
from .terminal import Listing, percent

TEST_IMAGES = 540


class DigitsNet(nn.Module):
    """Four convolutions with BatchNorm, global average pooling, one linear layer.

    >>> DigitsNet()(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 10])
    """

    def __init__(self) -> None:
        super().__init__()
        widths = (1, 16, 32, 32, 32)
        for i in range(4):
            self.add_module(f"conv{i + 1}", nn.Conv2d(widths[i], widths[i + 1], 3, padding=1))
            self.add_module(f"norm{i + 1}", nn.BatchNorm2d(widths[i + 1]))
        self.classifier = nn.Linear(widths[-1], 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Class scores ``(n, 10)`` of images ``(n, 1, 8, 8)`` in [0, 1]."""
        for i in range(1, 5):
            x = torch.relu(self.get_submodule(f"norm{i}")(self.get_submodule(f"conv{i}")(x)))
            if i == 2:
                x = nn.functional.max_pool2d(x, 2)
        return self.classifier(x.mean(dim=(2, 3)))


def digits(part: str) -> ArrayFile:
    """scikit-learn's digits in [0, 1]: 1,257 for ``"train"``, 540 for ``"test"``, stratified.

    >>> len(digits("train").labels), len(digits("test").labels)
    (1257, 540)
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    x, y = load_digits(return_X_y=True)
    images = (x / 16).astype(np.float32).reshape(-1, 1, 8, 8)
    x_train, x_test, y_train, y_test = train_test_split(
        images, y, test_size=TEST_IMAGES, stratify=y, random_state=0
    )
    return ArrayFile.of(x_train, y_train) if part == "train" else ArrayFile.of(x_test, y_test)


def export(module: nn.Module, path: Path) -> None:
    """Write ``module`` as an ONNX file that keeps BatchNorm and the parameters' names."""
    module.eval()
    batch = torch.export.Dim("batch")
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module,
            (torch.zeros(2, 1, 8, 8),),
            dynamo=True,
            optimize=False,  # the optimizer would fold BatchNorm away
            dynamic_shapes=({0: batch},),
            input_names=["images"],
            output_names=["scores"],
            verbose=False,
        )
    assert program is not None
    from onnxscript import optimizer

    optimizer.fold_constants(program.model)
    optimizer.remove_unused_nodes(program.model)
    with written_beside(path) as beside:
        program.save(beside)


def write_images(folder: Path) -> tuple[Batches, Batches]:
    """Write ``digits_train.npz`` and ``digits_test.npz`` into ``folder``; both as batches."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = {name: digits(name) for name in ("train", "test")}
    for name, part in parts.items():
        with written_beside(folder / f"digits_{name}.npz") as beside:
            np.savez_compressed(beside, x=part.x, y=part.labels)
    return Batches(parts["train"], 32), Batches(parts["test"], TEST_IMAGES)


def trained(train: Batches, epochs: int, seed: int) -> nn.Module:
    """A :class:`DigitsNet` that has learned the digits."""
    torch.manual_seed(seed)
    module: nn.Module = DigitsNet()
    _train(module, train, epochs, lr=3e-3, seed=seed)
    return module


def run_demo(
    folder: str | Path, epochs: int, seed: int, say: Callable[[Any], None] | None
) -> dict[str, Any]:
    """Do the main job and write its files into ``folder``.

    Parameters
    ----------
    folder : path-like
        Made if it is not there.
    epochs : int
        Of the first training, of the fine-tuning, and of the plain training beside it; the stream
        has four times as many tasks.
    seed : int
    say : callable or None
        Shown what happens: lines and rich tables.

    Returns
    -------
    dict
        ``accuracy`` by name of the network, the preserving recipe's ``report``, ``stream`` (the
        accuracy on every task while it is learned), ``page`` and ``seconds``.
    """
    with _one_thread():
        return _run(Path(folder), epochs, seed, say or (lambda shown: None))


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Two threads on layers this small wait for each other longer than they work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _run(folder: Path, epochs: int, seed: int, say: Callable[[Any], None]) -> dict[str, Any]:
    began = time.perf_counter()
    train, test = write_images(folder)
    calibration = replace(train, batch_size=256)
    results = Results(folder, test)

    say(f"Training on {len(train.rows)} digits for {epochs} epochs ...")
    original = results.path("original")
    export(trained(train, epochs, seed), original)
    results.measure("original", "original", f"{epochs} epochs")

    say(f"Working on {original}: groups, class-representative activations, map, plan ...")
    loaded = onnx_adapter.load(original)
    header = ["group", "channels", "producers", "per channel", "consumers", "frozen because"]
    rows = [
        (g.name, g.channels, len(g.producers), len(g.per_channel), len(g.consumers), g.frozen or "")
        for g in loaded.groups
    ]
    say(Listing("Channel groups", header, rows))
    smaller, shrunk = onnx_adapter.shrink(loaded, calibration, ratio=0.75)
    smaller.save(results.path("smaller"))
    results.measure("smaller", "shrunk, a quarter of all channels", "no training yet")
    made = {}
    for name, (said, recipe) in recipes(seed).items():
        made[name] = onnx_adapter.reorganize(loaded, calibration, layers="last", recipe=recipe)
        made[name][0].save(results.path(name))
        results.measure(name, said, "no training yet")

    say(f"Fine-tuning for {epochs} epochs; plain training beside it ...")
    for name, said in (
        ("preserving", "rejuvenated, preserving recipe"),
        ("paper", "rejuvenated, paper's recipe"),
        ("original", "plain training"),
    ):
        given = onnx_adapter.load(results.path(name))
        source = SourceModule(given, DigitsNet(), "scores")
        _train(source, train, epochs, lr=1e-3, seed=seed + 1)
        given.with_weights(source.arrays()).save(results.path(f"{name}_finetuned"))
        results.measure(f"{name}_finetuned", said, f"{epochs} more epochs")

    tasks = 4 * epochs
    say(f"Data that keep changing: {tasks} tasks, plain training and with a Reorganizer ...")
    stream = {
        name: digits_stream(reorganized, tasks, seed)
        for name, reorganized in (("plain training", False), ("with a Reorganizer", True))
    }
    changed, report = made["preserving"]
    groups = [loaded.group(line.group) for line in report.groups]
    finished = onnx_adapter.load(results.path("preserving_finetuned"))
    means = tuple(
        onnx_adapter.collect(model, calibration, groups) for model in (loaded, changed, finished)
    )
    html = folder / "report.html"
    title = f"Accuracy on {TEST_IMAGES} test images"
    call = f"rejuvenet demo --output {shlex.quote(str(folder))} --epochs {epochs} --seed {seed}"
    write_text(html, demo_page(folder, call, results, report, shrunk, means, stream, test))
    seconds = time.perf_counter() - began
    shown = [(said, percent(share), remark) for said, share, remark in results.rows]
    say(Listing(title, ["network", "accuracy", "after"], shown))
    say(str(report.groups[0]))
    say(f"Shrunk: {shrunk.saved()}")
    tasks_of = [(name, percent(share), of) for name, share, of in late(stream)]
    say(Listing("Data that keep changing", ["training", "accuracy", "of"], tasks_of))
    say(f"Pictures, and what to do next: {html}; {seconds:.0f} s in all")
    return {
        "accuracy": results.scores,
        "report": report.to_dict(),
        "stream": stream,
        "page": str(html),
        "seconds": seconds,
    }


def _train(module: nn.Module, train: Batches, epochs: int, lr: float, seed: int) -> None:
    """Train on digits, which are not to be shifted or mirrored."""
    settings = Settings(epochs, lr, augment="none", smoothing=0.0, seed=seed, device="cpu")
    Training(module, Objective(Classes(0, "scores")), train, settings=settings).run()


def recipes(seed: int) -> dict[str, tuple[str, Recipe]]:
    """What is done to the deepest group: both presets, and the methods to compare with."""
    return {
        "preserving": ("reorganized, preserving recipe", Recipe.preserving(seed=seed)),
        "paper": ("reorganized, paper's recipe", Recipe.paper(seed=seed)),
        "kmeans": ("merged by k-means", Recipe.preserving(method="kmeans", seed=seed)),
        "random": ("half re-initialized, at random", Recipe.comparison("random", seed=seed)),
        "l2": ("half re-initialized, smallest filters", Recipe.comparison("l2", seed=seed)),
        "l1": ("half re-initialized, smallest scales", Recipe.comparison("l1", seed=seed)),
    }


class Results:
    """The ONNX files of the demo and their accuracy."""

    def __init__(self, folder: Path, test: Batches) -> None:
        self.folder = folder
        self.test = test
        self.scores: dict[str, float | None] = {}
        self.rows: list[tuple[str, float | None, str]] = []

    def path(self, name: str) -> Path:
        """Where the network of this name lies."""
        return self.folder / f"{name}.onnx"

    def measure(self, name: str, said: str, remark: str) -> None:
        """Run the file on the test images and keep its accuracy as one row."""
        self.scores[name] = score(str(self.path(name)), self.test)
        self.rows.append((said, self.scores[name], remark))
