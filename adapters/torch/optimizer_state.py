"""What optimizers and averaged copies keep beside the weights, changed along with them.

A plan turns activations and weights into ``x' = A x`` and ``V' = B V`` (producers ``A``,
consumers ``B``).  Gradients go the other way: with ``y = V x``::

    dL/dV'[p] = dL/dy x'[p] = sum_j A[p, j] dL/dV[j]          consumers by A
    dL/dx'[p] = V'[p] dL/dy = sum_j B[p, j] dL/dx[j]          producers by B

so that what is an average of gradients (SGD's momentum, Adam's first moment) is changed by the
same plan with ``A`` and ``B`` exchanged, and equals, after channels that respond alike have
merged, what the merged network would have gathered itself.  Averages of squared gradients change
in their roots, with absolute values, which bounds them from above.  New channels start at zero.

Tensors are known by their shape, that of the parameter, and by their values:

- near the parameter itself (an average of the weights, Lookahead's slow weights, the point that
  SAM returns to): changed as the weights are, new channels copied from them;
- without a negative element, and without the name of a first moment: a second moment;
- in the memory of the parameter: already changed with it.

Scalars, such as the number of steps, stay.  So do tensors of other shapes (factored moments) and
quantized ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from ...graph.normalizations import Correction
from ...graph.plan import GroupPlan
from ...graph.surgery import transform
from .caches import restore
from .edit import Edit
from .recorder import to_numpy
from .trace import unwrap

FIRST_MOMENTS = frozenset({"exp_avg", "momentum_buffer", "momentum", "exp_avg_diff", "grad_avg"})
WRAPPED = ("base_optimizer", "optimizer", "_optimizer")
NEAR = 0.5  # distance of an average of weights from the weights, relative to their norm


def optimizers_within(optimizer: Any) -> Iterator[Any]:
    """An optimizer, each of a sequence of them, and those that they wrap (SAM, Accelerate)."""
    seen: list[Any] = []
    pending = [optimizer]
    while pending:
        present = pending.pop(0)
        if isinstance(present, (list, tuple)):
            pending.extend(present)
        elif present is not None and all(present is not known for known in seen):
            seen.append(present)
            yield present
            pending.extend(getattr(present, name, None) for name in WRAPPED)


def optimizer_states(optimizer: Any) -> Iterator[Mapping[Any, Any]]:
    """The states of an optimizer and of those within it."""
    seen: set[int] = set()
    for present in optimizers_within(optimizer):
        state = getattr(present, "state", None)
        if isinstance(state, Mapping) and id(state) not in seen:
            seen.add(id(state))
            yield state


def gradient_plan(plan: GroupPlan) -> GroupPlan:
    """The plan that changes gradients as ``plan`` changes weights."""
    return plan if plan.kind == "arrange" else replace(plan, A=plan.B, B=plan.A)


def change_state(
    edit: Edit, optimizer: Any, plan: GroupPlan, how: str = "merge"
) -> tuple[int, list[str]]:
    """Change the optimizer's state of every parameter that a plan touches.

    Parameters
    ----------
    edit : Edit
        Holds the parameters, and undoes the changes where a later step fails.
    optimizer : torch.optim.Optimizer, a wrapper of one, or a sequence of these
    plan : GroupPlan
    how : {"merge", "reset", "keep"}
        Change along with the weights; zero; or leave (a permutation is always followed).

    Returns
    -------
    changed : int
        Number of tensors changed.
    left : list of str
        Names of state tensors of another shape or quantized, left as they are.

    Raises
    ------
    ValueError
        Where the optimizer holds none of the parameters that the plan touches.
    """
    parameters = {
        name: edit.tensors[name]
        for name in plan.weights
        if isinstance(edit.tensors[name], nn.Parameter)
    }
    check_held(optimizer, parameters)
    if how == "keep" and plan.kind != "arrange":
        return 0, []
    changed, left = 0, set()
    memory = {t.untyped_storage().data_ptr() for t in edit.tensors.values()}
    for states in optimizer_states(optimizer):
        for name, parameter in parameters.items():
            for key, value in (states.get(parameter) or {}).items():
                if not isinstance(value, torch.Tensor) or value.ndim == 0 or value.numel() == 1:
                    continue
                if value.shape != parameter.shape or not value.is_floating_point():
                    left.add(str(key))
                    continue
                if value.untyped_storage().data_ptr() in memory:
                    continue
                values = to_numpy(value)
                if near(values, to_numpy(edit.before(parameter))):
                    edit.copy(value, changed_copy(edit, plan, {name: values})[name])
                elif how == "reset" and plan.kind != "arrange":
                    edit.copy(value, np.zeros_like(values))
                else:
                    edit.copy(value, changed_state(plan, name, str(key), values))
                changed += 1
    return changed, sorted(left)


def check_held(optimizer: Any, parameters: Mapping[str, torch.Tensor]) -> None:
    """Raise ValueError where an optimizer holds none of the parameters that can be trained."""
    held = {
        id(p)
        for present in optimizers_within(optimizer)
        for group in getattr(present, "param_groups", ())
        for p in group["params"]
    }
    trained = [p for p in parameters.values() if p.requires_grad]
    if trained and not any(id(p) in held for p in trained):
        raise ValueError(
            "the optimizer holds none of the parameters that change: pass the optimizer that was "
            "made from this model's parameters"
        )


def near(values: np.ndarray, weights: np.ndarray) -> bool:
    """Whether a tensor is an average of weights, by its distance from them.

    >>> near(np.array([1.0, 2.1]), np.array([1.0, 2.0])), near(np.zeros(2), np.array([1.0, 2.0]))
    (True, False)
    """
    return bool(np.linalg.norm(values - weights) <= NEAR * np.linalg.norm(weights) > 0.0)


def changed_state(plan: GroupPlan, name: str, key: str, values: np.ndarray) -> np.ndarray:
    """One tensor of the state of the parameter ``name``.

    Parameters
    ----------
    plan : GroupPlan
    name, key : str
        Name of the parameter, and of the tensor in its state.
    values : ndarray
        Of the parameter's shape.
    """
    if plan.kind == "arrange":
        return transform(plan, {name: values}, state="linear")[name]
    plan = gradient_plan(plan)
    if key in FIRST_MOMENTS or values.min() < 0:
        return transform(plan, {name: values}, state="linear")[name]
    assert plan.A is not None
    assert plan.B is not None
    plan = replace(plan, A=np.abs(plan.A), B=np.abs(plan.B))
    roots = np.sqrt(values.astype(np.float64))
    return (transform(plan, {name: roots}, state="linear")[name] ** 2).astype(values.dtype)


def change_averages(
    edit: Edit, averages: Any, plan: GroupPlan, corrections: Mapping[str, Correction]
) -> None:
    """Change averaged copies of the model (EMA, SWA) by the same plan.

    New channels are copied from the model; running statistics move by the same difference (mean)
    and factor (variance) as the model's.

    Parameters
    ----------
    edit : Edit
        Holds the model, already changed.
    averages : torch.nn.Module, an object with one as ``.module``, or a sequence of these
    plan : GroupPlan
    corrections : mapping of str to Correction
        What recalibration did to the model's running statistics.

    Raises
    ------
    ValueError
        Where a copy lacks a weight of the plan, or shares its memory with the model.
    """
    for average in averages if isinstance(averages, Sequence) else (averages,):
        inside: Any = getattr(average, "module", average)
        module = unwrap(inside)
        tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        normalizations = [c.normalization for c in corrections.values()]
        names = [*plan.weights, *(name for n in normalizations for name in (n.mean, n.variance))]
        for name in names:
            if name not in tensors:
                raise ValueError(
                    f"the averaged copy has no weight {name!r}: pass an EMA or SWA copy of this "
                    "model"
                )
            if tensors[name] is edit.tensors[name]:
                raise ValueError(
                    f"the averaged copy holds the model's own weight {name!r}: pass a copy of the "
                    "model, not the model itself"
                )
        values = {name: np.array(to_numpy(tensors[name])) for name in names}
        values = changed_copy(edit, plan, values, corrections.values())
        for name, value in values.items():
            edit.copy(tensors[name], value)
        restore(module, edit.caches)


def changed_copy(
    edit: Edit,
    plan: GroupPlan,
    values: Mapping[str, np.ndarray],
    corrections: Iterable[Correction] = (),
) -> dict[str, np.ndarray]:
    """Weights of a copy of the model after the plan; new channels are those of the model.

    Parameters
    ----------
    edit : Edit
        Holds the model, already changed.
    plan : GroupPlan
    values : mapping of str to ndarray
        Weights of the copy; those of the plan, or some of them.
    corrections : iterable of Correction
    """
    changed = {**values, **transform(plan, values, state="linear")}
    for correction in corrections:
        correction.repeat(changed)
    members = [m for m in plan.members if m.weight in values] if plan.new.size else []
    online = edit.read(m.weight for m in members)
    for member in members:
        name, places = member.weight, member.positions[plan.new]
        rows = np.array(member.rows(changed[name]))
        rows[places] = member.rows(online[name])[places]
        changed[name] = member.restore(rows, changed[name].shape)
    return changed
