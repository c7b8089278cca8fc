"""A real TCP proxy on loopback before ClickHouse: counts connections, speaks TLS, loses answers, cuts requests."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

END_OF_ANSWER = b"0\r\n\r\n"


class Proxy:
    """Forwards to `target_port`. Faults are set on the instance and act on requests that contain `marker`."""

    def __init__(self, target_port: int, tls: ssl.SSLContext | None = None) -> None:
        self.target_port = target_port
        self.tls = tls
        self.connections = 0
        self.marker = b""
        self.lose_answers = 0
        """So many answers are swallowed: the server has done it all, the client never hears of it."""
        self.on_lost: Callable[[], None] = lambda: None
        self.cut_after_bytes: int | None = None
        """Once: the request is cut after so many bytes."""
        self.rewrite: tuple[bytes, bytes] | None = None
        self.asleep: bytes | None = None
        """The answer to every connection until this is None again, as a service gives that sleeps; b"" is none at all."""
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
                _hang_up(end)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with suppress(OSError, ssl.SSLError):
            if self.tls:
                client = self.tls.wrap_socket(client, server_side=True)
            if self.asleep is not None:
                client.recv(1 << 16)
                client.sendall(self.asleep)
                # Without an answer the other side waits for one until it gives up and closes.
                if not self.asleep:
                    client.recv(1)
                client.close()
                return
            server = socket.create_connection(("127.0.0.1", self.target_port))
            with self._lock:
                self.connections += 1
                self._open |= {client, server}
            exchange = _Exchange(self, client, server)
            threading.Thread(target=exchange.answers, daemon=True).start()
            exchange.requests()
        with suppress(OSError):
            client.close()


class _Exchange:
    def __init__(self, proxy: Proxy, client: socket.socket, server: socket.socket) -> None:
        self.proxy, self.client, self.server = proxy, client, server
        self.losing = False

    def requests(self) -> None:
        proxy, sent, marked = self.proxy, 0, False
        while data := self.client.recv(1 << 16):
            if proxy.rewrite:
                data = data.replace(*proxy.rewrite)
            if proxy.marker and proxy.marker in data:
                marked, sent = True, 0
                self.losing = proxy.lose_answers > 0
            sent += len(data)
            if marked and proxy.cut_after_bytes is not None and sent > proxy.cut_after_bytes:
                proxy.cut_after_bytes = None
                break
            self.server.sendall(data)
        self._hang_up()

    def answers(self) -> None:
        answer = b""
        with suppress(OSError, ssl.SSLError):
            while data := self.server.recv(1 << 16):
                if not self.losing:
                    self.client.sendall(data)
                    continue
                answer += data
                if answer.endswith(END_OF_ANSWER):
                    self.proxy.lose_answers -= 1
                    self.proxy.on_lost()
                    break
        self._hang_up()

    def _hang_up(self) -> None:
        _hang_up(self.client)
        _hang_up(self.server)


def _hang_up(end: socket.socket) -> None:
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
