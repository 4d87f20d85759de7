"""What the service says over the Open Inference Protocol, as plain values: the same over HTTP and over gRPC."""
