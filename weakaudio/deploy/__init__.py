"""Deployment: ONNX files in float32 and 8 bits, ONNX Runtime, CUDA graphs, and the timer."""
