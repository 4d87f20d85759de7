"""Clients that connect and do nothing, stop in the middle, or are gone without a word."""

import asyncio
import socket
import struct
import time
from collections.abc import Callable

from tests.service.reliability.process import BODY, PATH, Service, eventually, http

REQUEST = http(PATH, BODY)


def connect(service: Service, sent: bytes) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", service.port))
    client.sendall(sent)
    return client


def test_connections_that_nobody_uses_are_given_up_and_harm_nobody(start: Callable[..., Service]) -> None:
    service = start("--client-seconds", "1", "--keep-alive-seconds", "1")
    assert asyncio.run(service.ask()).status == 200
    files = service.files()
    parts = (b"", REQUEST[:20], REQUEST[: len(REQUEST) // 2], REQUEST[:-1], REQUEST)
    clients = [connect(service, part) for part in parts for _ in range(40)]
    eventually(lambda: service.files() >= files + len(clients) - 10)  # the first may be given up already
    began = time.perf_counter()
    assert asyncio.run(service.ask()).status == 200
    assert time.perf_counter() - began < 1.0
    eventually(lambda: service.files() <= files)
    assert asyncio.run(service.metric("ddl_http_requests_in_flight")) == 1  # the scrape
    for client in clients:
        client.close()


def test_connections_that_are_reset_in_every_state_leave_nothing_behind(start: Callable[..., Service]) -> None:
    service = start()
    assert asyncio.run(service.ask()).status == 200
    files = service.files()
    for end in (0, 1, 20, len(REQUEST) // 2, len(REQUEST) - 1, len(REQUEST)):
        for _ in range(20):
            client = connect(service, REQUEST[:end])
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # RST instead of FIN
            client.close()
    eventually(lambda: service.files() <= files)
    assert asyncio.run(service.metric("ddl_http_requests_in_flight")) == 1
    assert asyncio.run(service.ask()).status == 200


def test_half_a_connection_counts_as_hung_up(start: Callable[..., Service]) -> None:
    """TCP cannot tell who only stopped sending from who is gone; and who is gone must cost nothing."""
    service = start()
    files = service.files()
    clients = []
    for _ in range(20):
        client = connect(service, REQUEST[:-1])
        client.shutdown(socket.SHUT_WR)
        clients.append(client)
    for client in clients:
        client.settimeout(10)
        while client.recv(4096):
            pass
        client.close()
    eventually(lambda: service.files() <= files)
    assert asyncio.run(service.metric("ddl_http_requests_in_flight")) == 1


def test_a_request_byte_by_byte_is_answered(start: Callable[..., Service]) -> None:
    service = start()
    client = connect(service, b"")
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for at in range(len(REQUEST)):
        client.sendall(REQUEST[at : at + 1])
    client.settimeout(10)
    assert client.recv(15) == b"HTTP/1.1 200 OK"
    client.close()
