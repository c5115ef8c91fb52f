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
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from exactness import LIMITS, Verdict, negative_control, orders, produced, randomize, reasons
from rejuvenet.adapters.onnx import OnnxModel, arrange, load
from rejuvenet.adapters.onnx.runner import Runner
from rejuvenet.graph import Plan

__all__ = ["VARIANTS", "FileVerdict", "export", "exports", "flat", "randomize", "verify"]
VARIANTS = ("dynamo, folded", "dynamo, kept", "script, folded", "script, kept")


def export(module: torch.nn.Module, example, path: Path, variant: str, **options) -> Path:
    """Write ``module`` in one of the four variants."""
    exporter, folding = variant.split(", ")
    for found, write in exports(module, example, exporter, **options):
        if found == f"{exporter}, {folding}":
            write(path)
    return path


def exports(
    module: torch.nn.Module, example: Any, exporter: str, **options: Any
) -> Iterator[tuple[str, Callable[[Path], None]]]:
    """The variants of one exporter, the unfolded first, each with a function that writes it.

    The exporter ``"dynamo"`` runs once: it folds what it has exported.
    """
    example = example if isinstance(example, tuple) else (example,)
    if exporter == "dynamo":
        outside = options.pop("external_data", False)
        with _silence():
            program = torch.onnx.export(
                module, example, dynamo=True, verbose=False, optimize=False, **options
            )
        assert program is not None

        def write(path: Path) -> None:
            program.save(str(path), external_data=outside)

        yield "dynamo, kept", write
        with _silence():
            program.optimize()
        yield "dynamo, folded", write
        return

    def traced(**more: Any) -> Callable[[Path], None]:
        def write(path: Path) -> None:
            with _silence():
                torch.onnx.export(module, example, str(path), dynamo=False, **more, **options)

        return write

    preserve = torch.onnx.TrainingMode.PRESERVE
    yield "script, kept", traced(training=preserve, do_constant_folding=False)
    yield "script, folded", traced()


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


@dataclass(frozen=True, kw_only=True)
class FileVerdict(Verdict):
    """What one check found, and how many BatchNorms the file holds."""

    normalizations: int


def convolutions(path: Path) -> set[str]:
    """The initializers that the convolutions of a file read as weights.

    Where the weight is computed (standardized, dequantized), the largest initializer that it is
    computed from; empty where there is none.  One that is called twice counts once, as a module.
    """
    graph = onnx.load(path, load_external_data=False).graph
    made_by = {name: node for node in graph.node for name in node.output}
    sizes = {t.name: int(np.prod(t.dims)) for t in graph.initializer}
    sizes |= {
        n.output[0]: int(np.prod(n.attribute[0].t.dims))
        for n in graph.node
        if n.op_type == "Constant"
    }

    def source(name: str) -> str:
        pending, seen, best = [name], set(), ""
        while pending:
            name = pending.pop()
            if name in sizes:
                best = max(best, name, key=lambda n: sizes.get(n, 0))
            elif name in made_by and name not in seen:
                seen.add(name)
                pending += made_by[name].input
        return best

    kinds = {"Conv": 1, "ConvTranspose": 1, "ConvInteger": 1, "QLinearConv": 3}
    return {source(n.input[kinds[n.op_type]]) for n in graph.node if n.op_type in kinds}


def flat(runner: Runner, inputs: Any) -> np.ndarray:
    """All floating-point outputs in one row."""
    return np.concatenate([x.ravel() for x in runner.compared(runner(inputs))])


def verify(path: Path, inputs: Any, seed: int = 0, model: OnnxModel | None = None) -> FileVerdict:
    """Permute all movable groups of a file at random and compare.

    ``inputs`` is an array, or a dict of arrays by input name; ``model`` the file where it is read.
    """
    model = load(path) if model is None else model
    weights = model.weights
    given = list(inputs.values()) if isinstance(inputs, dict) else [inputs]
    half = any(x.dtype == np.float16 for x in given)
    limits = LIMITS[torch.float16 if half else torch.float32]
    wanted = orders(model.groups, seed)
    plan, moved_model = Plan([]), model
    if wanted:
        moved_model, report = arrange(model, groups="all", order=wanted)
        plan = report.plan
    changed = {name: moved_model.weight(name) for name in plan.weights}
    touched = [n for n in changed if not np.array_equal(changed[n], weights[n])]
    first = Runner(model)
    before = flat(first, inputs)
    scale = np.abs(before).max()

    def difference(runner: Runner, fed: Any = inputs) -> float:
        return float(np.abs(flat(runner, fed) - before).max()) / scale

    error = difference(Runner(moved_model))

    def left_behind(name: str) -> float:
        others = {n: values for n, values in changed.items() if n != name}
        return difference(Runner(model.with_weights(others)))

    rng = np.random.default_rng(seed)

    def shake(x: np.ndarray) -> np.ndarray:
        noise = 1 + limits.shake * rng.standard_normal(x.shape)
        return (x * noise).astype(x.dtype) if x.dtype.kind == "f" else x

    several = isinstance(inputs, dict)
    shaken = {n: shake(x) for n, x in inputs.items()} if several else shake(inputs)
    sources = convolutions(path)
    moved = produced(model.groups, plan) & set(touched)
    known = model.structure.known
    unmoved = {name: known.get(name) for name in sorted(sources - moved)}
    nodes = onnx.load(path, load_external_data=False).graph.node
    return FileVerdict(
        error=error,
        noise=difference(first, shaken),
        control=negative_control(touched, left_behind, limits, error),
        convolutions=len(sources),
        moved=len(sources & moved),
        unmoved=reasons(model.groups, model.graph, unmoved),
        frozen={g.name: g.frozen for g in model.groups if g.frozen},
        limits=limits,
        normalizations=sum(n.op_type == "BatchNormalization" for n in nodes),
    )
