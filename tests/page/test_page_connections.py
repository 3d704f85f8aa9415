"""Connections that ask nothing do not keep others out."""

import contextlib
import socket
import threading
import time

import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

from starlette.responses import Response

from meru.page import connections
from meru.page.serving import listening_socket, server_of

ASKED = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture
def connect(monkeypatch):
    """Opens connections to a server that answers everything with `yes`, without reading bodies."""
    monkeypatch.setattr(connections, "SECONDS", 0.3)
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(listening_socket("127.0.0.1", 0))
        server = server_of(Response("yes"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()

        def opened() -> socket.socket:
            return stack.enter_context(socket.create_connection(listener.getsockname(), timeout=5))

        yield opened
        server.should_exit = True
        thread.join(10)


def is_closed(line: socket.socket, drip: bytes) -> bool:
    """Whether the server closes a connection on which bytes arrive all the time."""
    line.settimeout(0.02)
    ends = time.monotonic() + 3
    while time.monotonic() < ends:
        try:
            line.sendall(drip)
            if not line.recv(1000):
                return True
        except TimeoutError:
            pass
        except OSError:
            return True
    return False


@pytest.mark.parametrize("first", [b"", ASKED, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n"])
def test_a_connection_without_a_request_is_closed_even_if_bytes_drip_in(connect, first):
    line = connect()
    line.sendall(first)
    assert is_closed(line, b"G")


def test_a_connection_that_asks_lives_on(connect):
    line = connect()
    for _ in range(6):
        line.sendall(ASKED)
        with line.makefile("rb") as answer:
            head = list(iter(answer.readline, b"\r\n"))
            assert head[0].startswith(b"HTTP/1.1 200") and answer.read(3) == b"yes"
        time.sleep(0.2)
