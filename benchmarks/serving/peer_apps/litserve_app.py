"""LitServe on the graph named by GRAPH: its own batching, 64 rows at most."""

import os
from typing import Any

import litserve
import numpy as np
import onnxruntime as ort


class Classifier(litserve.LitAPI):  # type: ignore[misc]
    """One image as `{"input": [...]}`."""

    def setup(self, device: str) -> None:
        """Open the graph."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = ort.InferenceSession(os.environ["GRAPH"], options, providers=["CPUExecutionProvider"])

    def decode_request(self, request: dict[str, Any]) -> Any:
        """Read the numbers."""
        return np.asarray(request["input"], np.float32).reshape(1, 28, 28)

    def batch(self, inputs: list[Any]) -> Any:
        """Put images together."""
        return np.stack(inputs)

    def predict(self, images: Any) -> Any:
        """Run the graph."""
        return self.session.run(None, {"input": images})[0]

    def unbatch(self, output: Any) -> list[Any]:
        """Take the rows apart."""
        return list(output)

    def encode_response(self, output: Any) -> dict[str, list[float]]:
        """Write the numbers."""
        return {"probabilities": output.tolist()}


if __name__ == "__main__":
    server = litserve.LitServer(Classifier(max_batch_size=64, batch_timeout=0.002), accelerator="cpu")
    server.run(host="127.0.0.1", port=int(os.environ["PORT"]), log_level="warning", generate_client_file=False)
