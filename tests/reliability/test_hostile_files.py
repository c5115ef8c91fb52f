"""Files that want a secret, the memory or the time get none of these.

By hand, all of them, with seconds and memory::

    python tests/reliability/test_hostile_files.py
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
from pathlib import Path

import pytest

pytest.importorskip("onnx")
if not hasattr(os, "fork"):
    pytest.skip("runs children of its own", allow_module_level=True)
import onnxruntime  # noqa: F401 (before the children, so that each has it)
from rejuvenet.adapters.onnx import arrange, load

sys.path.insert(0, str(Path(__file__).parent))

import hostile
import points

SECONDS = 10  # of processor time, as other work may share the machine
MEMORY = 1 << 30


def use(path: Path) -> str:
    """What somebody does with a file: read it, arrange everything, write it."""
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    resource.setrlimit(resource.RLIMIT_DATA, (8 << 30, 8 << 30))  # spare the machine
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    try:
        moved, _ = arrange(load(path), order="random")
        moved.save(path.parent / "out.onnx")
        said = ""
    except (ValueError, OSError) as error:
        said = str(error) or repr(error)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - used
    return json.dumps([said, grown])


def trial(name: str, path: Path) -> dict:
    """One file; what is wrong, if anything."""
    before = {p: p.stat().st_size for p in path.parent.iterdir() if p.is_file()}
    for _ in range(2):
        outcome = points.in_child(lambda: use(path), seconds=8 * SECONDS)  # of a busy machine
        if not outcome.signal or outcome.processor > 0.5 * SECONDS:
            break  # else it waits: a child may inherit a lock that a thread held; again, then
    said, grown = json.loads(outcome.value) if outcome.value else ("", 0)
    wrong = []
    if outcome.signal:
        late = outcome.processor > 0.9 * SECONDS or outcome.seconds > SECONDS
        wrong.append("timeout" if late else f"signal {outcome.signal}")
    elif outcome.error is not None:
        wrong.append(f"{type(outcome.error).__name__}: {outcome.error}")
    if grown > MEMORY + path.stat().st_size:
        wrong.append(f"{grown >> 20} MiB")
    if "\n" in said or len(said) > 600:
        wrong.append("more than one sentence")
    made = [p for p in path.parent.iterdir() if p.is_file() and p not in before]
    if any(hostile.SECRET[:32] in p.read_bytes() for p in made if not p.is_symlink()):
        wrong.append("the secret is in the output")
    if said and made:
        wrong.append(f"left {[p.name for p in made]}")
    return {"name": name, "said": said.replace(str(path.parent), "."), "wrong": wrong,
            "seconds": round(outcome.processor, 2), "mib": grown >> 20}  # fmt: skip


def test_hostile_files(tmp_path, monkeypatch):
    # A quarter of the usual budget, and so of the seconds that a loop may take.
    monkeypatch.setenv("REJUVENET_MAX_BYTES", str(1 << 27))
    results = [trial(name, path) for name, path in hostile.files(tmp_path)]
    assert len(results) >= 100
    assert [r for r in results if r["wrong"]] == []
    # A file that asks for nothing is used.
    plain = tmp_path / "plain" / "m.onnx"
    plain.parent.mkdir()
    plain.write_bytes(hostile.model().SerializeToString())
    assert trial("plain", plain)["said"] == ""
    assert (plain.parent / "out.onnx").exists()


def main() -> None:
    """All files; writes ``results/hostile.json``."""
    with tempfile.TemporaryDirectory() as folder:
        results = [trial(name, path) for name, path in hostile.files(Path(folder))]
    for r in results:
        if r["wrong"]:
            print(r)
    summary = {
        "files": len(results),
        "refused": sum(bool(r["said"]) for r in results),
        "escapes": sum("the secret is in the output" in r["wrong"] for r in results),
        "timeouts": sum("timeout" in r["wrong"] for r in results),
        "otherwise wrong": sum(bool(r["wrong"]) for r in results),
        "most seconds": max(r["seconds"] for r in results),
        "most MiB": max(r["mib"] for r in results),
    }
    print(summary)
    out = Path(__file__).parent / "results" / "hostile.json"
    out.write_text(json.dumps({**summary, "trials": results}, indent=0) + "\n")


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    main()
