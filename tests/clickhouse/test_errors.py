"""Failures of dlt's clients: the class of the exception decides on a retry, its sentence names what to change."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import dlt
import pytest
from dlt.destinations.exceptions import (
    DatabaseException,
    DatabaseTerminalException,
    DatabaseTransientException,
    DatabaseUndefinedRelation,
)

from extract.clickhouse.client import open_client, shared_client
from extract.clickhouse.destination import tape_clickhouse
from extract.clickhouse.destination.configuration import TapeClickHouseConfiguration
from extract.clickhouse.settings import ClickHouseSettings
from extract.errors import FinalError, RetriableError, UsageError
from tests.support.proxy import Proxy

SECRET = "a-secret-password"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("statement", "exception", "error"),
    [
        ("SELECT * FROM no_such_table", DatabaseUndefinedRelation, FinalError),
        ("SELECT * FROM no_such_database.t", DatabaseUndefinedRelation, FinalError),
        ("INSERT INTO no_such_table VALUES (1)", DatabaseUndefinedRelation, FinalError),
        ("TRUNCATE TABLE no_such_table", DatabaseUndefinedRelation, FinalError),
        ("SELECT no_such_column FROM trades", DatabaseTerminalException, FinalError),
        ("SELEKT 1", DatabaseTerminalException, FinalError),
        ("SELECT toInt64('x')", DatabaseTerminalException, FinalError),
        ('INSERT INTO trades (id) FORMAT JSONEachRow {"id": "x"}', DatabaseTerminalException, FinalError),
        (
            "CREATE TABLE trades (id Int64) ENGINE = MergeTree ORDER BY id",
            DatabaseTerminalException,
            FinalError,
        ),
        ("SELECT * FROM file('/etc/hostname', 'LineAsString')", DatabaseTerminalException, FinalError),
        (
            "SELECT sum(number) FROM system.numbers SETTINGS max_execution_time = 0.1",
            DatabaseTransientException,
            RetriableError,
        ),
        (
            "SELECT groupArray(number) FROM numbers(1000000) SETTINGS max_memory_usage = 1000",
            DatabaseTransientException,
            RetriableError,
        ),
    ],
)
def test_server_error_decides_on_dlt_s_exception(
    pipeline: dlt.Pipeline, statement: str, exception: type, error: type
) -> None:
    """Missing tables are undefined, errors that may pass are transient, all others are terminal."""
    pipeline.run([{"id": 1}], table_name="trades")
    with pipeline.sql_client() as client, pytest.raises(exception) as raised:
        client.execute_sql(statement)
    assert isinstance(raised.value.dbapi_exception, error)
    assert "\n" not in str(raised.value)


def test_missing_database_is_undefined(pipeline: dlt.Pipeline) -> None:
    """A first run therefore starts without state instead of failing."""
    with pipeline.sql_client() as client, pytest.raises(DatabaseUndefinedRelation):
        client.execute_sql("SELECT 1")


def handler_for(status: int, body: bytes) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST

        def log_message(self, *args: object) -> None: ...

    return Handler


@contextmanager
def web_server(status: int) -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler_for(status, b"<html>sorry</html>"))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()


def failure(settings: ClickHouseSettings) -> tuple[type, DatabaseException]:
    """Class of the TapeError of `open_client`, and the exception of dlt's client, which has the same message."""
    with pytest.raises((UsageError, RetriableError, FinalError)) as own:
        open_client(settings)
    configuration = TapeClickHouseConfiguration()._bind_dataset_name("none")
    client = tape_clickhouse(settings).client(dlt.Schema("trades"), configuration)
    with pytest.raises(DatabaseException) as dlt_s, client:
        pass
    assert str(dlt_s.value) == str(own.value)
    assert settings.password not in str(own.value)
    assert str(own.value).endswith(".")
    return own.type, dlt_s.value


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@pytest.mark.parametrize(
    ("change", "error", "exception", "sentence"),
    [
        (
            lambda s: replace(s, password=SECRET),
            UsageError,
            DatabaseTerminalException,
            "rejects user 'tape' with this password; check CLICKHOUSE_LOCAL_USER and CLICKHOUSE_LOCAL_PASSWORD.",
        ),
        (
            lambda s: replace(s, user="nobody", password=SECRET),
            UsageError,
            DatabaseTerminalException,
            "rejects user 'nobody'",
        ),
        (
            lambda s: replace(s, port=closed_port()),
            RetriableError,
            DatabaseTransientException,
            "is not running; start it: make up.",
        ),
        (
            lambda s: replace(s, port=closed_port(), mode="cloud"),
            RetriableError,
            DatabaseTransientException,
            "is not running; check CLICKHOUSE_CLOUD_HOST and CLICKHOUSE_CLOUD_PORT.",
        ),
        (
            lambda s: replace(s, host="nowhere.invalid"),
            RetriableError,
            DatabaseTransientException,
            "Host name nowhere.invalid cannot be resolved",
        ),
    ],
    ids=["password", "user", "down", "cloud down", "host name"],
)
def test_unreachable_server(
    clickhouse: ClickHouseSettings, change: Callable, error: type, exception: type, sentence: str
) -> None:
    kind, raised = failure(change(clickhouse))
    assert (kind, type(raised)) == (error, exception)
    assert sentence in str(raised)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("status", "error", "sentence"),
    [
        (404, UsageError, "is not ClickHouse (HTTP status 404)"),
        (200, UsageError, "is not ClickHouse"),
        (401, UsageError, "check CLICKHOUSE_LOCAL_USER and CLICKHOUSE_LOCAL_PASSWORD"),
        (403, UsageError, "check CLICKHOUSE_LOCAL_USER and CLICKHOUSE_LOCAL_PASSWORD"),
        (429, RetriableError, "HTTP status 429"),
        (502, RetriableError, "HTTP status 502"),
        (503, RetriableError, "HTTP status 503"),
    ],
)
def test_another_http_server_on_the_port(
    clickhouse: ClickHouseSettings, status: int, error: type, sentence: str
) -> None:
    """The other server may be a proxy, a load balancer or any other program."""
    with web_server(status) as port:
        kind, raised = failure(replace(clickhouse, port=port))
    assert kind is error
    assert isinstance(raised, DatabaseTransientException) is (error is RetriableError)
    assert sentence in str(raised)


def test_broken_connection_is_transient_and_the_next_one_works(
    new_pipeline: Callable[..., dlt.Pipeline], proxy: Proxy
) -> None:
    """The connection breaks in the middle of a statement."""
    pipeline = new_pipeline(port=proxy.port)
    pipeline.run([{"id": 1}], table_name="trades")
    proxy.marker, proxy.cut_after_bytes = b"INSERT INTO trades", 10
    with pipeline.sql_client() as client:
        with pytest.raises(DatabaseTransientException, match=r"The connection to ClickHouse at \S+ broke"):
            client.execute_sql("INSERT INTO trades (id, _dlt_load_id, _dlt_id) VALUES (2, '', '')")
        assert client.execute_sql("SELECT count() FROM trades") == [(1,)]


def test_closed_idle_connections_are_replaced(
    new_pipeline: Callable[..., dlt.Pipeline], proxy: Proxy
) -> None:
    """A server closes idle connections; the pool must not use them again."""
    pipeline = new_pipeline(port=proxy.port)
    pipeline.run([{"id": 1}], table_name="trades")
    proxy.disconnect()
    pipeline.run([{"id": 2}], table_name="trades")
    with pipeline.sql_client() as client:
        assert client.execute_sql("SELECT count() FROM trades") == [(2,)]


def test_password_is_in_no_representation(clickhouse: ClickHouseSettings) -> None:
    """The destination, its configuration and its credentials omit it from `repr` and `str`."""
    destination = tape_clickhouse(replace(clickhouse, password=SECRET))
    configuration = destination.configuration(None, accept_partial=True)
    credentials = configuration.credentials
    texts = [repr(x) + str(x) for x in (destination, configuration, credentials, credentials.settings())]
    assert SECRET not in "".join(texts)


def test_clients_are_shared_in_a_process(clickhouse: ClickHouseSettings) -> None:
    """Load jobs reuse the connections of the shared client; `open_client` returns a separate one."""
    assert shared_client(clickhouse) is shared_client(replace(clickhouse))
    assert open_client(clickhouse) is not shared_client(clickhouse)
