"""Connections to ClickHouse over HTTP(S), and the one wrapper around the driver that the rest of the project uses."""

from __future__ import annotations

import logging
import os
import ssl
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import clickhouse_connect
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.httputil import check_env_proxy, get_pool_manager

from extract.clickhouse.embedded.password import require_own_server
from extract.clickhouse.errors import DRIVER_ERRORS, exception_chain, to_tape_error
from extract.clickhouse.settings import ClickHouseSettings
from extract.clickhouse.tls import check_certificate_files, handshake_error
from extract.clickhouse.wake import wait_until_awake
from extract.paths import tape_dir

CONNECT_TIMEOUT_S = 10
# An insert of one file may merge and compress for minutes; the server sends progress meanwhile.
SEND_RECEIVE_TIMEOUT_S = 300
POOL_CONNECTIONS = 32

# Both log each failure in addition to the exception that becomes a sentence.
logging.getLogger("clickhouse_connect").setLevel(logging.CRITICAL)
logging.getLogger("urllib3.connectionpool").setLevel(logging.CRITICAL)

Values = dict[str, Any] | None
"""Parameters or settings of a statement by name."""

_clients: dict[tuple[int, ClickHouseSettings], Client] = {}
_clients_lock = threading.Lock()


def shared_client(settings: ClickHouseSettings) -> Client:
    """The process's only client of a server; safe in any number of threads, connections are reused."""
    # A forked child must not write to its parent's sockets.
    key = (os.getpid(), settings)
    with _clients_lock:
        if key not in _clients:
            _clients[key] = open_client(settings)
        return _clients[key]


@dataclass(frozen=True)
class Database:
    """One ClickHouse server. Every failure of the driver or the network becomes a TapeError of one sentence.

    UsageError where a setting has to change (credentials, certificates, address), RetriableError where the same
    statement may succeed later, FinalError where it will not (a missing right or table, a read-only profile, bad SQL).
    Statement settings that the server does not know, or does not let this user change, are left out.
    Safe in any number of threads.
    """

    client: Client
    settings: ClickHouseSettings

    def rows(self, sql: str, parameters: Values = None, settings: Values = None) -> list[tuple[Any, ...]]:
        """Run a query and return all of its rows. `{name:Type}` in `sql` is bound to `parameters`."""
        with self.translated_errors():
            result = self.client.query(sql, parameters, settings=self._supported(settings))
            return [tuple(row) for row in result.result_rows]

    def column(self, sql: str, parameters: Values = None, settings: Values = None) -> list[Any]:
        """Run a query and return the first column of its rows."""
        return [row[0] for row in self.rows(sql, parameters, settings)]

    def value(self, sql: str, parameters: Values = None, settings: Values = None) -> Any:
        """Run a query and return the first column of its first row, or None where there is no row."""
        rows = self.rows(sql, parameters, settings)
        return rows[0][0] if rows else None

    def command(self, sql: str, parameters: Values = None, settings: Values = None) -> None:
        """Run a statement that returns nothing."""
        with self.translated_errors():
            self.client.command(sql, parameters, settings=self._supported(settings))

    def insert(
        self,
        table: str,
        rows: Iterable[Sequence[Any]],
        columns: Sequence[str],
        settings: Values = None,
    ) -> None:
        """Insert rows into `table`, which is named with its database; does nothing where there is no row."""
        if data := list(rows):
            with self.translated_errors():
                self.client.insert(table, data, columns, settings=self._supported(settings))

    def close(self) -> None:
        """Close the connections of a database that `open_database` returned."""
        self.client.close()

    @contextmanager
    def translated_errors(self) -> Iterator[None]:
        """Convert errors of the driver in the block to TapeErrors, for direct calls of `client`."""
        try:
            yield
        except DRIVER_ERRORS as error:
            raise to_tape_error(error, self.settings) from error

    def _supported(self, settings: Values) -> dict[str, Any] | None:
        return supported_settings(self.client, settings) if settings else None


def shared_database(settings: ClickHouseSettings) -> Database:
    """The process's only `Database` of a server, on `shared_client`."""
    return Database(shared_client(settings), settings)


def open_database(settings: ClickHouseSettings, **options: Any) -> Database:
    """A `Database` on a new client, see `open_client`."""
    return Database(open_client(settings, **options), settings)


def quote_identifier(name: str) -> str:
    """`name` as one identifier in a statement, whatever characters it has."""
    escaped = name.replace("\\", "\\\\").replace("`", "\\`")
    return f"`{escaped}`"


def open_client(
    settings: ClickHouseSettings, *, compress: bool | str | None = None, **options: Any
) -> Client:
    """Open a new client and connect it, waiting for an idle Cloud service to start.

    `compress` names the compression of requests and results (lz4, zstd, gzip, True for the best, False); by default
    none on loopback and the best elsewhere. Inserted files are sent unchanged, because parquet is compressed already.
    The client has no session, because ClickHouse runs the queries of one session one at a time.

    Raises UsageError, RetriableError or FinalError, each one sentence without secrets.
    """
    check_certificate_files(settings)
    if settings.is_generated:
        require_own_server(tape_dir(), settings.host, settings.port)
    pool = _pool(settings)
    try:
        wait_until_awake(settings, pool)
        return clickhouse_connect.get_client(
            host=settings.host,
            port=settings.port,
            interface="https" if settings.secure else "http",
            username=settings.user,
            # A client certificate is the credential: no password leaves the host.
            password="" if settings.client_cert else settings.password,
            client_cert=settings.client_cert,
            client_cert_key=settings.client_key,
            compress=not settings.is_loopback if compress is None else compress,
            pool_mgr=pool,
            connect_timeout=CONNECT_TIMEOUT_S,
            send_receive_timeout=SEND_RECEIVE_TIMEOUT_S,
            autogenerate_session_id=False,
            tz_mode="aware",
            client_name="deribit-tape",
            **options,
        )
    except DRIVER_ERRORS as error:
        broken = any(isinstance(cause, ssl.SSLEOFError | ConnectionError) for cause in exception_chain(error))
        raise to_tape_error((handshake_error(settings) if broken else None) or error, settings) from error


def supported_settings(client: Client, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that the server's version knows and lets this user change."""
    known = client.server_settings
    return {name: value for name, value in settings.items() if name in known and not known[name].readonly}


def _pool(settings: ClickHouseSettings) -> Any:
    scheme = "https" if settings.secure else "http"
    # An outbound proxy cannot reach this machine's loopback.
    proxy = None if settings.is_loopback else check_env_proxy(scheme, settings.host, settings.port)
    return get_pool_manager(
        ca_cert=settings.ca_cert,
        client_cert=settings.client_cert,
        client_cert_key=settings.client_key,
        maxsize=POOL_CONNECTIONS,
        http_proxy=proxy if proxy and not settings.secure else None,
        https_proxy=proxy if proxy and settings.secure else None,
    )
