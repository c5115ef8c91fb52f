"""Graphs that nodes of an ONNX model hold: branches and bodies of loops."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir


def has_subgraph(node: ir.Node) -> bool:
    """Whether a node holds graphs."""
    kinds = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
    return any(isinstance(a, ir.Attr) and a.type in kinds for a in node.attributes.values())


def inner_nodes(node: ir.Node) -> Iterator[ir.Node]:
    """Nodes of the subgraphs of a node."""
    for attribute in node.attributes.values():
        if isinstance(attribute, ir.Attr) and attribute.type == ir.AttributeType.GRAPH:
            yield from attribute.value.all_nodes()


def captured(node: ir.Node) -> list[str]:
    """Names that the subgraphs of a node read."""
    found = [str(v.name) for inner in inner_nodes(node) for v in inner.inputs if v is not None]
    for attribute in node.attributes.values():
        if isinstance(attribute, ir.Attr) and attribute.type == ir.AttributeType.GRAPH:
            found += [str(v.name) for v in attribute.value.outputs]
    return found
