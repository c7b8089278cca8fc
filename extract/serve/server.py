"""Run the API in this process, until SIGTERM or Ctrl-C."""

from __future__ import annotations

import ipaddress
import logging
import signal
import socket
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from extract.clickhouse.settings import ClickHouseSettings
from extract.errors import UsageError

STOP_TIMEOUT_S = 20
"""Seconds for answers that are under way when the server stops."""
BACKLOG = 512


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    if host == "localhost":
        return True
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False


def serve(
    settings: ClickHouseSettings,
    *,
    host: str,
    port: int,
    key_file: Path | None,
    rate: float,
    on_ready: Callable[[str], None],
) -> None:
    """Answer requests until SIGTERM. `on_ready` is called with the address once the server accepts connections.

    Raises UsageError for an address that others can reach without a key file, for an address that cannot be used, for an
    unusable key file, and for a database that rejects the login; RetriableError if the database does not answer.
    """
    try:
        import uvicorn

        from extract.serve.app import create_app
        from extract.serve.keys import KeyRing, read_keys
        from extract.serve.reader import open_reader
    except ModuleNotFoundError as error:
        raise UsageError(f"The API needs {error.name}: pip install 'deribit-tape[serve]'.") from None
    if key_file is None and not is_loopback(host):
        raise UsageError(
            f"{host} can be reached from other machines, so it needs keys: name a file of keys by --key-file."
        )
    keys = KeyRing(read_keys(key_file), rate) if key_file else None
    reader = open_reader(settings)
    with closing(listen(host, port)) as listener:
        app = create_app(reader, settings, keys=keys, is_loopback=keys is None)
        config = uvicorn_config(app)

        class Server(uvicorn.Server):
            async def startup(self, sockets: list[socket.socket] | None = None) -> None:
                await super().startup(sockets)
                on_ready(_url(listener))

        # uvicorn raises the signal that stopped it once more when everything is closed; the process ends by itself then.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        Server(config).run(sockets=[listener])


def uvicorn_config(app: Any) -> Any:
    """Settings of uvicorn: no access log, no name of the server in answers, and an end to every wait."""
    import uvicorn

    return uvicorn.Config(
        app,
        port=0,
        log_level=logging.WARNING,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=STOP_TIMEOUT_S,
        ws="none",
    )


def listen(host: str, port: int) -> socket.socket:
    """A socket that accepts connections. Raises UsageError for an address that cannot be used."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Only where the protocol is named does asyncio turn Nagle's algorithm off, which delays small answers by 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1" if host == "localhost" else host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise UsageError(
            f"Port {port} of {host} cannot be used ({error.strerror}); name another one by --port."
        ) from None
    return listener


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
