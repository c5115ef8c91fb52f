"""Fine-tune an ONNX file through the PyTorch module that it came from.

The weights travel by name: initializer ``conv1.weight`` is the module's parameter of that name.
A file whose BatchNorm was folded into its convolutions is met by folding the module's as well.
That file and module compute the same is checked on images before anything is trained.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..images.image_data import Batches, output_indices, output_labels
from .comparison import Runner, accuracy

if TYPE_CHECKING:
    import torch
    from torch import nn

EpochBatches = Callable[[int], Iterable[tuple[np.ndarray, np.ndarray]]]


def make_module(where: str) -> nn.Module:
    """Call the factory that ``where`` names, ``package.module:factory`` or ``file.py:factory``.

    Raises
    ------
    ValueError
        If it cannot be imported, has no such name, or does not give a ``torch.nn.Module``.

    Examples
    --------
    >>> make_module("torch.nn:Identity")
    Identity()
    """
    from torch import nn

    source, colon, name = where.rpartition(":")
    if not colon or not source or not name:
        raise ValueError(f"Expected --module package.module:factory, got {where!r}.")
    try:
        if source.endswith(".py"):
            spec = importlib.util.spec_from_file_location(Path(source).stem, source)
            assert spec is not None
            assert spec.loader is not None
            imported = importlib.util.module_from_spec(spec)
            sys.modules.setdefault(spec.name, imported)
            spec.loader.exec_module(imported)
        else:
            if "" not in sys.path:
                sys.path.insert(0, "")  # as `python -m` does: modules of the current folder
            imported = importlib.import_module(source)
    except Exception as error:  # a user's file may fail in any way
        raise ValueError(f"Cannot import {source}: {type(error).__name__}: {error}.") from error
    factory = getattr(imported, name, None)
    if factory is None:
        near = get_close_matches(name, dir(imported), n=3)
        said = f"; did you mean {' or '.join(near)}" if near else ""
        raise ValueError(f"There is no {name!r} in {source}{said}.")
    try:
        module = factory if isinstance(factory, nn.Module) else factory()
    except Exception as error:
        raise ValueError(f"{where} failed: {type(error).__name__}: {error}.") from error
    if not isinstance(module, nn.Module):
        raise ValueError(f"{where} gave {type(module).__name__}, expected a torch.nn.Module.")
    return module


def pair(weights: Mapping[str, np.ndarray], biases: Mapping[str, str], module: nn.Module) -> dict:
    """Names of a module's state, each with the name of its initializer.

    Parameters
    ----------
    weights : mapping of str to ndarray
        Initializers of the file.
    biases : mapping of str to str
        Name of a layer's weight, with the initializer that is its bias: exporters give the
        biases that folding makes a name of their own.
    module : nn.Module
        Its parameters and buffers are looked up by name.

    Raises
    ------
    ValueError
        If one is missing in the file or has another shape.
    """
    pairs = {}
    missing = []
    for name, value in module.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        found = name
        if name not in weights and name.endswith(".bias"):
            found = biases.get(name.removesuffix("bias") + "weight", name)
        if found not in weights:
            missing.append(name)
        elif weights[found].shape != tuple(value.shape):
            raise ValueError(
                f"{name} has shape {tuple(value.shape)} in the module and "
                f"{weights[found].shape} in the file; give the module that the file came from."
            )
        else:
            pairs[name] = found
    if missing:
        raise ValueError(
            f"{len(missing)} of the module's weights are not in the file, {missing[0]} among "
            "them; give the module that the file came from, exported with its parameter names."
        )
    return pairs


def carry(model: str | Path, module: nn.Module) -> tuple[nn.Module, dict[str, str]]:
    """Load the initializers of an ONNX file into the module that it came from, by name.

    Returns
    -------
    module : nn.Module
        The same module; a copy with BatchNorm folded where the file has it folded.
    pairs : dict of str to str
        Names of its state, each with the name of its initializer.

    Raises
    ------
    ValueError
        As :func:`pair`.
    """
    import torch

    weights, biases = _weights(model)
    try:
        pairs = pair(weights, biases, module)
    except ValueError as unpaired:
        from torch.fx.experimental.optimization import fuse

        try:
            module = fuse(module.eval())
            pairs = pair(weights, biases, module)
        except Exception:  # not traceable, or folding does not explain it either
            raise unpaired from None
    state = module.state_dict()
    with torch.no_grad():
        for name, initializer in pairs.items():
            state[name].copy_(torch.from_numpy(np.array(weights[initializer])))
    return module, pairs


def write_back(
    model: str | Path, module: nn.Module, pairs: Mapping[str, str], output: str | Path
) -> None:
    """Write ``model`` to ``output`` with the weights of ``module``; all else is as it was.

    Raises
    ------
    ValueError
        If one initializer would have to hold two different weights (an exporter shared them).
    OSError
        If ``output`` cannot be written; nothing is then written.
    """
    from .. import onnx as onnx_adapter

    state = module.state_dict()
    arrays: dict[str, np.ndarray] = {}
    for name, initializer in pairs.items():
        value = state[name].detach().cpu().numpy()
        if initializer in arrays and not np.array_equal(arrays[initializer], value):
            raise ValueError(
                f"Initializer {initializer} stands for several weights of the module, {name} "
                "among them, which now differ; export the file with one initializer for each."
            )
        arrays[initializer] = value
    onnx_adapter.load(model).with_weights(arrays).save(output)


def _weights(model: str | Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Initializers, and the name of each layer's weight with that of the bias that its node adds.

    Equal values that an exporter shares have a name for each use.
    """
    from .. import onnx as onnx_adapter

    graph = onnx_adapter.load(model).analysed.graph
    held = {str(name): v.const_value for name, v in graph.initializers.items()}
    biases = {}
    for node in graph:
        if node.op_type in ("Conv", "ConvTranspose", "Gemm") and len(node.inputs) == 3:
            weight, bias = node.inputs[1:]
            if weight is not None and bias is not None and weight.name and bias.name:
                biases[weight.name] = bias.name
    return {name: v.numpy() for name, v in held.items() if v is not None}, biases


def check_agreement(module: nn.Module, images: np.ndarray, outputs: np.ndarray) -> float:
    """Relative difference between the module's outputs and the file's ``outputs``.

    Raises
    ------
    ValueError
        If they differ by more than 1 %, far beyond rounding: another architecture.
    """
    import torch

    module.eval()
    with torch.no_grad():
        ours = module(torch.from_numpy(images)).double().flatten(1).numpy()
    if ours.shape != outputs.shape:
        raise ValueError(
            f"The module has {ours.shape[1]} outputs and the file {outputs.shape[1]}; give the "
            "module that the file came from."
        )
    gap = float(np.linalg.norm(ours - outputs) / np.fmax(np.linalg.norm(outputs), 1e-300))
    if not gap < 1e-2:
        raise ValueError(
            f"With the file's weights the module's outputs differ from the file's by "
            f"{100 * gap:.2g} %; give the module that the file came from."
        )
    return gap


def finetune(
    module: nn.Module,
    batches: EpochBatches,
    epochs: int = 10,
    lr: float = 1e-3,
    optimizer: str = "adamw",
    weight_decay: float = 1e-4,
    device: str | None = None,
    on_epoch: Callable[[int, float], Any] = lambda epoch, loss: None,
) -> torch.optim.Optimizer:
    """Train a classifier in place with cross entropy and a cosine schedule to zero.

    Parameters
    ----------
    module : nn.Module
        Trained in place; left in evaluation mode on its first device.
    batches : callable
        ``batches(epoch)`` yields ``(float32 images, int labels)``, shuffled as it likes.
    epochs : int
        Passes over the data.
    lr, weight_decay : float
        Of the optimizer.
    optimizer : {"adamw", "sgd"}
        ``"sgd"`` has Nesterov momentum 0.9.
    device : str, optional
        ``"cuda"`` where there is one, else ``"cpu"``.
    on_epoch : callable
        Told the epoch (from 1) and its mean loss.

    Returns
    -------
    torch.optim.Optimizer

    Raises
    ------
    ValueError
        If the loss becomes NaN or infinite.
    """
    import torch
    from torch.nn import functional

    if epochs < 1:
        raise ValueError(f"Expected 1 epoch or more, got {epochs}.")
    home = next(module.parameters()).device
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    module.to(place).train()
    made: torch.optim.Optimizer
    if optimizer == "adamw":
        made = torch.optim.AdamW(module.parameters(), lr, weight_decay=weight_decay)
    elif optimizer == "sgd":
        made = torch.optim.SGD(
            module.parameters(), lr, momentum=0.9, nesterov=True, weight_decay=weight_decay
        )
    else:
        raise ValueError(f"Expected optimizer 'adamw' or 'sgd', got {optimizer!r}.")
    for epoch in range(epochs):
        losses = []
        for group in made.param_groups:  # by epoch: the number of batches need not be known
            group["lr"] = lr * 0.5 * (1 + np.cos(np.pi * epoch / epochs))
        for images, labels in batches(epoch):
            if len(labels) == 1:
                continue  # BatchNorm cannot train on a single image
            loss = functional.cross_entropy(
                module(torch.from_numpy(images).to(place)), torch.from_numpy(labels).to(place)
            )
            made.zero_grad(set_to_none=True)
            loss.backward()
            made.step()
            losses.append(loss.item())
        if not losses or not np.isfinite(losses).all():
            raise ValueError(
                f"The loss is not finite in epoch {epoch + 1}; give a lower --lr than {lr:g}."
            )
        on_epoch(epoch + 1, float(np.mean(losses)))
    module.to(home).eval()
    return made


def shuffled(batches: Batches, seed: int, labels: np.ndarray | None = None) -> EpochBatches:
    """The same images in an order of its own for every epoch, the same for the same seed.

    Parameters
    ----------
    batches : Batches
        Says how the images are read.
    seed : int
    labels : ndarray of int, optional
        In the place of the data's own.
    """
    def epoch_batches(epoch: int) -> Iterable[tuple[np.ndarray, np.ndarray]]:
        order = np.random.default_rng((seed, epoch)).permutation(len(batches.data.labels))
        return replace(batches, order=order, labels=labels)

    return epoch_batches


def finetune_file(
    model: str | Path,
    output: str | Path,
    where: str,
    train: Batches,
    test: Batches | None = None,
    seed: int = 0,
    **training: Any,
) -> dict[str, Any]:
    """Fine-tune the ONNX file ``model`` through a module and write it to ``output``.

    Parameters
    ----------
    model, output : path-like
    where : str
        The module's factory, see :func:`make_module`.
    train, test : Batches
        Images to train on, and to measure the accuracy on.
    seed : int
        Of the order of the images and of everything random in the module.
    **training
        Options of :func:`finetune`.

    Returns
    -------
    dict
        ``before`` and ``after``: accuracy on ``"training"`` and ``"test"`` images.

    Raises
    ------
    ValueError
        If the module is not the one that the file came from, or labels are no outputs.
    """
    import torch

    torch.manual_seed(seed)
    module, pairs = carry(model, make_module(where))
    runner = Runner(str(model))
    images, _ = next(iter(train))
    outputs = runner.scores(images)
    check_agreement(module, images, outputs)
    labels = output_labels(train.data, outputs.shape[1])
    if labels is None:
        raise ValueError(
            f"The {len(train.data.classes)} classes of the images are not the model's "
            f"{outputs.shape[1]} outputs; name the folders after the outputs (0, 1, ...)."
        )
    measured = {"training": train, **({"test": test} if test else {})}
    before = {name: score(str(model), part) for name, part in measured.items()}
    finetune(module, shuffled(train, seed, labels), **training)
    write_back(model, module, pairs, output)
    after = {name: score(str(output), part) for name, part in measured.items()}
    return {"before": before, "after": after}


def score(model: str, batches: Batches) -> float | None:
    """Accuracy of an ONNX file; None where the labels cannot be matched to its outputs."""
    runner = Runner(model)
    parts = [(runner.scores(images), labels) for images, labels in batches]
    outputs, labels = (np.concatenate(part) for part in zip(*parts, strict=True))
    indices = output_indices(batches.data.classes, outputs.shape[1])
    return accuracy(outputs, None if indices is None else indices[labels])
