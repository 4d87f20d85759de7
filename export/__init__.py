"""From checkpoint to bundle: the only place where torch meets ONNX."""
