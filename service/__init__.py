"""HTTP service for bundles of delta networks; needs neither torch nor onnx."""

__version__ = "0.1.0"
