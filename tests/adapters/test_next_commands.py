"""Commands that pages print can be pasted, and speak of what the data are."""

from __future__ import annotations

import re
import shlex
import sys
from html import unescape
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx2fx")
pytest.importorskip("torch")
from rejuvenet.adapters.command_line.app import app
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parent))

from trained_file import data, model


def run(command):
    """Run what a user would paste; its page: the words, and the commands to do next."""
    name, *words = shlex.split(command)
    assert name == "rejuvenet"
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    page = Path(words[words.index("--html") + 1]).read_text()
    lead = page[: page.index("</section>")]
    found = re.findall(r"<pre><code>(.*?)</code></pre>", lead)
    body = re.sub(r"<style.*?</style>|<[^>]*>", "", page, flags=re.S)
    return body + done.output, [unescape(re.sub("<[^>]*>", "", each)) for each in found]


def test_commands_for_samples_that_are_no_images_and_have_no_labels(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model(Path("in.onnx"))
    np.savez("sound.npz", x=data(36).data.x)
    first = "reorganize in.onnx --data sound.npz -l first --ratio 0.5 --batch-size 12"
    said, (train,) = run(f"rejuvenet {first} -o new.onnx --html new.html")
    assert re.search(r"\d samples that no refit used", said)
    assert not re.search(r"(?<!-)\bimages\b", said)
    assert "--teacher in.onnx" in train
    said, (smaller,) = run(f"{train} --epochs 2 --lr 0.02 --freeze last.bias")
    assert not re.search(r"(?<!-)\bimages\b", said)
    assert re.search(r"augment\s*none", said)
    assert "shrink new.finetuned.onnx --data sound.npz --batch-size 12" in smaller
    run(smaller)


def test_a_training_is_repeated_with_its_options(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model(Path("in.onnx"))
    np.savez("sound.npz", x=data(36).data.x)
    said, (again,) = run(
        "rejuvenet finetune in.onnx --data sound.npz --teacher in.onnx --freeze last.bias "
        "--epochs 1 -o out.onnx --html out.html"
    )
    assert "Nothing was gained" in said
    assert "Loss on what was held out" in said
    assert "--teacher in.onnx --freeze last.bias" in again
    assert "--lr 0.0002 --epochs 2" in again
    run(again)


def test_the_next_command_is_judged_on_the_same_images(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model(Path("in.onnx"))
    given = data(36).data
    np.savez("seen.npz", x=given.x, y=given.labels)
    np.savez("apart.npz", x=given.x, y=given.labels)
    first = "shrink in.onnx --data seen.npz --test apart.npz --ratio 0.75 -l first"
    said, (train, *_) = run(f"rejuvenet {first} -o new.onnx --html new.html")
    assert "On 36 test" in said
    assert "--test apart.npz" in train
    said, (again,) = run(f"{train} --epochs 1 --lr 1e-9 --augment none")
    assert "--test apart.npz" in again
