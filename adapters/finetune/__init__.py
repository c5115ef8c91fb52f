"""Fine-tuning of ONNX files, with or without the PyTorch module that they came from."""
