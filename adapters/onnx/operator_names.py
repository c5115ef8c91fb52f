"""Names of operators that tell whose they are."""

from __future__ import annotations

from typing import Protocol


class Node(Protocol):
    """A node of :mod:`onnx` or of onnx-ir."""

    domain: str
    op_type: str


def operator(node: Node) -> str:
    """An operator's name; that of another domain never looks like one of ONNX's own.

    Examples
    --------
    >>> from onnx import helper
    >>> operator(helper.make_node("Identity", ["x"], ["y"]))
    'Identity'
    >>> operator(helper.make_node("Identity", ["x"], ["y"], domain="mine"))
    'mine.Identity'
    """
    return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"
