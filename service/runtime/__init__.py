"""Sessions over ONNX Runtime: the graph, its kernels, its golden samples. No settings, no HTTP."""
