"""The real process: start, answer, drain, and the words it says when it cannot start."""

import http.client
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from service.__main__ import main
from tests.service.tiny_bundle import HEIGHT, WIDTH, BundleMaker

BODY = json.dumps({"pixels": [[0] * WIDTH] * HEIGHT}).encode()
CLASSIFY = "/v1/models/tiny/classify"


class Server:
    """`python -m service` on a free port."""

    def __init__(self, repository: Path, *flags: str) -> None:
        command = [sys.executable, "-m", "service", "--port", "0", "--repository", str(repository), *flags]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("DDL_")}
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )
        assert self.process.stdout is not None
        self.banner = [self.process.stdout.readline().rstrip("\n")]
        assert self.banner[0].startswith("ddl-serve"), self.finish(kill=True)
        while not self.banner[-1].startswith("  curl"):
            self.banner.append(self.process.stdout.readline().rstrip("\n"))
        self.connections: list[http.client.HTTPConnection] = []
        self.url = self.banner[0].split()[3]
        self.port = int(self.url.rpartition(":")[2])

    def connect(self) -> http.client.HTTPConnection:
        self.connections.append(http.client.HTTPConnection("127.0.0.1", self.port, timeout=20))
        return self.connections[-1]

    def get(self, path: str, connection: http.client.HTTPConnection | None = None) -> tuple[int, Any]:
        connection = connection or self.connect()
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, json.loads(response.read())

    def begin_request(self) -> http.client.HTTPConnection:
        """Send a request but for its last byte."""
        connection = self.connect()
        connection.putrequest("POST", CLASSIFY)
        connection.putheader("Content-Type", "application/json")
        connection.putheader("Content-Length", str(len(BODY)))
        connection.endheaders(BODY[:-1])
        while self.in_flight() < 2:  # the scrape is the other one
            time.sleep(0.01)
        return connection

    def in_flight(self) -> float:
        connection = self.connect()
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        return float(text.partition("\nddl_http_requests_in_flight ")[2].partition("\n")[0])

    def finish(self, *, kill: bool = False) -> tuple[int, str]:
        if kill:
            self.process.kill()
        _, errors = self.process.communicate(timeout=30)
        return self.process.returncode, errors


@pytest.fixture
def start(repository: Path) -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def begin(*flags: str, folder: Path = repository) -> Server:
        servers.append(Server(folder, *flags))
        return servers[-1]

    yield begin
    for server in servers:
        if server.process.poll() is None:
            server.finish(kill=True)
        for connection in server.connections:
            connection.close()
        for pipe in (server.process.stdout, server.process.stderr):
            assert pipe is not None
            pipe.close()


def test_sigterm_lets_the_request_in_flight_finish(start: Callable[..., Server]) -> None:
    server = start("--drain-delay-seconds", "2", "--kernel-library", "off")
    watcher = server.connect()
    assert server.get("/v2/health/ready", watcher) == (200, {"ready": True})
    in_flight = server.begin_request()
    server.process.send_signal(signal.SIGTERM)
    status, answer = 200, {}
    while status == 200:  # readiness says no while the port is still open
        status, answer = server.get("/v2/health/ready", watcher)
    assert (status, answer["detail"]) == (503, "the service is shutting down")
    assert server.get("/v2/health/live")[0] == 200
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:  # until the port is closed
        try:
            socket.create_connection(("127.0.0.1", server.port), 1).close()
        except ConnectionError:
            break
        time.sleep(0.05)
    else:
        pytest.fail("the port stayed open")
    assert server.process.poll() is None
    in_flight.send(BODY[-1:])
    response = in_flight.getresponse()
    assert response.status == 200
    assert json.loads(response.read())["predictions"]
    code, errors = server.finish()
    assert code == 0, errors
    assert "Traceback" not in errors


def test_a_request_that_does_not_finish_is_cut_off_and_the_exit_code_says_so(start: Callable[..., Server]) -> None:
    server = start("--drain-delay-seconds", "0", "--drain-seconds", "1")
    server.begin_request()
    server.process.send_signal(signal.SIGTERM)
    code, errors = server.finish()
    assert code == 1
    assert "stopped before every request was answered" in errors


def test_the_second_signal_stops_at_once(start: Callable[..., Server]) -> None:
    server = start("--drain-delay-seconds", "60", "--log-level", "warning")
    assert server.get("/v2/health/live") == (200, {"live": True})
    server.process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert server.process.poll() is None
    server.process.send_signal(signal.SIGINT)
    code, errors = server.finish()
    assert code == 1
    assert "Traceback" not in errors


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl to try the printed command with")
def test_the_banner_names_models_kernel_and_a_command_that_works(
    start: Callable[..., Server], tmp_path: Path, maker: BundleMaker
) -> None:
    maker.write(tmp_path)
    maker.write(tmp_path, "broken", after=lambda f: (f / "graphs" / "model.onnx").unlink())
    server = start("--kernel-library", "off", folder=tmp_path)
    text = "\n".join(server.banner)
    assert "REFUSED  broken version 1: graphs/model.onnx is missing" in text
    assert "ready    tiny version 1, PLAIN BODY, slower (switched off)" in text
    command = server.banner[-1].strip()
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert "problem" not in result.stdout
    assert ("predictions" in result.stdout) or ("outputs" in result.stdout), result.stdout
    assert shlex.split(command)[0] == "curl"


@pytest.fixture
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave pytest's own logging alone where `main` runs in this process."""
    monkeypatch.setattr("service.__main__.configure_logs", lambda *_: None)


@pytest.mark.usefixtures("_quiet")
def test_a_port_in_use_is_one_line(repository: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["--port", str(port), "--repository", str(repository)]) == 1
    errors = capfd.readouterr().err
    assert (
        errors == f"ddl-serve: cannot listen on 127.0.0.1 port {port}: Address already in use; set --host or --port\n"
    )


@pytest.mark.usefixtures("_quiet")
def test_a_host_that_does_not_exist_is_one_line(repository: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--host", "no.such.host.invalid", "--repository", str(repository)]) == 1
    assert capfd.readouterr().err.count("\n") == 1


@pytest.mark.usefixtures("_quiet")
@pytest.mark.parametrize("make", [False, True])
def test_nothing_to_serve_is_one_line(tmp_path: Path, make: bool, capfd: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "models"
    if make:
        folder.mkdir()
    assert main(["--repository", str(folder)]) == 2
    errors = capfd.readouterr().err
    assert errors.startswith("ddl-serve: nothing to serve: ")
    assert str(folder) in errors
    assert errors.count("\n") == 1


@pytest.mark.usefixtures("_quiet")
def test_a_wrong_setting_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--prot", "1"]) == 2
    assert capfd.readouterr().err == "ddl-serve: unknown argument --prot; did you mean --port?; --help lists all\n"
