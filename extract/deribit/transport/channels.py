"""Messages between this process and its workers: a length and so many bytes, over a pair of sockets."""

from __future__ import annotations

import socket
import struct

import pyarrow as pa

_LENGTH = struct.Struct("<Q")


def send(lane: socket.socket, *messages: bytes | pa.Buffer) -> None:
    """Raises OSError when the other end is closed."""
    for message in messages:
        lane.sendall(_LENGTH.pack(len(message)))
        lane.sendall(message)


def receive(lane: socket.socket) -> pa.Buffer:
    """The next message. Raises EOFError when the other end is closed."""
    return _exactly(lane, _LENGTH.unpack(_exactly(lane, _LENGTH.size))[0])


def _exactly(lane: socket.socket, size: int) -> pa.Buffer:
    buffer = pa.allocate_buffer(size)
    view, filled = memoryview(buffer), 0
    while filled < size:
        got = lane.recv_into(view[filled:], size - filled, socket.MSG_WAITALL)
        if not got:
            raise EOFError
        filled += got
    return buffer
