"""Connections to ClickHouse over HTTP(S), and the one wrapper around the driver that the rest of the project uses."""

from __future__ import annotations

import logging
import os
import random
import ssl
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import clickhouse_connect
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import StreamFailureError
from clickhouse_connect.driver.httputil import get_pool_manager
from clickhouse_connect.driver.models import SettingDef

from extract.clickhouse.embedded.password import require_own_server
from extract.clickhouse.errors import DRIVER_ERRORS, server_code, to_tape_error
from extract.clickhouse.long_parameters import bind_long_arrays
from extract.clickhouse.settings import IS_REPLICATED, QUORUM_SETTINGS, ClickHouseSettings
from extract.clickhouse.tls import check_certificate_files, handshake_error
from extract.clickhouse.wake import wait_until_awake
from extract.errors import RetriableError, exception_chain
from extract.paths import tape_dir
from extract.proxies import find_proxy

CONNECT_TIMEOUT_S = 10
# An insert of one file may merge and compress for minutes; the server sends progress meanwhile.
SEND_RECEIVE_TIMEOUT_S = 300
POOL_CONNECTIONS = 32
STREAM_CHUNK_BYTES = 256 * 1024
QUORUM_WAIT_S = 30
UNSATISFIED_QUORUM_FOR_PREVIOUS_WRITE = 286

# Both log each failure in addition to the exception that becomes a sentence.
logging.getLogger("clickhouse_connect").setLevel(logging.CRITICAL)
logging.getLogger("urllib3.connectionpool").setLevel(logging.CRITICAL)

_OVERFLOW_MODES = (
    *("read_overflow_mode", "read_overflow_mode_leaf", "transfer_overflow_mode", "result_overflow_mode"),
    *("timeout_overflow_mode", "timeout_overflow_mode_leaf", "group_by_overflow_mode", "sort_overflow_mode"),
    *("set_overflow_mode", "join_overflow_mode", "distinct_overflow_mode"),
)
"""Settings by which a statement that exceeds a limit of the profile would end early, without an error."""

PINNED_SETTINGS: Mapping[str, Any] = {
    "join_use_nulls": 0,
    "join_default_strictness": "ALL",
    "join_algorithm": "direct,parallel_hash,hash",
    "any_join_distinct_right_table_keys": 0,
    "aggregate_functions_null_for_empty": 0,
    "empty_result_for_aggregation_by_empty_set": 0,
    "group_by_use_nulls": 0,
    "transform_null_in": 0,
    "data_type_default_nullable": 0,
    "cast_keep_nullable": 0,
    "prefer_column_name_to_alias": 0,
    "enable_extended_results_for_datetime_functions": 0,
    "use_variant_as_common_type": 0,
    "use_query_cache": 0,
    "use_skip_indexes_if_final_exact_mode": 1,
    **dict.fromkeys(_OVERFLOW_MODES, "throw"),
    "async_insert": 0,
    "materialized_views_ignore_errors": 0,
    "limit": 0,
    "offset": 0,
    "additional_table_filters": "{}",
    "additional_result_filter": "",
}
"""Settings that change the meaning of a statement, at ClickHouse's defaults, whatever the user's profile has.

`profiles/profiles.yml` has them for dbt.
"""

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
        sql, arguments = self._bound(sql, parameters, settings)
        with self.translated_errors():
            result = self.client.query(sql, **arguments)
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
        sql, arguments = self._bound(sql, parameters, settings)
        self._send(lambda: self.client.command(sql, **arguments))

    def insert(
        self,
        table: str,
        rows: Iterable[Sequence[Any]],
        columns: Sequence[str],
        settings: Values = None,
    ) -> None:
        """Insert rows into `table`, which is named with its database; does nothing where there is no row."""
        if data := list(rows):
            self._send(lambda: self.client.insert(table, data, columns, settings=self._supported(settings)))

    def formatted(self, sql: str, format: str, parameters: Values = None, settings: Values = None) -> bytes:
        """Run a query and return its whole result as ClickHouse writes it in `format`, for example JSONEachRow."""
        sql, arguments = self._bound(sql, parameters, settings)
        with self.translated_errors():
            return self.client.raw_query(sql, fmt=format, **arguments)

    def stream(
        self, sql: str, format: str, parameters: Values = None, settings: Values = None
    ) -> Iterator[bytes]:
        """Run a query and yield its result as ClickHouse writes it in `format`, in memory that does not depend on its size.

        Errors before the first byte are raised by the call, later ones by the iterator: a result without an error is whole.
        """
        sql, arguments = self._bound(sql, parameters, settings)
        with self.translated_errors():
            response = self.client.raw_stream(sql, fmt=format, **arguments)
        return self._chunks(response)

    def _chunks(self, response: Any) -> Iterator[bytes]:
        """The body of a response, without the message that ClickHouse appends if the query fails after its first byte."""
        marker = f"__exception__\r\n{response.headers.get('X-ClickHouse-Exception-Tag', '')}".encode()
        held = b""
        try:
            with self.translated_errors():
                for chunk in response.stream(STREAM_CHUNK_BYTES, decode_content=True):
                    held += chunk
                    if (at := held.find(marker)) >= 0:
                        message = held[at + len(marker) :] + response.read()
                        raise StreamFailureError(message.decode(errors="replace").strip())
                    # The marker may continue in the next chunk.
                    yield held[: -len(marker)]
                    held = held[-len(marker) :]
            yield held
        finally:
            response.close()  # and not returned to the pool, because the rest of a result that nobody reads may be long

    def insert_stream(
        self,
        table: str,
        columns: Sequence[str],
        pieces: Generator[bytes, None, None],
        format: str,
        settings: Values = None,
    ) -> None:
        """Insert a file of a ClickHouse `format`, such as Parquet, in pieces; `columns` are quoted names.

        What has arrived before an error may be inserted. An error of `pieces` is raised as it is.
        """
        with self.translated_errors():
            self.client.raw_insert(table, columns, pieces, self._supported(settings), format)

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

    def _send(self, statement: Callable[[], object]) -> None:
        """Send a statement; while another insert into its replicated table waits for its quorum, try again."""
        deadline_s = time.monotonic() + QUORUM_WAIT_S
        while True:
            try:
                with self.translated_errors():
                    statement()
                return
            except RetriableError as error:
                if (
                    server_code(error) != UNSATISFIED_QUORUM_FOR_PREVIOUS_WRITE
                    or time.monotonic() > deadline_s
                ):
                    raise
            time.sleep(random.uniform(0.02, 0.2))

    def _bound(self, sql: str, parameters: Values, settings: Values) -> tuple[str, dict[str, Any]]:
        """The statement, and the driver's arguments for its parameters and settings."""
        sql, parameters, tables = bind_long_arrays(sql, parameters)
        supported = self._supported(settings)
        return sql, {"parameters": parameters, "settings": supported, "external_data": tables}

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
    The client has no session, because ClickHouse runs the queries of one session one at a time. It replaces settings of
    the user's profile that would change the meaning of statements.

    Raises UsageError, RetriableError or FinalError, each one sentence without secrets.
    """
    check_certificate_files(settings)
    if settings.is_generated:
        require_own_server(tape_dir(), settings.host, settings.port)
    pool = _pool(settings)
    try:
        wait_until_awake(settings, pool)
        client = clickhouse_connect.get_client(
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
            autogenerate_session_id=False,
            tz_mode="aware",
            client_name="deribit-tape",
            **{
                "connect_timeout": CONNECT_TIMEOUT_S,
                "send_receive_timeout": SEND_RECEIVE_TIMEOUT_S,
                **options,
            },
        )
        if len(client.server_settings) < FEW_SETTINGS:
            _read_settings_again(client)
        fixed = {**PINNED_SETTINGS, **(QUORUM_SETTINGS if IS_REPLICATED else {})}
        for name, value in supported_settings(client, fixed).items():
            if client.server_settings[name].value != str(value):  # the profile of the user
                client.set_client_setting(name, value)
        return client
    except DRIVER_ERRORS as error:
        broken = any(isinstance(cause, ssl.SSLEOFError | ConnectionError) for cause in exception_chain(error))
        raise to_tape_error((handshake_error(settings) if broken else None) or error, settings) from error


FEW_SETTINGS = 500
"""Every server has more settings. The driver sees fewer if the user's profile limits the rows of a result."""


def _read_settings_again(client: Client) -> None:
    """Read all settings of the server, also with a profile that limits the rows of a result.

    The statement overrides `limit` and `offset`, and therefore does not show the profile's values of these two.
    """
    rows = client.query(
        "select name, value, readonly from system.settings settings limit = 0, offset = 0"
    ).result_rows
    client.server_settings = {name: SettingDef(name, value, readonly) for name, value, readonly in rows}
    for name in ("limit", "offset"):
        client.set_client_setting(name, 0)


def supported_settings(client: Client, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that the server's version knows and lets this user change."""
    known = client.server_settings
    return {name: value for name, value in settings.items() if name in known and not known[name].readonly}


def _pool(settings: ClickHouseSettings) -> Any:
    proxy = find_proxy(settings.url)
    options: dict[str, Any] = {}
    if proxy:
        options = {"https_proxy": proxy.address, "proxy_headers": proxy.headers}
    return get_pool_manager(
        ca_cert=settings.ca_cert,
        client_cert=settings.client_cert,
        client_cert_key=settings.client_key,
        maxsize=POOL_CONNECTIONS,
        **options,
    )
