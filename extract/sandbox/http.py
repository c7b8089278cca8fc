"""HTTP/1.1 as far as GET on loopback needs it: keep-alive, pipelining in order, breaking off on demand."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus

MAX_HEAD_BYTES = 65_536


@dataclass(slots=True)
class Reply:
    """What goes back, and how: `cut` ends the body half way, `reset` sends nothing, `delay_s` waits first."""

    status: int
    body: bytes
    content_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    cut: bool = False
    reset: bool = False


class Connection(asyncio.Protocol):
    """One client's connection; `answer(target)` is asked for each request in turn."""

    def __init__(self, answer: Callable[[str, str], Reply], everyone: set[Connection]) -> None:
        self._answer, self._everyone = answer, everyone
        self._buffer = b""
        self._busy = False
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._everyone.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._everyone.discard(self)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._next()

    def abort(self) -> None:
        self._transport.abort()

    def _next(self) -> None:
        """Answer what is whole in the buffer, one after the other."""
        while not self._busy and not self._transport.is_closing():
            head, end, rest = self._buffer.partition(b"\r\n\r\n")
            if not end:
                if len(self._buffer) > MAX_HEAD_BYTES:
                    self._send(Reply(431, b""), keep=False)
                return
            self._buffer = rest
            lines = head.decode("latin-1").split("\r\n")
            words = lines[0].split(" ")
            headers = {
                name.strip().lower(): value.strip()
                for name, _, value in (x.partition(":") for x in lines[1:])
            }
            if len(words) != 3 or not words[2].startswith("HTTP/1."):
                self._send(Reply(400, b""), keep=False)
                return
            has_body = headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
            old = words[2] == "HTTP/1.0"
            keep = not has_body and not old and headers.get("connection", "").lower() != "close"
            reply = self._answer(words[0], words[1])
            if reply.delay_s:
                self._busy = True
                asyncio.get_running_loop().call_later(reply.delay_s, self._late, reply, keep)
            else:
                self._send(reply, keep=keep)

    def _late(self, reply: Reply, keep: bool) -> None:
        self._busy = False
        if not self._transport.is_closing():
            self._send(reply, keep=keep)
            self._next()

    def _send(self, reply: Reply, *, keep: bool) -> None:
        if reply.reset:
            self._reset()
            return
        reason = HTTPStatus(reply.status).phrase
        extra = "".join(f"{name}: {value}\r\n" for name, value in reply.headers.items())
        head = (
            f"HTTP/1.1 {reply.status} {reason}\r\nContent-Type: {reply.content_type}\r\n"
            f"Content-Length: {len(reply.body)}\r\n"
            f"Connection: {'keep-alive' if keep else 'close'}\r\n{extra}\r\n"
        ).encode("latin-1")
        body = reply.body[: len(reply.body) // 2] if reply.cut else reply.body
        self._transport.write(head)
        self._transport.write(body)
        if reply.cut or not keep:
            self._transport.close()

    def _reset(self) -> None:
        """RST, not FIN: what a broken middlebox does."""
        sock: socket.socket = self._transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()
