"""ONNX: read a file, collect activations, arrange, reorganize, shrink, write it back.

Nodes, names, opset, metadata and untouched initializers stay as they were.  And maps as files:
:func:`to_onnx`.
"""

from .call import Call
from .changes import apply_changes, save_changes
from .collect import collect
from .map_export import register_onnx_converters, to_onnx
from .model import OnnxModel, load
from .operators.registration import register_operator
from .reorganize import arrange, reorganize, shrink

__all__ = [
    "Call",
    "OnnxModel",
    "apply_changes",
    "arrange",
    "collect",
    "load",
    "register_onnx_converters",
    "register_operator",
    "reorganize",
    "save_changes",
    "shrink",
    "to_onnx",
]
