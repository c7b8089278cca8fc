"""A process that fetches pages and decodes them, several side by side, for a `PageTransport`.

Decoding holds Python's one lock; in processes of their own pages are decoded beside the loading of those before.
Imports neither dlt nor pandas: it is ready in a third of a second. Ends when its pool closes the lanes, or dies.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import sys
import threading

import httpx
import msgspec
import pyarrow as pa

from extract.deribit.decode import decode_page
from extract.deribit.jsonrpc import DECODE_ERRORS, NoResultError
from extract.deribit.schema import RejectedTrade, TradePage
from extract.deribit.transport import channels
from extract.deribit.transport.pooled import PooledTransport
from extract.process import configure_process

READY = b"ready"
TURN_S = 0.05
"""A page is decoded in one turn: two half done at a time would push each other out of the caches."""


class PageRequest(msgspec.Struct):
    """What is to be fetched; timeouts in seconds."""

    url: str
    headers: dict[str, str]
    timeout: dict[str, float | None]


class PageHeader(msgspec.Struct):
    """What an answer says beside its page, or its body where it is none; `bytes` as they came over the wire.

    `fault` names the httpx.TransportError and its message where nothing came.
    """

    status: int = 0
    headers: list[tuple[str, str]] = []
    bytes: int = 0
    is_page: bool = False
    rows: int = 0
    has_more: bool = False
    rejected: list[RejectedTrade] = []
    at_ms: int | None = None
    fault: tuple[str, str] | None = None


def page_of(head: PageHeader, body: pa.Buffer) -> TradePage:
    """The page that a worker took apart for the way."""
    table = pa.ipc.open_stream(body).read_all()
    return TradePage(table, head.rows, head.has_more, head.rejected, at_ms=head.at_ms)


def answer(transport: PooledTransport, question: PageRequest) -> tuple[PageHeader, bytes | pa.Buffer]:
    """The page as an Arrow stream, or the body of whatever else came."""
    request = httpx.Request(
        "GET", question.url, headers=question.headers, extensions={"timeout": question.timeout}
    )
    try:
        status, headers, body = transport.fetch(request)
    except httpx.TransportError as error:
        return PageHeader(fault=(type(error).__name__, str(error))), b""
    head = PageHeader(status, headers, len(body))
    if status == 200:
        with contextlib.suppress(NoResultError, httpx.DecodingError, *DECODE_ERRORS):
            return _as_parts(head, decode_page(_plain(headers, body)))
    return head, body


def _plain(headers: list[tuple[str, str]], body: bytes) -> bytes:
    """`body` unpacked as its headers say; most are as they are, and cost no copy."""
    if not any(name.lower() == "content-encoding" for name, _ in headers):
        return body
    return httpx.Response(200, headers=headers, content=body).read()


def _as_parts(head: PageHeader, page: TradePage) -> tuple[PageHeader, pa.Buffer]:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, page.table.schema) as writer:
        writer.write_table(page.table)
    head.is_page, head.rows, head.has_more = True, page.rows, page.has_more
    head.rejected, head.at_ms = page.rejected, page.at_ms
    return head, sink.getvalue()


def serve(lane: socket.socket, transport: PooledTransport) -> None:
    """Says that it is ready, then answers one question after another until the other end is closed."""
    decoder, encoder = msgspec.msgpack.Decoder(PageRequest), msgspec.msgpack.Encoder()
    with contextlib.suppress(EOFError, OSError):
        channels.send(lane, READY)
        while True:
            head, body = answer(transport, decoder.decode(channels.receive(lane)))
            channels.send(lane, encoder.encode(head), body)


def main(descriptors: list[int]) -> None:
    """One thread a lane."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the pool's process decides about the end
    configure_process()  # with no collector at all: decoding makes no cycles
    sys.setswitchinterval(TURN_S)
    transport = PooledTransport(len(descriptors))
    threads = [
        threading.Thread(target=serve, args=(socket.socket(fileno=descriptor), transport))
        for descriptor in descriptors
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main([int(word) for word in sys.argv[1:]])
