"""ONNX: read a file, collect activations, arrange, reorganize, write it back.

Nodes, names, opset, metadata and untouched initializers stay as they were.
"""

from .collect import collect
from .model import OnnxModel, load
from .reorganize import arrange, reorganize

__all__ = ["OnnxModel", "arrange", "collect", "load", "reorganize"]
