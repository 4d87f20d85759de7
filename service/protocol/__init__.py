"""The Open Inference Protocol as pure functions: bytes to checked arrays and back; knows neither HTTP nor gRPC."""
