"""ONNX operators as structural nodes."""
