"""The handler that people write first: FastAPI, a pydantic body, `session.run` inside. The measure of all others.

Started as `uvicorn benchmarks.serving.naive:app` with the graph's path in the variable GRAPH.
"""

import os

import numpy as np
import onnxruntime as ort
from fastapi import FastAPI
from pydantic import BaseModel

options = ort.SessionOptions()
options.intra_op_num_threads = 1
session = ort.InferenceSession(os.environ["GRAPH"], options, providers=["CPUExecutionProvider"])
app = FastAPI()


class Question(BaseModel):
    """One image as a list of numbers."""

    input: list[float]


@app.get("/health")
async def health() -> dict[str, bool]:
    """Say that the model is loaded."""
    return {"ok": True}


@app.post("/predict")
async def predict(question: Question) -> dict[str, list[float]]:
    """Classify one image."""
    pixels = np.asarray(question.input, np.float32).reshape(1, 1, 28, 28)
    return {"probabilities": session.run(None, {"input": pixels})[0][0].tolist()}
