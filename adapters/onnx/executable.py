"""What is run of an ONNX model: it without functions, shared values and fixed branches."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import InlinePass

from .branches import without_fixed_branches
from .budget import check_nodes
from .shared import Copy, separated
from .subgraphs import inner_nodes


def executable(model: ir.Model, max_bytes: int) -> tuple[ir.Model, dict[str, Copy], frozenset[str]]:
    """The model that runs, the uses that have a copy of their own, and constants of branches.

    Raises
    ------
    ValueError
        The model is not valid, or becomes too large.
    """
    flat, copies = _flat(model, max_bytes), dict[str, Copy]()
    try:
        if not model.functions:  # their nodes are not in the file: what they share stays shared
            flat, copies = separated(flat)
        flat, brought = without_fixed_branches(flat)
    except RuntimeError as error:  # of onnx_ir, which cannot copy it
        raise ValueError(
            "the model is not valid: a branch reads a value that nothing makes"
        ) from error
    return flat, copies, brought


def _flat(model: ir.Model, max_bytes: int) -> ir.Model:
    """The model without functions, if its nodes are in the order of execution.

    The weights are the same tensors.  A function that cannot be inlined stays, and its calls are
    operators that nobody knows.
    """
    if model.functions:
        check_nodes(model, max_bytes)
        try:
            model = InlinePass()(model.clone()).model
        except Exception:  # functions that call themselves, attributes that are missing
            return model
    if not _is_sorted(model.graph):
        raise ValueError(
            "expected the nodes of the model in the order of execution; call model.graph.sort()"
        )
    return model


def _is_sorted(graph: ir.Graph) -> bool:
    """Whether every node comes after those that make what it reads."""
    place = {node: i for i, node in enumerate(graph)}
    for node, i in place.items():
        for inner in (node, *inner_nodes(node)):
            for value in inner.inputs:
                maker = value.producer() if value is not None else None
                if maker is not None and place.get(maker, -1) > i:
                    return False
    return True
