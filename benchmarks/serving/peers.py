"""The servers that are compared, and how each is started on a graph; those that are not installed are left out.

Others than our own run in virtual environments of their own below the folder of `--environments`, by their names:
their dependencies cannot live together.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
_IMAGE = [1, 1, 28, 28]
_ONE_THREAD = {"OMP_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Peer:
    """A server and one of its protocols.

    `command` may name {python}, {port}, {graph} (the ONNX file), {repository} and {model}; `format` is one of
    `payloads.FORMATS`.
    """

    command: str
    target: str
    ready: str
    format: str
    shape: list[int] = field(default_factory=lambda: _IMAGE)
    environment: Mapping[str, str] = field(default_factory=dict)

    def filled(self, python: str, port: int, graph: Path, model: str) -> tuple[list[str], dict[str, str]]:
        """Return the command and the environment for a model."""
        values = {
            "python": python,
            "port": str(port),
            "graph": str(graph),
            "model": model,
            "repository": str(graph.parents[3]),
            "here": str(Path(__file__).parent / "peer_apps"),
        }
        environment = {"PYTHONPATH": str(REPOSITORY), "GRAPH": str(graph), "PORT": str(port), "MODEL_NAME": model}
        return self.command.format(**values).split(), {**environment, **_ONE_THREAD, **self.environment}


_OURS = "{python} -m service --repository {repository} --port {port} --threads 1 --log-level warning"
_UVICORN = "{python} -m uvicorn --port {port} --log-level warning --no-access-log"
_INFER = "/v2/models/{model}/infer"
_READY = "/v2/health/ready"
_MODEL_READY = "/v2/models/{model}/ready"

PEERS = {
    "naive": Peer(_UVICORN + " benchmarks.serving.naive:app", "/predict", "/health", "plain"),
    "ours": Peer(_OURS, _INFER, _READY, "json"),
    "ours-binary": Peer(_OURS, _INFER, _READY, "binary"),
    "pytriton": Peer("{python} {here}/pytriton_app.py", _INFER, _MODEL_READY, "json"),
    "pytriton-binary": Peer("{python} {here}/pytriton_app.py", _INFER, _MODEL_READY, "binary"),
    "kserve": Peer("{python} {here}/kserve_app.py", _INFER, _MODEL_READY, "json"),
    "kserve-binary": Peer("{python} {here}/kserve_app.py", _INFER, _MODEL_READY, "binary"),
    "mlserver": Peer("{python} {here}/mlserver_app.py", _INFER, _MODEL_READY, "json"),
    "bentoml": Peer(
        "{python} -m bentoml serve bentoml_app:Classifier --working-dir {here} --port {port}",
        "/predict",
        "/readyz",
        "rows",
    ),
    "litserve": Peer("{python} {here}/litserve_app.py", "/predict", "/health", "plain"),
    "torchserve": Peer("{python} {here}/torchserve_app.py", "/predictions/model", "/ping", "plain"),
    "ray": Peer("{python} {here}/ray_app.py", "/predict", "/predict", "plain"),
}


def python_of(peer: str, environments: Path | None) -> str | None:
    """Return the interpreter that a peer runs in; None if it is not installed."""
    if peer.partition("-")[0] in ("naive", "ours"):
        return sys.executable
    found = environments / peer.partition("-")[0] / "bin" / "python" if environments else None
    return str(found) if found and found.exists() else None
