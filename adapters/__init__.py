"""Adapters between the framework-neutral core and PyTorch, ONNX and the command line."""
