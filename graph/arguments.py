"""Options that do not fit: of another kind, or beside one another.

One sentence each, before anything is done.
"""

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


def refuse_several(**options: object) -> None:
    """Raise ValueError where more than one of some options is given that say the same thing.

    >>> refuse_several(ratio=None, target_params=0.5)
    """
    given = [name for name, value in options.items() if value is not None]
    if len(given) > 1:
        raise ValueError(f"expected one of {', '.join(options)}, got {' and '.join(given)}")


def refuse_idle(where: str, **options: object) -> None:
    """Raise ValueError for an option that is given and would do nothing there.

    >>> refuse_idle("without every_steps", recent=None)
    >>> refuse_idle("without every_steps", recent=64)
    Traceback (most recent call last):
    ...
    ValueError: recent does nothing without every_steps: leave it out
    """
    for name, value in options.items():
        if value is not None:
            raise ValueError(f"{name} does nothing {where}: leave it out")
