"""TorchServe on the graph named by GRAPH, with its batching; this file is both the starter and the handler."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

_ROWS, _DELAY_MS = 64, 2
_ADDRESSES = ("inference", "management", "metrics")


class Classifier:
    """One image as `{"input": [...]}` in each request of a batch."""

    def initialize(self, context: Any) -> None:
        """Open the graph."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = ort.InferenceSession(os.environ["GRAPH"], options, providers=["CPUExecutionProvider"])

    def handle(self, requests: list[dict[str, Any]], context: Any) -> list[dict[str, list[float]]]:
        """Classify what came together."""
        images = [np.asarray(request["body"]["input"], np.float32).reshape(1, 28, 28) for request in requests]
        return [{"probabilities": row.tolist()} for row in self.session.run(None, {"input": np.stack(images)})[0]]


def main() -> int:
    """Make the archive and the configuration, and serve until told to stop."""
    programs, port = Path(sys.executable).parent, int(os.environ["PORT"])
    with tempfile.TemporaryDirectory() as folder:
        archive = ["--model-name", "model", "--version", "1", "--handler", __file__, "--export-path", folder]
        subprocess.run([str(programs / "torch-model-archiver"), *archive], check=True)
        batches = {"batchSize": _ROWS, "maxBatchDelay": _DELAY_MS, "responseTimeout": 60}
        model = {"1": {"marName": "model.mar", "minWorkers": 1, "maxWorkers": 1, "defaultVersion": True, **batches}}
        lines = [
            *(f"{name}_address=http://127.0.0.1:{port + offset}" for offset, name in enumerate(_ADDRESSES)),
            "disable_token_authorization=true",
            "load_models=model.mar",
            f"models={json.dumps({'model': model})}",
            "install_py_dep_per_model=false",
            "max_request_size=65536000",
        ]
        configuration = Path(folder, "config.properties")
        configuration.write_text("\n".join(lines) + "\n")
        flags = ["--start", "--foreground", "--ncs", "--model-store", folder, "--ts-config", str(configuration)]
        environment = {**os.environ, "LOG_LOCATION": folder, "METRICS_LOCATION": folder}
        environment["PATH"] = f"{programs}:{environment['PATH']}"
        server = subprocess.Popen([str(programs / "torchserve"), *flags], env=environment)
        try:
            return server.wait()
        except KeyboardInterrupt:
            return 0
        finally:
            subprocess.run([str(programs / "torchserve"), "--stop"], env=environment, check=False)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
