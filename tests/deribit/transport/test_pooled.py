"""Answers are bounded in size, compressed or not, and in time."""

from __future__ import annotations

import gzip
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

from extract.deribit.client import DeribitClient
from extract.deribit.config import DeribitConfig
from extract.deribit.transport.pooled import DEADLINE_FACTOR, AnswerTooLargeError, PooledTransport
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


def test_server_that_sends_single_bytes_times_out(serve: Callable[..., str]) -> None:
    """Each byte arrives within the read timeout, and the answer would take 100 s."""
    url, began_s = serve(b"x" * 1_000, {}, 0.1), time.monotonic()
    with pytest.raises(httpx.ReadTimeout):
        get(url, timeout_s=0.5)
    assert time.monotonic() - began_s < 5 * DEADLINE_FACTOR * 0.5
