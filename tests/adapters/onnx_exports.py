"""How a permutation of an ONNX file is checked honestly.

Random statistics, affine terms and layer scales first; four ways of export; everything permuted
at once; compared by onnxruntime with the noise floor of the network (its response to a relative
input change of 3e-7) and with a negative control, which leaves one weight behind.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import torch
from exactness import randomize
from rejuvenet.adapters.onnx import load
from rejuvenet.adapters.onnx.collect import Runner
from rejuvenet.graph import arrange_plan, transform

__all__ = ["VARIANTS", "Verdict", "export", "randomize", "verify"]
VARIANTS = ("dynamo, folded", "dynamo, kept", "script, folded", "script, kept")


def export(module: torch.nn.Module, example, path: Path, variant: str, **options) -> Path:
    """Write ``module`` in one of the four variants."""
    example = example if isinstance(example, tuple) else (example,)
    exporter, folding = variant.split(", ")
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        if exporter == "script":
            if folding == "kept":
                options |= {
                    "training": torch.onnx.TrainingMode.PRESERVE,
                    "do_constant_folding": False,
                }
            torch.onnx.export(module, example, str(path), dynamo=False, **options)
        else:
            options.setdefault("external_data", False)
            if folding == "kept":
                options |= {"optimize": False}
            torch.onnx.export(module, example, str(path), dynamo=True, verbose=False, **options)
    return path


class Verdict(NamedTuple):
    """What one check found; changes are relative to the largest output."""

    error: float
    noise: float
    control: float
    convolutions: int
    moved: int
    frozen: dict[str, str]
    normalizations: int

    @property
    def outcome(self) -> str:
        """``"right"``, ``"wrong"``, or ``"unverifiable"`` where the control changed nothing."""
        if not self.error <= max(1e-5, 100 * self.noise):
            return "wrong"
        return "right" if self.control > 30 * max(self.error, 1e-7) else "unverifiable"


def convolutions_moved(path: Path, changed: set[str]) -> tuple[int, int]:
    """Convolutions of a file, and those whose weight or bias changed."""
    graph = onnx.load(path).graph
    made_by = {name: node for node in graph.node for name in node.output}

    def source(name):
        node = made_by.get(name)
        passed = node is not None and node.op_type in ("Identity", "DequantizeLinear", "Reshape")
        return source(node.input[0]) if passed else name

    convs = [n for n in graph.node if n.op_type in ("Conv", "ConvTranspose", "QLinearConv")]
    return len(convs), sum(source(n.input[1]) in changed for n in convs)


def verify(path: Path, x: np.ndarray, seed: int = 0) -> Verdict:
    """Permute all movable groups of a file at random and compare."""
    model = load(path)
    weights = model.weights
    plan = arrange_plan(model.groups, order="random", seed=seed)
    changed = transform(plan, weights)
    touched = [n for n in changed if not np.array_equal(changed[n], weights[n])]
    first = Runner(model)
    before = first.scores(first(x))
    scale = np.abs(before).max()

    def difference(other, inputs=x):
        runner = Runner(other)
        return float(np.abs(runner.scores(runner(inputs)) - before).max()) / scale

    # Producers of the moved groups whose axis really changed: the first, a middle and the last.
    left = [touched[i] for i in sorted({0, len(touched) // 2, len(touched) - 1})]
    control = max(
        difference(model.with_weights({n: v for n, v in changed.items() if n != name}))
        for name in left
    )
    rng = np.random.default_rng(seed)
    shaken = (x * (1 + 3e-7 * rng.standard_normal(x.shape))).astype(np.float32)
    # Output axes that moved: the weight as a producer.
    orders = {p.group: p.order for p in plan.groups}
    produced = {
        member.weight
        for group in model.groups
        if group.name in orders and (orders[group.name] != np.arange(group.channels)).any()
        for member in group.members
        if member.role == "weight" and member.kind in ("producer", "per_channel")
    }
    n_convolutions, moved = convolutions_moved(path, produced & set(touched))
    nodes = onnx.load(path, load_external_data=False).graph.node
    return Verdict(
        error=difference(model.with_weights(changed)),
        noise=difference(model, shaken),
        control=control,
        convolutions=n_convolutions,
        moved=moved,
        frozen={g.name: g.frozen for g in model.groups if g.frozen},
        normalizations=sum(n.op_type == "BatchNormalization" for n in nodes),
    )
