"""Answers are bounded in size, compressed or not, and in time."""

from __future__ import annotations

import gzip
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

from extract.deribit.client import DeribitClient
from extract.deribit.config import DeribitConfig
from extract.deribit.transport.pooled import (
    DEADLINE_FACTOR,
    AnswerTooLargeError,
    AnswerTooSlowError,
    PooledTransport,
)
from extract.errors import FinalError

MAX_BYTES = 1_000_000


@pytest.fixture
def serve() -> Iterator[Callable[[bytes, dict[str, str], float], str]]:
    """Start a server that sends a body, with a pause after each byte if one is given; returns its URL."""
    servers: list[ThreadingHTTPServer] = []

    def start(body: bytes, headers: dict[str, str], pause_s: float) -> str:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self.send_response(200)
                for name, value in ({"Content-Length": str(len(body))} | headers).items():
                    self.send_header(name, value)
                self.end_headers()
                step = 1 if pause_s else 2**16
                try:
                    for first in range(0, len(body), step):
                        self.wfile.write(body[first : first + step])
                        time.sleep(pause_s)
                except OSError:
                    self.close_connection = True

            def log_message(self, *_: object) -> None: ...

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def get(url: str, timeout_s: float = 10.0) -> httpx.Response:
    with httpx.Client(transport=PooledTransport(1, MAX_BYTES), timeout=timeout_s) as client:
        return client.get(url)


@pytest.mark.parametrize("encoding", ["identity", "gzip"])
def test_answer_up_to_the_limit_is_read(serve: Callable[..., str], encoding: str) -> None:
    """Decompressed, with the number of bytes received."""
    body = b"x" * MAX_BYTES
    sent = gzip.compress(body) if encoding == "gzip" else body
    response = get(serve(sent, {"Content-Encoding": encoding}, 0.0))
    assert response.content == body
    assert response.extensions["wire_bytes"] == len(sent)


@pytest.mark.parametrize("encoding", ["identity", "gzip"])
def test_answer_above_the_limit_is_an_error(serve: Callable[..., str], encoding: str) -> None:
    """The limit applies to the decompressed body, so a small body that decompresses to a large one is an error, too."""
    body = b"x" * (MAX_BYTES + 1)
    url = serve(gzip.compress(body) if encoding == "gzip" else body, {"Content-Encoding": encoding}, 0.0)
    with pytest.raises(AnswerTooLargeError, match="1,000,000 bytes"):
        get(url)
    config = DeribitConfig(api_url=url, history_url=url)
    with (
        DeribitClient(config, transport=PooledTransport(1, MAX_BYTES)) as client,
        pytest.raises(FinalError, match="more than 1,000,000 bytes"),
    ):
        client.now_ms()


def test_host_that_does_not_answer_is_reported_in_plain_words() -> None:
    """Without the name of a class of the transport."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(
        httpx.ConnectError, match=r"^Failed to establish a new connection: .*Connection refused"
    ):
        get(f"http://127.0.0.1:{port}")


def test_server_that_sends_single_bytes_times_out(serve: Callable[..., str]) -> None:
    """Each byte arrives within the read timeout, and the answer would take 100 s."""
    url, began_s = serve(b"x" * 1_000, {}, 0.1), time.monotonic()
    with pytest.raises(httpx.ReadTimeout):
        get(url, timeout_s=0.5)
    assert time.monotonic() - began_s < 5 * DEADLINE_FACTOR * 0.5


def test_abort_ends_a_request_under_way(serve: Callable[[bytes, dict[str, str], float], str]) -> None:
    """Another thread ends it at once, and later requests fail too; the server closes the connection itself."""
    url = serve(b"x" * 1_000, {"Connection": "close"}, 0.1)
    transport = PooledTransport(1)
    threading.Timer(1.0, transport.abort).start()
    began_s = time.monotonic()
    with httpx.Client(transport=transport, timeout=60.0) as client:
        for _ in range(2):
            with pytest.raises(AnswerTooSlowError, match="the run has ended"):
                client.get(url)
    assert time.monotonic() - began_s < 10


def test_headers_that_arrive_byte_by_byte_time_out() -> None:
    """Also before the first byte of a body."""
    listener = socket.create_server(("127.0.0.1", 0))

    def drip() -> None:
        connection, _ = listener.accept()
        with connection, suppress(OSError):
            for byte in b"HTTP/1.1 200 OK\r\nX: " + b"x" * 1_000:
                connection.send(bytes([byte]))
                time.sleep(0.1)

    threading.Thread(target=drip, daemon=True).start()
    began_s = time.monotonic()
    with listener, pytest.raises(AnswerTooSlowError):
        get(f"http://127.0.0.1:{listener.getsockname()[1]}", timeout_s=0.5)
    assert time.monotonic() - began_s < 5 * DEADLINE_FACTOR * 0.5
