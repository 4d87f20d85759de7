"""`ddl-serve` or `python -m service`: read the settings, take the port, serve, and drain when told to stop."""

import os
import socket
import sys
import time
from collections.abc import Sequence
from math import prod
from pathlib import Path
from types import FrameType
from typing import NoReturn

import uvicorn
from fastapi import FastAPI

from service import __version__
from service.api.state import State
from service.app import create_app
from service.errors import RepositoryEmpty
from service.logs import configure_logs
from service.repository import Entry, Loaded
from service.settings import InvalidSettings, Settings, load_settings

EXIT_FAILED = 1
EXIT_SETTINGS = 2

_EXAMPLE_IMAGE = Path("docs/images/ankle-boot.png")


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT.

    Returns:
        0 after every request in flight was answered, 1 if the service could not start or requests were cut off,
        2 if a setting is wrong or there is nothing to serve.
    """
    try:
        settings = load_settings(sys.argv[1:] if arguments is None else arguments)
        configure_logs(settings.log_level)
        app = create_app(settings)
    except InvalidSettings as error:
        return _fail(str(error), EXIT_SETTINGS)
    except RepositoryEmpty as error:
        return _fail(f"nothing to serve: {error}; set --repository or DDL_REPOSITORY", EXIT_SETTINGS)
    try:
        return _serve(app, settings, _listen(settings))
    except OSError as error:
        where = f"{settings.host} port {settings.port}"
        return _fail(f"cannot listen on {where}: {error.strerror}; set --host or --port", EXIT_FAILED)


class DrainingServer(uvicorn.Server):
    """A server that says it is not ready before it stops listening, and lets requests in flight finish."""

    def __init__(self, config: uvicorn.Config, state: State, greeting: str) -> None:
        """Prepare; `greeting` is the URL to print when the models are loaded and the port is open."""
        super().__init__(config)
        self._state = state
        self._url = greeting
        self._stop_at: float | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Load the models, open the port, and say what is served."""
        await super().startup(sockets)
        if self.started:
            print(banner(self._state, self._url), flush=True)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain at the first signal; leave at once at the second, or while the models are loaded."""
        if not self.started:
            os._exit(128 + sig)
        if self._stop_at is None:
            self._state.draining = True
            self._stop_at = time.monotonic() + self._state.settings.drain_delay_seconds
        else:
            _leave()

    async def on_tick(self, counter: int) -> bool:
        """Stop listening when readiness has said no for long enough."""
        if self._stop_at is not None and time.monotonic() >= self._stop_at:
            self.should_exit = True
        return await super().on_tick(counter)


def banner(state: State, url: str) -> str:
    """Say what is served where, on which path the rewrites are computed, and how to try it."""
    entries = state.repository.entries()
    lines = [f"ddl-serve {__version__} at {url}  (documentation: {url}/docs)"]
    lines += [_model_line(entry) for entry in entries]
    ready = [entry.loaded for entry in entries if entry.loaded is not None]
    if ready:
        lines += ["Try it:", "  " + _example(ready[0], url)]
    return "\n".join(lines)


def _model_line(entry: Entry) -> str:
    name = f"{entry.name} version {entry.version}"
    if entry.loaded is None:
        return f"  REFUSED  {name}: {entry.reason}"
    kernel = entry.loaded.session.kernel
    if kernel.path == "kernel":
        return f"  ready    {name}, kernel ({kernel.reason})"
    loud = "PLAIN BODY, slower" if entry.loaded.manifest.graph.custom_ops else "plain"
    return f"  ready    {name}, {loud} ({kernel.reason})"


def _example(model: Loaded, url: str) -> str:
    """Return a command to paste: classify the picture of the checkout if there is one, else infer on zeros."""
    picture = Path(__file__).parent.parent / _EXAMPLE_IMAGE
    if picture.is_file():
        shown = picture.relative_to(Path.cwd()) if picture.is_relative_to(Path.cwd()) else picture
        return f"curl -F image=@{shown} {url}/v1/models/{model.name}/classify"
    spec = model.manifest.graph.inputs[0]
    shape = [1, *spec.shape[1:]]
    zeros = f"'$(yes 0 | head -n {prod(shape)} | paste -sd, -)'"
    tensor = f'{{"name":"{spec.name}","shape":{shape},"datatype":"{spec.datatype}","data":[{zeros}]}}'
    return f"curl {url}/v2/models/{model.name}/infer -H 'Content-Type: application/json' -d '{{\"inputs\":[{tensor}]}}'"


def _listen(settings: Settings) -> socket.socket:
    """Take the port before anything is loaded, so that a taken one is noticed at once."""
    family, kind, protocol, _, address = socket.getaddrinfo(
        settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError:
        listener.close()
        raise
    return listener


def _serve(app: FastAPI, settings: Settings, listener: socket.socket) -> int:
    state: State = app.state.service
    host = (
        "127.0.0.1" if settings.host == "0.0.0.0" else f"[{settings.host}]" if ":" in settings.host else settings.host
    )
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=settings.drain_seconds,
    )
    server = DrainingServer(config, state, f"http://{host}:{listener.getsockname()[1]}")
    server.run([listener])
    if not server.started:
        return EXIT_FAILED
    if state.cut_off or state.runner.running:
        _leave()
    return 0


def _leave() -> NoReturn:
    """End the process now: a model run cannot be interrupted, and the interpreter would wait for its thread."""
    os.write(2, b"ddl-serve: stopped before every request was answered\n")
    os._exit(EXIT_FAILED)


def _fail(message: str, code: int) -> int:
    print(f"ddl-serve: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
