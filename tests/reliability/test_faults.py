"""An error at any line of a save or of a loaded state leaves the old or the new, never a mixture.

By hand, 150 faults and more::

    python tests/reliability/test_faults.py 150
"""

from __future__ import annotations

import argparse
import errno
import itertools
import json
import os
import random
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

pytest.importorskip("onnx")
if not hasattr(os, "fork"):
    pytest.skip("runs children of its own", allow_module_level=True)
sys.path.insert(0, str(Path(__file__).parent))

import points
import saved_models
import test_kills as kills

ERRORS = {
    "ENOSPC": OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
    "EIO": OSError(errno.EIO, os.strerror(errno.EIO)),
    "Ctrl-C": KeyboardInterrupt(),
    "no memory": MemoryError(),
}
CASES = list(itertools.product(kills.KINDS, kills.PLACES, ERRORS))


def trial(kind: str, place: str, name: str, seed: int) -> dict:
    """One fault at a random line of a save."""
    folder = Path(tempfile.mkdtemp())
    try:
        source, target = kills.prepared(folder, kind, place)
        before = saved_models.version_of(target) if target.exists() else None
        present = set(os.listdir(folder))
        n = kills.lines(kind, place)
        line = random.Random(seed).randint(1, n)
        save = kills.job(source, target, 2.0)
        outcome = points.faulted_at(line, save, kills.SAVING, ERRORS[name])
        found = kills.check(target, before, present)
        said = str(outcome.error or "")
        if "Nothing was written" in said:
            assert found != "new", f"it says {said!r}, and the new model is there"
        if outcome.error is None:
            assert found == "new"
        return {"kind": kind, "place": place, "error": name, "seed": seed, "line": line,
                "of": n, "found": found}  # fmt: skip
    finally:
        shutil.rmtree(folder)


@pytest.mark.parametrize("kind", kills.KINDS)
def test_faults_while_saving(kind):
    rows = itertools.product(kills.PLACES, ERRORS)
    assert [trial(kind, place, name, seed) for seed, (place, name) in enumerate(rows)]


def test_an_error_of_the_disk_at_any_call_keeps_the_input(tmp_path, monkeypatch):
    """Whatever call of the system fails in turn while a model is saved over itself."""
    calls = ("fsync", "replace", "listdir")
    for kind, call, nth in itertools.product(("external", "several"), calls, range(1, 8)):
        folder = tmp_path / f"{kind}{call}{nth}"
        folder.mkdir()
        source = saved_models.write(folder / "m.onnx", 1.0, kind)
        save = kills.job(source, source, 2.0)
        names = set(os.listdir(folder))
        real, count = getattr(os, call), itertools.count(1)

        def failing(*arguments, real=real, count=count, nth=nth):
            if next(count) == nth:
                raise OSError(errno.EIO, "Input/output error")
            return real(*arguments)

        with monkeypatch.context() as patched:
            patched.setattr(os, call, failing)
            said = None
            try:
                save()
            except OSError as error:
                said = str(error)
        assert saved_models.version_of(source) == (2.0 if said is None else 1.0), (call, nth)
        if said is not None:
            assert "Nothing was written" in said
            assert set(os.listdir(folder)) == names


def main(n: int) -> None:
    """``n`` seeded faults over all kinds; writes ``results/faults.json``."""
    trials, wrong = [], []
    for seed in range(n):
        case = CASES[seed % len(CASES)]
        try:
            trials.append(trial(*case, seed))
        except Exception as error:
            wrong.append({"case": case, "seed": seed, "error": repr(error)})
    counts = {what: sum(t["found"] == what for t in trials) for what in ("none", "old", "new")}
    result = {"faults": n, "whole": len(trials), **counts, "wrong": wrong, "trials": trials}
    out = Path(__file__).parent / "results" / "faults.json"
    out.write_text(json.dumps(result, indent=0) + "\n")
    print({key: value for key, value in result.items() if key != "trials"})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("n", type=int, help="faults")
    main(**vars(parser.parse_args()))
