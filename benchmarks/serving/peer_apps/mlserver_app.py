"""MLServer on the graph named by GRAPH, with its adaptive batching; this file also writes its two settings files."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import onnxruntime as ort
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Classifier(MLModel):  # type: ignore[misc]
    """Answers inference requests."""

    async def load(self) -> bool:
        """Open the graph."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = ort.InferenceSession(os.environ["GRAPH"], options, providers=["CPUExecutionProvider"])
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Classify images."""
        images = NumpyCodec.decode_input(payload.inputs[0]).astype("float32")
        answered = self.session.run(None, {"input": images})[0]
        outputs = [NumpyCodec.encode_output("probabilities", answered)]
        return InferenceResponse(model_name=self.name, outputs=outputs)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        settings = {
            "http_port": int(os.environ["PORT"]),
            "grpc_port": int(os.environ["PORT"]) + 1,
            "metrics_port": int(os.environ["PORT"]) + 2,
            "parallel_workers": int(os.environ.get("WORKERS", "0")),
            "debug": False,
        }
        model = {
            "name": os.environ["MODEL_NAME"],
            "implementation": "mlserver_app.Classifier",
            "max_batch_size": 64,
            "max_batch_time": 0.002,
        }
        Path(folder, "settings.json").write_text(json.dumps(settings))
        Path(folder, "model-settings.json").write_text(json.dumps(model))
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
        command = [str(Path(sys.executable).parent / "mlserver"), "start", folder]
        sys.exit(subprocess.run(command, env=environment, check=False).returncode)
