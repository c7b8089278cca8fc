"""A TCP proxy in front of ClickHouse that counts connections, terminates TLS and injects faults."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

END_OF_RESPONSE = b"0\r\n\r\n"


class Proxy:
    """Forwards to `target_port`. Faults are set as attributes and affect requests that contain `marker`."""

    def __init__(self, target_port: int, tls: ssl.SSLContext | None = None) -> None:
        self.target_port = target_port
        self.tls = tls
        self.connections = 0
        self.marker = b""
        self.lose_responses = 0
        """Number of responses to drop: the server has completed the request, and the client does not learn of it."""
        self.on_lost: Callable[[], None] = lambda: None
        self.cut_after_bytes: int | None = None
        """Break the connection once, after this many bytes of a request."""
        self.cut_response_after_bytes: int | None = None
        """Break the connection once, after about this many bytes of its responses."""
        self.rewrite: tuple[bytes, bytes] | None = None
        self.hang_at = b""
        """From the first request that contains this on, nothing is forwarded, and every connection stays open."""
        self.hangs = threading.Event()
        self.canned_response: bytes | None = None
        """If not None, the response to every new connection; b"" is no response at all."""
        self.has_canned_request = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def port(self) -> int:
        return self._listener.getsockname()[1]

    def close(self) -> None:
        self._listener.close()
        self.disconnect()

    def disconnect(self) -> None:
        with self._lock:
            for end in self._open:
                _close(end)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with suppress(OSError, ssl.SSLError):
            if self.tls:
                client = self.tls.wrap_socket(client, server_side=True)
            if (response := self.canned_response) is not None:
                client.recv(1 << 16)
                self.has_canned_request.set()
                client.sendall(response)
                # Without a response the client waits until its timeout and closes.
                if not response:
                    client.recv(1)
                client.close()
                return
            server = socket.create_connection(("127.0.0.1", self.target_port))
            with self._lock:
                self.connections += 1
                self._open |= {client, server}
            connection = _Connection(self, client, server)
            threading.Thread(target=connection.forward_responses, daemon=True).start()
            connection.forward_requests()
        with suppress(OSError):
            client.close()


class _Connection:
    def __init__(self, proxy: Proxy, client: socket.socket, server: socket.socket) -> None:
        self.proxy, self.client, self.server = proxy, client, server
        self.is_losing = False

    def forward_requests(self) -> None:
        proxy, sent, marked = self.proxy, 0, False
        while data := self.client.recv(1 << 16):
            if proxy.rewrite:
                data = data.replace(*proxy.rewrite)
            if proxy.marker and proxy.marker in data:
                marked, sent = True, 0
                self.is_losing = proxy.lose_responses > 0
            if proxy.hang_at and proxy.hang_at in data:
                proxy.hangs.set()
            if proxy.hangs.is_set():
                while self.client.recv(1 << 16):
                    pass
                break
            sent += len(data)
            if marked and proxy.cut_after_bytes is not None and sent > proxy.cut_after_bytes:
                proxy.cut_after_bytes = None
                break
            self.server.sendall(data)
        self._close_both()

    def forward_responses(self) -> None:
        response, received = b"", 0
        with suppress(OSError, ssl.SSLError):
            while data := self.server.recv(1 << 16):
                limit, received = self.proxy.cut_response_after_bytes, received + len(data)
                if limit is not None and received > limit:
                    self.proxy.cut_response_after_bytes = None
                    break
                if not self.is_losing:
                    self.client.sendall(data)
                    continue
                response += data
                if response.endswith(END_OF_RESPONSE):
                    self.proxy.lose_responses -= 1
                    self.proxy.on_lost()
                    break
        self._close_both()

    def _close_both(self) -> None:
        _close(self.client)
        _close(self.server)


def _close(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    if not isinstance(end, ssl.SSLSocket):
        with suppress(OSError):
            end.close()


@contextmanager
def proxy_to(port: int, tls: ssl.SSLContext | None = None) -> Iterator[Proxy]:
    proxy = Proxy(port, tls)
    try:
        yield proxy
    finally:
        proxy.close()
