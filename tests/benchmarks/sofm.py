"""The SOFM beside every installed peer, in one run.

    python tests/benchmarks/sofm.py                     # workloads a to d, all peers found
    python tests/benchmarks/sofm.py --workloads d --peers rejuvenet kmeans
    python tests/benchmarks/sofm.py --large             # 2,048,000 x 49, K = 1,024: time and memory
    python tests/benchmarks/sofm.py --start             # compilation, and threads on digits
    python tests/benchmarks/sofm.py --table             # the table of the README, from the JSON

Workloads: ``a`` 51,200 x 16 and ``b`` 200,000 x 49, made by :func:`activations`, lines of 256 and
1,024 nodes; ``c`` the first 20,000 images of Fashion-MNIST (784 pixels), 20 x 20; ``d``
scikit-learn's digits (1,797 x 64), 10 x 10.  All float32.

The unit is one ``X @ W.T`` in float32 (numpy, two threads of its BLAS): the cost of a brute-force
winner search.  A figure is the whole training call divided by its epochs and by the unit, so that
preparation and the final labels count too; every tool starts from the same codebook.  Tools and
the unit take turns, every tool in a process of its own; medians are reported, and the unit is the
median of all processes' units of the workload (on a shared machine one process alone may catch a
bad moment).  Slow tools run fewer epochs; their errors are then those of a short training.  ``cpu``
is the same ratio in processor time, within one process, to that of the product on one thread: it
wavers less, but it counts threads that spin while they wait.  Rows of an earlier run that this one
does not measure stay in the JSON and the plot.

The peers come from PyPI: fastersom, scikit-learn, faiss-cpu, xpysom, torchsom, minisom, somoclu
(1.7.6 installs without its compiled part where its setup fails: then build its six C++ files with
``g++ -O3 -fPIC -shared -fopenmp`` into ``_somoclu_wrap.so`` beside the package).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

RESULTS = Path(__file__).parent / "results"
FASHION = Path("/usr/share/datasets/fashion-mnist/train-images-idx3-ubyte.gz")
THREADS = 2
ENOUGH = 20.0  # seconds of training after which a tool is not repeated


def activations(n: int, side: int) -> np.ndarray:
    """Stand-ins for class-representative activations: a blob of random place, width and strength
    (gamma distributed, as mean activations are) and rectified noise, ``side * side`` each."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:side, :side] / (side - 1)
    row, column = rng.random((2, n, 1, 1))
    width = rng.uniform(0.15, 0.6, (n, 1, 1))
    strength = rng.gamma(0.7, 1, (n, 1, 1))
    blob = np.exp(-((y - row) ** 2 + (x - column) ** 2) / (2 * width**2))
    noise = 0.05 * np.abs(rng.standard_normal((n, side, side)))
    return (strength * (blob + noise)).reshape(n, -1).astype(np.float32)


def images(n: int) -> np.ndarray:
    """Fashion-MNIST where Debian's dataset-fashion-mnist is present, else blobs of 28 x 28."""
    if not FASHION.exists():
        return activations(n, 28)
    import gzip

    raw = gzip.decompress(FASHION.read_bytes())[16:]
    return np.frombuffer(raw, np.uint8).reshape(-1, 784)[:n].astype(np.float32) / 255


def digits() -> np.ndarray:
    from sklearn.datasets import load_digits

    return load_digits().data.astype(np.float32)


WORKLOADS = {
    "a": (lambda: activations(51_200, 4), (1, 256)),
    "b": (lambda: activations(200_000, 7), (1, 1024)),
    "c": (lambda: images(20_000), (20, 20)),
    "d": (digits, (10, 10)),
}


def start(X: np.ndarray, K: int) -> np.ndarray:
    """The codebook that every tool begins with: samples in order of their first component."""
    W = X[np.random.default_rng(1).choice(len(X), K, replace=False)]
    centred = W - W.mean(axis=0)
    return np.ascontiguousarray(W[np.argsort(centred @ np.linalg.svd(centred)[2][0])])


def rejuvenet(X, W, shape, epochs):
    from rejuvenet.sofm import SOFM

    som = SOFM(shape, init=W, n_epochs=epochs, n_jobs=THREADS)
    yield
    som.fit(X)
    yield som.codebook_


def fastersom(X, W, shape, epochs):
    import torch
    from fastersom import BatchSOM

    torch.set_num_threads(THREADS)
    som = BatchSOM.from_weights(W, *shape, n_epochs=epochs)
    yield
    som.fit(X)
    yield np.asarray(som.weights_).reshape(W.shape)


def xpysom(X, W, shape, epochs):
    from xpysom import XPySom

    som = XPySom(*shape, X.shape[1], sigma=max(shape) / 2, sigmaN=0.5, xp=np)
    som._weights = W.reshape(*shape, -1).copy()
    yield
    som.train(X, epochs)
    yield np.asarray(som._weights).reshape(W.shape)


def torchsom(X, W, shape, epochs):
    import torch
    from torchsom.core import SOM

    torch.set_num_threads(THREADS)
    som = SOM(
        *shape, X.shape[1], epochs=epochs, batch_size=4096, sigma=max(shape) / 2, device="cpu"
    )
    som.weights.data[:] = torch.from_numpy(W.reshape(*shape, -1))
    data = torch.from_numpy(X)
    yield
    som.fit(data, verbose=False)
    yield som.weights.detach().numpy().reshape(W.shape)


def somoclu(X, W, shape, epochs):
    from somoclu import Somoclu

    som = Somoclu(shape[1], shape[0], initialcodebook=W.copy(), compactsupport=False)
    yield
    som.train(X, epochs, radius0=max(shape) / 2, radiusN=0.5, scalecooling="exponential")
    yield som.codebook.reshape(W.shape)


def minisom(X, W, shape, epochs):
    from minisom import MiniSom

    som = MiniSom(*shape, X.shape[1], sigma=max(shape) / 2, learning_rate=0.5)
    som._weights = W.reshape(*shape, -1).astype(np.float64)
    yield
    som.train(X, epochs, use_epochs=True)
    yield som._weights.reshape(W.shape)


def kmeans(X, W, shape, epochs):
    from sklearn.cluster import KMeans

    model = KMeans(len(W), init=W, n_init=1, max_iter=epochs, tol=0, algorithm="lloyd")
    yield
    model.fit(X)
    yield model.cluster_centers_, model.n_iter_


def faiss(X, W, shape, epochs):
    import faiss

    faiss.omp_set_num_threads(THREADS)
    model = faiss.Kmeans(X.shape[1], len(W), niter=epochs, max_points_per_centroid=len(X))
    yield
    model.train(X, init_centroids=W)
    yield model.centroids


PEERS = {
    "rejuvenet": (rejuvenet, "numba", 20),
    "fastersom": (fastersom, "fastersom", 20),
    "kmeans": (kmeans, "sklearn", 20),
    "faiss": (faiss, "faiss", 20),
    "xpysom": (xpysom, "xpysom", 2),
    "torchsom": (torchsom, "torchsom", 1),
    "somoclu": (somoclu, "somoclu", 2),
    "minisom": (minisom, "minisom", 1),
}


def peak_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def cpu_seconds(work) -> float:
    begun = time.process_time()
    work()
    return time.process_time() - begun


def resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Growth:
    """Largest growth of resident memory while it is open, looked at every 2 ms."""

    def __enter__(self):
        self.before, self.largest, self.done = resident(), 0, False
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()
        return self

    def _watch(self):
        while not self.done:
            self.largest = max(self.largest, resident() - self.before)
            time.sleep(0.002)

    def __exit__(self, *_):
        self.done = True
        self.thread.join()


def one(peer: str, workload: str, repeats: int) -> dict:
    """Times of one tool and of the unit, in this process, taking turns."""
    make, shape = WORKLOADS[workload]
    X = make()
    W = start(X, shape[0] * shape[1])
    tool, _, epochs = PEERS[peer]
    if epochs >= 20:  # libraries load and compile outside the clock
        warm = tool(X[: len(W) * 4], W, shape, 2)
        next(warm), next(warm)
        warm = tool(X, W, shape, 1)
        next(warm), next(warm)
    X @ W.T
    times, units, cpu_times = [], [], []
    with threadpool_limits(1):
        cpu_units = [cpu_seconds(lambda: X @ W.T) for _ in range(5)]
    for _ in range(repeats if epochs >= 20 else 1):
        for _ in range(5):
            time.sleep(0.02)
            begun = time.perf_counter()
            X @ W.T
            units.append(time.perf_counter() - begun)
        call = tool(X, W, shape, epochs)
        next(call)
        time.sleep(0.25)  # the BLAS threads of the unit have gone to sleep
        cpu_begun, begun = time.process_time(), time.perf_counter()
        result = next(call)
        took = time.perf_counter() - begun
        cpu_took = time.process_time() - cpu_begun
        if isinstance(result, tuple):
            result, done = result
        else:
            done = epochs
        times.append(took / done)
        cpu_times.append(cpu_took / done)
        if took * len(times) > ENOUGH:
            break
    call = tool(X, W, shape, min(epochs, 3))  # once more, watched: not while the clock runs
    next(call)
    with Growth() as memory:
        next(call)
    return {
        "repeats": len(times),
        "seconds_per_epoch": statistics.median(times),
        "unit_seconds": statistics.median(units),
        "cpu_ratio": statistics.median(cpu_times) / statistics.median(cpu_units),
        "epochs": epochs,
        "growth_mib": memory.largest / 2**20,
        "peak_mib": peak_memory() / 2**20,
        **quality(X, np.asarray(result), shape),
    }


def quality(X, W, shape) -> dict:
    """Quantization and topographic error, by the same code for every tool."""
    columns = shape[1]
    distances, apart = 0.0, 0
    X64, W64 = X.astype(np.float64), W.astype(np.float64)
    for first in range(0, len(X), 4096):
        x = X64[first : first + 4096]
        d = (x**2).sum(1)[:, None] + (W64**2).sum(1) - 2 * x @ W64.T
        two = np.argpartition(d, 1, axis=1)[:, :2]
        distances += np.sqrt(np.maximum(np.take_along_axis(d, two, 1).min(1), 0)).sum()
        down = np.abs(two[:, 0] // columns - two[:, 1] // columns)
        across = np.abs(two[:, 0] % columns - two[:, 1] % columns)
        apart += int((np.maximum(down, across) > 1).sum())
    return {"quantization_error": distances / len(X), "topographic_error": apart / len(X)}


def child(arguments: list[str]) -> dict | None:
    """Run this script once more in a process of its own."""
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        command = [sys.executable, __file__, *arguments, "--output", file.name]
        run = subprocess.run(command, capture_output=True, text=True)
        if run.returncode:
            print("   failed:", run.stderr.strip().splitlines()[-1:], file=sys.stderr)
            return None
        return json.loads(Path(file.name).read_text())


def large() -> dict:
    """2,048,000 x 49 and 1,024 nodes: the last block of an ImageNet network, all classes."""
    from rejuvenet.sofm import SOFM

    X = np.concatenate([activations(204_800, 7) * np.float32(1 + i / 50) for i in range(10)])
    SOFM(1024, n_epochs=1, n_jobs=THREADS).fit(X[:4096])
    with Growth() as memory:
        begun = time.perf_counter()
        som = SOFM(1024, n_jobs=THREADS).fit(X)
        took = time.perf_counter() - begun
    return {
        "samples": len(X),
        "seconds": took,
        "seconds_per_epoch": took / som.n_iter_,
        "data_mib": X.nbytes / 2**20,
        "growth_mib": memory.largest / 2**20,
        "peak_mib": peak_memory() / 2**20,
        "quantization_error": som.quantization_error_,
        "topographic_error": som.topographic_error_,
    }


def fit_digits(n_jobs: int = THREADS) -> float:
    """Seconds of one fit of workload ``d``."""
    from rejuvenet.sofm import SOFM

    X = digits()
    begun = time.perf_counter()
    SOFM((10, 10), n_jobs=n_jobs).fit(X)
    return time.perf_counter() - begun


def starts() -> dict:
    """Workload ``d``: before and after its code is compiled, and in one and two threads."""
    with tempfile.TemporaryDirectory() as cache:
        command = [sys.executable, __file__, "--once"]
        environment = {**os.environ, "NUMBA_CACHE_DIR": cache}
        first, second = (
            float(subprocess.run(command, env=environment, capture_output=True, check=True).stdout)
            for _ in range(2)
        )
    fit_digits()
    times: dict[int, list[float]] = {1: [], THREADS: []}
    for _ in range(20):
        for n_jobs, row in times.items():
            time.sleep(0.1)
            row.append(fit_digits(n_jobs))
    return {
        "first_process_seconds": first,
        "second_process_seconds": second,
        "milliseconds_per_epoch": {n: 50 * statistics.median(row) for n, row in times.items()},
    }


def set_ratios(rows: dict) -> None:
    """Every tool's time in units, the unit being the median of all processes'."""
    unit = statistics.median(row["unit_seconds"] for row in rows.values())
    for row in rows.values():
        row["ratio"] = row["seconds_per_epoch"] / unit


def markdown(table: dict) -> str:
    """Ratios to the unit, a tool a row; the number of epochs where they are not 20."""
    peers = [peer for peer in PEERS if any(peer in rows for rows in table.values())]
    lines = ["| tool | " + " | ".join(table) + " |", "| --- |" + " --- |" * len(table)]
    for peer in peers:
        epochs = PEERS[peer][2]
        note = "" if epochs == 20 else f" ({epochs} epoch{'s' * (epochs > 1)})"
        cells = [f"{rows[peer]['ratio']:.3g}" if peer in rows else "-" for rows in table.values()]
        if peer == "rejuvenet":
            cells = [f"**{cell}**" for cell in cells]
        lines.append(f"| {peer}{note} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def plot(table: dict, path: Path) -> None:
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(table), figsize=(3.2 * len(table), 3), layout="constrained")
    for ax, (workload, rows) in zip(np.atleast_1d(axes), table.items(), strict=True):
        names = sorted(rows, key=lambda name: -rows[name]["ratio"])
        ratios = [rows[name]["ratio"] for name in names]
        ax.barh(names, ratios, color=["C1" if n == "rejuvenet" else "C0" for n in names])
        ax.bar_label(ax.containers[0], fmt="%.3g", padding=2)
        ax.axvline(1, color="0.5", linewidth=0.8)
        ax.set_xscale("log")
        ax.set_xlim(0.05, 2000)
        ax.set_title(workload)
        ax.spines[["top", "right"]].set_visible(False)
    figure.supxlabel("time per epoch / one X @ W.T (less is better)", fontsize=9)
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workloads", nargs="+", default=list(WORKLOADS), choices=list(WORKLOADS))
    parser.add_argument("--peers", nargs="+", default=list(PEERS), choices=list(PEERS))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--large", action="store_true", help="2,048,000 x 49, K = 1,024")
    parser.add_argument("--start", action="store_true", help="compilation, and threads on digits")
    parser.add_argument("--table", action="store_true", help="print the JSON as Markdown")
    parser.add_argument("--once", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, help="where to write the JSON")
    options = parser.parse_args()
    if options.one:
        options.output.write_text(json.dumps(one(*options.one, options.repeats)))
        return
    if options.once:
        print(fit_digits())
        return
    RESULTS.mkdir(exist_ok=True)
    if options.large or options.start:
        text = json.dumps(large() if options.large else starts(), indent=1)
        name = "sofm_large.json" if options.large else "sofm_start.json"
        (options.output or RESULTS / name).write_text(text + "\n")
        print(text)
        return
    output = options.output or RESULTS / "sofm.json"
    table: dict = json.loads(output.read_text()) if output.exists() else {}
    if options.table:
        print(markdown(table))
        return
    for workload in options.workloads:
        table.setdefault(workload, {})
        head = f"{'ratio':>8} {'cpu':>8} {'ms/epoch':>9} {'QE':>8} {'TE':>6} {'growth MiB':>10}"
        print(f"\n{workload}: {'tool':12} {head} {'epochs':>6}")
        for peer in options.peers:
            if importlib.util.find_spec(PEERS[peer][1]) is None:
                continue
            row = child(["--one", peer, workload, "--repeats", str(options.repeats)])
            if row is None:
                continue
            table[workload][peer] = row
            set_ratios(table[workload])
            speed = f"{row['ratio']:8.2f} {row['cpu_ratio']:8.2f} "
            speed += f"{1e3 * row['seconds_per_epoch']:9.2f}"
            errors = f"{row['quantization_error']:8.4f} {row['topographic_error']:6.3f}"
            rest = f"{row['growth_mib']:10.0f} {row['epochs']:6}"
            print(f"   {peer:12} {speed} {errors} {rest}", flush=True)
            output.write_text(json.dumps(table, indent=1, sort_keys=True) + "\n")
    plot(table, output.with_suffix(".png"))


if __name__ == "__main__":
    main()
