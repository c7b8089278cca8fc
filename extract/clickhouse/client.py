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
from clickhouse_connect.driver.exceptions import ClickHouseError
from clickhouse_connect.driver.httputil import check_env_proxy, get_pool_manager
from urllib3.exceptions import HTTPError

from extract.clickhouse.errors import exception_chain, to_tape_error
from extract.clickhouse.settings import ClickHouseSettings
from extract.clickhouse.tls import check_certificate_files, handshake_error
from extract.clickhouse.wake import wait_until_awake

CONNECT_TIMEOUT_S = 10
# An insert of one file may merge and compress for minutes; the server sends progress meanwhile.
SEND_RECEIVE_TIMEOUT_S = 300
POOL_CONNECTIONS = 32

# Both report each failure on a logger of their own, beside the exception that we turn into a sentence.
logging.getLogger("clickhouse_connect").setLevel(logging.CRITICAL)
logging.getLogger("urllib3.connectionpool").setLevel(logging.CRITICAL)

_clients: dict[tuple[int, ClickHouseSettings], Client] = {}
_clients_lock = threading.Lock()


def shared_client(settings: ClickHouseSettings) -> Client:
    """The process's one client of a server; safe in any number of threads, connections stay warm."""
    # A forked child must not write into its parent's sockets.
    key = (os.getpid(), settings)
    with _clients_lock:
        if key not in _clients:
            _clients[key] = open_client(settings)
        return _clients[key]


@dataclass(frozen=True)
class Database:
    """One ClickHouse server. Every failure of the driver or the network becomes a TapeError of one sentence.

    UsageError where a setting has to change (credentials, certificates, address), RetriableError where the same
    statement may succeed later, FinalError where it will not (a missing right, a read-only profile, bad SQL).
    Safe in any number of threads.
    """

    client: Client
    settings: ClickHouseSettings

    def rows(
        self, sql: str, parameters: Mapping[str, Any] | None = None, settings: Mapping[str, Any] | None = None
    ) -> list[tuple[Any, ...]]:
        """Run a query and return all of its rows. `{name:Type}` in `sql` is bound to `parameters`."""
        with self._explained():
            result = self.client.query(sql, parameters=_dict(parameters), settings=_dict(settings))
            return [tuple(row) for row in result.result_rows]

    def value(self, sql: str, parameters: Mapping[str, Any] | None = None) -> Any:
        """Run a query and return the first column of its first row, or None where there is no row."""
        rows = self.rows(sql, parameters)
        return rows[0][0] if rows else None

    def command(
        self, sql: str, parameters: Mapping[str, Any] | None = None, settings: Mapping[str, Any] | None = None
    ) -> None:
        """Run a statement that returns nothing."""
        with self._explained():
            self.client.command(sql, parameters=_dict(parameters), settings=_dict(settings))

    def insert(
        self,
        table: str,
        rows: Iterable[Sequence[Any]],
        columns: Sequence[str],
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        """Insert rows into `table`, which is named with its database; does nothing where there is no row."""
        if data := list(rows):
            with self._explained():
                self.client.insert(table, data, column_names=columns, settings=_dict(settings))

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (ClickHouseError, HTTPError, OSError) as error:
            raise to_tape_error(error, self.settings) from error


def shared_database(settings: ClickHouseSettings) -> Database:
    """The process's one `Database` of a server, on `shared_client`."""
    return Database(shared_client(settings), settings)


def _dict(mapping: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return None if mapping is None else dict(mapping)


def open_client(
    settings: ClickHouseSettings, *, compress: bool | str | None = None, **options: Any
) -> Client:
    """A client of its own, connected and greeted; a service that sleeps is waited for.

    `compress` names what the wire carries (lz4, zstd, gzip, True for the best, False); by default nothing on
    loopback and the best elsewhere. Files that are inserted go as they are: parquet is compressed already.
    Without a session, because queries of one session may not run side by side.

    Raises UsageError, RetriableError or FinalError, each one sentence without secrets.
    """
    check_certificate_files(settings)
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
    except (ClickHouseError, OSError) as error:
        broken = any(isinstance(cause, ssl.SSLEOFError | ConnectionError) for cause in exception_chain(error))
        raise to_tape_error((handshake_error(settings) if broken else None) or error, settings) from error


def supported_settings(client: Client, settings: dict[str, Any]) -> dict[str, Any]:
    """Without what this server's version does not know or does not let this user change."""
    known = client.server_settings
    return {name: value for name, value in settings.items() if name in known and not known[name].readonly}


def _pool(settings: ClickHouseSettings) -> Any:
    scheme = "https" if settings.secure else "http"
    # A proxy for the outside world cannot reach this machine's own loopback.
    proxy = None if settings.is_loopback else check_env_proxy(scheme, settings.host, settings.port)
    return get_pool_manager(
        ca_cert=settings.ca_cert,
        client_cert=settings.client_cert,
        client_cert_key=settings.client_key,
        maxsize=POOL_CONNECTIONS,
        **({f"{scheme}_proxy": proxy} if proxy else {}),
    )
