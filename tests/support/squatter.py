"""A program of another user that listens at ClickHouse's port."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer


class Squatter(HTTPServer):
    """A server that answers like ClickHouse and records the headers of all requests."""

    address_family = socket.AF_INET

    def __init__(self, host: str, port: int) -> None:
        self.received: list[str] = []
        super().__init__((host, port), _Handler)


class _Handler(BaseHTTPRequestHandler):
    server: Squatter

    def do_GET(self) -> None:
        self.server.received.append(str(self.headers) + self.path)
        body = b"Ok.\n" if self.path == "/ping" else b"26.9.2.1\n"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, *_: object) -> None:
        pass


class SquatterIPv6(Squatter):
    address_family = socket.AF_INET6


@contextmanager
def squatting(port: int, kind: type[Squatter] = Squatter, host: str = "127.0.0.1") -> Iterator[Squatter]:
    with kind(host, port) as web:
        thread = threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield web
        finally:
            web.shutdown()
            thread.join()
