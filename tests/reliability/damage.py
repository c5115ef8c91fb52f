"""Damaged state files: bytes that changed, and values that cannot be.

Every one is wrong: what is read from it is refused, or (a bit that means nothing, such as one of
a date) is what was saved.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from typing import Any

import numpy as np

NAN = float("nan")
DEEP: list = []
for _ in range(40):
    DEEP = [DEEP]


def of_bytes(whole: bytes, n: int, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """``n`` files: cut short, bits turned, bytes overwritten, parts doubled or dropped."""
    rng = random.Random(seed)
    for number in range(n):
        at, kind = rng.randrange(len(whole)), number % 5
        if kind == 0:
            yield f"cut at {at}", whole[:at]
        elif kind == 1:
            bit = 1 << rng.randrange(8)
            yield f"bit {bit} at {at}", whole[:at] + bytes([whole[at] ^ bit]) + whole[at + 1 :]
        elif kind == 2:
            yield f"zeros at {at}", whole[:at] + bytes(len(whole[at : at + 32])) + whole[at + 32 :]
        elif kind == 3:
            yield f"dropped at {at}", whole[:at] + whole[at + 16 :]
        else:
            some = rng.randbytes(8)
            yield f"noise at {at}", whole[:at] + some + whole[at + 8 :]


def others(value: Any) -> list[Any]:
    """Values of other types, and of the same type where they cannot be right."""
    if isinstance(value, bool):
        return [None, "text", 2, NAN, []]
    if isinstance(value, int):
        return [None, "text", -7, 0.5, NAN, [value], {}, DEEP]
    if isinstance(value, float):
        return [None, "text", NAN, -float("inf"), [value], {}]
    if isinstance(value, str):
        return [None, 3, NAN, [value], {}, DEEP]
    if isinstance(value, dict):
        return [None, "text", 3, [value], {"predict": 1}]
    if isinstance(value, list):
        return [None, "text", 3, {"predict": 1}, [*value, None], [*value, NAN], DEEP]
    return ["text", NAN, {"predict": 1}, DEEP]  # in place of None


def of_values(state: Any, path: tuple = ()) -> Iterator[tuple[str, Any]]:
    """A structure of JSON with one value replaced or one key dropped or added, at every place."""
    here = state
    for key in path:
        here = here[key]
    if path:
        for other in others(here):
            yield f"{path} as {str(other)[:20]}", _changed(state, path, other)
    if isinstance(here, dict):
        for key in here:
            yield f"{path} without {key}", _changed(state, path, _without(here, key))
            yield from of_values(state, (*path, key))
    elif isinstance(here, list) and here and path and isinstance(here[0], (dict, list)):
        yield from of_values(state, (*path, 0))


def _without(value: dict, key: str) -> dict:
    return {name: entry for name, entry in value.items() if name != key}


def _changed(state: Any, path: tuple, value: Any) -> Any:
    if not path:
        return value
    made = copy.deepcopy(state)
    here = made
    for key in path[:-1]:
        here = here[key]
    here[path[-1]] = value
    return made


def of_array(array: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Arrays of other types and shapes, and with numbers that cannot be."""
    yield "text", np.array(["text"])
    yield "none", np.zeros((0,), array.dtype)
    yield "complex", array.astype(complex) if array.dtype.kind in "iuf" else np.zeros(3, complex)
    yield "one more", np.concatenate([np.atleast_1d(array)] * 2)
    yield "another axis", array[None, None]
    if array.dtype.kind == "f":
        for name, bad in (("NaN", NAN), ("infinity", np.inf)):
            made = array.copy()
            made.flat[0] = bad
            yield name, made
    elif array.dtype.kind in "iu" and array.size:
        made = array.astype(np.int64)
        made.flat[0] = -7
        yield "negative", made
        made = array.astype(np.int64)
        made.flat[-1] = 1 << 40
        yield "huge", made
        yield "fractions", array + 0.5
