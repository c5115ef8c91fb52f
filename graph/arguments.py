"""Options that are of another kind than expected: one sentence each, before anything is done."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral, Real

KINDS: dict[type, str] = {Real: "a number", Integral: "a whole number", Mapping: "a mapping"}


def check_kind(kind: type, **options: object) -> None:
    """Raise TypeError for an option that is given and is not of a kind of ``KINDS``.

    >>> check_kind(Real, max_change=0.1)
    >>> check_kind(Real, max_change="0.1")
    Traceback (most recent call last):
    ...
    TypeError: expected max_change to be a number, got '0.1'
    """
    for name, value in options.items():
        if value is not None and not isinstance(value, kind):
            raise TypeError(f"expected {name} to be {KINDS[kind]}, got {value!r}")
