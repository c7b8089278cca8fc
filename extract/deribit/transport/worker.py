"""Worker process that fetches and decodes pages for a `PageTransport`, and the messages between the two.

Decoding holds Python's global lock, so worker processes decode pages while the main process loads earlier ones. A
worker imports neither dlt nor pandas and is ready in a third of a second. It ends when the other end of its channels
is closed.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import struct
import sys
import threading

import httpx
import msgspec
import pyarrow as pa

from extract.deribit.decode import decode_page
from extract.deribit.jsonrpc import DECODE_ERRORS, NoResultError
from extract.deribit.records import TooManyRecordsError
from extract.deribit.schema import RejectedTrade, TradePage
from extract.deribit.transport.pooled import MAX_BYTES, PooledTransport
from extract.process import configure_process

_LENGTH = struct.Struct("<Q")
READY = b"ready"
SWITCH_INTERVAL_S = 0.05
"""Thread switch interval: long enough to decode a page without interruption, so that the CPU cache stays warm."""


class PageRequest(msgspec.Struct):
    """A page to fetch; timeouts in seconds, `max_bytes` of the answer."""

    url: str
    headers: dict[str, str]
    timeout: dict[str, float | None]
    max_bytes: int | None = None


class PageHeader(msgspec.Struct):
    """Everything of an answer except its table, or its body if it is not a page; `bytes` over the wire.

    `fault` has the name of the httpx.RequestError and its message if there was no answer.
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


def page_from_message(head: PageHeader, body: pa.Buffer) -> TradePage:
    """Assemble the page that a worker sent as header and Arrow stream."""
    table = pa.ipc.open_stream(body).read_all()
    return TradePage(table, head.rows, head.has_more, head.rejected, at_ms=head.at_ms)


def handle(transport: PooledTransport, page_request: PageRequest) -> tuple[PageHeader, bytes | pa.Buffer]:
    """(header, page as an Arrow stream or, if the answer is not a page, its body)."""
    extensions: dict[str, object] = {"timeout": page_request.timeout}
    if page_request.max_bytes is not None:
        extensions[MAX_BYTES] = page_request.max_bytes
    request = httpx.Request("GET", page_request.url, headers=page_request.headers, extensions=extensions)
    try:
        status, headers, body, wire_bytes = transport.fetch(request)
    except httpx.RequestError as error:
        return PageHeader(fault=(type(error).__name__, str(error))), b""
    head = PageHeader(status, headers, wire_bytes)
    if status == 200:
        with contextlib.suppress(NoResultError, TooManyRecordsError, *DECODE_ERRORS):
            return _to_message(head, decode_page(body))
    return head, body


def _to_message(head: PageHeader, page: TradePage) -> tuple[PageHeader, pa.Buffer]:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, page.table.schema) as writer:
        writer.write_table(page.table)
    head.is_page, head.rows, head.has_more = True, page.rows, page.has_more
    head.rejected, head.at_ms = page.rejected, page.at_ms
    return head, sink.getvalue()


def send(channel: socket.socket, *messages: bytes | pa.Buffer) -> None:
    """Send each message, preceded by its length. Raises OSError if the other end is closed."""
    for message in messages:
        channel.sendall(_LENGTH.pack(len(message)))
        channel.sendall(message)


def receive(channel: socket.socket) -> pa.Buffer:
    """The next message. Raises EOFError if the other end is closed."""
    return _receive_bytes(channel, _LENGTH.unpack(_receive_bytes(channel, _LENGTH.size))[0])


def _receive_bytes(channel: socket.socket, size: int) -> pa.Buffer:
    buffer = pa.allocate_buffer(size)
    view, filled = memoryview(buffer), 0
    while filled < size:
        received = channel.recv_into(view[filled:], size - filled, socket.MSG_WAITALL)
        if not received:
            raise EOFError
        filled += received
    return buffer


def serve(channel: socket.socket, transport: PooledTransport) -> None:
    """Send READY, then handle one request after another until the other end is closed."""
    decoder, encoder = msgspec.msgpack.Decoder(PageRequest), msgspec.msgpack.Encoder()
    with contextlib.suppress(EOFError, OSError):
        send(channel, READY)
        while True:
            head, body = handle(transport, decoder.decode(receive(channel)))
            send(channel, encoder.encode(head), body)


def main(descriptors: list[int]) -> None:
    """Serve each channel in a thread."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent process ends its workers
    configure_process()  # leaves garbage collection off: decoding creates no cycles
    sys.setswitchinterval(SWITCH_INTERVAL_S)
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
    main([int(argument) for argument in sys.argv[1:]])
