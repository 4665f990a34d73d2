"""Models leave torch: ONNX files, in float32 and in 8 bits, and what runs them."""
