"""The whole method on a file, and what is said of it beside plain fine-tuning."""

import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx2fx")
sys.path.insert(0, str(Path(__file__).parent))

from rejuvenet.adapters.finetune import rejuvenating
from rejuvenet.adapters.finetune.finetuning import Result
from rejuvenet.adapters.finetune.rejuvenating import Rejuvenation, rejuvenate_file
from rejuvenet.adapters.finetune.training import Settings, Trained
from rejuvenet.adapters.images.accuracy import Gain
from rejuvenet.graph import Report
from trained_file import data, model


def test_nothing_is_trained_on_what_is_evaluated(tmp_path, monkeypatch):
    trained, judged = [], []

    def finetune(*files, real=rejuvenating.finetune_file, **how):
        trained.append(set(files[2].rows))
        return real(*files, **how)

    def hits(file, test, real=rejuvenating._hits):
        judged.append(set(test.rows))
        return real(file, test)

    monkeypatch.setattr(rejuvenating, "finetune_file", finetune)
    monkeypatch.setattr(rejuvenating, "_hits", hits)
    given, images = model(tmp_path / "in.onnx"), data(120)
    settings = Settings(3, lr=0.02, augment="none")
    result = rejuvenate_file(
        given, tmp_path / "out.onnx", images, settings=settings, layers="last",
        control=tmp_path / "plain.onnx",
    )  # fmt: skip
    assert result.evaluated == 24
    assert judged == [judged[0]] * 4
    assert trained == [set(range(120)) - judged[0]] * 2
    lengths = {len(r.trained.epochs) for r in result.trained.values()}
    assert lengths == {4}
    assert result.report.groups[0].new > 0
    alone = rejuvenate_file(
        given, tmp_path / "alone.onnx", images, settings=settings, layers="last"
    )
    assert (tmp_path / "alone.onnx").read_bytes() == (tmp_path / "out.onnx").read_bytes()
    assert alone.verdict.endswith("Plain fine-tuning was not tried.")
    images.data.labelled = False
    with pytest.raises(ValueError, match="give images with labels"):
        rejuvenate_file(given, tmp_path / "no.onnx", images)


def test_another_run_is_told_before_long_work(tmp_path, monkeypatch):
    def interrupted(what, epoch):
        if what == "rejuvenated" and epoch.number == 1:
            raise KeyboardInterrupt

    given, output, images = model(tmp_path / "in.onnx"), tmp_path / "out.onnx", data(120)
    how = {"settings": Settings(2, augment="none"), "layers": "last"}
    with pytest.raises(KeyboardInterrupt, match=r"Interrupted after epoch 1; .*out.onnx.check"):
        rejuvenate_file(given, output, images, on_epoch=interrupted, **how)
    monkeypatch.setattr(rejuvenating, "reorganized", None)
    for other in ({**how, "settings": Settings(2)}, {**how, "layers": "first"}):
        with pytest.raises(ValueError, match="belongs to a run with another model"):
            rejuvenate_file(given, output, images, **other)
    monkeypatch.undo()
    assert rejuvenate_file(given, output, images, **how).trained["rejuvenated"].continued == 2


@pytest.mark.parametrize("where", ["the second training", "the comparison"])
def test_a_rerun_trains_nothing_twice(where, tmp_path, monkeypatch):
    told = []

    def interrupted(what, epoch):
        told.append((what, epoch.number))
        if len(told) == 5 and where == "the second training":
            raise KeyboardInterrupt

    def run(folder):
        folder.mkdir(exist_ok=True)
        return rejuvenate_file(
            given, folder / "out.onnx", images, control=folder / "plain.onnx", layers="last",
            settings=Settings(2, augment="none"), on_epoch=interrupted,
        )  # fmt: skip

    given, images = model(tmp_path / "in.onnx"), data(120)
    with monkeypatch.context() as patch:
        if where == "the comparison":
            patch.setattr(rejuvenating, "described", None)
        with pytest.raises((KeyboardInterrupt, TypeError)):
            run(tmp_path / "made")
    result = run(tmp_path / "made")
    epochs = [(what, n) for what in ("plain fine-tuning", "rejuvenated") for n in range(3)]
    assert told == epochs
    whole = run(tmp_path / "whole")
    assert result.accuracy == whole.accuracy
    assert [r.trained for r in result.trained.values()] == [
        r.trained for r in whole.trained.values()
    ]
    for name in ("out.onnx", "plain.onnx"):
        files = (tmp_path / "made" / name, tmp_path / "whole" / name)
        assert files[0].read_bytes() == files[1].read_bytes()
    assert len(list((tmp_path / "made").iterdir())) == 2


@pytest.mark.parametrize(
    ("gain", "plain", "said"),
    [
        ((0.05, 0.01), (0.04, 0.01), ["is better than the original", "better than plain fine-"]),
        ((0.05, 0.01), (0.01, 0.01), ["is better than the original", "does as well"]),
        ((0.05, 0.01), (-0.04, 0.01), ["than the", "is better (+4.00 points", "use its file"]),
        ((-0.05, 0.01), (0.0, 0.0), ["is worse than the original", "does as well"]),
        ((0.01, 0.02), (0.0, 0.0), ["does as well as the original"]),
    ],
)
def test_the_verdict_is_honest(gain, plain, said):
    result = Rejuvenation({}, 100, Gain(*gain), Gain(*plain), Report(), "", {})
    assert all(part in result.verdict for part in said)


@pytest.mark.parametrize(("held_out", "said"), [(9, True), (0, False)])
def test_the_verdict_says_where_no_epoch_was_kept(held_out, said):
    images = {"training": 90, "held-out": held_out}
    trained = {
        name: Result({}, {}, Trained([], best), images)
        for name, best in {"plain fine-tuning": 0, "rejuvenated": 2}.items()
    }
    result = Rejuvenation({}, 100, Gain(0, 0), Gain(0, 0), Report(), "", trained)
    assert ("of 'plain fine-tuning' no epoch was kept" in result.verdict) == said


def test_the_error_is_of_images_that_only_one_gets_right():
    first, second = np.ones(100, bool), np.arange(100) >= 4
    found = Gain.of(first, second)
    assert found.difference == pytest.approx(0.04)
    assert found.error == pytest.approx(np.sqrt(0.04 * 0.96 / 100))
    assert not Gain.of(second, second).clear


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        ([True], [False], "+100.00 points; 1 image told them apart, too few"),
        ([True], [True], "+0.00 points; no images told them apart, too few"),
        ([True] * 5, [False] * 5, "+100.00 points; 5 images told them apart, too few"),
    ],
)
def test_few_images_have_no_standard_error(first, second, said):
    found = Gain.of(np.array(first), np.array(second))
    assert not found.clear
    assert str(found).startswith(said)
    assert Gain.of(np.ones(6, bool), np.zeros(6, bool)).clear
