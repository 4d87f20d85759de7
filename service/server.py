"""The HTTP server: sockets, TLS, limits of connections, and an end that loses no request."""

import logging
import os
import socket
import ssl
import time
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

import uvicorn
from fastapi import FastAPI

from service.api.state import State
from service.banner import banner
from service.connection import ConnectionLimits, bounded, sweep
from service.lane.connection import with_lane
from service.lane.exchange import Lane
from service.settings import InvalidSettings, Settings

EXIT_FAILED = 1

_logger = logging.getLogger(__name__)

_SWEEP_SECONDS = 1.0


class DrainingServer(uvicorn.Server):
    """A server that says it is not ready before it stops listening, and lets requests in flight finish."""

    def __init__(self, config: uvicorn.Config, state: State, ready: Callable[[], None]) -> None:
        """Prepare; `ready` is called when the models are loaded and the port is open."""
        super().__init__(config)
        self._state = state
        self._ready = ready
        self._stop_at: float | None = None
        self._sweep_at = 0.0
        self._certificate = _Certificate(state.settings)
        state.metrics.connections.watch(lambda: len(self.server_state.connections))

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Load the models, open the port, and say what is served."""
        await super().startup(sockets)
        if self.started:
            self._ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain at the first signal; leave at once at the second, or while the models are loaded."""
        if not self.started:
            os._exit(128 + sig)
        if self._stop_at is None:
            self._state.draining = True
            self._stop_at = time.monotonic() + self._state.settings.drain_delay_seconds
        else:
            leave()

    async def on_tick(self, counter: int) -> bool:
        """Look after connections; stop listening when readiness has said no for long enough."""
        now = time.monotonic()
        if now >= self._sweep_at:
            self._sweep_at = now + _SWEEP_SECONDS
            sweep(self.server_state.connections)
            self._certificate.renew(self.config.ssl)
        if self._stop_at is not None and now >= self._stop_at:
            self.should_exit = True
        return await super().on_tick(counter)


class _Certificate:
    """Takes a renewed certificate for new connections, without a restart."""

    def __init__(self, settings: Settings) -> None:
        self._certificate, self._key = settings.tls_certificate, settings.tls_key
        self._seen = self._look()

    def renew(self, context: ssl.SSLContext | None) -> None:
        """Load the files again if they changed; while they are unusable the old certificate stays."""
        if context is None or self._certificate is None or (now := self._look()) == self._seen:
            return
        self._seen = now
        try:
            context.load_cert_chain(self._certificate, self._key)
            _logger.info("certificate renewed", extra={"fields": {"path": self._certificate}})
        except (OSError, ssl.SSLError) as error:
            fields = {"path": self._certificate, "reason": str(error)}
            _logger.error("certificate unusable, the old one stays", extra={"fields": fields})

    def _look(self) -> list[int]:
        files = [file for file in (self._certificate, self._key) if file is not None and file.exists()]
        return [file.stat().st_mtime_ns for file in files]


def listen(settings: Settings, port: int) -> socket.socket:
    """Take the port before anything is loaded, so that a taken one is noticed at once.

    Raises:
        OSError: the address does not exist, or the port is taken.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(
        settings.host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError:
        listener.close()
        raise
    return listener


def serve(app: FastAPI, settings: Settings, listener: socket.socket, say: Callable[[str], None]) -> int:
    """Serve until a signal; `say` gets the banner.

    Returns:
        The exit code: 0 after every request in flight was answered, 1 otherwise.

    Raises:
        InvalidSettings: the certificate or its key cannot be used.
    """
    state: State = app.state.service
    limits = ConnectionLimits(
        header_bytes=settings.max_header_bytes,
        connections=settings.max_connections,
        client_seconds=settings.client_seconds,
        draining=lambda: state.draining,
        refused=state.metrics.connections.refused,
    )
    config = uvicorn.Config(
        app,
        http=bounded(with_lane(Lane(state)), limits),
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # the guard reads them, for the lane and gRPC too
        timeout_keep_alive=settings.keep_alive_seconds,
        timeout_graceful_shutdown=settings.drain_seconds,
        ssl_certfile=settings.tls_certificate,
        ssl_keyfile=settings.tls_key,
        ssl_ca_certs=str(settings.tls_client_ca) if settings.tls_client_ca else None,
        ssl_cert_reqs=ssl.CERT_REQUIRED if settings.tls_client_ca else ssl.CERT_NONE,
    )
    try:
        config.load()
    except (OSError, ssl.SSLError) as error:
        raise InvalidSettings(
            f"the files of tls_certificate, tls_key, tls_client_ca cannot be used: {error}"
        ) from error
    url = _url(settings, listener.getsockname()[1])
    server = DrainingServer(config, state, lambda: say(banner(state, url)))
    server.run([listener])
    if not server.started:
        return EXIT_FAILED
    if state.cut_off or state.running:
        leave()
    return 0


def leave() -> NoReturn:
    """End the process now: a model run cannot be interrupted, and the interpreter would wait for its thread."""
    logging.shutdown()
    os.write(2, b"ddl-serve: stopped before every request was answered\n")
    os._exit(EXIT_FAILED)


def _url(settings: Settings, port: int) -> str:
    host = settings.host
    shown = "127.0.0.1" if host == "0.0.0.0" else f"[{host}]" if ":" in host else host
    return f"{'https' if settings.tls_certificate else 'http'}://{shown}:{port}"
