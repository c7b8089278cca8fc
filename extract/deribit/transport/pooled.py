"""Transport for httpx on urllib3's connection pool: a page of 2.5 MB costs 1 ms of processor time instead of 8.

httpx reads in steps of 64 KiB through several generators; urllib3 reads a body of known length at once. Answers are
bounded in size and in time, and every request under way can be aborted, also through a proxy.
"""

from __future__ import annotations

import io
import math
import urllib.request
from threading import Lock

import httpx
import urllib3
from urllib3.exceptions import (
    ConnectTimeoutError,
    DecodeError,
    HTTPError,
    NewConnectionError,
    ProtocolError,
    ReadTimeoutError,
)

from extract.deribit.transport.watchdog import Watchdog, WatchedHTTPPool, WatchedHTTPSPool
from extract.errors import UsageError

WIRE_BYTES = "wire_bytes"
"""Extension of a response: number of bytes received, before decompression."""
MAX_BYTES = "max_bytes"
"""Extension of a request: maximum bytes of its answer, before and after decompression."""
MAX_ANSWER_BYTES = 128 * 2**20
"""The largest answer is the list of a currency's expired instruments: 100,000 of 700 bytes."""
CHUNK_BYTES = 2**20
DEADLINE_FACTOR = 4
_BODY_HEADERS = ("content-encoding", "content-length", "transfer-encoding")


class AnswerTooLargeError(httpx.TransportError):
    """An answer has more bytes than the transport accepts."""


class AnswerTooSlowError(httpx.ReadTimeout):
    """An answer was not complete at its deadline, although data kept arriving."""


FAULTS: dict[str, type[httpx.TransportError]] = {
    error.__name__: error for error in (AnswerTooLargeError, AnswerTooSlowError)
}
"""Errors of this module by name; every other one is an error of httpx."""


class AbortableTransport(httpx.BaseTransport):
    """A transport whose requests can be ended by another thread."""

    def abort(self) -> None:
        """End all requests under way and refuse further ones. Safe in any thread."""


class PooledTransport(AbortableTransport):
    """Safe to use from several threads. Raises httpx.RequestError like the transport of httpx; does not retry.

    Bodies are decompressed here. An answer is cut off after `max_answer_bytes`, or after the request's own MAX_BYTES,
    and after DEADLINE_FACTOR times the read timeout, even if the server keeps sending a few bytes. The proxies of the
    environment are used. Raises UsageError for a proxy that is neither http nor https.
    """

    def __init__(self, connections: int, max_answer_bytes: int = MAX_ANSWER_BYTES) -> None:
        self._connections = connections
        self._max_answer_bytes = max_answer_bytes
        self._proxies = urllib.request.getproxies()
        self._pools: dict[str | None, urllib3.PoolManager] = {}
        self._lock = Lock()
        self._watchdog = Watchdog()
        self._pool_of(None)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        status, headers, body, wire_bytes = self.fetch(request)
        stream = httpx.ByteStream(body)
        return httpx.Response(status, headers=headers, stream=stream, extensions={WIRE_BYTES: wire_bytes})

    def fetch(self, request: httpx.Request) -> tuple[int, list[tuple[str, str]], bytes, int]:
        """(status, headers, decompressed body, number of bytes received)."""
        timeout = request.extensions.get("timeout", {})
        read_s = timeout.get("read")
        with self._watchdog.watch(read_s * DEADLINE_FACTOR if read_s else math.inf) as watched:
            try:
                response = self._pool_of(self._proxy_of(request.url)).request(
                    request.method,
                    str(request.url),
                    headers=dict(request.headers),
                    body=request.read() or None,
                    timeout=urllib3.Timeout(connect=timeout.get("connect"), read=read_s),
                    redirect=False,
                    preload_content=False,
                )
                body = self._read(response, request)
                watched.require_in_time()
            except (HTTPError, OSError, ValueError) as error:
                # A socket that another thread shuts down fails in several ways.
                if watched.is_shut:
                    after = (
                        "the run has ended"
                        if self._watchdog.is_closed
                        else f"{read_s * DEADLINE_FACTOR:g} s have passed"
                    )
                    raise AnswerTooSlowError(
                        f"the answer was not complete after {after}", request=request
                    ) from error
                if not isinstance(error, HTTPError):
                    raise
                raise _as_httpx(error)(str(error), request=request) from error
        headers = [each for each in response.headers.items() if each[0].lower() not in _BODY_HEADERS]
        return response.status, headers, body, response.tell()

    def _read(self, response: urllib3.BaseHTTPResponse, request: httpx.Request) -> bytes:
        most = min(self._max_answer_bytes, request.extensions.get(MAX_BYTES, self._max_answer_bytes))
        body = io.BytesIO()
        try:
            # Without decompression urllib3 copies nothing.
            decode = "content-encoding" in response.headers
            while part := response.read1(CHUNK_BYTES, decode_content=decode):
                body.write(part)
                if max(body.tell(), response.tell()) > most:
                    raise AnswerTooLargeError(f"the answer has more than {most:,} bytes", request=request)
        except BaseException:
            response.close()  # the connection cannot be used again
            raise
        response.release_conn()
        return body.getvalue()

    def _proxy_of(self, url: httpx.URL) -> str | None:
        """Address of the proxy for `url`, from the environment."""
        proxy = self._proxies.get(url.scheme) or self._proxies.get("all")
        if not proxy or urllib.request.proxy_bypass(url.host):
            return None
        return proxy if "://" in proxy else f"http://{proxy}"

    def _pool_of(self, proxy: str | None) -> urllib3.PoolManager:
        with self._lock:
            if proxy not in self._pools:
                pool = self._pools[proxy] = _new_pool(self._connections, proxy)
                pool.pool_classes_by_scheme = {"http": WatchedHTTPPool, "https": WatchedHTTPSPool}
            return self._pools[proxy]

    def abort(self) -> None:
        self._watchdog.close()

    def close(self) -> None:
        self._watchdog.close()
        for pool in self._pools.values():
            pool.clear()


def _new_pool(connections: int, proxy: str | None) -> urllib3.PoolManager:
    tls = httpx.create_ssl_context()
    if proxy is None:
        return urllib3.PoolManager(maxsize=connections, retries=False, ssl_context=tls)
    url = httpx.URL(proxy)
    if url.scheme not in ("http", "https"):
        raise UsageError(
            f"The proxy in the environment has the scheme {url.scheme!r}; use an http:// or https:// proxy."
        )
    login = f"{url.username}:{url.password}" if url.userinfo else None
    return urllib3.ProxyManager(
        str(url.copy_with(userinfo=b"")),
        maxsize=connections,
        retries=False,
        ssl_context=tls,
        proxy_headers=urllib3.make_headers(proxy_basic_auth=login) if login else None,
    )


def _as_httpx(error: HTTPError) -> type[httpx.RequestError]:
    if isinstance(error, DecodeError):
        return httpx.DecodingError
    if isinstance(error, NewConnectionError):  # a subclass of ConnectTimeoutError
        return httpx.ConnectError
    if isinstance(error, ConnectTimeoutError):
        return httpx.ConnectTimeout
    if isinstance(error, ReadTimeoutError):
        return httpx.ReadTimeout
    return httpx.RemoteProtocolError if isinstance(error, ProtocolError) else httpx.NetworkError
