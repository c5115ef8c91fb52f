"""Gradients of the loss over the calibration data, for recipes that ask where a layer would grow.

    G = dL/dW,   L = mean over samples of the cross-entropy of the model's first output

in evaluation mode; the gradients that training has gathered stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional as F

from .batches import Batches, samples
from .distributed import Processes
from .model_state import Guarded
from .nested import tensors_within
from .passes import as_written, leaves
from .trace import TracedModel, evaluation


def loss_gradients(
    traced: TracedModel, batches: Batches, names: Sequence[str], processes: Processes
) -> dict[str, np.ndarray]:
    """``dL/dW`` of the named weights, in one pass over the data of all processes.

    Raises
    ------
    ValueError
        Without labels, for outputs that are no scores of classes, or weights that are frozen.
    """
    tensors = [traced.tensors[name] for name in names]
    totals = [torch.zeros_like(tensor, dtype=torch.float32) for tensor in tensors]
    count = 0
    with processes.together():
        for name, tensor in zip(names, tensors, strict=True):
            if not tensor.requires_grad:
                raise ValueError(f"expected a weight that is trained, got {name!r} frozen")
        for inputs, labels in batches.read("gradients"):
            if labels is None:
                raise ValueError("expected labels to take gradients of the loss, got none")
            args, kwargs = ((), inputs) if isinstance(inputs, dict) else (inputs, {})
            given = tensors_within((args, kwargs))
            with (
                as_written(),
                evaluation(traced.model, given, traced.caches) as state,
                torch.enable_grad(),
            ):
                with Guarded(state):
                    result = traced.model(*args, **kwargs)
                scores = next(iter(leaves(result)), None)
                if scores is None or scores.ndim < 2 or len(scores) != len(labels):
                    raise ValueError(
                        "expected a model whose first output is scores of classes, (n, C, ...), "
                        f"got {'none' if scores is None else tuple(scores.shape)}"
                    )
                target = torch.as_tensor(labels, device=scores.device)
                target = target.long() if target.ndim == 1 else target.to(scores.dtype)
                loss = F.cross_entropy(scores, target, reduction="sum")
                found = torch.autograd.grad(loss, tensors)
            for total, gradient in zip(totals, found, strict=True):
                total += gradient
            count += samples(inputs)
    processes.sum(totals)
    (everyone,) = processes.sum_arrays(float(count))
    pairs = zip(names, totals, strict=True)
    return {name: (total / float(everyone)).cpu().numpy() for name, total in pairs}
