"""Transport for httpx that delegates pages to worker processes once a large page has arrived."""

from __future__ import annotations

import contextlib
import queue
import socket
import subprocess
import threading
from collections.abc import Sequence

import httpx
import msgspec
import pyarrow as pa

from extract.deribit.transport.pooled import (
    FAULTS,
    MAX_BYTES,
    WIRE_BYTES,
    AbortableTransport,
    PooledTransport,
)
from extract.deribit.transport.worker import PageHeader, PageRequest, page_from_message, receive, send
from extract.deribit.transport.workers import Workers

LARGE_PAGE_BYTES = 500_000
"""Smaller answers are decoded faster than they are transferred."""
START_AFTER_LARGE_PAGES = 1
"""Large answers after which processes are started; a full page is rarely the last one."""

PAGE = "page"
"""Extension of a request: its answer is a page of trades. Extension of a response: the decoded page."""


class PageTransport(AbortableTransport):
    """Sends requests with the extension PAGE to a free worker process, all others to `inner`.

    Safe to use from several threads. Without a free process (not started, failed to start, killed) the answer of
    `inner` is returned, and the caller decodes it.
    """

    def __init__(
        self,
        inner: PooledTransport,
        channels: int,
        workers: Workers | None = None,
        *,
        start_after_large_pages: int = START_AFTER_LARGE_PAGES,
        large_page_bytes: int = LARGE_PAGE_BYTES,
    ) -> None:
        self._inner = inner
        self._channels = channels
        self._large_pages_until_start = start_after_large_pages
        self._large_page_bytes = large_page_bytes
        self._lock = threading.Lock()
        self._free: queue.SimpleQueue[socket.socket] = queue.SimpleQueue()
        self._workers: Workers | None = None
        if workers:
            self._use(workers)

    @property
    def processes(self) -> Sequence[subprocess.Popen[bytes]]:
        return self._workers.processes if self._workers else ()

    @property
    def idle_channels(self) -> int:
        """Channels whose worker is ready and idle."""
        return self._free.qsize()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if PAGE not in request.extensions:
            return self._inner.handle_request(request)
        if message := self._fetch_by_worker(request):
            return _response(*message, request)
        response = self._inner.handle_request(request)
        if len(response.read()) >= self._large_page_bytes:
            self._note_large_page()
        return response

    def abort(self) -> None:
        """End all requests under way, and kill the worker processes."""
        self._inner.abort()
        with self._lock:
            self._large_pages_until_start = 0
        if self._workers:
            self._workers.close()

    def close(self) -> None:
        self.abort()
        self._inner.close()

    def _fetch_by_worker(self, request: httpx.Request) -> tuple[PageHeader, pa.Buffer] | None:
        """The message of a worker; None if no channel is free, or its process has died."""
        try:
            channel = self._free.get_nowait()
        except queue.Empty:
            return None
        page_request = PageRequest(
            str(request.url),
            dict(request.headers),
            request.extensions.get("timeout", {}),
            request.extensions.get(MAX_BYTES),
        )
        try:
            send(channel, msgspec.msgpack.encode(page_request))
            head = msgspec.msgpack.decode(receive(channel), type=PageHeader)
            body = receive(channel)
        except (EOFError, OSError):
            return None
        self._free.put(channel)
        return head, body

    def _note_large_page(self) -> None:
        with self._lock:
            self._large_pages_until_start -= 1
            if self._large_pages_until_start == 0:
                with contextlib.suppress(OSError):
                    self._use(Workers(self._channels))

    def _use(self, workers: Workers) -> None:
        self._large_pages_until_start = 0
        self._workers = workers
        for channel in workers.channels:
            threading.Thread(target=self._wait_until_ready, args=(channel,), daemon=True).start()

    def _wait_until_ready(self, channel: socket.socket) -> None:
        """Mark the channel as idle once its process is ready."""
        with contextlib.suppress(EOFError, OSError):
            receive(channel)
            self._free.put(channel)


def _response(head: PageHeader, body: pa.Buffer, request: httpx.Request) -> httpx.Response:
    """Raises the httpx.RequestError that occurred in the worker."""
    if head.fault:
        name, message = head.fault
        raise (FAULTS.get(name) or getattr(httpx, name))(message, request=request)
    extensions: dict[str, object] = {WIRE_BYTES: head.bytes}
    if not head.is_page:
        stream = httpx.ByteStream(body.to_pybytes())
        return httpx.Response(head.status, headers=head.headers, stream=stream, extensions=extensions)
    return httpx.Response(head.status, extensions={**extensions, PAGE: page_from_message(head, body)})
