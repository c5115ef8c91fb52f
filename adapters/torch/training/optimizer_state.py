"""What optimizers and averaged copies keep beside the weights, changed along with them.

Averages of gradients change as :mod:`rejuvenet.graph.change.moments` says.

===============  ============================
what it holds    for example
===============  ============================
gradients        SGD's momentum, Adam's first
squares          Adam's second, Adagrad's sum
sizes            Adamax' infinity norm
steps            RMSprop's momentum
step sizes       Rprop's
squared steps    Adadelta's
weights          Lookahead's slow weights
===============  ============================

Tensors are known by the names that PyTorch's optimizers give them, else by their shape, that of
the parameter, and their values: near the parameter (within half of its norm) they are weights,
without a negative element squared gradients, else gradients.  What lies in the memory of the
parameter has already changed with it.  Scalars, such as the number of steps, stay.  So do tensors
of other shapes (factored moments) and quantized ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from ....graph.change.moments import Kind, StateChange
from ....graph.change.normalizations import Correction
from ....graph.change.surgery import transform
from ....graph.plan.plan import GroupPlan
from ..caches import restore
from ..edit import Edit
from ..tensors import named_tensors, to_numpy
from ..trace import unwrap

KINDS: dict[str, Kind] = {
    **dict.fromkeys(("exp_avg", "momentum_buffer", "momentum", "grad_avg", "prev"), "gradients"),
    **dict.fromkeys(("exp_avg_sq", "max_exp_avg_sq", "square_avg", "sum"), "squares"),
    "exp_inf": "sizes",
    "step_size": "step sizes",
    "acc_delta": "squared steps",
}
# Where counts begin: with moments of zero and many steps, Adam's next steps would be too large.
ANEW = {"step": 0.0, "mu_product": 1.0}
# LBFGS keeps the steps and gradients of all parameters at once, under the first of them; it begins
# anew where it counts none.
HISTORY = "n_iter"
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


def optimizer_states(optimizer: Any) -> Iterator[tuple[Any, Mapping[Any, Any]]]:
    """An optimizer and those within it, each with its own state."""
    seen: set[int] = set()
    for present in optimizers_within(optimizer):
        state = getattr(present, "state", None)
        if isinstance(state, Mapping) and id(state) not in seen:
            seen.add(id(state))
            yield present, state


def change_state(
    edit: Edit,
    optimizer: Any,
    plan: GroupPlan,
    how: str,
    before: Mapping[str, np.ndarray] | None,
) -> tuple[int, list[str]]:
    """Change the optimizer's state of every parameter that a plan touches.

    Parameters
    ----------
    edit : Edit
        Holds the parameters, and undoes the changes where a later step fails.
    optimizer : torch.optim.Optimizer, a wrapper of one, or a sequence of these
    plan : GroupPlan
    how : {"merge", "reset", "keep"}
        Change along with the weights; begin anew, steps counted from 0; or leave (a permutation is
        always followed).  A history of all parameters at once (LBFGS) cannot change along, and
        begins anew.
    before : mapping of str to ndarray, or None
        The weights before the plan; None for those before the edit.

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
    if before is None:
        before = {name: to_numpy(edit.before(edit.tensors[name])) for name in plan.weights}
    change = StateChange(plan, before, edit.read(plan.weights))
    memory = {t.untyped_storage().data_ptr() for t in edit.tensors.values()}
    for holder, states in optimizer_states(optimizer):
        for own in states.values():
            if isinstance(own, MutableMapping) and HISTORY in own:
                edit.put(own, HISTORY, 0)
                changed += 1
        for name, parameter in parameters.items():
            own = states.get(parameter) or {}
            if HISTORY in own:
                continue
            for key, value in own.items():
                if how == "reset" and plan.kind != "arrange" and key in ANEW:
                    edit.put(own, key, ANEW[key])
                if not isinstance(value, torch.Tensor) or value.ndim == 0 or value.numel() == 1:
                    continue
                if value.shape != parameter.shape or not value.is_floating_point():
                    left.add(str(key))
                    continue
                if value.untyped_storage().data_ptr() in memory:
                    continue
                values = to_numpy(value)
                kind = kind_of(str(key), own, values, before[name])
                if kind == "weights":
                    edit.copy(value, changed_copy(edit, [plan], {name: values})[name])
                elif how == "reset" and plan.kind != "arrange":
                    start = _at_the_start(kind, parameter, holder)
                    edit.copy(value, np.full_like(values, start))
                else:
                    edit.copy(value, change.changed(name, kind, values))
                changed += 1
            if plan.kind != "arrange" and {"grad_avg", "square_avg"} <= set(own):
                # Centred RMSprop takes the root of the variance, which rounding must not make
                # negative.
                root = own["square_avg"].sqrt() * (1.0 - 1e-3)
                edit.copy(own["grad_avg"], own["grad_avg"].clamp(-root, root))
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


def _at_the_start(kind: Kind, parameter: torch.Tensor, optimizer: Any) -> float:
    """What an optimizer's state holds before its first step."""
    option = {"step sizes": "lr", "squares": "initial_accumulator_value"}.get(kind)
    for group in getattr(optimizer, "param_groups", ()):
        if option in group and any(p is parameter for p in group["params"]):
            return float(group[option])
    return 0.0


def kind_of(
    key: str, state: Mapping[Any, Any], values: np.ndarray, weights: np.ndarray
) -> Kind | Literal["weights"]:
    """What a tensor of an optimizer's state holds.

    Parameters
    ----------
    key : str
        Its name.
    state : mapping
        All that the optimizer keeps for the parameter.
    values, weights : ndarray
        The tensor, and the parameter before the change.
    """
    if key == "momentum_buffer" and "square_avg" in state:  # RMSprop's is of steps
        return "steps"
    if key in KINDS:
        return KINDS[key]
    if near(values, weights):
        return "weights"
    return "gradients" if values.min() < 0 else "squares"


def near(values: np.ndarray, weights: np.ndarray) -> bool:
    """Whether a tensor is an average of weights, by its distance from them.

    >>> near(np.array([1.0, 2.1]), np.array([1.0, 2.0])), near(np.zeros(2), np.array([1.0, 2.0]))
    (True, False)
    """
    return bool(np.linalg.norm(values - weights) <= NEAR * np.linalg.norm(weights) > 0.0)


def change_averages(
    edit: Edit,
    averages: Any,
    plans: Sequence[GroupPlan],
    corrections: Mapping[str, Correction],
) -> None:
    """Change averaged copies of the model (EMA, SWA) by the same plans.

    New channels are copied from the model; running statistics move by the same difference (mean)
    and factor (variance) as the model's.

    Parameters
    ----------
    edit : Edit
        Holds the model, already changed.
    averages : torch.nn.Module, an object with one as ``.module``, or a sequence of these
    plans : sequence of GroupPlan
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
        tensors = named_tensors(module)
        normalizations = [c.normalization for c in corrections.values()]
        names = [name for plan in plans for name in plan.weights]
        names += [name for n in normalizations for name in (n.mean, n.variance)]
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
        values = changed_copy(edit, plans, values, corrections.values())
        for name, value in values.items():
            edit.copy(tensors[name], value)
        restore(module, edit.caches)


def changed_copy(
    edit: Edit,
    plans: Sequence[GroupPlan],
    values: Mapping[str, np.ndarray],
    corrections: Iterable[Correction] = (),
) -> dict[str, np.ndarray]:
    """Weights of a copy of the model after the plans; new channels are those of the model.

    Parameters
    ----------
    edit : Edit
        Holds the model, already changed.
    plans : sequence of GroupPlan
    values : mapping of str to ndarray
        Weights of the copy; those of the plans, or some of them.
    corrections : iterable of Correction
    """
    changed = {**values, **transform(plans, values, state="linear")}
    for correction in corrections:
        correction.repeat(changed)
    fresh = [(p, m) for p in plans if p.new.size for m in p.members if m.weight in values]
    online = edit.read(m.weight for _, m in fresh)
    for plan, member in fresh:
        name, born = member.weight, member.channels(online[member.weight])[plan.new]
        changed[name] = member.replaced(changed[name], born, plan.new)
    return changed
