"""How fast new channels learn at first, without parameter groups of their own.

An optimizer's step moves a parameter from ``w`` to ``w'``.  For the weights of new channels it is
turned into ::

    w + s(t) (w' - w)

for the ``t``-th step after their birth, whatever the optimizer does with gradients, momentum and
decay.  ``s`` stays at ``start`` for ``wait`` steps, rises to ``factor`` within ``steps``, stays
there for ``hold`` steps and returns to 1 within ``back``.

``start = 0`` keeps new channels, whose outgoing weights are zero, out of the network for a while,
as RePr and DSD do.  ``factor = "initial"`` gives them the rate with which the training began (the
group's ``initial_lr``, which schedulers keep), however far the schedule has decayed.

Adam's first updates of new channels are large: their moments start at zero, but the bias
correction counts the steps of the whole parameter.  After ``k`` steps with a steady gradient an
update is ``(1 - beta_1^k) / sqrt(1 - beta_2^k)`` times the learning rate, 6.6 times at most with
the usual 0.9 and 0.999, after 12 steps.  A rise of some dozen steps prevents that.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from ....graph.plan.plan import GroupPlan
from .optimizer_state import optimizers_within


@dataclass(frozen=True)
class WarmUp:
    """Scale of the updates of new channels.

    Attributes
    ----------
    steps : int
        Optimizer steps of the rise.
    start : float
        Scale before it.
    factor : float or "initial"
        Scale after it; ``"initial"`` is the first learning rate over the present one.
    wait, hold, back : int
        Steps before the rise, at ``factor``, and of the return to 1.

    Examples
    --------
    >>> [WarmUp(steps=4).scale(t) for t in range(5)]
    [0.25, 0.5, 0.75, 1.0, 1.0]
    >>> [WarmUp(steps=1, factor=3.0, hold=1, back=2).scale(t) for t in range(5)]
    [3.0, 3.0, 2.0, 1.0, 1.0]
    """

    steps: int
    start: float = 0.0
    factor: float | Literal["initial"] = 1.0
    wait: int = 0
    hold: int = 0
    back: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "wait", "hold", "back"):
            value = getattr(self, name)
            if not (isinstance(value, int) and value >= 0):
                raise ValueError(f"expected {name} to be a number of steps, got {value!r}")
        for name in ("start", "factor"):
            value = getattr(self, name)
            number = isinstance(value, (int, float)) and 0 <= value < float("inf")
            if not number and not (name == "factor" and value == "initial"):
                raise ValueError(f"expected {name} to be a scale of at least 0, got {value!r}")

    @property
    def length(self) -> int:
        """Steps after which nothing is scaled any more."""
        return self.wait + self.steps + self.hold + self.back

    def scale(self, t: int, group: Mapping[str, Any] | None = None) -> float:
        """``s(t)``; ``group`` is the optimizer's parameter group, for its learning rates."""
        if t >= self.length:
            return 1.0
        factor = self.factor
        if isinstance(factor, str):
            rate = float(group["lr"]) if group else 0.0
            factor = float(group.get("initial_lr", rate)) / rate if group and rate > 0 else 1.0
        t -= self.wait
        if t < 0:
            return float(self.start)
        if t < self.steps:
            return self.start + (factor - self.start) * (t + 1) / self.steps
        t -= self.steps + self.hold
        return factor if t < 0 else factor + (1.0 - factor) * (t + 1) / self.back


@dataclass
class _Rows:
    """Rows of one weight: a member's view and axes, and which rows along these are new."""

    weight: str
    view: list[int]
    axes: list[int]
    rows: list[int]

    @property
    def elements(self) -> np.ndarray:
        """Numbers of all elements of these rows."""
        numbers = np.arange(np.prod(self.view)).reshape(self.view)
        lead = np.moveaxis(numbers, self.axes, range(len(self.axes)))
        return lead.reshape(-1, *lead.shape[len(self.axes) :])[self.rows].ravel()


class NewChannels:
    """New channels whose updates are scaled until they are warm.

    Parameters
    ----------
    warm_up : WarmUp
    optimizer : torch.optim.Optimizer, a wrapper of one, or a sequence of these
        The hooks of the innermost optimizers are used.
    tensors : mapping of str to Tensor
        Of the model.
    rows : sequence of dict
        From :func:`new_rows`, or from :meth:`state_dict`.
    steps : sequence of int, optional
        Steps of each of these optimizers since their birth.
    """

    def __init__(
        self,
        warm_up: WarmUp,
        optimizer: Any,
        tensors: Mapping[str, torch.Tensor],
        rows: Iterable[Mapping[str, Any]],
        steps: Sequence[int] | None = None,
    ) -> None:
        making = innermost(optimizer)
        self.warm_up, self.steps = warm_up, [0] * len(making) if steps is None else list(steps)
        if len(self.steps) != len(making):
            raise ValueError(
                f"expected the steps of {len(making)} optimizers that new channels have seen, got "
                f"{len(self.steps)}"
            )
        self._rows = [_Rows(**row) for row in rows]
        self._places = [(tensors[n], self._elements(n, tensors[n])) for n in self._names()]
        self._handles: list[Any] = []
        for number, inner in enumerate(making):
            if self.steps[number] < warm_up.length:
                self._hook(number, inner)

    @property
    def warm(self) -> bool:
        """Whether nothing is scaled any more."""
        return min(self.steps) >= self.warm_up.length

    def remove(self) -> None:
        """Take the hooks back."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def state_dict(self) -> dict[str, Any]:
        """Plain types."""
        return {"steps": list(self.steps), "rows": [dict(vars(row)) for row in self._rows]}

    def _names(self) -> list[str]:
        return list(dict.fromkeys(row.weight for row in self._rows))

    def _elements(self, name: str, tensor: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Indices of all elements of a weight that belong to new channels, each once."""
        elements = np.unique(np.concatenate([r.elements for r in self._rows if r.weight == name]))
        return tuple(
            torch.from_numpy(index).to(tensor.device)
            for index in np.unravel_index(elements, tensor.shape)
        )

    def _hook(self, number: int, optimizer: Any) -> None:
        """Scale the steps of one optimizer, whatever it holds by then."""
        before: list[tuple[Any, Any, Any, torch.Tensor]] = []

        def remember(*_: Any) -> None:
            if self.steps[number] < self.warm_up.length:
                groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
                before[:] = [
                    (p, where, groups[id(p)], p.detach()[where].clone())
                    for p, where in self._places if id(p) in groups
                ]  # fmt: skip

        def scale(*_: Any) -> None:
            with torch.no_grad():
                for p, where, group, old in before:
                    s = self.warm_up.scale(self.steps[number], group)
                    p[where] = torch.lerp(old, p[where], s)
            before.clear()
            self.steps[number] += 1

        self._handles += [
            optimizer.register_step_pre_hook(remember),
            optimizer.register_step_post_hook(scale),
        ]


def new_rows(plans: Iterable[GroupPlan]) -> list[dict[str, Any]]:
    """The rows of trained weights that belong to new channels, in plain types."""
    return [
        {
            "weight": member.weight,
            "view": [int(n) for n in member.view],
            "axes": [int(axis) for axis in member.axes],
            "rows": member.positions[plan.new].ravel().tolist(),
        }
        for plan in plans
        for member in plan.members
        if member.trained and plan.new.size
    ]


def innermost(optimizer: Any) -> list[Any]:
    """The optimizers within wrappers that make the steps.

    Raises
    ------
    ValueError
        Where none of them has step hooks.
    """
    everyone = list(optimizers_within(optimizer))
    inner = [
        o for o in everyone
        if hasattr(o, "register_step_pre_hook") and len(list(optimizers_within(o))) == 1
    ]  # fmt: skip
    if not inner:
        raise ValueError(
            "expected a torch.optim.Optimizer, whose hooks scale the updates of new channels, got "
            f"{type(optimizer).__name__}; train without warmup"
        )
    return inner
