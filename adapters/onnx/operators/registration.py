"""The tables of all domains, and the part of them that users write."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, TypeVar, overload

import onnx

from ....graph.find.registration import check_callable, entered, has_a_rule, now_or_as_decorator
from .microsoft import MICROSOFT
from .table import OPERATORS

if TYPE_CHECKING:
    from ..call import Call

Rule = Callable[["Call"], Any]
TABLES: dict[str, dict[str, Rule]] = {"": OPERATORS, "com.microsoft": MICROSOFT}
REGISTERED: dict[tuple[str, str], Rule] = {}

LIBRARIES: list[str] = []  # that hold kernels of registered operators

R = TypeVar("R", bound=Rule)
PathLike = str | os.PathLike[str]


@overload
def register_operator(
    domain: str, operator: str, *, library: PathLike | None = None
) -> Callable[[R], R]: ...


@overload
def register_operator(
    domain: str, operator: str, rule: Rule, *, library: PathLike | None = None
) -> ExitStack: ...


def register_operator(
    domain: str, operator: str, rule: Rule | None = None, *, library: PathLike | None = None
) -> Any:
    """Describe an operator that the adapter does not know, so that channels can move through it.

    Parameters
    ----------
    domain, operator : str
        Its domain and its type, as they stand in the file: ``"my.domain", "Gated"``.
    rule : callable, optional
        Called with a :class:`Call` for each node of this type.  It emits structural nodes that
        read what depends on weights or inputs and make each output.  It raises
        ``call.unsupported(reason)`` where it cannot describe a node: what flows in is then frozen.
    library : path, optional
        Shared library that holds the operator's kernel, which onnxruntime loads for every model.

    Returns
    -------
    contextlib.ExitStack or callable
        What takes the rule out again when it is closed, or at the end of a ``with`` block.  Without
        ``rule``, a decorator that returns the function that it is put before.

    Raises
    ------
    TypeError
        ``rule`` cannot be called with one argument.
    ValueError
        ONNX has the domain and no such operator in it, the operator has a rule, or onnxruntime
        cannot load the library.

    See Also
    --------
    rejuvenet.adapters.torch.register_operator : The same for PyTorch modules.

    Notes
    -----
    An error in a rule, and nodes that the shapes of the tensors do not agree with, end the
    analysis with that error.  A rule may claim less freedom than there is, never more;
    :func:`arrange` of all groups compares the outputs and refuses what changed them.

    Where onnxruntime has no kernel of the operator, the shapes of what it makes are those that the
    file declares, :func:`arrange` says in ``report.unverified`` that nothing was compared, and
    :func:`reorganize` is not possible.  Functions of the model are inlined and need no rule.

    Examples
    --------
    ``Normalizer`` of ONNX's domain for classical machine learning divides rows by their norm:

    >>> import numpy as np
    >>> from onnx import TensorProto, helper, numpy_helper
    >>> import onnx_ir
    >>> from rejuvenet.adapters.onnx import load, register_operator
    >>> from rejuvenet.graph import composites
    >>> rng = np.random.default_rng(0)
    >>> def weight(name, *shape):
    ...     return numpy_helper.from_array(rng.normal(size=shape).astype("float32"), name)
    >>> graph = helper.make_graph(
    ...     [helper.make_node("MatMul", ["x", "a"], ["h"]),
    ...      helper.make_node("Normalizer", ["h"], ["z"], domain="ai.onnx.ml", norm="L2"),
    ...      helper.make_node("MatMul", ["z", "b"], ["y"])],
    ...     "example",
    ...     [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
    ...     [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])],
    ...     [weight("a", 4, 8), weight("b", 8, 2)])
    >>> opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    >>> file = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    >>> load(onnx_ir.from_proto(file)).group("a").frozen
    'the operator ai.onnx.ml.Normalizer is not understood'
    >>> def rule(call):
    ...     composites.normalized(call.graph, call.data(0), (1,), call.output())
    >>> with register_operator("ai.onnx.ml", "Normalizer", rule):
    ...     group = load(onnx_ir.from_proto(file)).group("a")
    >>> print(group.frozen, [member.weight for member in group.members])
    None ['a', 'b']
    """
    if not (isinstance(domain, str) and isinstance(operator, str)):
        raise TypeError(
            f"expected a domain and an operator, such as 'my.domain', 'Gated', got {domain!r}, "
            f"{operator!r}"
        )
    domain = "" if domain == "ai.onnx" else domain
    name = operator if not domain else f"{domain}.{operator}"
    if rule_of(domain, operator) is not None:
        raise has_a_rule(name)
    known = {schema.domain for schema in onnx.defs.get_all_schemas()}
    if domain in known and not onnx.defs.has(operator, domain):
        raise ValueError(f"expected an operator of the domain {domain!r} of ONNX, got {operator!r}")

    def enter(rule: Rule) -> ExitStack:
        check_callable(name, rule, [((None,), {})], "one argument (call)")
        path = None if library is None else _loadable(library)
        handle = entered(REGISTERED, (domain, operator), rule)
        if path is not None:
            LIBRARIES.append(path)
            handle.callback(LIBRARIES.remove, path)
        return handle

    return now_or_as_decorator(enter, rule)


def _loadable(library: PathLike) -> str:
    """The path of a library that onnxruntime has loaded once."""
    import onnxruntime

    try:
        onnxruntime.SessionOptions().register_custom_ops_library(os.fspath(library))
    except Exception as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"onnxruntime cannot load {os.fspath(library)!r}: {reason}") from error
    return os.fspath(library)


def rule_of(domain: str, operator: str) -> Rule | None:
    """The rule of an operator."""
    domain = "" if domain == "ai.onnx" else domain
    return TABLES.get(domain, {}).get(operator) or REGISTERED.get((domain, operator))
