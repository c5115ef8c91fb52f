"""What there is to know of any tensor of a model: its name, its values on the host, its memory."""

from __future__ import annotations

import numpy as np
import torch


def named_tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and buffers by name."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def to_numpy(tensor: torch.Tensor) -> np.ndarray:
    """The values on the host; half precision is widened, which loses nothing."""
    tensor = tensor.detach()
    if tensor.dtype in (torch.float16, torch.bfloat16):
        tensor = tensor.float()
    return tensor.cpu().numpy()


def storage_of(tensor: torch.Tensor) -> int:
    """The memory of a tensor; one without any is its own."""
    try:
        return tensor.untyped_storage()._cdata
    except (NotImplementedError, RuntimeError):  # sparse tensors
        return id(tensor)
