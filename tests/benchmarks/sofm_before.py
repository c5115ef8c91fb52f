"""The SOFM of this checkout beside that of another one, in one run.

    git worktree add ../before b37a430
    python tests/benchmarks/sofm_before.py ../before

Workloads and codebooks are those of ``sofm.py``.  Processes of the two take turns, each times a few
fits of 20 epochs; a figure is the median over processes of their medians, in milliseconds an epoch.
Both compile into a folder of this run: Numba's cache knows a kernel's own file only, and would keep
what was compiled from callees that have changed since.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import sofm

HERE = Path(__file__).resolve()
RESULT = HERE.parent / "results" / "sofm_before.json"
EPOCHS = 20


def fits(workload: str, threads: int, repeats: int) -> float:
    """Median milliseconds of an epoch in this process; the first fit compiles and warms up."""
    from rejuvenet.sofm import SOFM

    make, shape = sofm.WORKLOADS[workload]
    X = make()
    W = sofm.start(X, shape[0] * shape[1])
    times = []
    for _ in range(repeats + 1):
        som = SOFM(shape, init=W, n_epochs=EPOCHS, n_jobs=threads)
        begun = time.perf_counter()
        som.fit(X)
        times.append((time.perf_counter() - begun) / EPOCHS * 1e3)
    return statistics.median(times[1:])


def commit(folder: Path) -> str:
    """Of a checkout."""
    git = ["git", "-C", str(folder), "describe", "--always", "--dirty"]
    return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("before", type=Path, help="folder of the other checkout")
    parser.add_argument("--workloads", nargs="+", default=list(sofm.WORKLOADS))
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        workload, threads, repeats = options.one
        print(fits(workload, int(threads), int(repeats)))
        return
    checkouts = {"before": options.before.resolve(), "now": HERE.parents[2]}
    result: dict = {"commits": {name: commit(place) for name, place in checkouts.items()}}
    with tempfile.TemporaryDirectory() as folder:
        for name, place in checkouts.items():
            (Path(folder) / name).mkdir()
            (Path(folder) / name / "rejuvenet").symlink_to(place)

        def run(name: str, workload: str, threads: int) -> float:
            own = str(Path(folder) / name)
            environment = {**os.environ, "PYTHONPATH": own, "NUMBA_CACHE_DIR": f"{own}/cache"}
            repeats = 20 if workload == "d" else 3
            task = "--one", workload, str(threads), str(repeats)
            command = [sys.executable, str(HERE), own, *task]
            done = subprocess.run(command, env=environment, capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(done.stderr)
            return float(done.stdout)

        for workload in options.workloads:
            for threads in options.threads:
                times: dict[str, list[float]] = {name: [] for name in checkouts}
                for _ in range(options.rounds):
                    for name, row in times.items():
                        row.append(run(name, workload, threads))
                before, now = (statistics.median(row) for row in times.values())
                result[f"{workload}, {threads}"] = {**times, "ratio": now / before}
                print(f"{workload}, {threads} threads: {before:.3f} to {now:.3f} ms, "
                      f"{now / before - 1:+.1%}", flush=True)  # fmt: skip
    RESULT.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
