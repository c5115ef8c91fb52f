"""Rules for operators of one's own, entered into a table, checked, and taken out again."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, TypeVar

from .axes import check_shapes
from .nodes import Node, Shape

AnyRule = Callable[..., Any]
R = TypeVar("R", bound=AnyRule)


def entered(table: dict[Any, AnyRule], key: Any, rule: AnyRule) -> ExitStack:
    """Enter a rule into a table; closing what is returned takes it out."""
    table[key] = rule
    handle = ExitStack()
    handle.callback(table.pop, key, None)
    return handle


def now_or_as_decorator(
    enter: Callable[[R], ExitStack], rule: R | None
) -> ExitStack | Callable[[R], R]:
    """Enter a rule; without one, a decorator that enters the function that it is put before."""
    if rule is not None:
        return enter(rule)

    def decorate(rule: R) -> R:
        enter(rule)
        return rule

    return decorate


def has_a_rule(name: str) -> ValueError:
    return ValueError(
        f"the operator {name!r} has a rule and needs no other; if it is yours, close what "
        "register_operator returned for it before"
    )


def check_callable(
    name: str, rule: AnyRule, calls: Sequence[tuple[tuple[Any, ...], Mapping[str, Any]]], how: str
) -> None:
    """Raise TypeError unless a rule can be called in each of several ways, described by ``how``."""
    if not callable(rule):
        raise TypeError(f"expected a function as the rule of {name!r}, got {rule!r}")
    signature = inspect.signature(rule)
    for args, kwargs in calls:
        try:
            signature.bind(*args, **kwargs)
        except TypeError:
            raise TypeError(
                f"expected a rule of {name!r} that takes {how}, got one that takes {signature}"
            ) from None


def check_nodes(name: str, nodes: Sequence[Node], shapes: Mapping[str, Shape]) -> None:
    """Raise ValueError unless what a rule says agrees with the shapes of the tensors."""
    for node in nodes:
        try:
            check_shapes(node, shapes)
        except (IndexError, KeyError, ValueError):
            raise ValueError(
                f"the rule of {name!r} does not agree with the shapes of its tensors: {node}"
            ) from None
