"""Permute every movable channel group of many networks at once and check the outputs.

    python tests/sweeps/architectures.py                      # 224 networks of torchvision and timm
    python tests/sweeps/architectures.py --list tests/sweeps/beyond.json           # another list
    python tests/sweeps/architectures.py --only resnet18,densenet121 --exporters torch

Each network is checked as a PyTorch module in float64 and as the ONNX files that PyTorch's two
exporters write, with BatchNorm kept and folded.  How: see ``tests/adapters/exactness.py`` and
``tests/adapters/onnx_exports.py``.  For the files with BatchNorm kept, the channel groups are also
compared with those of the module: see ``tests/adapters/agreement.py``.

Each network runs in a process of its own, within a limit of processor time.  Its records are
appended to ``tests/sweeps/results/architectures.jsonl`` at once; a sweep that was stopped goes on
where it was, and ``--again`` repeats what failed (``failed``), what was checked by an older version
of the program (``older``), or everything (``all``).  ``--table`` writes the README and stops.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import TextIO

import numpy as np
import torch

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(HERE))

import networks  # noqa: E402
import records  # noqa: E402

EXPORTERS = ("torch", "script", "dynamo")
LIMITS = {"check": 600, "export": 240}  # seconds of processor time


def version() -> str:
    """The last commit that changed the program, with a mark where the files differ from it."""
    git = ["git", "-C", str(ROOT)]
    parts = ["graph", "adapters/torch", "adapters/onnx"]
    log = [*git, "log", "-1", "--format=%h", "--", *parts]
    commit = subprocess.check_output(log, text=True).strip()
    changed = [*git, "status", "--porcelain", "--untracked-files=no", *parts]
    return commit + ("+" if subprocess.check_output(changed, text=True).strip() else "")


def limit(seconds: int) -> None:
    """End this process after so much more processor time."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    allowed = int(used.ru_utime + used.ru_stime) + seconds
    resource.setrlimit(resource.RLIMIT_CPU, (allowed, resource.RLIM_INFINITY))


def check(network: networks.Network, exporter: str, out: TextIO) -> None:
    """One network as a module, or in the variants of one exporter; records as lines of JSON."""
    # Imported here, in a process of its own, so that a long sweep sees the program as it is now.
    import exactness
    import onnx_exports
    from agreement import agreement
    from rejuvenet.adapters.onnx import load
    from rejuvenet.adapters.torch import trace

    def say(**row: object) -> None:
        print(json.dumps(row), file=out, flush=True)

    def judge(form: str, verdict: exactness.Verdict, start: float, **more: object) -> None:
        row = {name: value for name, value in vars(verdict).items() if name != "limits"}
        row["frozen"] = Counter(verdict.frozen.values())
        row["seconds"] = round(time.perf_counter() - start, 2)
        say(form=form, outcome=verdict.outcome, **row, **more)

    limit(LIMITS["check"])
    start = time.perf_counter()
    model, inputs = networks.build(network)
    if exporter == "torch":
        say(form="torch", stage="check")
        dtype = getattr(torch, network.get("dtype", "float64"))
        judge("torch", exactness.verify(model, *inputs, dtype=dtype), start)
        return
    dtype = getattr(torch, network.get("dtype", "float32"))
    model = exactness.randomize(model).to(dtype)
    inputs = tuple(x.to(dtype) for x in inputs)
    traced = trace(model, inputs)
    module_groups, module_weights = traced.groups, traced.weights
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        form = f"{exporter}, kept"
        say(form=form, stage="export")
        limit(LIMITS["export"])
        try:
            for form, write in onnx_exports.exports(model, inputs, exporter):
                say(form=form, stage="export")
                write(path)
                say(form=form, stage="check")
                limit(LIMITS["check"])
                exported = time.perf_counter() - start
                feeds = run_alone(path, inputs)
                try:
                    file = load(path)
                    more = {"export_seconds": round(exported, 2)}
                    verdict = onnx_exports.verify(path, feeds, model=file)
                    if form.endswith("kept"):
                        same = agreement(module_groups, module_weights, file.groups, file.weights)
                        more["agreement"] = same._asdict()
                    judge(form, verdict, start, **more)
                except Exception as error:
                    say(form=form, outcome="failed", reason=one_line(error))
                start = time.perf_counter()
                limit(LIMITS["export"])
        except Exception as error:
            say(form=form, outcome="export failed", reason=one_line(error))


def run_alone(path: Path, inputs: tuple[torch.Tensor, ...]) -> dict[str, np.ndarray]:
    """Inputs by name; an error is that of a file which onnxruntime does not run."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    feeds = {name: x.numpy() for name, x in zip(names, inputs, strict=True)}
    session.run(None, feeds)
    return feeds


def one_line(error: Exception) -> str:
    """Type and first sentence of an error."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    lines = [line for line in lines if any(letter.isalpha() for letter in line)] or [""]
    lines[0] = re.sub(r"\S*/(?=model\.onnx)", "", lines[0])  # a temporary folder
    cause = error.__cause__
    if cause is not None and str(cause).strip():
        lines[0] += f" ({type(cause).__name__}: {str(cause).strip().splitlines()[0]})"
    return f"{type(error).__name__}: {lines[0]}"[:300]


def run(network: networks.Network, exporter: str) -> list[dict]:
    """The records of :func:`check` in a process of its own."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        try:
            with os.fdopen(write, "w") as out:
                try:
                    check(network, exporter, out)
                except Exception as error:  # a sweep reports and goes on
                    form = "torch" if exporter == "torch" else f"{exporter}, kept"
                    row = {"form": form, "outcome": "failed", "reason": one_line(error)}
                    print(json.dumps(row), file=out)
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as lines:
        rows = [json.loads(line) for line in lines]
    _, status = os.waitpid(child, 0)
    done = [row for row in rows if "outcome" in row]
    if os.WIFSIGNALED(status):
        last = rows[-1] if rows else {"form": exporter, "stage": "check"}
        stage = last.get("stage", "export")
        form = last["form"] if "stage" in last else f"{exporter}, folded"
        killed = os.WTERMSIG(status)
        late = killed == 24  # SIGXCPU
        reason = f"more than {LIMITS[stage]} s to {stage}" if late else f"signal {killed}"
        outcome = {"export": "export failed", "check": "failed"}[stage]
        outcome = ("export timeout" if stage == "export" else "timeout") if late else outcome
        done.append({"form": form, "outcome": outcome, "reason": reason})
    found = {row["form"] for row in done}
    if exporter != "torch" and f"{exporter}, folded" not in found and done:
        reason = done[-1].get("reason", "")
        done.append({"form": f"{exporter}, folded", "outcome": done[-1]["outcome"],
                     "reason": reason})  # fmt: skip
    return done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--list", type=Path, default=networks.LIBRARIES, help="JSON list of {name, source, input}"
    )
    parser.add_argument("--only", help="names, comma-separated")
    parser.add_argument("--exporters", default=",".join(EXPORTERS), help="comma-separated")
    parser.add_argument("--again", choices=("failed", "older", "all"), help="repeat these")
    parser.add_argument("--output", type=Path, default=records.RESULTS)
    parser.add_argument("--table", action="store_true", help="write the README and stop")
    options = parser.parse_args()
    torch.set_num_threads(1)
    chosen = networks.networks(options.list)
    if options.only:
        chosen = [n for n in chosen if n["name"] in options.only.split(",")]
    exporters = options.exporters.split(",")
    if not options.table:
        import sklearn.cluster  # noqa: F401
        import timm  # noqa: F401 (the processes of all networks share what is imported here)
        import torchvision  # noqa: F401
    if not options.table and exporters != ["torch"]:
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    for exporter in [] if options.table else exporters:
        for network in chosen:
            if exporter not in network.get("exporters", EXPORTERS):
                continue
            name = networks.key(network)
            known = records.read(options.output)
            form = "torch" if exporter == "torch" else f"{exporter}, kept"
            at = version()
            if not records.wanted(known.get((name, form)), options.again, at):
                continue
            for row in run(network, exporter):
                row = {"network": name, **row, "version": at}
                records.append(options.output, row)
                print(name, row["form"], row["outcome"], row.get("moved"), row.get("convolutions"),
                      row.get("reason", ""), (row.get("agreement") or {}).get("difference", ""),
                      flush=True)  # fmt: skip
    if options.table:
        lists = {"Beyond these": networks.networks(networks.BEYOND)}
        lists = {f"{len(chosen)} networks of torchvision and timm": chosen, **lists}
        names = {title: sorted(map(networks.key, listed)) for title, listed in lists.items()}
        records.compact(options.output)
        records.write_readme(options.output, HERE / "README.md", names)


if __name__ == "__main__":
    main()
