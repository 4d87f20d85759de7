"""The clients of Triton, KServe and OpenAI, unchanged, against the service in a process of its own.

They need packages whose versions contradict the service's: `make clients` puts them into an environment of their own,
and `CLIENTS_PYTHON` names another one.
"""

import json
import os
import re
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.running_service import running_service
from tests.service.openai.models import write_text_models
from tests.service.tiny_bundle import BundleMaker

HERE = Path(__file__).parent
SCRIPTS = ("triton_http", "triton_grpc", "kserve_client", "openai_client")
CHECKS = [
    (script, check)
    for script in SCRIPTS
    for check in re.findall(r"^def (check_\w+)", (HERE / f"{script}.py").read_text(), re.MULTILINE)
]


@pytest.fixture(scope="module")
def python(root: Path) -> str:
    """Return the interpreter of the clients' environment."""
    found = os.environ.get("CLIENTS_PYTHON") or str(root / ".venv-clients" / "bin" / "python")
    if not Path(found).exists():
        pytest.skip(f"there is no {found}: `make clients` installs the clients of Triton, KServe and OpenAI")
    return found


@contextmanager
def service(root: Path, *flags: str) -> Iterator[tuple[str, str]]:
    """Run a service and yield its addresses, HTTP and gRPC."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with running_service(root, "--grpc-port", str(port), *flags) as base:
        yield base.removeprefix("http://"), f"127.0.0.1:{port}"


@pytest.fixture(scope="module")
def addresses(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Return where a service over one tiny model listens."""
    repository = tmp_path_factory.mktemp("repository")
    BundleMaker().write(repository)
    with service(root, "--repository", str(repository), "--control", "explicit") as (http, grpc):
        yield {"SERVICE_HTTP": http, "SERVICE_GRPC": grpc}


@pytest.fixture(scope="module")
def text_addresses(root: Path, text_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Return where a service over language models listens."""
    repository = tmp_path_factory.mktemp("text-repository")
    write_text_models(repository, text_bundle, slot_tokens=2000)
    with running_service(root, "--repository", str(repository)) as base:
        yield {"SERVICE_HTTP": base.removeprefix("http://")}


@pytest.fixture(scope="module")
def results(python: str, addresses: dict[str, str], text_addresses: dict[str, str]) -> dict[str, dict[str, str]]:
    """Return what became of each script's checks."""
    found = {}
    for script in SCRIPTS:
        given = text_addresses if script == "openai_client" else addresses
        done = subprocess.run(
            [python, str(HERE / f"{script}.py")],
            env={"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), **given},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-4000:]
        found[script] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_there_are_checks() -> None:
    assert {script for script, _ in CHECKS} == set(SCRIPTS)
    assert len(CHECKS) > 45


@pytest.mark.parametrize(("script", "check"), CHECKS)
def test_client(results: dict[str, dict[str, str]], script: str, check: str) -> None:
    assert results[script].get(check) == "ok"


def test_the_examples_of_the_document_run(root: Path, python: str) -> None:
    examples = re.findall(r"^```python\n(.*?)^```$", (root / "docs/api.md").read_text(), re.MULTILINE | re.DOTALL)
    assert len(examples) == 3
    with service(root) as (http, grpc):
        for example in examples:
            code = example.replace("127.0.0.1:8000", http).replace("127.0.0.1:8001", grpc)
            done = subprocess.run([python, "-c", code], capture_output=True, text=True, timeout=120, check=False)
            assert done.returncode == 0, f"{example}\n{done.stderr}"
