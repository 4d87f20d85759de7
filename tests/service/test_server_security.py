"""The real process with TLS and keys: certificates are renewed and keys revoked while it runs."""

import http.client
import json
import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from service.security.keys import KeyFile, new_key, write_keys


class Process:
    """`python -m service` on a free port, ready to answer."""

    def __init__(self, repository: Path, folder: Path, *flags: str) -> None:
        self.log = folder / "log"
        command = [sys.executable, "-m", "service", "--port", "0", "--repository", str(repository), *flags]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("DDL_")}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment, bufsize=1
            )
        assert self.process.stdout is not None
        first = self.process.stdout.readline()
        assert first.startswith("ddl-serve"), self.log.read_text()
        self.url = first.split()[3]
        self.port = int(self.url.rpartition(":")[2])

    def get(self, path: str, key: str | None = None, context: ssl.SSLContext | None = None) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        if context is not None:
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                "127.0.0.1", self.port, timeout=20, context=context
            )
        else:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request("GET", path, headers=headers)
            response = connection.getresponse()
            response.read()
            return response.status, response.headers
        finally:
            connection.close()

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(30)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code


@pytest.fixture
def start(repository: Path, tmp_path: Path) -> Iterator[Callable[..., Process]]:
    started: list[Process] = []

    def begin(*flags: str) -> Process:
        started.append(Process(repository, tmp_path, "--kernel-library", "off", *flags))
        return started[-1]

    yield begin
    for process in started:
        if process.process.poll() is None:
            process.stop()


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 15
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def issue(ca: trustme.CA, folder: Path) -> tuple[Path, Path]:
    """Write a certificate for 127.0.0.1; the key first, as a careful renewal does."""
    made = ca.issue_cert("127.0.0.1")
    certificate, key = folder / "server.pem", folder / "server.key"
    made.private_key_pem.write_to_path(str(key))
    made.cert_chain_pems[0].write_to_path(str(certificate))
    return certificate, key


def test_tls_with_client_certificates_and_a_renewal(start: Callable[..., Process], tmp_path: Path) -> None:
    ca, clients = trustme.CA(), trustme.CA()
    certificate, key = issue(ca, tmp_path)
    clients.cert_pem.write_to_path(str(tmp_path / "clients.pem"))
    process = start(
        *("--tls-certificate", str(certificate), "--tls-key", str(key)),
        *("--tls-client-ca", str(tmp_path / "clients.pem")),
    )
    assert process.url.startswith("https://")
    trusting = ssl.create_default_context()
    ca.configure_trust(trusting)
    with pytest.raises((ssl.SSLError, ConnectionError)):
        process.get("/v2", context=trusting)
    clients.issue_cert("client").configure_cert(trusting)
    status, headers = process.get("/v2", context=trusting)
    assert status == 200
    assert headers["strict-transport-security"].startswith("max-age=")

    def serial() -> Any:
        connection = http.client.HTTPSConnection("127.0.0.1", process.port, timeout=20, context=trusting)
        connection.connect()
        peer = connection.sock.getpeercert()
        connection.close()
        return peer["serialNumber"]

    before = serial()
    issue(ca, tmp_path)
    eventually(lambda: serial() != before)
    key.write_text("damaged")
    eventually(lambda: "certificate unusable" in process.log.read_text())
    assert process.get("/v2", context=trusting)[0] == 200
    old = ssl.create_default_context()
    ca.configure_trust(old)
    clients.issue_cert("client").configure_cert(old)
    old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_2
    assert process.get("/v2", context=old)[0] == 200
    assert process.stop() == 0


def test_a_certificate_that_cannot_be_used_is_one_line(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "x.pem").write_text("no certificate")
    files = ("--tls-certificate", str(tmp_path / "x.pem"), "--tls-key", str(tmp_path / "x.pem"))
    command = [sys.executable, "-m", "service", "--port", "0", "--repository", str(repository), *files]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "tls_certificate" in result.stderr


def test_keys_are_made_and_revoked_while_it_runs(start: Callable[..., Process], tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    key, record = new_key("anna", ["infer"])
    write_keys(path, KeyFile(keys=(record,)))
    process = start("--api-keys", str(path), "--log-format", "json")
    assert process.get("/v1/models")[0] == 401
    assert process.get("/v1/models", key)[0] == 200
    assert process.get("/v2/health/ready")[0] == 200
    second, other = new_key("bert", ["infer"])
    write_keys(path, KeyFile(keys=(other,)))
    eventually(lambda: process.get("/v1/models", key)[0] == 401)
    assert process.get("/v1/models", second)[0] == 200
    path.write_text("damaged")
    eventually(lambda: "the old ones stay" in process.log.read_text())
    assert process.get("/v1/models", second)[0] == 200
    assert process.stop() == 0
    lines = [json.loads(line) for line in process.log.read_text().splitlines()]
    assert {"anna", "bert", "anonymous"} == {line["caller"] for line in lines if line["logger"] == "service.access"}
    assert key not in process.log.read_text()
