"""ONNX: read a file, collect activations, arrange, reorganize, shrink, write it back.

Nodes, names, opset, metadata and untouched initializers stay as they were.  And maps as files:
:func:`to_onnx`.
"""

from .collect import collect
from .map_export import register_onnx_converters, to_onnx
from .model import OnnxModel, load
from .operators.registration import register_operator
from .reorganize import arrange, reorganize, shrink
from .structure import Call

__all__ = [
    "Call",
    "OnnxModel",
    "arrange",
    "collect",
    "load",
    "register_onnx_converters",
    "register_operator",
    "reorganize",
    "shrink",
    "to_onnx",
]
