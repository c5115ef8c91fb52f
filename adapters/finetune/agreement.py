"""Whether a module computes what its file does, against the file's own noise.

The noise is how the file itself answers to changes of about one rounding, of its inputs and of its
weights (:mod:`rejuvenet.graph.measure.verdict`).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ...graph.measure.verdict import Verdict, judge, limits_of, shaken_array
from ..images.batch_inputs import Inputs, arrays_of, count, mapped, rows_of
from ..images.image_model import ImageModel
from ..onnx.model import OnnxModel
from .trainable import TrainableGraph
from .training import Trainable

IMAGES = 8  # that are compared
SHAKES = 3  # of the inputs, and of the weights


class Disagreement(ValueError):
    """A module and a file make different outputs."""


def check_agreement(
    module: Trainable, model: OnnxModel, path: str | Path, images: Inputs
) -> Verdict | None:
    """Compare a module with the model that it stands for.

    Parameters
    ----------
    module : Trainable
    model : OnnxModel
    path : path-like
        The file that the model was read from.
    images : ndarray, or mapping of input name to ndarray
        Some of those that it will be trained on.

    Returns
    -------
    Verdict or None
        None where no output holds floating-point numbers.

    Raises
    ------
    Disagreement
        The outputs differ by more than the file's noise.
    """
    images = rows_of(images, slice(IMAGES))
    runner = ImageModel(str(path), model)
    before = runner(images)
    names = [n for n in module.outputs if n in before and before[n].dtype.kind == "f"]
    weights = {name: model.weight(name) for name in module.arrays()}
    limits = limits_of(str(x.dtype) for x in (*arrays_of(images), *weights.values()))

    def shaken() -> Iterator[list[np.ndarray]]:
        rng = np.random.default_rng(0)
        for _ in range(SHAKES):
            found = runner(mapped(images, lambda x: shaken_array(x, limits.shake, rng)))
            yield [_flat(found[name]) for name in names]
        for _ in range(SHAKES):
            others = {name: shaken_array(x, limits.shake, rng) for name, x in weights.items()}
            found = ImageModel(str(path), model.with_weights(others))(images)
            yield [_flat(found[name]) for name in names]

    made = dict(zip(module.outputs, _run(module, images), strict=True))
    verdict = judge(
        [_flat(before[name]) for name in names],
        [_flat(made[name]) for name in names],
        shaken(),
        limits,
    )
    if verdict is not None and not verdict.within:
        raise Disagreement(
            f"In PyTorch the model's outputs differ from the file's by {verdict.change:.1e} of "
            f"their greatest value, more than the file's own noise of {verdict.noise:.1e}, so "
            "that training would change another model"
        )
    return verdict


def settle_batches(
    module: TrainableGraph, model: OnnxModel, path: str | Path, images: Inputs
) -> Verdict | None:
    """As :func:`check_agreement`; where a file takes a fixed number of images, try others.

    Exporters write such a number though most graphs do without; only where the outputs of more
    images at once differ, as many as the file says are given to the module at a time.
    """
    fixed = ImageModel(str(path), model).batch
    if fixed is None or count(images) <= fixed:
        module.samples = fixed
        return check_agreement(module, model, path, images)
    try:
        return check_agreement(module, model, path, images)
    except Exception:  # shapes that do not fit raise any kind
        module.samples = fixed
        return check_agreement(module, model, path, images)


@torch.no_grad()
def _run(module: Trainable, images: Inputs) -> list[np.ndarray]:
    assert isinstance(module, nn.Module)
    module.eval()
    try:
        given = [torch.from_numpy(np.ascontiguousarray(x)) for x in arrays_of(images)]
        return [x.numpy() for x in module(*given)]
    except Exception as error:  # of any kind, from the operators
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"The model cannot be run in PyTorch: {reason}") from error


def _flat(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float64).ravel()
