"""Several processes that train one model: sums over all, decisions of the first, errors of any.

Every process reads its own share of the calibration data.  Sums and counts are added up over all
of them after a pass; what is decided from them is decided by the first process and sent to the
others, so that no difference in rounding between machines can lead to two plans.  No process
communicates within a pass: shares may have any length.

An error in one process would leave the others waiting for it.  Each step that can fail therefore
runs in :meth:`Processes.together`, at whose end all ask one another how it went, and all raise.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

import numpy as np
import torch

from ...graph.find.channels import Unfit

T = TypeVar("T")


class Processes:
    """The processes of a group; one alone where ``torch.distributed`` is not in use.

    Parameters
    ----------
    group : torch.distributed.ProcessGroup, optional
        The default group, with which data-parallel training works, if None.

    Attributes
    ----------
    world, rank : int
    """

    def __init__(self, group: Any = None) -> None:
        distributed = torch.distributed
        ready = distributed.is_available() and distributed.is_initialized()
        self.group = group
        self.world = distributed.get_world_size(group) if ready else 1
        self.rank = distributed.get_rank(group) if ready else 0
        if self.rank < 0:
            raise ValueError("expected a process group that this process belongs to")

    @property
    def first(self) -> bool:
        """Whether this process decides."""
        return self.rank == 0

    def sum(self, tensors: Iterable[torch.Tensor]) -> None:
        """Add tensors up over all processes, in place."""
        for tensor in tensors if self.world > 1 else ():
            here = self._reachable(tensor)
            torch.distributed.all_reduce(here, group=self.group)
            if here is not tensor:
                tensor.copy_(here)

    def sum_arrays(self, *values: np.ndarray | float) -> list[np.ndarray]:
        """The sums over all processes of arrays of float64."""
        tensors = [torch.tensor(value, dtype=torch.float64) for value in values]
        self.sum(tensors)
        return [tensor.numpy() for tensor in tensors]

    def gather(self, value: T) -> list[T]:
        """The value of every process, in the order of their ranks."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        torch.distributed.all_gather_object(values, value, group=self.group)
        return values

    def from_first(self, value: T) -> T:
        """The value of the first process."""
        if self.world == 1:
            return value
        values = [value if self.first else None]
        torch.distributed.broadcast_object_list(values, self._source, group=self.group)
        return values[0]  # type: ignore[return-value]

    def copy_from_first(self, tensors: Iterable[torch.Tensor]) -> None:
        """The values of the first process for tensors of equal shapes, in place."""
        for tensor in tensors if self.world > 1 else ():
            here = self._reachable(tensor.detach()).contiguous()
            torch.distributed.broadcast(here, self._source, group=self.group)
            with torch.no_grad():
                tensor.copy_(here)

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """A step that all take, without communication; where one fails, all raise.

        Raises
        ------
        ValueError or RuntimeError
            In the processes that did not fail themselves, with the rank and words of the first
            that did.
        """
        error: Exception | None = None
        try:
            yield
        except Exception as caught:
            error = caught
        if self.world > 1:
            kinds = (Unfit, ValueError, RuntimeError)
            own = None
            if error is not None:
                own = str(error), next((k for k in kinds if isinstance(error, k)), RuntimeError)
            for rank, failure in enumerate(self.gather(own)):
                if failure is not None and error is None:
                    raise failure[1](f"process {rank} failed: {failure[0]}")
        if error is not None:
            raise error

    def check_same(self, weights: Mapping[str, np.ndarray]) -> None:
        """Raise ValueError, in all processes, where one has other values of a weight.

        ``weights`` are those of the model before a change, which data-parallel training keeps
        equal; models that were trained apart cannot be reorganized together.
        """
        if self.world == 1:
            return
        own = {n: hashlib.sha256(w.tobytes()).digest() for n, w in weights.items()}
        for rank, other in enumerate(self.gather(own)):
            for name, digest in own.items():
                if other.get(name) != digest:
                    raise ValueError(
                        f"the weight {name!r} differs between process {self.rank} and process "
                        f"{rank}: expected the same model in all, as data-parallel training keeps "
                        "it; reorganize models that are trained apart in one process each"
                    )

    @property
    def _source(self) -> int:
        return 0 if self.group is None else torch.distributed.get_global_rank(self.group, 0)

    def _reachable(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor where the backend can read it: NCCL reads the memory of GPUs only."""
        if tensor.device.type == "cpu" and torch.distributed.get_backend(self.group) == "nccl":
            return tensor.cuda()
        return tensor
