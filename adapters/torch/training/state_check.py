"""Whether the state of a :class:`.reorganizer.Reorganizer` is one, and of this model.

A state comes out of a checkpoint, which is a file like others: everything is checked before
anything is taken over.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

VERSION = 1
PARTS = ("version", "last_epoch", "seed", "history", "frozen", "new_channels")


def check_state(state: Any, tensors: Mapping[str, torch.Tensor]) -> None:
    """Raise for the first thing that is wrong.

    Parameters
    ----------
    state : dict
        Of ``Reorganizer.state_dict``.
    tensors : mapping of str to Tensor
        Of the model.

    Raises
    ------
    ValueError
        With its name, what was expected and what came.
    """
    if not isinstance(state, Mapping):
        raise ValueError(f"expected the state of a Reorganizer, got a {type(state).__name__}")
    if missing := [name for name in PARTS if name not in state]:
        raise ValueError(f"expected the state of a Reorganizer, got one without {missing[0]!r}")
    _expect(
        _is_count(state["version"]) and state["version"] == VERSION,
        "version", f"{VERSION}, of this rejuvenet", state["version"],
    )  # fmt: skip
    last = state["last_epoch"]
    _expect(_is_count(last) or (type(last) is int and last == -1), "last_epoch", "an epoch", last)
    _expect(_is_count(state["seed"]), "seed", "a number from 0", state["seed"])
    steps = state.get("steps")
    if steps is not None:
        _check_steps(steps)
        last = steps["count"]
    _check_history(state["history"], "epoch" if steps is None else "step", last)
    _check_frozen(state["frozen"], tensors)
    if state["new_channels"] is not None:
        _check_new_channels(state["new_channels"], tensors)


def _check_steps(steps: Any) -> None:
    given = isinstance(steps, Mapping) and steps.keys() == {"count", "young", "kept"}
    _expect(given, "steps", "count, young and kept", steps)
    _expect(_is_count(steps["count"]), "count", "a number of steps", steps["count"])
    _expect(isinstance(steps["young"], Mapping), "young", "groups by name", steps["young"])
    for name, pairs in steps["young"].items():
        _expect(isinstance(name, str) and isinstance(pairs, list), "young", "pairs", pairs)
        for pair in pairs:
            counts = isinstance(pair, (list, tuple)) and len(pair) == 2
            counts = counts and all(_is_count(number) for number in pair)
            _expect(counts and pair[1] <= steps["count"], "young", "places and steps", pair)
    _expect(isinstance(steps["kept"], list), "kept", "a list of batches", steps["kept"])
    for batch in steps["kept"]:
        pair = isinstance(batch, (list, tuple)) and len(batch) == 2
        _expect(pair and _has_samples(batch[0]), "kept", "(inputs, labels)", type(batch))
        labels = batch[1] is None or isinstance(batch[1], torch.Tensor)
        _expect(labels, "kept", "labels as tensors", type(batch[1]))


def _has_samples(inputs: Any) -> bool:
    """Whether inputs are a tensor, or a tuple or dict with one, of at least one axis."""
    parts = list(inputs.values()) if isinstance(inputs, dict) else inputs
    parts = parts if isinstance(parts, (list, tuple)) else [parts]
    return any(isinstance(part, torch.Tensor) and part.ndim > 0 for part in parts)


def _check_history(history: Any, counted: str, last: int) -> None:
    _expect(isinstance(history, list), "history", "a list of events", history)
    before = -1
    for event in history:
        _expect(isinstance(event, Mapping), "history", "events by name", event)
        at = event.get(counted)
        _expect(_is_count(at) and before < at <= last, "history", f"rising {counted}s", at)
        _expect(_is_plain(event), "history", "plain types, no NaN", f"the event of {counted} {at}")
        before = at


def _check_frozen(frozen: Any, tensors: Mapping[str, torch.Tensor]) -> None:
    names = isinstance(frozen, list) and all(isinstance(name, str) for name in frozen)
    _expect(names and len(set(frozen)) == len(frozen), "frozen", "different names", frozen)
    for name in frozen:
        _check_weight(name, tensors)
        parameter = isinstance(tensors[name], nn.Parameter)
        _expect(parameter, "frozen", "parameters", f"the buffer {name}")


def _check_new_channels(new: Any, tensors: Mapping[str, torch.Tensor]) -> None:
    given = isinstance(new, Mapping) and new.keys() == {"steps", "rows"}
    _expect(given, "new_channels", "steps and rows", new)
    counts = isinstance(new["steps"], list) and all(map(_is_count, new["steps"]))
    _expect(counts, "steps", "a number of steps for each optimizer", new["steps"])
    _expect(isinstance(new["rows"], list), "rows", "a list", new["rows"])
    for row in new["rows"]:
        given = isinstance(row, Mapping) and row.keys() == {"weight", "view", "axes", "rows"}
        _expect(given, "rows", "weight, view, axes and rows", row)
        _expect(isinstance(row["weight"], str), "weight", "a name", row["weight"])
        _check_weight(row["weight"], tensors)
        view = _counts("view", row["view"], tensors[row["weight"]].numel() + 1, different=False)
        whole = tensors[row["weight"]].numel()
        _expect(math.prod(view) == whole, "view", f"a shape of {whole} elements", view)
        axes = _counts("axes", row["axes"], len(view))
        _expect(bool(axes), "axes", "at least one", axes)
        _counts("rows", row["rows"], math.prod(view[axis] for axis in axes))


def _check_weight(name: str, tensors: Mapping[str, torch.Tensor]) -> None:
    if name not in tensors:
        raise ValueError(f"expected the state of this model, got one with weight {name[:80]!r}")


def _counts(name: str, values: Any, n: int, different: bool = True) -> list[int]:
    good = isinstance(values, list) and all(_is_count(value) and value < n for value in values)
    good = good and not (different and len(set(values)) < len(values))
    _expect(good, name, f"{'different ' * different}numbers below {n}", values)
    return values


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_plain(value: Any, depth: int = 0) -> bool:
    """Whether JSON could hold it, in a few levels."""
    if depth > 12:
        return False
    if isinstance(value, Mapping):
        return all(isinstance(k, str) and _is_plain(v, depth + 1) for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return all(_is_plain(v, depth + 1) for v in value)
    return value is None or isinstance(value, (bool, int, str)) or (
        isinstance(value, float) and not math.isnan(value)
    )  # fmt: skip


def _expect(good: bool, name: str, expected: str, got: Any) -> None:
    if not good:
        raise ValueError(
            f"expected the state of a Reorganizer with {name} as {expected}, got {repr(got)[:80]}"
        )
