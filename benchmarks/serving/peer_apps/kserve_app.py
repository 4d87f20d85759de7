"""KServe's Python server on the graph named by GRAPH, over the Open Inference Protocol."""

import os
from typing import Any

import kserve
import onnxruntime as ort
from kserve.protocol.infer_type import InferOutput, InferRequest, InferResponse


class Classifier(kserve.Model):  # type: ignore[misc]
    """Answers inference requests."""

    def load(self) -> bool:
        """Open the graph."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = ort.InferenceSession(os.environ["GRAPH"], options, providers=["CPUExecutionProvider"])
        self.ready = True
        return True

    async def predict(self, payload: InferRequest, headers: Any = None, response_headers: Any = None) -> InferResponse:
        """Classify images."""
        answered = self.session.run(None, {"input": payload.inputs[0].as_numpy()})[0]
        output = InferOutput("probabilities", list(answered.shape), "FP32")
        wishes = payload.request_outputs or []
        binary = bool((payload.parameters or {}).get("binary_data_output")) or bool(wishes)
        output.set_data_from_numpy(answered, binary_data=binary)
        return InferResponse(payload.id or "0", self.name, [output])


if __name__ == "__main__":
    model = Classifier(os.environ["MODEL_NAME"])
    model.load()
    kserve.ModelServer(http_port=int(os.environ["PORT"]), enable_grpc=False, workers=1, access_log_format=None).start(
        [model]
    )
