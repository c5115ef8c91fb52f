"""What optimizers and averaged copies keep beside the weights, changed along with them.

A plan turns activations and weights into ``x' = A x`` and ``V' = B V`` (producers ``A``,
consumers ``B``).  Gradients go the other way: with ``y = V x``::

    dL/dV'[p] = dL/dy x'[p] = sum_j A[p, j] dL/dV[j]          consumers by A
    dL/dx'[p] = V'[p] dL/dy = sum_j B[p, j] dL/dx[j]          producers by B

so that what is an average of gradients (SGD's momentum, Adam's first moment) is changed by the
same plan with ``A`` and ``B`` exchanged, and equals, after channels that respond alike have
merged, what the merged network would have gathered itself.  Averages of squared gradients change
in their roots, with absolute values, which bounds them from above.  New channels start at zero.

Tensors are known by their shape: that of the parameter.  A tensor without a negative element
(and no name of a first moment) is a second moment.  Scalars, such as the number of steps, stay.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from ...graph.normalizations import Correction
from ...graph.plan import GroupPlan
from ...graph.surgery import transform
from .edit import Edit
from .trace import to_numpy, unwrap

FIRST_MOMENTS = frozenset({"exp_avg", "momentum_buffer", "momentum", "exp_avg_diff", "grad_avg"})


def optimizer_states(optimizer: Any) -> Iterator[Mapping[Any, Any]]:
    """The state of an optimizer and of those that it wraps (SAM, Accelerate)."""
    seen: set[int] = set()
    pending = [optimizer]
    while pending:
        present = pending.pop()
        state = getattr(present, "state", None)
        if isinstance(state, Mapping) and id(state) not in seen:
            seen.add(id(state))
            yield state
        for name in ("base_optimizer", "optimizer"):
            inner = getattr(present, name, None)
            if inner is not None and inner is not present:
                pending.append(inner)


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
    optimizer : torch.optim.Optimizer or a wrapper of one
    plan : GroupPlan
    how : {"merge", "reset", "keep"}
        Change along with the weights; zero; or leave (a permutation is always followed).

    Returns
    -------
    changed : int
        Number of tensors changed.
    left : list of str
        Names of state tensors of another shape, left as they are (factored moments).

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
    for states in optimizer_states(optimizer):
        for name, parameter in parameters.items():
            for key, value in (states.get(parameter) or {}).items():
                if not isinstance(value, torch.Tensor) or value.ndim == 0 or value.numel() == 1:
                    continue
                if value.shape != parameter.shape:
                    left.add(str(key))
                    continue
                values = to_numpy(value)
                if how == "reset" and plan.kind != "arrange":
                    edit.copy(value, np.zeros_like(values))
                else:
                    edit.copy(value, changed_state(plan, name, str(key), values))
                changed += 1
    return changed, sorted(left)


def check_held(optimizer: Any, parameters: Mapping[str, torch.Tensor]) -> None:
    """Raise ValueError where an optimizer holds none of the parameters that can be trained."""
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    trained = [p for p in parameters.values() if p.requires_grad]
    if trained and not any(id(p) in held for p in trained):
        raise ValueError(
            "the optimizer holds none of the parameters that change: pass the optimizer that was "
            "made from this model's parameters"
        )


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


def change_average(
    edit: Edit, average: Any, plan: GroupPlan, corrections: Mapping[str, Correction]
) -> None:
    """Change an averaged copy of the model (EMA, SWA) by the same plan.

    New channels are copied from the model; running statistics move by the same difference (mean)
    and factor (variance) as the model's.

    Parameters
    ----------
    edit : Edit
        Holds the model, already changed.
    average : torch.nn.Module or an object with one as ``.module``
    plan : GroupPlan
    corrections : mapping of str to Correction
        What recalibration did to the model's running statistics.

    Raises
    ------
    ValueError
        Where the copy lacks a weight of the plan.
    """
    module = unwrap(getattr(average, "module", average))
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    normalizations = [c.normalization for c in corrections.values()]
    names = [*plan.weights, *(name for n in normalizations for name in (n.mean, n.variance))]
    missing = [name for name in names if name not in tensors]
    if missing:
        raise ValueError(
            f"the averaged copy has no weight {missing[0]!r}: pass an EMA or SWA copy of this model"
        )
    values = {name: np.array(to_numpy(tensors[name])) for name in names}
    values.update(transform(plan, values))
    for correction in corrections.values():
        correction.repeat(values)
    online = edit.read(plan.weights)
    for member in plan.members if plan.new.size else ():
        name, places = member.weight, member.positions[plan.new]
        rows = np.array(member.rows(values[name]))
        rows[places] = member.rows(online[name])[places]
        values[name] = member.restore(rows, values[name].shape)
    for name, value in values.items():
        edit.copy(tensors[name], value)
