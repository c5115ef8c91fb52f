"""Operators of other libraries, and of one's own: the part of the table that users write."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, TypeVar, overload

import torch
from torch._C import DispatchKey

from ....graph.find.registration import check_callable, entered, has_a_rule, now_or_as_decorator
from .table import RULES, Rule

REGISTERED: dict[str, Rule] = {}

R = TypeVar("R", bound=Rule)


@overload
def register_operator(name: str) -> Callable[[R], R]: ...


@overload
def register_operator(name: str, rule: Rule) -> ExitStack: ...


def register_operator(name: str, rule: Rule | None = None) -> Any:
    """Describe an operator that the adapter does not know, so that channels can move through it.

    Parameters
    ----------
    name : str
        Of the operator, with its namespace and without its overload: ``"mylib::gated"``.
    rule : callable, optional
        Called as ``rule(graph, out, *args, **kwargs)`` with the arguments of each call of the
        operator, a :class:`Value` in the place of each tensor.  It appends structural nodes to
        ``graph.nodes`` that read what depends on weights or inputs and make the tensor
        ``out.name``.  A rule whose second parameter is named ``outs`` gets the list of all outputs.
        It returns False where it cannot describe a call: what flows in is then frozen.

    Returns
    -------
    contextlib.ExitStack or callable
        What takes the rule out again when it is closed, or at the end of a ``with`` block.  Without
        ``rule``, a decorator that returns the function that it is put before.

    Raises
    ------
    TypeError
        ``rule`` cannot be called as the operator is.
    ValueError
        There is no such operator yet, it has a rule, or it is composed of others, which are seen
        in its place.

    See Also
    --------
    rejuvenet.adapters.onnx.register_operator : The same for ONNX files.

    Notes
    -----
    An error in a rule, and nodes that the shapes of the tensors do not agree with, end the trace
    with that error.  A rule may claim less freedom than there is, never more; :func:`arrange`
    of all groups compares the outputs and refuses what changed them.

    Examples
    --------
    A product of two tensors, each channel for itself:

    >>> import torch
    >>> from rejuvenet.adapters.torch import register_operator, trace
    >>> from rejuvenet.graph import Elementwise
    >>> @torch.library.custom_op("example::gated", mutates_args=())
    ... def gated(x: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
    ...     return x * gate.sigmoid()
    >>> class Network(torch.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.a, self.b = torch.nn.Conv2d(3, 8, 3), torch.nn.Conv2d(3, 8, 3)
    ...         self.c = torch.nn.Conv2d(8, 2, 1)
    ...     def forward(self, x):
    ...         return self.c(gated(self.a(x), self.b(x)))
    >>> net, image = Network(), torch.zeros(1, 3, 8, 8)
    >>> trace(net, image).group("a").frozen
    'the operator example::gated is not understood'
    >>> def rule(graph, out, x, gate):
    ...     graph.nodes.append(Elementwise((x.name, gate.name), out.name))
    >>> with register_operator("example::gated", rule):
    ...     group = trace(net, image).group("a")
    >>> print(group.frozen, [member.weight for member in group.members])
    None ['a.weight', 'a.bias', 'b.weight', 'b.bias', 'c.weight']
    """
    overloads = _overloads(name)
    key = name.removeprefix("aten::")
    if key in RULES or key in REGISTERED:
        raise has_a_rule(name)
    if any(o.has_kernel_for_dispatch_key(DispatchKey.CompositeImplicitAutograd) for o in overloads):
        raise ValueError(
            f"the operator {name!r} is composed of others, which are seen in its place: register "
            "those of them that are not understood"
        )

    def enter(rule: Rule) -> ExitStack:
        calls = [call for o in overloads for call in _calls(rule, o)]
        how = "(graph, out, *args) as in " + " or ".join(str(o._schema) for o in overloads)
        check_callable(name, rule, calls, how)
        return entered(REGISTERED, key, rule)

    return now_or_as_decorator(enter, rule)


def _overloads(name: str) -> list[Any]:
    """All forms of an operator."""
    library, separator, short = str(name).partition("::")
    packet = getattr(getattr(torch.ops, library, None), short, None) if separator else None
    if not isinstance(packet, torch._ops.OpOverloadPacket):
        raise ValueError(
            "expected the name of an operator that is defined by now, such as 'mylib::gated' with "
            f"its namespace and without an overload, got {name!r}"
        )
    return [getattr(packet, overload) for overload in packet.overloads()]


def _calls(rule: Rule, overload: Any) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
    """How a rule is called where all arguments are given, and where only those without default."""
    found = []
    for arguments in (
        overload._schema.arguments,
        [a for a in overload._schema.arguments if not a.has_default_value()],
    ):
        positional = [a.name for a in arguments if not a.kwarg_only]
        named = {a.name: None for a in arguments if a.kwarg_only and not a.is_out}
        found.append(((None, None, *positional), named))
    return found
