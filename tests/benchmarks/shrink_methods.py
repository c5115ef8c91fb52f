"""How the networks of :mod:`shrink_tasks` are made smaller.

Torch-Pruning and onnxsim do as their packages do; ``l1`` and ``l2`` look at the first layer of each
group, ``group norm`` and ``Taylor`` at all, as is their default there.  ``folding, ridge`` follows
GRAIL (arXiv 2602.23795) as far as its paper says: k-means of the filters (scaled by the
normalization, all producers of a group side by side), members averaged, and the map
``B = G A^T (A G A^T + s I)^-1`` of the consumers, one for all kernel offsets, from the second
moments ``G`` of the channels before folding, not centred, ``s`` a thousandth of the mean of its
diagonal; biases untouched, statistics of BatchNorm estimated again from the calibration images.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rejuvenet.adapters import onnx as files
from rejuvenet.adapters.torch import shrink, trace
from rejuvenet.graph import Recipe
from shrink_tasks import Made, Task, exported
from torch import nn

Method = Callable[[Task, float, int, Path], Made]


def ours(task: Task, ratio: float, seed: int, folder: Path, **options: Any) -> Made:
    """What `shrink` does."""
    recipe = Recipe.shrinking(ratio=ratio, **options)
    labels = {} if task.y is not None else {"pseudo_classes": 10}
    if isinstance(task.model, Path):
        data = [(x.numpy(), y) for x, y in task.batches(seed)]
        files.shrink(task.model, data, recipe=recipe, **labels)[0].save(folder / "smaller.onnx")
        return folder / "smaller.onnx"
    model = copy.deepcopy(task.model)
    shrink(model, task.batches(seed), recipe=recipe, **labels)
    return model


def torch_pruning(task: Task, ratio: float, seed: int, folder: Path, importance: str) -> Made:
    """Torch-Pruning, which asks its importance of every group."""
    import torch_pruning as tp

    measure = {
        "l1": partial(tp.importance.MagnitudeImportance, 1, "first", None),
        "l2": partial(tp.importance.MagnitudeImportance, 2, "first", None),
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

    if isinstance(task.model, Path):  # as it is, nothing would be removed
        model, _ = onnxsim.simplify(onnx.load(task.model))
    else:
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
# Others need a module.
OF_FILES = [name for name in METHODS if name.startswith(("shrink", "onnxsim"))]
