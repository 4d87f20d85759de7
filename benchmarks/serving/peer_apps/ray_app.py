"""Ray Serve on the graph named by GRAPH, with its batching decorator."""

import os
import signal
from typing import Any

import numpy as np
import onnxruntime as ort
from ray import serve


@serve.deployment(max_ongoing_requests=256)  # type: ignore[untyped-decorator]
class Classifier:
    """One image as `{"input": [...]}`."""

    def __init__(self, graph: str) -> None:
        """Open the graph."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    @serve.batch(max_batch_size=64, batch_wait_timeout_s=0.002)  # type: ignore[untyped-decorator]
    async def predict(self, images: list[Any]) -> list[list[float]]:
        """Classify what came together."""
        return list(self.session.run(None, {"input": np.stack(images)})[0].tolist())

    async def __call__(self, request: Any) -> dict[str, Any]:
        """Answer one request; one without a body asks for readiness."""
        if request.method == "GET":
            return {"ok": True}
        numbers = (await request.json())["input"]
        return {"probabilities": await self.predict(np.asarray(numbers, np.float32).reshape(1, 28, 28))}


if __name__ == "__main__":
    serve.start(http_options={"host": "127.0.0.1", "port": int(os.environ["PORT"])})
    serve.run(Classifier.bind(os.environ["GRAPH"]), route_prefix="/predict")
    signal.sigwait([signal.SIGTERM, signal.SIGINT])
    serve.shutdown()
