"""Fine-tuning that is killed at any moment loses no file, and goes on when it is repeated.

By hand, 50 kills and more::

    python tests/reliability/test_finetune_kills.py 50
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

pytest.importorskip("onnx2fx")
pytest.importorskip("torch")
if not hasattr(os, "fork"):
    pytest.skip("kills children of its own", allow_module_level=True)

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "adapters"))

import points
from rejuvenet.adapters.finetune.finetuning import finetune_file
from rejuvenet.adapters.finetune.training import Settings
from trained_file import data, model

SECONDS = 600.0  # for a run on a busy machine
CODE = (
    "files.py",
    "adapters/onnx/saving.py",
    *(f"adapters/finetune/{name}.py" for name in ("checkpoint", "training", "finetuning")),
)


def job(folder: Path):
    """Two epochs; the state is kept after every step."""
    settings = Settings(2, lr=0.02, mixup=0.2)
    return lambda: finetune_file(
        folder / "in.onnx", folder / "out.onnx", data(36), settings=settings, seconds=0
    ).continued


def trial(seed: int, lines: int, whole: bytes) -> dict:
    """A kill at a random line, then the same command until it is done."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        given = model(folder / "in.onnx").read_bytes()
        line = random.Random(seed).randint(1, lines)
        killed = points.killed_at(line, job(folder), CODE, SECONDS)
        assert killed.signal == signal.SIGKILL, killed
        output = folder / "out.onnx"
        found = "whole" if output.exists() else "absent"
        assert found == "absent" or output.read_bytes() == whole
        assert (folder / "in.onnx").read_bytes() == given
        again = points.in_child(job(folder), seconds=SECONDS)
        assert again.error is None, again.error
        assert output.read_bytes() == whole
        assert sorted(os.listdir(folder)) == ["in.onnx", "out.onnx"]
        return {"seed": seed, "line": line, "output": found, "continued": again.value}


def measured() -> tuple[int, bytes]:
    """How many lines a run has, and what it writes when nobody kills it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model(folder / "in.onnx")
        lines = points.lines(job(folder), CODE, SECONDS)
        return lines, (folder / "out.onnx").read_bytes()


def two_trials() -> None:
    lines, whole = measured()
    assert [trial(seed, lines, whole)["seed"] for seed in range(2)] == [0, 1]


def test_killed_runs_go_on():
    """In a process of its own: autograd cannot be forked where other tests have used it."""
    code = "import test_finetune_kills; test_finetune_kills.two_trials()"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr


def main(n: int) -> None:
    """``n`` seeded kills; writes ``results/finetune_kills.json``."""
    lines, whole = measured()
    trials, wrong = [], []
    for seed in range(n):
        try:
            trials.append(trial(seed, lines, whole))
        except Exception as error:
            wrong.append({"seed": seed, "error": repr(error)})
        print(seed, len(wrong), flush=True)
    outputs = [t["output"] for t in trials]
    result = {
        "kills": n,
        "lines": lines,
        "same as without the kill": len(trials),
        "output absent": outputs.count("absent"),
        "output whole": outputs.count("whole"),
        "went on from a checkpoint": sum(t["continued"] is not None for t in trials),
        "wrong": wrong,
        "trials": trials,
    }
    out = Path(__file__).parent / "results" / "finetune_kills.json"
    out.write_text(json.dumps(result, indent=0) + "\n")
    print({key: value for key, value in result.items() if key != "trials"})


if __name__ == "__main__":
    main(int(sys.argv[1]))
