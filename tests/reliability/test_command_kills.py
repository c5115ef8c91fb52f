"""A command that is killed at any moment loses no file, and can be repeated.

``finetune`` goes on where it was.  ``shrink`` is run as the user types it, every other time on a
file that keeps its weights in another one.  By hand, 50 kills and more::

    python tests/reliability/test_command_kills.py finetune 50
    python tests/reliability/test_command_kills.py shrink 50
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

pytest.importorskip("onnx2fx")
pytest.importorskip("torch")
if not hasattr(os, "fork"):
    pytest.skip("kills children of its own", allow_module_level=True)

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "adapters"))

import points
from rejuvenet.adapters.command_line.app import app
from rejuvenet.adapters.finetune.finetuning import finetune_file
from rejuvenet.adapters.finetune.training import Settings
from trained_file import data, model

SECONDS = 600.0  # for a run on a busy machine


def finetune(folder: Path) -> Callable[[], Any]:
    """Two epochs; the state is kept after every step."""
    settings = Settings(2, lr=0.02, mixup=0.2)
    return lambda: (
        finetune_file(
            folder / "in.onnx", folder / "out.onnx", data(36), settings=settings, seconds=0
        ).continued
    )


def shrink(folder: Path) -> Callable[[], Any]:
    """The command, to half of the channels."""
    words = ["shrink", "in.onnx", "--data", "images.npz", "--ratio", "0.5", "-o", "out.onnx"]

    def run() -> None:
        os.chdir(folder)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(1, 2)
        app(words, standalone_mode=False)

    return run


JOBS: dict[str, tuple[Callable[[Path], Callable[[], Any]], tuple[str, ...]]] = {
    "finetune": (finetune, (
        "files.py", "adapters/onnx/saving.py", "adapters/finetune/checkpoint.py",
        "adapters/finetune/training.py", "adapters/finetune/finetuning.py",
    )),
    "shrink": (shrink, (
        "files.py", "adapters/onnx/saving.py", "adapters/onnx/removal.py",
        "adapters/onnx/storage.py", "adapters/command_line/commands/shrink.py",
        "adapters/command_line/reading.py", "graph/reorganizing.py", "graph/removing.py",
    )),
}  # fmt: skip


def given(folder: Path, command: str, outside: bool) -> dict[str, bytes]:
    """The files that a command reads, by name."""
    path = model(folder / "in.onnx")
    if outside:
        options: dict[str, Any] = {"location": "weights", "size_threshold": 64}
        onnx.save(onnx.load(path), path, save_as_external_data=True, **options)
    if command == "shrink":
        images = data(36).data
        np.savez(folder / "images.npz", x=images.x, y=images.labels)
    return files(folder)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


Run = tuple[int, dict[str, bytes], onnx.ModelProto]


def measured(command: str, outside: bool) -> Run:
    """Lines of a run, and files and model that there are afterwards when nobody kills it."""
    job, code = JOBS[command]
    with tempfile.TemporaryDirectory() as name:
        given(Path(name), command, outside)
        lines = points.lines(job(Path(name)), code, SECONDS)
        return lines, files(Path(name)), onnx.load(Path(name) / "out.onnx")


def trial(command: str, seed: int, run: Run, outside: bool) -> dict:
    """A kill at a random line, then the same command again."""
    (job, code), (lines, whole, result) = JOBS[command], run
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        before = given(folder, command, outside)
        line = random.Random(seed).randint(1, lines)
        killed = points.killed_at(line, job(folder), code, SECONDS)
        assert killed.signal == signal.SIGKILL, killed
        left = files(folder)
        assert {file: left.get(file) for file in before} == before
        found = "whole" if "out.onnx" in left else "absent"
        made = [file for file in whole if file not in before]
        assert found == "absent" or all(left.get(file) == whole[file] for file in made)
        again = points.in_child(job(folder), seconds=SECONDS)
        assert again.error is None, again.error
        # Weights outside get another name where a file of theirs is in place.
        assert onnx.load(folder / "out.onnx") == result
        assert len(files(folder)) == len(whole)
        return {"seed": seed, "line": line, "output": found, "continued": again.value}


def trials(command: str, n: int, told: Callable[[int], Any] = lambda seed: None) -> dict:
    """``n`` seeded kills."""
    places = (False, True) if command == "shrink" else (False,)
    runs = [measured(command, outside) for outside in places]
    done: list[dict] = []
    wrong = []
    for seed in range(n):
        turn = seed % len(places)
        try:
            done.append(trial(command, seed, runs[turn], places[turn]))
        except Exception as error:
            wrong.append({"seed": seed, "error": repr(error)})
        told(seed)
    outputs = [found["output"] for found in done]
    return {
        "kills": n,
        "lines": [lines for lines, *_ in runs],
        "same as without the kill": len(done),
        "output absent": outputs.count("absent"),
        "output whole": outputs.count("whole"),
        "went on from a checkpoint": sum(found["continued"] is not None for found in done),
        "wrong": wrong,
        "trials": done,
    }


@pytest.mark.parametrize("command", JOBS)
def test_killed_commands_lose_nothing(command):
    """In a process of its own: autograd cannot be forked where other tests have used it."""
    code = f"import test_command_kills as t; print(t.trials({command!r}, 2)['wrong'])"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout == "[]\n"


def main(command: str, n: int) -> None:
    """``n`` seeded kills; writes ``results/<command>_kills.json``."""
    result = trials(command, n, lambda seed: print(seed, flush=True))
    out = Path(__file__).parent / "results" / f"{command}_kills.json"
    out.write_text(json.dumps(result, indent=0) + "\n")
    print({key: value for key, value in result.items() if key != "trials"})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=["finetune", "shrink"])
    parser.add_argument("n", type=int, help="kills")
    main(**vars(parser.parse_args()))
