"""Deadlines for requests: a thread shuts down the socket of each request that is not complete in time.

A timeout of a socket starts again with each byte, and also headers may arrive byte by byte.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

POLL_S = 0.1


class Watched:
    """A request under way, and the connection that it uses."""

    def __init__(self, deadline_s: float) -> None:
        self.deadline_s = deadline_s
        self.is_shut = False
        self.connection: HTTPConnection | None = None
        self.sock: socket.socket | None = None
        """The connection forgets its socket where the server announces to close it."""

    def shut(self) -> None:
        """Shut down the socket: the thread that reads from it gets an end of file."""
        self.is_shut = True
        sock = (self.connection and self.connection.sock) or self.sock
        if sock is not None:
            with contextlib.suppress(OSError):
                # Not the method of SSLSocket, which would change the object under the reading thread.
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def require_in_time(self) -> None:
        """Raise OSError if the socket was shut down: an end of file may pass for the end of a body."""
        if self.is_shut:
            raise OSError("the socket was shut down")


_of_thread = threading.local()


class Watchdog:
    """Watches the requests of all threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.is_closed = False
        self._clock = clock
        self._requests: set[Watched] = set()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    @contextlib.contextmanager
    def watch(self, seconds: float) -> Iterator[Watched]:
        """Shut down what this thread requests within the block once `seconds` have passed, or on `close`."""
        request = Watched(self._clock() + seconds)
        _of_thread.request = request
        with self._changed:
            request.is_shut = self.is_closed
            self._requests.add(request)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)
                self._thread.start()
            self._changed.notify()
        try:
            yield request
        finally:
            _of_thread.request = None
            with self._changed:
                self._requests.discard(request)

    def close(self) -> None:
        """Shut down all requests under way, and every later one as soon as it begins."""
        with self._changed:
            self.is_closed = True
            for request in self._requests:
                request.shut()
            self._changed.notify()

    def _run(self) -> None:
        with self._changed:
            while not self.is_closed:
                for request in self._requests:
                    if self._clock() > request.deadline_s:
                        request.shut()
                self._changed.wait(POLL_S if self._requests else None)


def _note(connection: HTTPConnection) -> None:
    """Record `connection` as the one that this thread's request uses. Raises OSError if that is over already."""
    request: Watched | None = getattr(_of_thread, "request", None)
    if request is not None:
        request.connection, request.sock = connection, connection.sock or request.sock
        request.require_in_time()


class _WatchedHTTPConnection(HTTPConnection):
    def connect(self) -> None:
        _note(self)
        super().connect()
        _note(self)

    def request(self, *args: Any, **kwargs: Any) -> None:
        _note(self)
        super().request(*args, **kwargs)


class _WatchedHTTPSConnection(_WatchedHTTPConnection, HTTPSConnection):
    """As _WatchedHTTPConnection, with TLS."""


class WatchedHTTPPool(HTTPConnectionPool):
    """Connections whose requests a Watchdog can end."""

    ConnectionCls = _WatchedHTTPConnection


class WatchedHTTPSPool(HTTPSConnectionPool):
    """As WatchedHTTPPool, with TLS."""

    ConnectionCls = _WatchedHTTPSConnection
