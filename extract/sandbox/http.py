"""Minimal HTTP/1.1 server protocol for GET: keep-alive, pipelining, and deliberately broken responses."""

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
    """An HTTP response. `cut` sends half of the body, `reset` resets the connection, `delay_s` waits before sending."""

    status: int
    body: bytes
    content_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    cut: bool = False
    reset: bool = False


class Connection(asyncio.Protocol):
    """A client's connection; `handle(verb, target)` returns the reply to each request in turn."""

    def __init__(self, handle: Callable[[str, str], Reply], open_connections: set[Connection]) -> None:
        self._handle, self._open_connections = handle, open_connections
        self._buffer = b""
        self._is_delayed = False
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._open_connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._open_connections.discard(self)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._handle_requests()

    def abort(self) -> None:
        self._transport.abort()

    def _handle_requests(self) -> None:
        """Reply to each complete request in the buffer, in order."""
        while not self._is_delayed and not self._transport.is_closing():
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
            keep = (
                not has_body and words[2] != "HTTP/1.0" and headers.get("connection", "").lower() != "close"
            )
            reply = self._handle(words[0], words[1])
            if reply.delay_s:
                self._is_delayed = True
                asyncio.get_running_loop().call_later(reply.delay_s, self._send_delayed, reply, keep)
            else:
                self._send(reply, keep=keep)

    def _send_delayed(self, reply: Reply, keep: bool) -> None:
        self._is_delayed = False
        if not self._transport.is_closing():
            self._send(reply, keep=keep)
            self._handle_requests()

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
        """Close with RST instead of FIN, as a broken middlebox does."""
        sock: socket.socket = self._transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()
