"""BentoML on the graph named by GRAPH, with its adaptive batching: `bentoml serve bentoml_app:Classifier`."""

import os

import bentoml
import numpy as np
import onnxruntime as ort


@bentoml.service(workers=1, traffic={"timeout": 60})  # type: ignore[untyped-decorator]
class Classifier:
    """Images as `{"input": [[...]]}`."""

    def __init__(self) -> None:
        """Open the graph."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = ort.InferenceSession(os.environ["GRAPH"], options, providers=["CPUExecutionProvider"])

    @bentoml.api(batchable=True, max_batch_size=64, max_latency_ms=60_000)  # type: ignore[untyped-decorator]
    def predict(self, input: np.ndarray) -> np.ndarray:
        """Classify images."""
        images = np.asarray(input, np.float32).reshape(-1, 1, 28, 28)
        return self.session.run(None, {"input": images})[0]  # type: ignore[no-any-return]
