"""The compose file, built and started for a test: under a name, ports and files of its own."""

import json
import os
import re
import shutil
import socket
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.docker.engine import Engine

_PROJECT = "deep-delta-test"
_VARIABLE = re.compile(r"\$\{(\w+):-([^}]*)\}")


def default(root: Path, variable: str) -> str:
    """Return what the compose file takes when a variable is not set."""
    return dict(_VARIABLE.findall((root / "docker-compose.yml").read_text("utf-8")))[variable]


class Stack:
    """The services of docker-compose.yml; `folder` is for the test's own files."""

    def __init__(self, engine: Engine, root: Path, folder: Path) -> None:
        """Choose free ports and copy the models, which a test changes."""
        self.engine, self.root, self.folder = engine, root, folder
        self.models = folder / "models"
        shutil.copytree(root / "models", self.models)
        # Git keeps no modes but the executable bit; what containers read must be readable by their users.
        folder.chmod(0o755)
        self.ports = {
            name: _free_port() for name in ("DDL_PORT", "DDL_GRPC_PORT", "PROMETHEUS_PORT", "GRAFANA_PORT", "LOAD_PORT")
        }
        environment = {name: str(port) for name, port in self.ports.items()}
        environment |= {
            "MODELS": str(self.models),
            "DDL_DAILY_QUOTA": "1000000",
            "CPUS": str(min(2, os.cpu_count() or 1)),
        }
        self.engine.environment.update(environment)
        self.files: list[Path] = [root / "docker-compose.yml"]

    def add_language_model(self, name: str, bundle: Path) -> None:
        """Copy a bundle among the models, for texts longer than those that it was trained on."""
        folder = self.models / name
        shutil.copytree(bundle, folder / "1")
        (folder / "config.toml").write_text("[generation]\nslot_tokens = 256\n")

    @property
    def service(self) -> str:
        """Return the service's address on this host."""
        return f"http://127.0.0.1:{self.ports['DDL_PORT']}"

    @property
    def grafana(self) -> str:
        """Return Grafana's address on this host."""
        return f"http://127.0.0.1:{self.ports['GRAFANA_PORT']}"

    def compose(self, *arguments: str, files: Sequence[Path] | None = None, seconds: float = 600) -> str:
        """Run `docker compose ARGUMENTS`."""
        chosen = [word for file in files or self.files for word in ("-f", str(file))]
        return self.engine.docker("compose", "-p", _PROJECT, *chosen, *arguments, cwd=self.root, seconds=seconds)

    def build(self, *services: str) -> None:
        """Build the images; a private engine has the host's network alone to build with."""
        override = self.folder / "build.json"
        network = {"build": {"network": "host"}} if self.engine.is_private else {"build": {}}
        override.write_text(json.dumps({"services": dict.fromkeys(services, network)}))
        self.compose("--profile", "*", "build", *services, files=[*self.files, override], seconds=1500)

    def up(self, *services: str) -> None:
        """Start services (all without a profile, if none is named) and wait until they are healthy."""
        pull = ("--no-build", "--pull", "never") if self.engine.is_private else ("--no-build",)
        self.compose("up", "-d", *pull, "--wait", "--wait-timeout", "120", *services)

    def inspect(self, service: str, template: str) -> str:
        """Return what the engine knows about a service's container."""
        container = self.compose("ps", "-aq", service).strip()
        return self.engine.docker("inspect", "-f", template, container).strip()

    def prometheus(self, query: str) -> list[dict[str, Any]]:
        """Run an instant query."""
        base = f"http://127.0.0.1:{self.ports['PROMETHEUS_PORT']}"
        form = urllib.parse.urlencode({"query": query})
        with urllib.request.urlopen(f"{base}/api/v1/query?{form}", timeout=10) as answer:
            result: list[dict[str, Any]] = json.load(answer)["data"]["result"]
        return result

    def ask(self, path: str, body: bytes | None = None, media: str = "image/png", key: str | None = None) -> Any:
        """Send a request to the service and return its answer as JSON; any status but 2xx raises."""
        headers = {"Content-Type": media} | ({"Authorization": f"Bearer {key}"} if key else {})
        request = urllib.request.Request(self.service + path, body, headers)
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.loads(answer.read() or b"null")

    def status(self, path: str) -> int:
        """Return the status of an answer; 0 if none came."""
        try:
            with urllib.request.urlopen(self.service + path, timeout=5) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0


def wait_for(what: str, true: Callable[[], object], seconds: float = 60) -> None:
    """Ask until it is true."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"{what}: not within {seconds:.0f} s"
        time.sleep(0.25)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
