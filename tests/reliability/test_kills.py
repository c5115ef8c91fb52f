"""A process that is killed while it saves leaves the old model or the new one, never a mixture.

What it leaves beside is gone after the next save.  By hand, 200 kills and more::

    python tests/reliability/test_kills.py 200
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import shutil
import signal
import sys
import tempfile
from functools import cache
from pathlib import Path

import pytest

pytest.importorskip("onnx")
if not hasattr(os, "fork"):
    pytest.skip("kills children of its own", allow_module_level=True)
import numpy as np
from rejuvenet.adapters.onnx import load

sys.path.insert(0, str(Path(__file__).parent))

import points
import saved_models

SAVING = ("files.py", "adapters/onnx/saving.py", "adapters/onnx/model.py")
KINDS = ("inline", "external", "several")
PLACES = ("a new name", "over another", "over itself")
CASES = list(itertools.product(KINDS, PLACES))


def prepared(folder: Path, kind: str, place: str) -> tuple[Path, Path]:
    """The model to read (version 1) and where to save it; what is there has version 0 or 1."""
    source = saved_models.write(folder / "given.onnx", 1.0, kind)
    if place == "over itself":
        return source, source
    target = folder / "out.onnx"
    if place == "over another":
        saved_models.write(target, 0.0, "inline" if kind == "inline" else "external")
    return source, target


def job(source: Path, target: Path, version: float):
    """Load, change everything, save."""
    model = load(source)
    values = {n: np.full(s, version, np.float32) for n, s in saved_models.SHAPES.items()}
    changed = model.with_weights(values)
    return lambda: changed.save(target)


@cache
def lines(kind: str, place: str) -> int:
    """Number of lines that such a save runs."""
    with tempfile.TemporaryDirectory() as folder:
        return points.lines(job(*prepared(Path(folder), kind, place), 2.0), SAVING)


def check(target: Path, before: float | None, present: set[str]) -> str:
    """Which version is whole at ``target`` after a kill; the next save leaves nothing else."""
    found = "old"
    if before is None and not target.exists():
        found = "none"
    else:
        version = saved_models.version_of(target)
        assert version in (before, 2.0), f"version {version}"
        found = "new" if version == 2.0 else "old"
    assert present <= set(os.listdir(target.parent)) or found == "new"
    return found


def trial(kind: str, place: str, seed: int) -> dict:
    """One kill at a random line of the saving code."""
    folder = Path(tempfile.mkdtemp())
    try:
        source, target = prepared(folder, kind, place)
        before = saved_models.version_of(target) if target.exists() else None
        present = set(os.listdir(folder))
        save = job(source, target, 2.0)
        n = lines(kind, place)
        line = random.Random(seed).randint(1, n)
        outcome = points.killed_at(line, save, SAVING)
        assert outcome.signal == signal.SIGKILL, outcome
        found = check(target, before, present)
        # The next save to that place removes what the killed one left.
        again = saved_models.write(folder / "again.onnx", 3.0, "inline")
        load(again).save(target)
        assert saved_models.version_of(target) == 3.0
        kept = {source.name, "again.onnx", target.name}
        if source != target or kind == "several":
            kept |= saved_models.locations(source) if source != target else {
                f"w{i}.bin" for i in range(3)
            }  # fmt: skip
        assert set(os.listdir(folder)) == kept
        return {"kind": kind, "place": place, "seed": seed, "line": line, "of": n, "found": found}
    finally:
        shutil.rmtree(folder)


@pytest.mark.parametrize(("kind", "place"), CASES)
def test_kills_while_saving(kind, place):
    found = [trial(kind, place, seed)["found"] for seed in range(3)]
    assert found


def main(n: int) -> None:
    """``n`` seeded kills over all kinds; writes ``results/kills.json``."""
    trials, wrong = [], []
    for seed in range(n):
        kind, place = CASES[seed % len(CASES)]
        try:
            trials.append(trial(kind, place, seed))
        except Exception as error:
            wrong.append({"kind": kind, "place": place, "seed": seed, "error": repr(error)})
    counts = {what: sum(t["found"] == what for t in trials) for what in ("none", "old", "new")}
    result = {"kills": n, "whole": len(trials), **counts, "wrong": wrong, "trials": trials}
    out = Path(__file__).parent / "results" / "kills.json"
    out.write_text(json.dumps(result, indent=0) + "\n")
    print({key: value for key, value in result.items() if key != "trials"})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("n", type=int, help="kills")
    main(**vars(parser.parse_args()))
