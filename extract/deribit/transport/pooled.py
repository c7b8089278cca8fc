"""Transport for httpx on urllib3's connection pool: a page of 2.5 MB costs 1 ms of processor time instead of 8.

httpx reads in steps of 64 KiB through several generators; urllib3 reads a body of known length at once. Answers are
bounded in size and in time, and every request under way can be aborted, also through a proxy.
"""

from __future__ import annotations

import math
import os
import re
import ssl
from threading import Lock

import httpx
import urllib3
from urllib3.exceptions import (
    ConnectTimeoutError,
    DecodeError,
    HTTPError,
    NewConnectionError,
    ProtocolError,
    ProxyError,
    ReadTimeoutError,
)

from extract.deribit.transport.watchdog import Watchdog, WatchedHTTPPool, WatchedHTTPSPool
from extract.errors import FinalError, UsageError, exception_chain
from extract.proxies import Proxy, find_proxy

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


class AbortableTransport(httpx.BaseTransport):
    """A transport whose requests can be ended by another thread."""

    def abort(self) -> None:
        """End all requests under way and refuse further ones. Safe in any thread."""


class PooledTransport(AbortableTransport):
    """Safe to use from several threads. Raises httpx.RequestError like the transport of httpx; does not retry.

    Bodies are decompressed here. An answer is cut off after `max_answer_bytes`, or after the request's own MAX_BYTES,
    and after DEADLINE_FACTOR times the read timeout, even if the server keeps sending a few bytes.

    Uses the proxies of the environment, see `find_proxy`, and raises its errors, RetriableError or FinalError for a
    proxy that fails, UsageError for a wrong SSL_CERT_FILE, and FinalError for a certificate that cannot be verified.
    """

    def __init__(self, connections: int, max_answer_bytes: int = MAX_ANSWER_BYTES) -> None:
        self._connections = connections
        self._max_answer_bytes = max_answer_bytes
        self._pools: dict[tuple[str, Proxy | None], urllib3.PoolManager] = {}
        self._lock = Lock()
        self._watchdog = Watchdog()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        timeout = request.extensions.get("timeout", {})
        read_s = timeout.get("read")
        proxy = find_proxy(str(request.url))
        with self._watchdog.watch(read_s * DEADLINE_FACTOR if read_s else math.inf) as watched:
            try:
                response = self._pool_of(request.url.scheme, proxy).request(
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
                raise _translate(error, request, proxy) from error
        if proxy and request.url.scheme == "http" and response.status == 407:
            raise proxy.refusal(f"{response.status} {response.reason}")
        headers = [each for each in response.headers.items() if each[0].lower() not in _BODY_HEADERS]
        return httpx.Response(
            response.status,
            headers=headers,
            stream=httpx.ByteStream(body),
            extensions={WIRE_BYTES: response.tell()},
        )

    def _read(self, response: urllib3.BaseHTTPResponse, request: httpx.Request) -> bytes:
        most = min(self._max_answer_bytes, request.extensions.get(MAX_BYTES, self._max_answer_bytes))
        decode = "content-encoding" in response.headers
        too_large = AnswerTooLargeError(f"the answer has more than {most:,} bytes", request=request)
        try:
            if not decode and (length := response.length_remaining) is not None:
                if length > most:
                    raise too_large
                body = response.read(decode_content=False)  # at once, which copies nothing
            else:
                parts, size = [], 0
                while part := response.read1(CHUNK_BYTES, decode_content=decode):
                    parts.append(part)
                    size += len(part)
                    if max(size, response.tell()) > most:
                        raise too_large
                body = b"".join(parts)
        except BaseException:
            response.close()  # the connection cannot be used again
            raise
        response.release_conn()
        return body

    def _pool_of(self, scheme: str, proxy: Proxy | None) -> urllib3.PoolManager:
        with self._lock:
            if (scheme, proxy) not in self._pools:
                pool = self._pools[scheme, proxy] = _new_pool(scheme, proxy, self._connections)
                pool.pool_classes_by_scheme = {"http": WatchedHTTPPool, "https": WatchedHTTPSPool}
            return self._pools[scheme, proxy]

    def abort(self) -> None:
        self._watchdog.close()

    def close(self) -> None:
        self._watchdog.close()
        for pool in self._pools.values():
            pool.clear()


def _new_pool(scheme: str, proxy: Proxy | None, connections: int) -> urllib3.PoolManager:
    needs_tls = "https" in (scheme, proxy and proxy.address.partition(":")[0])
    tls = _tls_context() if needs_tls else None
    if proxy is None:
        return urllib3.PoolManager(maxsize=connections, retries=False, ssl_context=tls)
    return urllib3.ProxyManager(
        proxy.address,
        maxsize=connections,
        retries=False,
        ssl_context=tls,
        proxy_ssl_context=tls,
        proxy_headers=proxy.headers,
    )


def _tls_context() -> ssl.SSLContext:
    try:
        return httpx.create_ssl_context()
    except OSError as error:
        path = os.environ.get("SSL_CERT_FILE")
        fault = "holds no certificate" if isinstance(error, ssl.SSLError) else "cannot be read"
        raise UsageError(f"SSL_CERT_FILE names {path}, which {fault}.") from error


def _translate(error: HTTPError, request: httpx.Request, proxy: Proxy | None) -> Exception:
    chain = list(exception_chain(error))
    for cause in chain:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return FinalError(
                f"The certificate of {request.url.host} cannot be verified: {cause.verify_message}. If a company's "
                "proxy or a private authority has signed it, name the file of that authority in SSL_CERT_FILE."
            )
    if proxy and any(isinstance(cause, ProxyError) for cause in chain):
        return proxy.failure(chain)
    # urllib3 begins some messages with the connection: `HTTPSConnection(host='…', port=443): `.
    text = re.sub(r"^\w+\(host=[^)]*\): ", "", str(error))
    return _as_httpx(error)(text, request=request)


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
