"""Worker process that decodes pages for a `PageDecoder`, and the messages between the two.

Decoding holds Python's global lock, so worker processes decode pages while the main process fetches and loads others.
A worker imports neither dlt nor pandas and is ready in a third of a second. It ends when the other end of its socket
is closed.
"""

from __future__ import annotations

import signal
import socket
import struct
import sys
from contextlib import suppress

import msgspec
import pyarrow as pa

from extract.deribit.decode import decode_page
from extract.deribit.jsonrpc import DECODE_ERRORS, NoResultError
from extract.deribit.records import TooManyRecordsError
from extract.deribit.schema import RejectedTrade, TradePage
from extract.process import configure_process

_LENGTH = struct.Struct("<Q")
_TIMEVAL = struct.Struct("@ll")
READY = b"ready"


class PageHeader(msgspec.Struct):
    """Everything of a page except its table; `is_page` is false for a body that is not a page."""

    is_page: bool = False
    rows: int = 0
    has_more: bool = False
    rejected: list[RejectedTrade] = []
    at_ms: int | None = None


_header_decoder = msgspec.msgpack.Decoder(PageHeader)


def set_timeout(channel: socket.socket, seconds: int) -> None:
    """Let each call of `send` and `receive` raise OSError after `seconds` without any progress.

    The kernel's timeout, unlike that of Python's sockets, leaves the socket in blocking mode: one call for a message.
    """
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        channel.setsockopt(socket.SOL_SOCKET, option, _TIMEVAL.pack(seconds, 0))


def send(channel: socket.socket, *messages: bytes | pa.Buffer) -> None:
    """Send each message, preceded by its length. Raises OSError if the other end is closed."""
    for message in messages:
        channel.sendall(_LENGTH.pack(len(message)))
        channel.sendall(message)


def receive(channel: socket.socket) -> bytes:
    """The next message. Raises EOFError if the other end is closed."""
    return _receive_bytes(channel, _LENGTH.unpack(_receive_bytes(channel, _LENGTH.size))[0])


def _receive_bytes(channel: socket.socket, size: int) -> bytes:
    data = channel.recv(size, socket.MSG_WAITALL)  # all of it, unless a signal or a timeout interrupts
    while len(data) < size:
        more = channel.recv(size - len(data), socket.MSG_WAITALL)
        if not more:
            raise EOFError
        data += more
    return data


def decode_by(channel: socket.socket, body: bytes) -> TradePage | None:
    """The page in `body`, decoded by the worker at the other end; None for a body that is not a page.

    Raises OSError or EOFError if the worker does not answer.
    """
    send(channel, body)
    header, stream = _header_decoder.decode(receive(channel)), receive(channel)
    if not header.is_page:
        return None
    table = pa.ipc.open_stream(pa.py_buffer(stream)).read_all()
    return TradePage(table, header.rows, header.has_more, header.rejected, at_ms=header.at_ms)


def encode_page(body: bytes) -> tuple[PageHeader, pa.Buffer | bytes]:
    """(header, table as an Arrow stream) of the page in `body`."""
    try:
        page = decode_page(body)
    except (NoResultError, TooManyRecordsError, *DECODE_ERRORS):
        return PageHeader(), b""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, page.table.schema) as writer:
        writer.write_table(page.table)
    return PageHeader(True, page.rows, page.has_more, page.rejected, page.at_ms), sink.getvalue()


def main(descriptor: int) -> None:
    """Send READY, then decode one page after another until the other end is closed."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(
            number, signal.SIG_IGN
        )  # sent to the whole process group; the main process ends its workers
    configure_process()  # leaves garbage collection off: decoding creates no cycles
    channel = socket.socket(fileno=descriptor)
    encoder = msgspec.msgpack.Encoder()
    with suppress(EOFError, OSError):
        send(channel, READY)
        while True:
            header, stream = encode_page(receive(channel))
            send(channel, encoder.encode(header), stream)


if __name__ == "__main__":
    main(int(sys.argv[1]))
