"""``If`` whose condition is the same for all inputs: the branch that runs takes its place.

PyTorch's exporter writes one wherever ``squeeze`` meets a size that it did not know.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from .inference import fixed_values
from .operator_names import operator


def without_fixed_branches(model: ir.Model) -> tuple[ir.Model, frozenset[str]]:
    """The model with such branches inlined, and the names of the constants that they brought.

    The given model stays as it is.  A condition that depends on the size of a free axis is not
    fixed: another size would run the other branch.
    """
    brought: set[str] = set()
    copied = False
    while any(operator(node) == "If" for node in model.graph):
        known = fixed_values(model)
        fixed = [
            n for n in model.graph
            if operator(n) == "If" and _is_whole(n)
            and known.get(_condition(n), np.empty(0)).size == 1
        ]  # fmt: skip
        if not fixed:
            break
        conditions = {str(n.outputs[0].name): bool(known[_condition(n)]) for n in fixed}
        if not copied:
            model, copied = model.clone(), True
        for node in list(model.graph):
            if operator(node) == "If" and str(node.outputs[0].name) in conditions:
                brought |= _inline(model.graph, node, conditions[str(node.outputs[0].name)])
    return model, frozenset(brought)


def _is_whole(node: ir.Node) -> bool:
    """Whether both branches are there, with an output for each of the node's."""
    branches = [node.attributes.get(name) for name in ("then_branch", "else_branch")]
    return len(node.inputs) == 1 and all(
        branch is not None
        and branch.type == ir.AttributeType.GRAPH
        and len(branch.as_graph().outputs) == len(node.outputs)
        for branch in branches
    )


def _condition(node: ir.Node) -> str:
    return "" if node.inputs[0] is None else str(node.inputs[0].name)


def _inline(graph: ir.Graph, node: ir.Node, condition: bool) -> set[str]:
    """Put a branch in the place of its ``If``; the names of its constants."""
    branch = node.attributes["then_branch" if condition else "else_branch"].as_graph()
    taken = {str(v.name) for v in (*graph.inputs, *graph.initializers.values())}
    taken |= {str(v.name) for other in graph for v in other.outputs}
    constants = set()
    nodes, ends = list(branch), list(branch.outputs)
    initializers = list(branch.initializers.values())
    branch.initializers.clear()
    branch.outputs.clear()
    branch.remove(nodes)
    for value in (*initializers, *(v for inner in nodes for v in inner.outputs)):
        if value.name in taken:  # branches of different nodes may use the same names
            value.name = next(
                name for i in range(len(taken) + 1) if (name := f"{value.name}~{i}") not in taken
            )
        if value.name:
            taken.add(value.name)
    names = {other.name for other in graph}
    for inner in nodes:
        inner.name = None if inner.name in names else inner.name
    for value in initializers:
        graph.register_initializer(value)
        constants.add(str(value.name))
    constants |= {str(n.outputs[0].name) for n in nodes if operator(n) == "Constant"}
    results = [ir.Node("", "Identity", [end]) for end in ends]
    ir.convenience.replace_nodes_and_values(
        graph, node, [node], [*nodes, *results], node.outputs, [r.outputs[0] for r in results]
    )
    return constants
