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
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch
    from torch import nn

Batches = Callable[[int], Iterable[tuple[np.ndarray, np.ndarray]]]


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
        Name of a layer's weight to the initializer that is its bias: exporters rename the
        biases that folding makes.
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


def carry(
    weights: Mapping[str, np.ndarray], biases: Mapping[str, str], module: nn.Module
) -> tuple[nn.Module, dict[str, str]]:
    """Load a file's initializers into a module by name.

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

    try:
        pairs = pair(weights, biases, module)
    except ValueError as unpaired:
        from torch.fx.experimental.optimization import fuse

        try:
            module = fuse(module.eval())
        except Exception:  # not every module can be traced symbolically
            raise unpaired from None
        try:
            pairs = pair(weights, biases, module)
        except ValueError:
            raise unpaired from None
    state = module.state_dict()
    with torch.no_grad():
        for name, initializer in pairs.items():
            state[name].copy_(torch.from_numpy(np.array(weights[initializer])))
    return module, pairs


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
    gap = float(np.linalg.norm(ours - outputs) / max(np.linalg.norm(outputs), 1e-300))
    if not gap < 1e-2:
        raise ValueError(
            f"With the file's weights the module's outputs differ from the file's by "
            f"{100 * gap:.2g} %; give the module that the file came from."
        )
    return gap


def finetune(
    module: nn.Module,
    batches: Batches,
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
