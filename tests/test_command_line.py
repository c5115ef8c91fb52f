"""The commands on real files: what they print, what they write, and how they fail."""

import errno
import json
import os
import re
import shlex
import shutil
import struct
import subprocess
import sys
from html import unescape
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest
import typer
from rejuvenet.adapters.command_line import terminal
from rejuvenet.adapters.command_line.app import app
from rejuvenet.adapters.command_line.reading import Look
from rejuvenet.adapters.command_line.terminal import sentence
from rich.console import Console
from typer.testing import CliRunner

pytest.importorskip("onnx")


@pytest.fixture
def place(demo_run, tmp_path, monkeypatch):
    """An empty folder, the working one, with the demo's files as arguments."""
    monkeypatch.chdir(tmp_path)
    made = demo_run[0] / "demo"
    for name in ("original.onnx", "preserving.onnx", "digits_train.npz", "digits_test.npz"):
        shutil.copy(made / name, tmp_path)
    return tmp_path


def call(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def fails(status, *words):
    """Run, and check that the failure is one sentence and leaves no new file behind."""
    before = sorted(os.listdir())
    done = call(*words)
    assert done.exit_code == status, done.output
    assert "Traceback" not in done.output
    assert sorted(os.listdir()) == before
    return " ".join(done.stderr.replace("│", " ").split())


def test_inspect_as_table_and_json(place):
    shown = call("inspect", "original.onnx").stdout
    assert "conv4.weight" in shown
    assert "classifier.weight is frozen" in shown
    groups = json.loads(call("inspect", "original.onnx", "--json").stdout)["groups"]
    assert [g["group"] for g in groups][-2:] == ["conv4.weight", "classifier.weight"]
    assert [g["channels"] for g in groups] == [16, 32, 32, 32, 10]
    assert groups[3]["consumers"] == 1
    assert "occupied" not in groups[3]


def test_inspect_with_data_measures_capacity(place):
    done = call("inspect", "original.onnx", "--data", "digits_train.npz", "--json")
    last = json.loads(done.stdout)["groups"][3]
    assert 1 <= last["occupied"] <= last["nodes"] == 32
    assert 1 < last["effective_rank"] < 32
    assert 0 <= last["dormant"] <= 1


def test_inspect_with_data_keeps_a_budget_of_memory(place, monkeypatch):
    """Small batches, sums of a smaller extent, and several passes; every group has its figures."""
    from rejuvenet.adapters.command_line import capacity_figures

    words = ("inspect", "original.onnx", "--data", "digits_test.npz", "--json")
    whole = json.loads(call(*words).stdout)["groups"]
    read, held = [], []

    def described(model, batches, part, **options):
        read.append((batches.batch_size, len(part)))
        found, refused = real(model, batches, part, **options)
        held.append(sum(means.sums.nbytes for means in found.values()))
        return found, refused

    real = capacity_figures.described
    monkeypatch.setattr(capacity_figures, "described", described)
    monkeypatch.setattr(capacity_figures, "MEMORY", 4 * 9_000)
    small = json.loads(call(*words).stdout)["groups"]
    assert len(read) > 1
    assert all(size < 64 for size, _ in read)
    assert max(held) <= 9_000
    for a, b in zip(whole[:-1], small[:-1], strict=True):
        assert b["dormant"] == a["dormant"]
        assert b["occupied"] == pytest.approx(a["occupied"], abs=6)


def says_what_to_do_next(path):
    """The page; the commands that it says are ones that the command line takes."""
    page = path.read_text()
    first = page[: page.index("</section>")]
    commands = re.findall(r"<pre><code>(.*?)</code></pre>", first)
    assert "What to do next" in first
    assert commands
    for command in commands:
        _, name, *words = shlex.split(unescape(re.sub("</?span>", "", command)))
        made = typer.main.get_command(app).commands[name]
        parser = made.make_parser(made.make_context(name, [], resilient_parsing=True))
        given, extra, _ = parser.parse_args(list(words))
        assert extra == []
        assert given["data"].endswith(".npz")
    return page


@pytest.mark.parametrize(("method", "options"), [("sofm", ["tolerance=0.001"]), ("redo", [])])
def test_reorganize_leaves_what_is_not_redundant(place, method, options):
    options = [word for option in (*options, "dormant=0") for word in ("--option", option)]
    done = call(
        "reorganize", "original.onnx", "--data", "digits_train.npz", "-o", "same.onnx",
        "--ratio", "redundant", *options, "--method", method, "--json",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    (group,) = json.loads(done.stdout[done.stdout.index("{") :])["groups"]
    assert group["new"] == 0
    assert "nothing is redundant" in group["reason"]


def test_shrink_writes_a_smaller_file(place):
    words = ["shrink", "original.onnx", "--data", "digits_train.npz", "-o", "small.onnx"]
    pages = ["--html", "small.html", "--test", "digits_test.npz"]
    done = call(*words, "--ratio", "0.75", "--ratio", "conv4=0.5", *pages)
    assert done.exit_code == 0, done.output
    page = says_what_to_do_next(place / "small.html")
    assert "of the parameters" in page
    assert "On 540 test images" in page
    assert "<b>Shrunk</b>" in page
    again = "rejuvenet shrink original.onnx --data digits_train.npz -o small.onnx --ratio 0.75"
    assert again in re.sub("</?span>", "", page)
    assert "parameters left" in done.stdout
    assert "Looked at all 1,257 images" in done.stdout
    assert "of the decisions stayed" in done.stdout
    assert (place / "small.onnx").stat().st_size < (place / "original.onnx").stat().st_size * 0.6
    again = json.loads(call("inspect", "small.onnx", "--json").stdout)["groups"]
    assert [group["channels"] for group in again] == [12, 24, 24, 16, 10]
    said = call("compare", "original.onnx", "small.onnx", "--data", "digits_test.npz", "--json")
    assert json.loads(said.stdout)["accuracy"][1] > 0.8
    other = [*words[:-1], "other.onnx", "--ratio", "node_conv2d_3=0.5", "--json"]
    kept = json.loads(call(*other).stdout)["groups"]
    assert {group["group"] for group in kept if group["removed"]} == {"conv4.weight"}
    assert "expected --ratio" in fails(2, *words[:-1], "other.onnx", "--ratio", "conv4=2")


@pytest.mark.parametrize(
    ("command", "n", "warned", "printed"),
    [
        ("reorganize", 300, "samples all the same?", "on 61 samples that no refit used"),
        ("shrink", 1, "1 sample gives 16 values", "samples that the refit used among them"),
    ],
)
def test_images_that_tell_nothing_are_said(place, command, n, warned, printed):
    np.savez("gray.npz", x=np.full((n, 1, 8, 8), 0.5, "f4"), y=np.arange(n) % 10)
    done = call(command, "original.onnx", "--data", "gray.npz", "-o", "new.onnx")
    assert done.exit_code == 0, done.output
    assert warned in done.stderr
    assert printed in done.stdout
    assert re.search(r"Outputs changed by \S+% of their size", done.stdout)


def test_shrink_to_a_share_of_the_latency(place, timed_by_products):
    timed_by_products()
    words = ["shrink", "original.onnx", "--data", "digits_train.npz", "-o", "small.onnx", "--json"]
    report = json.loads(call(*words, "--target-latency", 0.9).stdout)
    assert 0.5 < report["latency"] / report["latency_before"] <= 0.9
    assert report["latency_of"].startswith("batch size 1, 1 thread, CPU, median of")
    assert report["cost"]["multiply_adds"] < report["cost_before"]["multiply_adds"]


def test_a_budget_pseudo_classes_and_layers_by_their_capacity(place):
    data = "digits_train.npz"
    words = ["reorganize", "original.onnx", "--data", data, "-o", "out.onnx", "--json"]
    free = json.loads(call(*words, "--layers", "all", "--pseudo-classes", 5).stdout)
    assert free["passes"] == 1 + 5
    assert free["held_out"] > 100
    assert free["groups"][0]["before"]["features"] == 5 * 64
    share = free["output_change"] / 2
    bound = json.loads(call(*words, "--layers", "all", "--max-change", share).stdout)
    assert len(bound["groups"]) < len(free["groups"])
    assert bound["output_change"] is None or bound["output_change"] <= share
    assert any(reason.startswith("its change") for reason in bound["skipped"].values())
    none = call(*words, "--layers", "all", "--max-change", 1e-6)
    assert "nothing was changed: the outputs would have" in none.stderr
    few = json.loads(call(*words, "--layers", "auto", "--max-images", 128).stdout)
    assert len(few["groups"]) <= 2
    fails(2, *words, "--arrange", "--max-change", 0.1)
    assert "at least 10, one for each class" in fails(2, *words, "--max-images", 9)
    assert call(*words, "--max-images", 9, "--pseudo-classes", 3).exit_code == 0


def test_reorganize_fits_layer_after_layer(place):
    data = "digits_train.npz"
    words = ["reorganize", "original.onnx", "--data", data, "--layers", "all", "--json"]
    once = json.loads(call(*words, "-o", "once.onnx", "--option", "refit=groups").stdout)
    turns = json.loads(call(*words, "-o", "turns.onnx").stdout)
    assert turns["output_change"] < 0.8 * once["output_change"]
    assert turns["passes"] == once["passes"] + 2


def test_reorganize_writes_model_page_and_plan(place):
    done = call(
        "reorganize", "original.onnx", "--data", "digits_train.npz", "-o", "new.onnx",
        "--html", "page.html", "--plan", "plan.npz", "--option", "epochs=5", "--json",
        "--max-images", 1000,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    (group,) = report["groups"]
    assert group["group"] == "conv4.weight"
    assert group["survivors"] <= 16

    from rejuvenet.graph import Plan

    plan = Plan.load("plan.npz")
    assert plan.recipe.epochs == 5
    assert len(plan.groups[0].new) == group["new"]
    page = says_what_to_do_next(place / "page.html")
    assert "<b>Reorganized</b>" in page
    assert "257 images not looked at" in page
    assert (report["looked_at"], report["images"]) == (1000, 1257)
    result = json.loads(
        call("compare", "original.onnx", "new.onnx", "--data", "digits_test.npz", "--json").stdout
    )
    assert result["top1"] > 0.9
    assert {"conv4.weight", "classifier.weight"} <= set(result["changed"])
    assert not any(name.startswith(("conv1", "conv2", "conv3")) for name in result["changed"])


def test_arrange_keeps_the_outputs(place):
    done = call("reorganize", "original.onnx", "--arrange", "--order", "random", "-o", "new.onnx")
    assert done.exit_code == 0, done.output
    assert "classifier.weight" in done.stdout
    result = json.loads(
        call("compare", "original.onnx", "new.onnx", "--data", "digits_test.npz", "--json").stdout
    )
    assert result["relative_difference"] < 1e-5
    assert result["top1"] == 1.0
    assert len(result["changed"]) >= 4 * 5


def test_compare_as_table(place):
    words = ["compare", "original.onnx", "preserving.onnx", "--data", "digits_test.npz"]
    done = call(*words, "--html", "both.html")
    assert done.exit_code == 0, done.output
    page = (place / "both.html").read_text()
    assert all(f"<b>{name}.onnx</b>" in page for name in ("original", "preserving"))
    assert "What to do next" in page
    assert "batch size 1, 1 thread, CPU, median of" in done.stdout
    assert "Accuracy of each class" in done.stdout


def test_compare_says_what_it_cannot(place):
    """Labels that are no outputs; weights of another shape."""
    given = np.load("digits_test.npz")
    np.savez("shifted.npz", x=given["x"], y=given["y"] + 5)
    words = ["shrink", "original.onnx", "--data", "digits_test.npz", "-l", "conv4"]
    assert call(*words, "-o", "small.onnx").exit_code == 0
    files = "compare", "original.onnx", "small.onnx"
    done = call(*files, "--data", "shifted.npz", "--html", "both.html")
    said = "o accuracy: the labels 10, 11, 12, 13, 14 are none of the model's outputs 0 to 9"
    assert said in done.stdout
    assert "There is no accuracy: the labels 10, 11" in (place / "both.html").read_text()
    assert re.search(r"of another shape\s+│\s+7 │", done.stdout)
    assert re.search(r"of one file only\s+│\s+0 │", done.stdout)


@pytest.mark.parametrize(
    "source", [[], ["--module", "rejuvenet.adapters.command_line.demo:DigitsNet"]], ids=len
)
def test_finetune_writes_a_trained_file(place, source):
    if not source:
        pytest.importorskip("onnx2fx")
    done = call(
        "finetune", "original.onnx", *source, "--augment", "none",
        "--data", "digits_train.npz", "--test", "digits_test.npz", "--epochs", 1,
        "-o", "tuned.onnx", "--changes", "tuned.safetensors", "--json", "--html", "tuned.html",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "<b>Fine-tuned</b>" in says_what_to_do_next(place / "tuned.html")
    result = json.loads(done.stdout)
    assert result["after"]["held-out"] > 0.9
    assert "epoch 1 of 1: loss" in done.stderr
    assert (place / "tuned.onnx").read_bytes() != (place / "original.onnx").read_bytes()
    done = call("apply", "original.onnx", "tuned.safetensors", "-o", "again.onnx", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["output"] == "again.onnx"
    assert (place / "again.onnx").read_bytes() == (place / "tuned.onnx").read_bytes()


def test_an_interrupt_says_how_to_go_on(place, monkeypatch):
    pytest.importorskip("onnx2fx")
    said = []

    def say(text):
        said.append(text)
        if text.startswith("epoch 1 of 2"):
            raise KeyboardInterrupt

    monkeypatch.setattr(terminal, "say_aside", say)
    words = "original.onnx", "--data", "digits_test.npz", "--epochs", 2, "-o", "tuned.onnx"
    assert call("finetune", *words).exit_code == 130
    state = "its state is in tuned.onnx.checkpoint."
    assert said[-1] == f"Interrupted after epoch 1; repeat the command to go on; {state}"


def test_rejuvenate_is_judged_beside_plain_training(place):
    pytest.importorskip("onnx2fx")
    done = call(
        "rejuvenate", "original.onnx", "--data", "digits_train.npz", "--test", "digits_test.npz",
        "--augment", "none", "--epochs", 1, "-o", "better.onnx", "--html", "better.html", "--json",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert result["evaluated"] == 540
    assert list(result["accuracy"]) == [
        "original", "reorganized", "plain fine-tuning", "rejuvenated",
    ]  # fmt: skip
    assert result["accuracy"]["rejuvenated"] > 0.9
    assert "lain fine-tuning" in result["verdict"]
    (group,) = result["report"]["groups"]
    assert group["group"] == "conv4.weight"
    assert "the deepest one was taken" in result["note"]
    page = says_what_to_do_next(place / "better.html")
    assert "<b>Rejuvenated</b>" in page
    for setting, value in (("epochs", 1), ("epochs of the map", 20)):
        assert re.search(f">{setting}</t[hd]><td[^>]*>{value}</td>", page), setting
    assert (place / "better.plain.onnx").exists()


def test_rejuvenate_says_what_it_cannot_tell(place):
    """One image to judge by, and a learning rate with which no epoch is better."""
    pytest.importorskip("onnx2fx")
    given = np.load("digits_test.npz")
    np.savez("one.npz", x=given["x"][:1], y=given["y"][:1])
    done = call(
        "rejuvenate", "original.onnx", "--data", "digits_test.npz", "--test", "one.npz",
        "--lr", 3, "--epochs", 1, "-o", "better.onnx", "--html", "better.html",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    page = (place / "better.html").read_text()
    for text in (done.stdout, page):
        assert "told them apart, too few for a standard error" in text
        assert "standard error of 0.00" not in text
    assert "for as many epochs" not in page
    assert "reorganized; no epoch was kept" in page


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("inspect nothing.onnx", "does not exist"),
        ("reorganize original.onnx --data digits_train.npz", "--output"),
        ("reorganize original.onnx -o new.onnx", "give --data"),
        ("reorganize original.onnx --data digits_train.npz -o new.onnx --ratio 2", "ratio"),
        ("reorganize original.onnx --data digits_train.npz -o new.onnx --ratio all", "redundant"),
        ("reorganize original.onnx --data digits_train.npz -o n.onnx --method best", "best"),
        ("reorganize original.onnx --data digits_train.npz -o n.onnx --option x=1", "'x'"),
        ("reorganize original.onnx --data digits_train.npz -o n.onnx --option x", "NAME=VALUE"),
        ("reorganize original.onnx --data digits_train.npz -o n.onnx --option sigma=x", "a number"),
        ("inspect original.onnx --data digits_train.npz --size big", "HEIGHTxWIDTH"),
        ("inspect original.onnx --data digits_train.npz --mean a", "expected --mean"),
        (
            "finetune original.onnx --data digits_train.npz -o n.onnx --module a:b --freeze c",
            "--freeze does nothing with --module",
        ),
    ],
)
def test_wrong_usage_is_status_2(place, words, said):
    assert said in fails(2, *words.split())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("inspect --html sub/link.onnx", "--html would overwrite sub/link.onnx: it is the model"),
        ("inspect --svg hard.onnx", "--svg would overwrite hard.onnx: it is the model"),
        ("inspect --data pictures --html pictures/0/a.png", "part of what is to be read"),
        ("reorganize -o new.onnx --html original.onnx", "it is the model to read"),
        ("reorganize -o new.onnx --plan ./sub/../original.onnx", "it is the model to read"),
        ("reorganize -o original.onnx", "it is the model to read; give another name, or --over"),
        ("reorganize -o new.onnx --plan digits_train.npz", "part of what is to be read"),
        ("reorganize -o new.onnx --html ./new.onnx", "cannot write new.onnx twice"),
        ("reorganize -o new.onnx --plan new.onnx.data", "cannot write new.onnx.data twice"),
        ("reorganize -o weights.bin --overwrite", "-o would overwrite weights.bin"),
        ("finetune -o original.onnx --module m.py:f", "it is the model to read"),
        ("finetune -o m.py --module m.py:f", "part of what is to be read"),
        ("rejuvenate -o o.onnx --html o.plain.onnx", "cannot write o.plain.onnx twice"),
        ("rejuvenate -o o.onnx --changes o.onnx", "cannot write o.onnx twice"),
        ("finetune -o digits_test.npz --module m.py:f --test digits_test.npz", "to be read"),
    ],
)
def test_no_output_is_a_file_that_is_needed(place, words, said):
    import onnx

    model = onnx.load("original.onnx")
    onnx.save(model, "original.onnx", save_as_external_data=True, location="weights.bin",
              size_threshold=0)  # fmt: skip
    for folder in ("sub", "pictures/0"):
        (place / folder).mkdir(parents=True)
    (place / "sub" / "link.onnx").symlink_to("../original.onnx")
    (place / "hard.onnx").hardlink_to("original.onnx")
    (place / "m.py").write_text("")
    (place / "pictures" / "0" / "a.png").write_bytes(b"")
    before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    command, *rest = words.split()
    data = [] if "--data" in rest or command == "inspect" else ["--data", "digits_train.npz"]
    assert said in fails(2, command, "original.onnx", *data, *rest)
    assert {path: path.read_bytes() for path in place.rglob("*") if path.is_file()} == before


def test_overwrite_allows_the_model_itself(place):
    before = (place / "original.onnx").read_bytes()
    done = call("reorganize", "original.onnx", "--arrange", "--order", "random",
                "-o", "original.onnx", "--overwrite")  # fmt: skip
    assert done.exit_code == 0, done.output
    assert (place / "original.onnx").read_bytes() != before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("inspect --size 8", "--size does nothing without --data"),
        ("inspect --batch-size 8", "--batch-size does nothing without --data"),
        ("reorganize --arrange --order random --mean 0", "--mean does nothing without --data"),
        ("reorganize --data digits_train.npz --order random", "--order does nothing without"),
        ("shrink --data digits_train.npz --threads 2", "--threads does nothing without"),
        ("reorganize --data digits_train.npz --arrange --ratio 0.5", "--ratio does nothing with"),
        ("reorganize --data digits_train.npz --arrange --method l1", "--method does nothing with"),
        ("reorganize --data digits_train.npz --arrange --option a=1", "--option does nothing"),
        ("reorganize --data digits_train.npz --arrange --order random", "--data does nothing"),
        ("reorganize --data digits_train.npz --method l1 --recipe paper", "--recipe does nothing"),
        ("reorganize --data digits_train.npz --layers auto --ratio 0.5", "--ratio does nothing"),
        ("reorganize --data digits_train.npz --option every=5", "--option every does nothing"),
        ("reorganize --data digits_train.npz --option tolerance=1", "without --ratio redundant"),
        ("reorganize --data digits_train.npz --method l2 --option sigma=2", "sigma does nothing"),
        ("shrink --data digits_train.npz --option init=kaiming", "init does nothing"),
        ("rejuvenate --data digits_train.npz --ratio 0.5", "--ratio does nothing with --layers"),
        ("finetune --data digits_train.npz --held-out 0 --patience 3", "--patience does nothing"),
        ("finetune --data alone.npz --smoothing 0.2", "--smoothing does nothing without labels"),
        ("reorganize --data digits_train.npz --option seed=1", "give --seed"),
        ("reorganize --data digits_train.npz --option epochs=1 --option epochs=2", "given twice"),
    ],
)
def test_options_that_would_be_ignored_are_refused(place, words, said):
    np.savez("alone.npz", x=np.load("digits_train.npz")["x"][:8])
    command, *rest = words.split()
    output = ["-o", "new.onnx"] if command != "inspect" else []
    assert said in fails(2, command, "original.onnx", *output, *rest)


def bad_files(place):
    """Write every kind of bad input beside the good ones."""
    import onnx

    whole = (place / "original.onnx").read_bytes()
    (place / "text.onnx").write_text("not a model")
    (place / "cut.onnx").write_bytes(whole[: len(whole) // 2])
    model = onnx.load(place / "original.onnx")
    onnx.save(model, place / "external.onnx", save_as_external_data=True, location="weights.bin",
              size_threshold=0)  # fmt: skip
    (place / "weights.bin").unlink()
    data = np.load(place / "digits_train.npz")
    x, y = data["x"], data["y"]
    np.savez(place / "unpaired.npz", x=x[:10], y=y[:9])
    np.savez(place / "shifted.npz", x=x, y=np.where(y == 3, -1, y))
    spoiled = x[:100].copy()
    spoiled[7, 0, 0, 0] = np.nan
    np.savez(place / "nan.npz", x=spoiled, y=y[:100])
    np.savez(place / "large.npz", x=np.zeros((4, 3, 32, 32), np.float32), y=np.arange(4))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("inspect text.onnx", "text.onnx is not a complete ONNX model"),
        ("inspect cut.onnx", "cut.onnx is not a complete ONNX model"),
        ("inspect external.onnx", "weights.bin"),
        ("inspect original.onnx --data unpaired.npz", "10 images in x and 9 labels in y"),
        ("reorganize original.onnx --data nan.npz -o new.onnx", "Image 7 (counted from 0)"),
        ("reorganize original.onnx --data large.npz -o new.onnx", "takes images of 1x8x8"),
        ("reorganize original.onnx --data digits_train.npz -l conv5 -o new.onnx", "'conv4'"),
        (
            "reorganize original.onnx --data digits_train.npz -l classifier -o new.onnx",
            "reaches an output",
        ),
        ("shrink original.onnx --data digits_train.npz -o n.onnx --ratio cov4=0.5", "'conv4'"),
        (
            "shrink original.onnx --data digits_train.npz -o n.onnx --ratio conv4=1 --ratio a*=0.5",
            "made by a layer 'a*'",
        ),
        ("reorganize original.onnx --data digits_train.npz -o no/new.onnx", "no folder"),
        ("reorganize original.onnx --data digits_train.npz -o .", "it is a folder"),
        ("reorganize original.onnx --data digits_train.npz -o /dev/null", "not a regular file"),
        ("demo --output original.onnx/demo", "Cannot write original.onnx/demo: not a directory;"),
        (
            "shrink original.onnx --data digits_test.npz -o n.onnx --target-params 0.0001",
            "cannot be shrunk to 0.01% of its parameters",
        ),
        (
            "finetune original.onnx --data shifted.npz -o n.onnx",
            "The label -1 is none of the model's outputs 0 to 9; name folders or labels",
        ),
        (
            "finetune original.onnx --data digits_train.npz -o n.onnx --module a:b",
            "Cannot import a",
        ),
        (
            "finetune original.onnx --data digits_train.npz -o n.onnx --module torch.nn:Identity",
            "outputs",
        ),
    ],
)
def test_failed_operation_is_one_sentence_and_status_1(place, words, said):
    bad_files(place)
    stderr = fails(1, *words.split())
    assert said in stderr
    assert stderr.startswith("Error: ")
    assert stderr.endswith(".")


def test_disk_full_leaves_the_old_file(place, monkeypatch):
    (place / "new.onnx").write_bytes(b"old")

    def no_space(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", no_space)
    stderr = fails(1, "reorganize", "original.onnx", "--arrange", "--order", "random",
                   "-o", "new.onnx")  # fmt: skip
    assert "no space left on the disk" in stderr
    assert (place / "new.onnx").read_bytes() == b"old"


def test_files_of_weights_are_named_beside_their_model(tmp_path):
    model, page = tmp_path / "a[1].onnx", tmp_path / "a.html"
    for name in ("a[1].onnx.data", "a[1].onnx.1.data", "a[1].onnx2.data", "a1.onnx.data"):
        (tmp_path / name).touch()
    first, second = terminal.written(model, None, page)
    assert first == f"Wrote {model} and {model}.1.data and {model}.data"
    assert second == f"Wrote {page}"


def test_pictures_that_cannot_be_read_are_not_counted():
    data = SimpleNamespace(noun="images", unreadable={1, 3})
    one = Look(SimpleNamespace(rows=np.arange(1), data=SimpleNamespace(noun="images")), None, 1)
    assert str(one) == "Looked at 1 image."
    look = Look(SimpleNamespace(rows=np.arange(5), data=data), None, 5)
    assert str(look) == "Looked at 3 of 5 images, all that can be read."
    assert look.to_dict() == {"looked_at": 3, "images": 5}


def test_unreadable_picture_in_a_folder(place):
    pytest.importorskip("PIL")
    (place / "pictures" / "0").mkdir(parents=True)
    (place / "pictures" / "0" / "a.png").write_bytes(b"broken")
    said = fails(1, "inspect", "original.onnx", "--data", "pictures")
    assert "Cannot read 1 of 1 picture" in said


def test_errors_of_the_program_itself_are_a_sentence_too():
    said = sentence(KeyError("v12"))
    assert said.startswith("Unexpected KeyError: 'v12'")
    assert sentence(ValueError("expected x,\n   got y")) == "expected x, got y."
    assert sentence(MemoryError()) == "Not enough memory; give a smaller --batch-size."


def test_help_of_finetune_says_that_it_runs_code():
    assert "runs the code in that file" in " ".join(
        call("finetune", "--help").stdout.replace("│", " ").split()
    )


def test_runs_as_a_module(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "rejuvenet", "--version"],
        capture_output=True, text=True, check=True, cwd=tmp_path,
    )  # fmt: skip
    assert done.stdout.startswith("rejuvenet ")
    wrong = subprocess.run(
        [sys.executable, "-m", "rejuvenet", "paint"], capture_output=True, text=True, cwd=tmp_path
    )
    assert wrong.returncode == 2
    assert "No such command" in wrong.stderr


@pytest.mark.parametrize("words", ["inspect original.onnx", "--help"])
def test_output_into_a_closed_pipe_is_quiet(place, words):
    shell = f"{sys.executable} -m rejuvenet {words} | head -c 1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True)
    assert done.stderr == ""
    assert done.stdout[1:].strip() in ("0", "141")  # 141: ended by SIGPIPE, as `cat` is


def test_progress_is_shown_at_a_terminal(place, monkeypatch):
    """Standard error is a terminal: every long part shows a bar there."""
    pty, fcntl, termios = map(pytest.importorskip, ("pty", "fcntl", "termios"))
    shown = {}
    for words in (
        "inspect original.onnx --data digits_train.npz",
        "reorganize original.onnx --data digits_train.npz -o new.onnx",
    ):
        main, side = pty.openpty()
        fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        with open(side, "w") as terminal_, monkeypatch.context() as patched:
            patched.setattr(sys, "stderr", terminal_)
            app(words.split(), standalone_mode=False)
            terminal_.flush()
            os.set_blocking(main, False)  # where nothing was shown, reading fails
            shown[words.split()[0]] = os.read(main, 100_000).decode()
        os.close(main)
    assert "class means" in shown["inspect"]
    assert "capacity" in shown["inspect"]
    assert "class means" in shown["reorganize"]


EVIL = "conv1\x1b[31m\x07\u202e[red]"
SEEN = r"conv1\x1b[31m\x07\u202e[red]"


def evil_names(place):
    """The weight of the first layer has a name that would command a terminal."""
    import onnx

    model = onnx.load("original.onnx")
    for item in model.graph.initializer:
        item.name = EVIL if item.name == "conv1.weight" else item.name
    for node in model.graph.node:
        node.input[:] = [EVIL if name == "conv1.weight" else name for name in node.input]
    onnx.save(model, "evil.onnx")


def test_names_with_control_characters_are_shown_escaped(place):
    evil_names(place)
    done = call("inspect", "evil.onnx", "--html", "page.html", "--svg", "net.svg")
    moved = call("reorganize", "evil.onnx", "--arrange", "--order", "random", "-o", "new.onnx")
    failed = call("reorganize", "evil.onnx", "--arrange", "-l", "con", "--order", "random", "-o",
                  "new.onnx")  # fmt: skip
    assert failed.exit_code == 1
    written = [(place / name).read_text() for name in ("page.html", "net.svg")]
    for text in (done.stdout, moved.stdout, failed.stderr, *written):
        assert "\x1b" not in text
        assert "\x07" not in text
        assert "\u202e" not in text
    assert all(SEEN in text for text in (done.stdout, moved.stdout, *written))
    ElementTree.parse("net.svg")
    assert EVIL in {row["group"] for row in json.loads(
        call("inspect", "evil.onnx", "--json").stdout)["groups"]}  # fmt: skip


@pytest.mark.parametrize("columns", [24, 40, 80, 200])
def test_a_narrow_terminal_shows_everything(monkeypatch, capsys, columns):
    monkeypatch.setattr(terminal, "out", Console(width=columns))
    names = ["features.0.conv.weight", "0.weight"]
    header = ["group", "channels", "producers +\nper channel +\nconsumers", "exchangeable", "rank"]
    rows = [(name, 16, "2 + 4 + 1", "4 x 4", 12.3) for name in names]
    terminal.say(terminal.Listing("model.onnx", header, rows))
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= columns
    words = [word for line in lines for word in line.replace("│", " ").split()]
    for cell in (*names, "16", "12.3"):
        assert sum(word.strip(";") == cell for word in words) == (1 if cell in names else 2)
