"""A transport that has large pages fetched and decoded in processes of their own, from the first of them on."""

from __future__ import annotations

import contextlib
import queue
import socket
import subprocess
import threading
import urllib.request
from collections.abc import Sequence

import httpx
import msgspec
import pyarrow as pa

from extract.deribit.transport import channels
from extract.deribit.transport.pooled import PooledTransport
from extract.deribit.transport.worker import PageHeader, PageRequest, page_of
from extract.deribit.transport.workers import Workers

LARGE_PAGE_BYTES = 500_000
"""Smaller answers are decoded sooner than they are handed over."""
START_AFTER_LARGE_PAGES = 1
"""Large answers after which processes are started, each for a third of a second's work: a full page is seldom the last."""

PAGE = "page"
"""Extension of a request: its answer is a page of trades. Of a response: the page, decoded already."""
WIRE_BYTES = "wire_bytes"
"""Extension of a response whose body is not there any more: how many bytes came."""


def page_transport(connections: int, workers: Workers | None = None) -> httpx.BaseTransport | None:
    """A transport that keeps up to `connections` connections warm; None, for httpx's own, where a proxy is set.

    `workers` that were started already are the transport's from now on.
    """
    if urllib.request.getproxies().keys() & {"http", "https", "all"}:
        if workers:
            workers.close()
        return None
    return PageTransport(PooledTransport(connections), connections, workers)


class PageTransport(httpx.BaseTransport):
    """Requests with the extension PAGE go to worker processes where one is free, all others to `inner`.

    Safe to use from several threads. Without processes (none needed yet, none to be had, lost) it is `inner`, and the
    caller decodes.
    """

    def __init__(
        self,
        inner: PooledTransport,
        lanes: int,
        workers: Workers | None = None,
        *,
        start_after_large_pages: int = START_AFTER_LARGE_PAGES,
        large_page_bytes: int = LARGE_PAGE_BYTES,
    ) -> None:
        self._inner = inner
        self._lanes = lanes
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
    def idle_lanes(self) -> int:
        """Lanes whose worker is ready and has nothing to do."""
        return self._free.qsize()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if PAGE not in request.extensions:
            return self._inner.handle_request(request)
        if answer := self._ask_worker(request):
            return _response(*answer, request)
        response = self._inner.handle_request(request)
        if len(response.read()) >= self._large_page_bytes:
            self._note_large_page()
        return response

    def close(self) -> None:
        """Ends the processes, whatever they are at."""
        with self._lock:
            self._large_pages_until_start = 0
        if self._workers:
            self._workers.close()
        self._inner.close()

    def _ask_worker(self, request: httpx.Request) -> tuple[PageHeader, pa.Buffer] | None:
        """What a worker answers; None where no lane is free, or its process has died."""
        try:
            lane = self._free.get_nowait()
        except queue.Empty:
            return None
        question = PageRequest(str(request.url), dict(request.headers), request.extensions.get("timeout", {}))
        try:
            channels.send(lane, msgspec.msgpack.encode(question))
            head = msgspec.msgpack.decode(channels.receive(lane), type=PageHeader)
            body = channels.receive(lane)
        except (EOFError, OSError):
            return None
        self._free.put(lane)
        return head, body

    def _note_large_page(self) -> None:
        with self._lock:
            self._large_pages_until_start -= 1
            if self._large_pages_until_start == 0:
                with contextlib.suppress(OSError):
                    self._start()

    def _start(self) -> None:
        self._use(Workers(self._lanes))

    def _use(self, workers: Workers) -> None:
        self._large_pages_until_start = 0
        self._workers = workers
        for lane in workers.lanes:
            threading.Thread(target=self._wait_until_ready, args=(lane,), daemon=True).start()

    def _wait_until_ready(self, lane: socket.socket) -> None:
        """A lane counts when its process has said that it is ready; until then the caller goes on by itself."""
        with contextlib.suppress(EOFError, OSError):
            channels.receive(lane)
            self._free.put(lane)


def _response(head: PageHeader, body: pa.Buffer, request: httpx.Request) -> httpx.Response:
    """Raises the httpx.TransportError that the worker met."""
    if head.fault:
        name, message = head.fault
        raise getattr(httpx, name)(message, request=request)
    if not head.is_page:
        return httpx.Response(head.status, headers=head.headers, stream=httpx.ByteStream(body.to_pybytes()))
    return httpx.Response(head.status, extensions={PAGE: page_of(head, body), WIRE_BYTES: head.bytes})
