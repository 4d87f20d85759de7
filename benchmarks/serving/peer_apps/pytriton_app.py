"""NVIDIA Triton with a Python model (PyTriton) on the graph named by GRAPH, with Triton's dynamic batching."""

import os
import sys
import sysconfig
from typing import Any

import numpy as np
import onnxruntime as ort
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

options = ort.SessionOptions()
options.intra_op_num_threads = 1
session = ort.InferenceSession(os.environ["GRAPH"], options, providers=["CPUExecutionProvider"])


@batch  # type: ignore[untyped-decorator]
def classify(**inputs: Any) -> dict[str, Any]:
    """Run the graph on a batch."""
    return {"probabilities": session.run(None, {"input": inputs["input"]})[0]}


if __name__ == "__main__":
    # Triton's own Python process must find the library of this Python, not another one of the system.
    libraries = str(sysconfig.get_config_var("LIBDIR"))
    if os.environ.get("LD_LIBRARY_PATH") != libraries:
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "LD_LIBRARY_PATH": libraries})
    port = int(os.environ["PORT"])
    config = TritonConfig(http_port=port, http_address="127.0.0.1", allow_grpc=False, allow_metrics=False)
    with Triton(config=config) as triton:
        triton.bind(
            model_name=os.environ["MODEL_NAME"],
            infer_func=classify,
            inputs=[Tensor(name="input", dtype=np.float32, shape=(1, 28, 28))],
            outputs=[Tensor(name="probabilities", dtype=np.float32, shape=(10,))],
            config=ModelConfig(max_batch_size=64, batcher=DynamicBatcher(max_queue_delay_microseconds=0)),
        )
        triton.serve()
