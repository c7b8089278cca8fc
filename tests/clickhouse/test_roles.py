"""Each role can do its own work, through the real tools, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError
from dbt.cli.main import dbtRunner

from extract.clickhouse.client import Database, open_client, open_database
from extract.clickhouse.embedded.server import embedded_server
from extract.clickhouse.roles import (
    ROLES,
    apply_grants,
    grants_sql,
    role_passwords,
    users_xml_entries,
    users_xml_quotas,
)
from extract.clickhouse.settings import ClickHouseSettings
from extract.coverage.status import fetch_status
from extract.errors import FinalError, RetriableError, TapeError, UsageError
from extract.pipeline.run import run
from extract.sandbox.server import SandboxExchange
from extract.sandbox.tape import Tape
from extract.source.options import RunOptions
from extract.times import iso
from harness.dbt_project import Project, forget_databases
from tests.support.commands import tape_here
from tests.support.proxy import Proxy

pytestmark = pytest.mark.slow

PASSWORDS = {role.name: f"canary-{role.name}" for role in ROLES}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseSettings]:
    """A server started with all three passwords in the environment."""
    with ExitStack() as stack:
        with pytest.MonkeyPatch.context() as env:
            for role in ROLES:
                env.setenv(role.password_variable, PASSWORDS[role.name])
            settings = stack.enter_context(embedded_server(tmp_path_factory.mktemp("roles")))
        yield settings


def as_role(server: ClickHouseSettings, name: str) -> ClickHouseSettings:
    return replace(server, user=name, password=PASSWORDS[name])


@pytest.fixture(scope="module")
def built(server: ClickHouseSettings, tmp_path_factory: pytest.TempPathFactory) -> ClickHouseSettings:
    """The server after a load by the loader, a build by the transformer, and a second load, which refreshes the models."""
    with pytest.MonkeyPatch.context() as env, SandboxExchange(Tape.generate(1, 1000, 3.0)) as exchange:
        env.setenv("CLICKHOUSE_LOCAL_HOST", server.host)
        env.setenv("CLICKHOUSE_LOCAL_PORT", str(server.port))
        env.setenv("TAPE_DIR", str(tmp_path_factory.mktemp("tape")))
        env.setenv("SOURCES__DERIBIT__API_URL", exchange.url)
        env.setenv("SOURCES__DERIBIT__HISTORY_URL", exchange.history_url)
        env.setenv("SOURCES__DERIBIT__REQUESTS_PER_SECOND", "1000")
        _login(env, "loader")
        first = run(RunOptions(until=iso(exchange.now_ms - 86_400_000)))
        assert first.total
        _login(env, "transformer")
        transformer = open_client(as_role(server, "transformer"))
        project = Project.__new__(Project)
        project.client, project.scratch, project.logged = transformer, tmp_path_factory.mktemp("dbt"), []
        forget_databases()
        project.runner = dbtRunner()
        project.must("run")
        project.must("run", "--full-refresh", "--select", "instrument_ends")
        project.must("test", "--select", "test_name:matches_declared_schema")
        _login(env, "loader")
        assert run(RunOptions()).total
    return server


def _login(env: pytest.MonkeyPatch, name: str) -> None:
    env.setenv("CLICKHOUSE_LOCAL_USER", name)
    env.setenv("CLICKHOUSE_LOCAL_PASSWORD", PASSWORDS[name])


@pytest.fixture
def client(built: ClickHouseSettings) -> Callable[[str], Client]:
    return lambda name: open_client(as_role(built, name))


def test_reader_reads_both_databases(built: ClickHouseSettings, client: Callable[[str], Client]) -> None:
    """Marts, raw tables, the queries of `tape status`, and the sizes on disk."""
    reader = client("reader")
    assert reader.command("select count() from deribit.trades") == 1000
    assert reader.command("select count() from deribit.ohlcv_1h final") > 0
    database = Database(reader, built)
    assert sum(each.trades for each in fetch_status(database)) == 1000
    names = [f"BTC-CS-19MAY26-{n}_{n}" for n in range(20_000)]  # they are sent as a temporary table
    assert database.value("select length({names:Array(String)})", {"names": names}) == len(names)
    assert (
        reader.command(
            "select sum(rows) from system.parts where database = 'deribit_raw' and table = 'trades'"
        )
        >= 1000
    )
    assert reader.command("select count() from system.disks") == 1


DENIED_TO_ALL = (
    "select * from file('/etc/passwd', LineAsString)",
    "insert into function file('x.csv', CSV, 'a String') values ('a')",
    "select * from url('http://127.0.0.1:1/', LineAsString)",
    "select * from remote('127.0.0.1:1', system.one)",
    "select * from remoteSecure('127.0.0.1:1', system.one)",
    "select * from s3('http://127.0.0.1:1/bucket/x', LineAsString)",
    "select * from executable('id', TSV, 'x String')",
    "create database elsewhere",
    "create table default.t (a Int8) engine = MergeTree order by a",
    "create user u",
    "grant select on *.* to reader",
    "system shutdown",
    "select * from system.query_log",
    "drop database deribit_raw",
    "drop table deribit_raw.trades",
    "truncate table deribit_raw.trades",
    "alter table deribit_raw.trades update price = 1 where 1",
    "alter table deribit_raw.trades drop column price",
    "drop database deribit",
)
RAW_WRITES = (
    "insert into deribit_raw.trades (instrument_name) values ('x')",
    "create table deribit_raw.t (a Int8) engine = MergeTree order by a",
    "alter table deribit_raw.trades add column a Int8",
    "alter table deribit_raw.trades delete where 1",
    "alter table deribit_raw.trades drop partition 202601",
    "delete from deribit_raw.trades where 1",
    "insert into deribit_runs.leases (lease_id) values ('x')",
)
MART_CHANGES = (
    "create table deribit.t (a Int8) engine = MergeTree order by a",
    "create view deribit.v as select 1",
    "alter table deribit.trade_versions delete where 1",
    "truncate table deribit.trade_versions",
    "drop view deribit.trades",
)
MART_WRITES = (*MART_CHANGES, "insert into deribit.trade_versions (instrument_name) values ('x')")
DENIED = {
    "loader": MART_CHANGES,
    "transformer": RAW_WRITES,
    "reader": (
        *RAW_WRITES,
        *MART_WRITES,
        "optimize table deribit.trade_versions",
        "create temporary table t (a Int8)",
    ),
}


@pytest.mark.parametrize("role", [role.name for role in ROLES])
def test_statements_beyond_a_role_are_denied(client: Callable[[str], Client], role: str) -> None:
    """The error is a missing privilege and no other one."""
    connected = client(role)
    for sql in (*DENIED_TO_ALL, *DENIED[role]):
        with pytest.raises(DatabaseError, match=r"ACCESS_DENIED|Not enough privileges"):
            connected.command(sql)


def test_role_without_a_password_has_no_user() -> None:
    """Only the roles with a password in the environment become users of the server."""
    assert users_xml_entries({}) == ""
    assert "<loader>" not in users_xml_entries(PASSWORDS, excluded="loader")
    assert role_passwords({"CLICKHOUSE_READER_PASSWORD": "x", "CLICKHOUSE_LOADER_PASSWORD": ""}) == {
        "reader": "x"
    }


def test_sql_and_users_xml_grant_the_same() -> None:
    """The grants of each role, parsed from both outputs."""
    root = ElementTree.fromstring(f"<users>{users_xml_entries(PASSWORDS)}</users>")
    in_xml = {user.tag: {query.text.removeprefix("GRANT ") for query in user.iter("query")} for user in root}
    in_sql = {}
    for statement in grants_sql(PASSWORDS):
        if match := re.fullmatch(r"GRANT (.* ON .*) TO tape_(\w+) WITH REPLACE OPTION", statement):
            privileges = re.findall(r"[A-Z][A-Z ,]*? ON \S+?(?=, [A-Z]|$)", match[1])
            in_sql[match[2]] = set(privileges)
    assert in_sql == in_xml
    assert in_xml.keys() == PASSWORDS.keys()


def test_sql_and_users_xml_have_the_same_quotas() -> None:
    """Queries an hour, parsed from both outputs; 0 in users.xml is no limit."""
    in_xml = {}
    for quota in ElementTree.fromstring(f"<quotas>{users_xml_quotas()}</quotas>"):
        assert quota.findtext("interval/duration") == "3600", "seconds"
        in_xml[quota.tag] = quota.findtext("interval/queries")
    quotas = [
        re.fullmatch(
            r"CREATE QUOTA OR REPLACE (\w+) KEYED BY user_name FOR INTERVAL 1 hour MAX queries = (\d+) TO \1",
            each,
        )
        for each in grants_sql(PASSWORDS)
        if "QUOTA" in each
    ]
    assert quotas
    in_sql = dict(each.groups() for each in quotas if each)
    assert in_sql == {name: queries for name, queries in in_xml.items() if queries != "0"}


def test_statements_are_valid_clickhouse_sql(server: ClickHouseSettings) -> None:
    """The embedded server cannot create users, so it only parses and formats the statements."""
    with open_client(server) as client:
        for statement in grants_sql(PASSWORDS):
            parse = "select formatQuerySingleLine({sql:String})"
            [(back,)] = client.query(parse, parameters={"sql": statement}).result_rows
            assert _words(back) == _words(statement)


def _words(statement: str) -> list[str]:
    """The sorted upper-case words of a statement, because the server sorts privileges."""
    return sorted(re.findall(r"[\w.*']+", statement.upper()))


def test_grants_command_prints_statements_and_explains_a_missing_right(
    server: ClickHouseSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Standard output has only statements, to be piped; a login without the right gets an instruction."""
    for name in ("READER", "TRANSFORMER"):
        monkeypatch.delenv(f"CLICKHOUSE_{name}_PASSWORD", raising=False)
    monkeypatch.setenv("CLICKHOUSE_LOADER_PASSWORD", PASSWORDS["loader"])
    monkeypatch.setenv("CLICKHOUSE_LOCAL_HOST", server.host)
    monkeypatch.setenv("CLICKHOUSE_LOCAL_PORT", str(server.port))
    monkeypatch.setenv("CLICKHOUSE_LOCAL_PASSWORD", server.password)
    printed = tape_here("grants", "--print")
    assert printed.code == 0
    assert all(line.endswith(";") for line in printed.out.splitlines())
    assert printed.out.count("CREATE USER") == 1
    assert (
        "No user for transformer, reader: set CLICKHOUSE_TRANSFORMER_PASSWORD, CLICKHOUSE_READER_PASSWORD."
        in printed.err
    )
    refused = tape_here("grants", "--apply", "--target", "local")
    assert (refused.code, refused.out) == (3, "")
    assert refused.err.startswith("User 'tape' may not create roles and users at ")
    assert (
        "log in as an admin by CLICKHOUSE_LOCAL_USER. The embedded ClickHouse creates them itself"
        in refused.err
    )
    assert tape_here("grants").code == 3


def test_output_has_salted_hashes_instead_of_passwords() -> None:
    written = "\n".join([*grants_sql(PASSWORDS), users_xml_entries(PASSWORDS)])
    assert "canary" not in written
    once, again = ("\n".join(grants_sql(PASSWORDS)) for _ in range(2))
    assert once != again, "each statement has a new salt"


@pytest.mark.parametrize(
    ("code", "error", "sentence"),
    [
        (497, UsageError, r"^User 'tape' may not create roles and users at .* by CLICKHOUSE_LOCAL_USER\."),
        (495, UsageError, r"reads its users from users\.xml: set the roles' passwords there by"),
        (514, UsageError, r"reads its users from users\.xml: set the roles' passwords there by"),
        (62, FinalError, r"Syntax error in CREATE USER loader$"),
        (241, RetriableError, r"Syntax error in CREATE USER loader$"),
    ],
)
def test_failed_grant_is_explained_without_the_hash(
    clickhouse: ClickHouseSettings, proxy: Proxy, code: int, error: type[TapeError], sentence: str
) -> None:
    """A server may quote the statement in its error, and the statement has the hash of a password."""
    database = open_database(replace(clickhouse, port=proxy.port))
    text = f"Code: {code}. DB::Exception: Syntax error in CREATE USER loader IDENTIFIED WITH sha256_hash BY 'canary'"
    proxy.canned_response = (
        f"HTTP/1.1 500 Status\r\nX-ClickHouse-Exception-Code: {code}\r\nContent-Length: {len(text)}\r\n"
        f"Connection: close\r\n\r\n{text}"
    ).encode()
    proxy.disconnect()
    with pytest.raises(error, match=sentence) as raised:
        apply_grants(database, PASSWORDS)
    assert "canary" not in str(raised.value)
