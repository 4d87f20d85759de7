"""The short way of inference requests: from the HTTP parser to the batcher and back, without ASGI."""
