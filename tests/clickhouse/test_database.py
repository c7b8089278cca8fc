"""Every failure of a statement on `Database` is a TapeError of one sentence, by what to do about it."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from extract.clickhouse.client import Database, open_database, quote_identifier, shared_database
from extract.clickhouse.errors import UndefinedRelationError, server_code
from extract.clickhouse.settings import ClickHouseSettings
from extract.errors import FinalError, RetriableError, TapeError, UsageError
from tests.support.proxy import Proxy

LOGIN = r"ClickHouse at \S+ rejects user 'tape' with this password; check CLICKHOUSE_LOCAL_USER and \S+_PASSWORD\."
HTML = "<html>sorry</html>"


@pytest.fixture
def direct(clickhouse: ClickHouseSettings, database: str) -> Database:
    """The server, with a table `numbers` of one column in `database`."""
    server = shared_database(clickhouse)
    server.command(f"create database {database}")
    server.command(f"create table {database}.numbers (id Int64) engine = MergeTree order by id")
    return server


@pytest.fixture
def proxied(clickhouse: ClickHouseSettings, proxy: Proxy) -> Iterator[Database]:
    """The server through `proxy`, connected."""
    server = open_database(replace(clickhouse, port=proxy.port))
    yield server
    server.close()


def error_of(work: Callable[[], object]) -> TapeError:
    """The TapeError that `work` raises; it is one line."""
    with pytest.raises(TapeError) as raised:
        work()
    assert "\n" not in str(raised.value)
    return raised.value


def test_statements_bind_parameters_and_return_plain_rows(direct: Database, database: str) -> None:
    table = f"{database}.numbers"
    direct.insert(table, ([n] for n in range(3)), ["id"])
    direct.insert(table, [], ["id"])
    sql = f"select id, id * 2 from {table} where id >= {{least:Int64}} order by id"
    assert direct.rows(sql, {"least": 1}) == [(1, 2), (2, 4)]
    assert direct.column(sql, {"least": 1}) == [1, 2]
    assert direct.value(sql, {"least": 1}) == 1
    assert direct.value(sql, {"least": 3}) is None
    assert direct.value(f"exists table {table}") == 1


def test_arrays_of_any_length_are_parameters(direct: Database, database: str) -> None:
    """ClickHouse accepts 131,072 bytes for one. Also pairs, and two arrays whose order matters."""
    direct.insert(f"{database}.numbers", ([n] for n in range(10)), ["id"])
    names = ["O'Neil \\ ☃", *(f"BTC-CS-19MAY26-{n}_{n}" for n in range(20_000))]
    query = "select length({names:Array(String)}), {names:Array(String)}[1], 'BTC-CS-19MAY26-7_7' in {names:Array(String)}"
    assert direct.rows(query, {"names": names}) == [(20_001, names[0], 1)]
    pairs = [(f"BTC-CS-19MAY26-{n}", n) for n in range(20_000)]
    ids = f"select id from {database}.numbers where ('BTC-CS-19MAY26-7', id) in {{keys:Array(Tuple(String, Int64))}}"
    assert direct.column(ids, {"keys": pairs}) == [7]
    values = list(range(2**63, 2**63 + 20_001))
    transform = "select transform('BTC-CS-19MAY26-9_9', {names:Array(String)}, {values:Array(UInt64)}, 1)"
    assert direct.value(transform, {"names": names, "values": values}) == 2**63 + 10
    assert direct.formatted(transform, "TSV", {"names": names, "values": values}) == b"%d\n" % (2**63 + 10)
    insert = f"insert into {database}.numbers select arrayJoin({{values:Array(Int64)}})"
    direct.command(insert, {"values": list(range(10, 30_000))})
    assert direct.value(f"select uniqExact(id) from {database}.numbers") == 30_000


def test_unknown_settings_are_left_out(direct: Database) -> None:
    """An older server does not know each setting, and a read-only profile may change none."""
    settings = {"no_such_setting": 1, "max_threads": 3}
    assert direct.value("select getSetting('max_threads')", settings=settings) == 3


@pytest.mark.parametrize(
    ("status", "code", "body", "error", "sentence"),
    [
        (500, 241, "Memory limit exceeded. (MEMORY_LIMIT_EXCEEDED)", RetriableError, "Memory limit exceeded"),
        (500, 252, "Too many parts. (TOO_MANY_PARTS)", RetriableError, "Too many parts"),
        (
            500,
            252,
            "Too many partitions for single INSERT block (more than 100). (TOO_MANY_PARTS)",
            FinalError,
            "Too many partitions",
        ),
        (500, 999, "Session expired. (KEEPER_EXCEPTION)", RetriableError, "Session expired"),
        (500, 432, "Unknown codec family code: 0. (UNKNOWN_CODEC)", FinalError, "Unknown codec family"),
        (404, 60, "Table x.y does not exist. (UNKNOWN_TABLE)", UndefinedRelationError, "x.y does not exist"),
        (404, 81, "Database x does not exist. (UNKNOWN_DATABASE)", UndefinedRelationError, "x does not"),
        (400, 62, "Syntax error: failed at position 1. (SYNTAX_ERROR)", FinalError, "Syntax error"),
        (403, 497, "tape: Not enough privileges. (ACCESS_DENIED)", FinalError, "Not enough privileges"),
        (500, 164, "Cannot execute query in readonly mode. (READONLY)", FinalError, "readonly mode"),
        (500, 999999, "A code of a later version.", FinalError, "A code of a later version"),
        (401, 194, "Password required. (REQUIRED_PASSWORD)", UsageError, LOGIN),
        (403, 516, "Authentication failed. (AUTHENTICATION_FAILED)", UsageError, LOGIN),
        (401, None, HTML, UsageError, LOGIN),
        (403, None, HTML, UsageError, LOGIN),
        (404, None, HTML, UsageError, r"is not ClickHouse \(HTTP status 404\); check CLICKHOUSE_LOCAL_HOST"),
        (413, None, HTML, FinalError, "rejects a request of this size; raise its limit"),
        *((s, None, HTML, RetriableError, f"HTTP status {s} instead of") for s in (408, 425, 429)),
        *((s, None, HTML, RetriableError, f"HTTP status {s} instead of") for s in (500, 502, 503, 504)),
    ],
)
def test_response_decides_on_the_error(
    proxied: Database,
    proxy: Proxy,
    status: int,
    code: int | None,
    body: str,
    error: type[TapeError],
    sentence: str,
) -> None:
    """Status, ClickHouse's code and body of a response determine the error class and its sentence."""
    text = f"Code: {code}. DB::Exception: {body} (version 25.8.1.1 (official build))\n" if code else body
    header = f"X-ClickHouse-Exception-Code: {code}\r\n" if code else ""
    proxy.canned_response = (
        f"HTTP/1.1 {status} Status\r\n{header}Content-Length: {len(text)}\r\nConnection: close\r\n\r\n{text}"
    ).encode()
    proxy.disconnect()
    raised = error_of(lambda: proxied.rows("select 1"))
    assert type(raised) is error
    assert server_code(raised) == code
    assert pytest.RaisesExc(error, match=sentence).matches(raised)
    assert "version 25.8" not in str(raised)


@pytest.mark.parametrize(
    ("sql", "error"),
    [
        ("select * from system.no_such_table", UndefinedRelationError),
        ("select * from nowhere.numbers", UndefinedRelationError),
        ("selekt 1", FinalError),
        ("select toInt64('x')", FinalError),
        ("select * from file('/etc/hostname', 'LineAsString')", FinalError),
        ("create database elsewhere settings readonly = 1", FinalError),
        ("select sum(number) from system.numbers settings max_execution_time = 0.1", RetriableError),
    ],
)
@pytest.mark.parametrize("method", ["rows", "column", "value", "command"])
def test_server_errors_of_every_method(
    direct: Database, method: str, sql: str, error: type[TapeError]
) -> None:
    assert type(error_of(lambda: getattr(direct, method)(sql))) is error


def test_server_errors_of_an_insert(direct: Database, database: str) -> None:
    raised = error_of(lambda: direct.insert(f"{database}.nothing", [[1]], ["id"]))
    assert type(raised) is UndefinedRelationError


@pytest.mark.parametrize(("code", "error"), [(395, FinalError), (241, RetriableError)])
def test_server_error_in_the_middle_of_a_result(direct: Database, code: int, error: type[TapeError]) -> None:
    """The status 200 and the first rows have been sent when the query fails."""
    sql = (
        f"select repeat('x', 1000), throwIf(number = 19000, 'in the middle', {code}::Int16) from numbers(20000) "
        "settings max_block_size = 1000, max_threads = 1, allow_custom_error_code_in_throwif = 1"
    )
    raised = error_of(lambda: direct.rows(sql))
    assert type(raised) is error
    assert "in the middle" in str(raised)
    assert server_code(raised) == code


def test_broken_connection_in_the_middle_of_a_result_is_retriable(proxied: Database, proxy: Proxy) -> None:
    proxy.cut_response_after_bytes = 200_000
    raised = error_of(lambda: proxied.rows("select repeat('x', 1000) from numbers(1000)"))
    assert isinstance(raised, RetriableError)
    assert str(raised).startswith(f"The connection to ClickHouse at {proxied.settings.url} broke: ")
    assert proxied.value("select 1") == 1


def test_refused_connection_is_retriable(clickhouse: ClickHouseSettings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    raised = error_of(lambda: open_database(replace(clickhouse, port=port)))
    assert isinstance(raised, RetriableError)
    assert str(raised) == f"ClickHouse at http://{clickhouse.host}:{port} is not running; start it: make up."


@pytest.mark.parametrize("name", ["plain", "trades where 1 -- ", "a`b", "a\\`b", "`quoted`", "it's", '"x"'])
def test_quoted_identifier_is_one_identifier(direct: Database, name: str) -> None:
    """The server reads back exactly the name."""
    columns = direct.client.query(f"select 1 as {quote_identifier(name)}").column_names
    assert columns == (name,)


def test_answer_of_the_server_is_reported_and_no_error_before_it(direct: Database) -> None:
    """A statement may be sent while an earlier error is handled, as when a missing table is created."""
    try:
        direct.value("select 1 from missing.trades")
    except TapeError:
        with pytest.raises(TapeError, match="second"):
            direct.value("select throwIf(1, 'second')")
    else:
        pytest.fail("the table is missing")
