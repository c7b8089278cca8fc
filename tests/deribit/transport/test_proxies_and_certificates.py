"""The exchange behind a proxy, or with a certificate of a private authority: it works, or one sentence says why not."""

from __future__ import annotations

import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from extract.deribit.client import DeribitClient
from extract.deribit.config import DeribitConfig
from extract.errors import FinalError, RetriableError, TapeError, UsageError
from extract.retry import RetryPolicy
from tests.support.certificates import Authority

PASSWORD = "a-secret-of-the-proxy"
ONCE, TWICE = RetryPolicy(attempts=1), RetryPolicy(attempts=2, first_s=0.01)


class _Handler(BaseHTTPRequestHandler):
    """The exchange's time, as server or through a plain proxy; a proxy's refusal of a tunnel."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        self.server.paths.append(self.path)
        self._send(self.server.status)

    def do_CONNECT(self) -> None:
        self.server.paths.append(self.path)
        self._send(self.server.status)

    def _send(self, status: int) -> None:
        body = b'{"result": 1700000000000}'
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, status: int = 200, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.status = status
        self.paths: list[str] = []
        self.accepted = 0
        self.tls = tls
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def get_request(self) -> tuple[socket.socket, object]:
        connection, address = super().get_request()
        self.accepted += 1
        if self.tls:
            connection = self.tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return connection, address

    def handle_error(self, *_: object) -> None: ...


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def start(*arguments: object) -> Server:
        servers.append(Server(*arguments))  # type: ignore[arg-type]  # as those of Server
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
            monkeypatch.delenv(name)
    return monkeypatch


def time_of(url: str, policy: RetryPolicy = ONCE) -> int:
    config = DeribitConfig(api_url=url, history_url=url, timeout_s=5.0)
    with DeribitClient(config, connect_policy=policy) as client:
        return client.now_ms()


def error_of(url: str, policy: RetryPolicy = ONCE) -> TapeError:
    with pytest.raises(TapeError) as raised:
        time_of(url, policy)
    assert PASSWORD not in str(raised.value)
    return raised.value


@pytest.mark.parametrize("proxy", ["http://127.0.0.1:9", "socks5://127.0.0.1:9", "foo://"])
def test_exchange_on_loopback_is_reached_without_the_proxy(
    proxy: str, serve: Callable[..., Server], environment: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        environment.setenv(name, proxy)
    assert time_of(f"http://127.0.0.1:{serve().server_port}") == 1_700_000_000_000


def test_exchange_is_reached_through_a_proxy(
    serve: Callable[..., Server], environment: pytest.MonkeyPatch
) -> None:
    server = serve()
    environment.setenv("ALL_PROXY", f"http://127.0.0.1:{server.server_port}")
    assert time_of("http://exchange.test/api/v2") == 1_700_000_000_000
    assert server.paths == ["http://exchange.test/api/v2/public/get_time"]


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_proxy_that_is_down_is_named(scheme: str, environment: pytest.MonkeyPatch) -> None:
    environment.setenv(f"{scheme}_proxy", f"http://me:{PASSWORD}@127.0.0.1:9")
    error = error_of(f"{scheme}://exchange.test/api/v2")
    assert isinstance(error, RetriableError)
    assert str(error).startswith(f"The proxy http://127.0.0.1:9 of {scheme}_proxy cannot be reached: ")
    assert "Connection refused" in str(error)


@pytest.mark.parametrize(
    ("scheme", "status", "kind", "requests"),
    [
        ("https", 403, FinalError, 1),
        ("https", 407, FinalError, 1),
        ("http", 407, FinalError, 1),
        ("https", 502, RetriableError, 2),
    ],
)
def test_proxy_that_refuses_is_named(
    scheme: str,
    status: int,
    kind: type[TapeError],
    requests: int,
    serve: Callable[..., Server],
    environment: pytest.MonkeyPatch,
) -> None:
    """It is asked again only if it is its own server that failed."""
    server = serve(status)
    environment.setenv(f"{scheme.upper()}_PROXY", f"http://me:{PASSWORD}@127.0.0.1:{server.server_port}")
    error = error_of(f"{scheme}://exchange.test/api/v2", TWICE)
    assert isinstance(error, kind)
    named = f"The proxy http://127.0.0.1:{server.server_port} of {scheme.upper()}_PROXY"
    assert str(error).startswith(f"{named} refuses the request: HTTP {status} ")
    assert len(server.paths) == requests


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:9", "foo://proxy.test:1"])
def test_proxy_of_another_kind_is_a_usage_error(proxy: str, environment: pytest.MonkeyPatch) -> None:
    environment.setenv("ALL_PROXY", proxy)
    assert isinstance(error_of("https://exchange.test/api/v2", TWICE), UsageError)


def test_certificate_of_a_private_authority(
    serve: Callable[..., Server], environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A failed verification is final, and the authority in SSL_CERT_FILE is trusted."""
    authority = Authority(tmp_path / "ca")
    certificate = authority.signed("exchange")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate.cert, certificate.key)
    server = serve(200, tls)
    url = f"https://127.0.0.1:{server.server_port}"
    error = error_of(url, TWICE)
    assert isinstance(error, FinalError)
    assert str(error).startswith("The certificate of 127.0.0.1 cannot be verified: ")
    assert "again" not in str(error)
    assert server.accepted == 1
    environment.setenv("SSL_CERT_FILE", str(authority.ca.cert))
    assert time_of(url) == 1_700_000_000_000


@pytest.mark.parametrize(
    ("text", "fault"), [(None, "cannot be read"), ("no certificate", "holds no certificate")]
)
def test_wrong_certificate_file_is_a_usage_error(
    text: str | None, fault: str, environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "ca.pem"
    if text:
        path.write_text(text)
    environment.setenv("SSL_CERT_FILE", str(path))
    error = error_of("https://127.0.0.1:9", TWICE)
    assert isinstance(error, UsageError)
    assert str(error) == f"SSL_CERT_FILE names {path}, which {fault}."
