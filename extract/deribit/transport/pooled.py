"""Transport for httpx on urllib3's connection pool: a page of 2.5 MB costs 1 ms of processor time instead of 8.

httpx reads in steps of 64 KiB through several generators; urllib3 reads a body of known length at once.
"""

from __future__ import annotations

import math
import time

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

WIRE_BYTES = "wire_bytes"
"""Extension of a response: number of bytes received, before decompression."""
MAX_ANSWER_BYTES = 256 * 2**20
"""A page has a few MB, the list of all expired instruments of a currency many more."""
CHUNK_BYTES = 2**20
DEADLINE_FACTOR = 4
_BODY_HEADERS = ("content-encoding", "content-length", "transfer-encoding")


class AnswerTooLargeError(httpx.TransportError):
    """An answer has more bytes than the transport accepts."""


class PooledTransport(httpx.BaseTransport):
    """Safe to use from several threads. Raises httpx.RequestError like the transport of httpx; does not retry.

    Bodies are decompressed here, at most `max_answer_bytes` of each. A request ends after DEADLINE_FACTOR times its
    read timeout, even if the server keeps sending a few bytes.
    """

    def __init__(self, connections: int, max_answer_bytes: int = MAX_ANSWER_BYTES) -> None:
        self._max_answer_bytes = max_answer_bytes
        self._pool = urllib3.PoolManager(
            maxsize=connections, retries=False, ssl_context=httpx.create_ssl_context()
        )

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        status, headers, body, wire_bytes = self.fetch(request)
        stream = httpx.ByteStream(body)
        return httpx.Response(status, headers=headers, stream=stream, extensions={WIRE_BYTES: wire_bytes})

    def fetch(self, request: httpx.Request) -> tuple[int, list[tuple[str, str]], bytes, int]:
        """(status, headers, decompressed body, number of bytes received)."""
        timeout = request.extensions.get("timeout", {})
        read_s = timeout.get("read")
        deadline_s = time.monotonic() + (read_s * DEADLINE_FACTOR if read_s else math.inf)
        try:
            response = self._pool.request(
                request.method,
                str(request.url),
                headers=dict(request.headers),
                body=request.read() or None,
                timeout=urllib3.Timeout(connect=timeout.get("connect"), read=read_s),
                redirect=False,
                preload_content=False,
            )
            body = self._read(response, request, deadline_s)
        except HTTPError as error:
            raise _as_httpx(error)(str(error), request=request) from error
        headers = [each for each in response.headers.items() if each[0].lower() not in _BODY_HEADERS]
        return response.status, headers, body, response.tell()

    def _read(self, response: urllib3.BaseHTTPResponse, request: httpx.Request, deadline_s: float) -> bytes:
        parts: list[bytes] = []
        size = 0
        try:
            # Without decompression urllib3 copies nothing.
            decode = "content-encoding" in response.headers
            while part := response.read1(CHUNK_BYTES, decode_content=decode):
                parts.append(part)
                size += len(part)
                if size > self._max_answer_bytes:
                    raise AnswerTooLargeError(
                        f"the answer has more than {self._max_answer_bytes:,} bytes", request=request
                    )
                if time.monotonic() > deadline_s:
                    raise httpx.ReadTimeout("the answer was not complete in time", request=request)
        except BaseException:
            response.close()  # the connection cannot be used again
            raise
        response.release_conn()
        return b"".join(parts)

    def close(self) -> None:
        self._pool.clear()


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
