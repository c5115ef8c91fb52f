"""ONNX files: load, collect class means with onnxruntime, arrange, reorganize."""

from .collect import collect
from .model import OnnxModel, load
from .reorganize import arrange, reorganize

__all__ = ["OnnxModel", "arrange", "collect", "load", "reorganize"]
