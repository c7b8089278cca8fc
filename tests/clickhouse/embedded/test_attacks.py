"""Attacks on the files and the process of the embedded server by functions, settings and engines, as each role."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bench import open_server
from extract.clickhouse.embedded import launch
from extract.clickhouse.embedded.confine import abi_version
from tests.support.attacker import SECRET, Target, target_server

pytestmark = [pytest.mark.clickhouse, pytest.mark.usefixtures("unharmed")]

USERS = ("tape", "loader", "transformer", "reader")
WRITERS = ("tape", "loader", "transformer")
TABLES = {"tape": "deribit_raw.t", "loader": "deribit_raw.t", "transformer": "deribit.t"}
CONFINED = pytest.mark.skipif(not abi_version(), reason="the kernel has no Landlock")


def _expressions(path: object) -> list[str]:
    """Ways to call the scalar function file()."""
    call = f"file('{path}')"
    return [
        f"SELECT {call}",
        f"SELECT file('{path}', 'default')",
        f"SELECT `file`('{path}'), \"file\"('{path}')",
        f"SELECT arrayMap(file, ['{path}'])",
        f"SELECT arrayMap(p -> file(p), ['{path}'])",
        f"SELECT * APPLY(file) FROM (SELECT '{path}' AS p)",
        f"WITH '{path}' AS p SELECT file(p)",
        f"SELECT 1 WHERE {call} LIKE '%x%' OR throwIf(1, {call})",
        f"SELECT * FROM format(TSV, 'x String', {call})",
        f"SELECT * FROM values('x String', {call})",
        f"SELECT x FROM deribit_raw.t SETTINGS additional_table_filters = {{'deribit_raw.t': 'throwIf(1, {call[:-2]})'}}",
        f"SELECT * FROM eval('SELECT file(\\'{path}\\')') SETTINGS allow_experimental_eval_table_function = 1",
        f"DESCRIBE format(LineAsString, {call})",
    ]


@pytest.mark.parametrize("user", USERS)
def test_file_function_reads_no_file(target: Target, user: str) -> None:
    """Neither of the server's directory, nor of the process, nor of the system."""
    attacker = target.attacker(user)
    part = next((target.home.data / "store").rglob("data.bin"))
    paths = [target.canary, part, target.home.path / "server.lock", target.home.log_dir / "clickhouse.log"]
    paths += [
        Path(path) for path in ("canary.txt", "/proc/self/environ", "/proc/self/cmdline", "/etc/passwd")
    ]
    for path in paths:
        content = path.read_bytes() if path.is_file() else b""
        for sql in _expressions(path):
            answer = attacker.query(sql)
            assert SECRET not in answer
            assert "Code: " in answer, sql
            assert not content or content.decode("utf-8", "replace").strip()[:40] not in answer


@pytest.mark.parametrize("user", WRITERS)
def test_file_function_stores_no_file(target: Target, user: str) -> None:
    """No value, default, view or mutation can copy a file into a table."""
    attacker, table = target.attacker(user), TABLES[user]
    call = f"file('{target.canary}')"
    attacker.query(f"INSERT INTO {table} VALUES ({call})")
    attacker.query(f"INSERT INTO {table} SELECT {call}")
    attacker.query(f"ALTER TABLE {table} DELETE WHERE x = {call} SETTINGS mutations_sync = 2")
    attacker.query("KILL MUTATION WHERE table = 't'")
    database = table.partition(".")[0]
    attacker.query(
        f"CREATE TABLE {database}.d (a Int8, x String DEFAULT {call}) ENGINE = MergeTree ORDER BY a"
    )
    attacker.query(f"INSERT INTO {database}.d (a) VALUES (1)")
    attacker.query(f"CREATE VIEW {database}.v AS SELECT {call} AS x")
    owner = target.attacker("tape")
    answers = [owner.query(f"SELECT x FROM {database}.{name}") for name in ("t", "d", "v")]
    for name in ("d", "v"):
        owner.query(f"DROP TABLE {database}.{name}")
    owner.query(f"KILL MUTATION WHERE database = '{database}'")
    assert answers[0] == "row"
    assert SECRET not in "".join(answers)


@CONFINED
@pytest.mark.parametrize("user", WRITERS)
def test_infile_reads_nothing_of_the_server_or_the_process(target: Target, user: str, tmp_path: Path) -> None:
    """FROM INFILE needs no privilege in this engine; Landlock restricts it to the data of the server itself."""
    attacker, table = target.attacker(user), TABLES[user]
    (tmp_path / "secret").write_text(SECRET)
    paths = [tmp_path / "secret", target.home.path / "server.lock", target.home.path / "up.lock"]
    paths += [target.home.log_dir / "clickhouse.log", target.home.path / "run" / "users.xml"]
    paths += [
        Path("/proc", pid, name)
        for pid in ("self", str(target.engine_pid))
        for name in ("environ", "cmdline")
    ]
    for path in paths:
        answer = attacker.query(f"INSERT INTO {table} FROM INFILE '{path}' FORMAT LineAsString")
        assert "Code: " in answer, path
    assert attacker.query(f"SELECT x FROM {table}") == "row"


def test_configuration_with_password_hashes_is_deleted_before_the_server_listens(target: Target) -> None:
    assert [path for path in target.home.path.rglob("*") if path.suffix in (".xml", ".sql")
            and "password" in path.read_text()] == []  # fmt: skip
    assert list((target.home.path / "run").rglob("*.*")) == []


def _in_parallel(attack: Callable[[str], list[str]], users: tuple[str, ...] = USERS) -> list[str]:
    with ThreadPoolExecutor(len(users)) as pool:
        return [line for lines in pool.map(attack, users) for line in lines]


@pytest.mark.parametrize(
    "user", ["reader", "tape", *(pytest.param(user, marks=pytest.mark.slow) for user in USERS[1:3])]
)
def test_no_setting_reads_or_writes_a_file(target: Target, user: str) -> None:
    """Every setting of the engine that holds text, set to the path of a file, with every output and input format.

    Settings that the user can change are tried in groups, because each combination is one query.
    """
    owner, attacker = target.attacker("tape"), target.attacker(user)
    names = owner.query(
        "SELECT name FROM system.settings WHERE type IN ('String', 'URI') ORDER BY name"
    ).split()
    outputs = owner.query("SELECT name FROM system.formats WHERE is_output").split()
    inputs = owner.query("SELECT name FROM system.formats WHERE is_input").split()
    assert "output_format_schema" in names
    settings = {
        name: attacker.query(f"SELECT 1 SETTINGS {name} = '{target.canary}' FORMAT TSV") for name in names
    }
    assert [name for name, answer in settings.items() if SECRET in answer] == []
    accepted = [name for name, answer in settings.items() if answer == "1"]
    assert "output_format_schema" not in accepted
    for group in (accepted[first : first + 8] for first in range(0, len(accepted), 8)):
        clause = "SETTINGS " + ", ".join(f"{name} = '{target.canary}'" for name in group)
        answers = [attacker.query(f"SELECT 1 AS x {clause} FORMAT {format_}") for format_ in outputs]
        if user in TABLES:
            insert = f"INSERT INTO {TABLES[user]} {clause} FORMAT "
            answers += [attacker.query(insert + format_, b"\x01") for format_ in inputs]
        assert [group for answer in answers if SECRET in answer] == []
        assert target.canary.stat().st_mtime == 1, group
    for table in {*TABLES.values()}:
        owner.query(f"TRUNCATE TABLE {table}")
        owner.query(f"INSERT INTO {table} VALUES ('row')")


@pytest.mark.parametrize("name", ["output_format_schema", "format_schema", "format_template_row",
                                  "format_template_resultset", "input_format_record_errors_file_path"])  # fmt: skip
@pytest.mark.parametrize("user", USERS)
def test_settings_that_name_a_file_are_fixed(target: Target, user: str, name: str) -> None:
    """In a statement, in the URL with GET, in a view and by SET: the file is neither read nor written."""
    attacker = target.attacker(user)
    for format_ in ("Protobuf", "CapnProto", "Template", "TSV"):
        answers = [
            attacker.query(f"SELECT 1 AS x FORMAT {format_} SETTINGS {name} = '{target.canary}'"),
            attacker.query(f"SELECT 1 AS x FORMAT {format_}", **{name: str(target.canary)}),
            attacker.request("GET", f"/?query=SELECT+1+AS+x+FORMAT+{format_}&{name}={target.canary}").body,
            attacker.query(f"SET {name} = '{target.canary}'"),
        ]
        assert all("Code: " in answer and SECRET not in answer for answer in answers)


def test_no_table_function_reads_a_file_or_ends_the_server(target: Target) -> None:
    """Every table function of the engine, python() included, with arguments that name a file, as each role."""
    names = target.attacker("tape").query("SELECT name FROM system.table_functions").split()
    assert {"python", "file", "executable"} <= {*names}
    path = str(target.canary)
    arguments = (f"'{path}'", f"'{path}', 'LineAsString'", f"'{path}', 'LineAsString', 'x String'", "'x'", "")

    def attack(user: str) -> list[str]:
        attacker = target.attacker(user)
        limit = "LIMIT 9 SETTINGS max_execution_time = 2"
        calls = [f"{name}({given})" for name in names for given in arguments]
        return [
            f"{user} {call}" for call in calls if SECRET in attacker.query(f"SELECT * FROM {call} {limit}")
        ]

    assert _in_parallel(attack) == []


@pytest.mark.slow
@pytest.mark.parametrize("user", WRITERS)
def test_no_table_or_database_engine_reads_a_file(target: Target, user: str) -> None:
    """Every engine of tables and of databases, with arguments that name a file."""
    attacker, database = target.attacker(user), TABLES[user].partition(".")[0]
    owner, path = target.attacker("tape"), str(target.canary)
    arguments = (f"('{path}')", f"('LineAsString', '{path}')")
    for engine in owner.query("SELECT name FROM system.table_engines").split():
        for given in arguments:
            attacker.query(f"CREATE TABLE {database}.e (x String) ENGINE = {engine}{given}")
            assert SECRET not in attacker.query(f"SELECT * FROM {database}.e LIMIT 9"), engine
            owner.query(f"DROP TABLE IF EXISTS {database}.e SYNC")
    for engine in owner.query("SELECT name FROM system.database_engines").split():
        for given in arguments:
            attacker.query(f"CREATE DATABASE e ENGINE = {engine}{given}")
            answers = [
                attacker.query(sql) for sql in ("SELECT * FROM e.`canary.txt`", f"SELECT * FROM e.`{path}`")
            ]
            assert SECRET not in "".join(answers), engine
            owner.query("DROP DATABASE IF EXISTS e SYNC")


@pytest.mark.parametrize(
    "user", ["reader", *(pytest.param(user, marks=pytest.mark.slow) for user in WRITERS)]
)
def test_no_function_reads_a_file_or_ends_the_server(target: Target, user: str) -> None:
    """Every function of the engine with one and two arguments that name a file."""
    sql = "SELECT name FROM system.functions WHERE NOT is_aggregate AND NOT startsWith(name, '__')"
    names = [name for name in target.attacker("tape").query(sql).split() if name.isidentifier()]
    assert "file" in names
    attacker = target.attacker(user)
    for name in names:
        for given in (f"'{target.canary}'", f"'{target.canary}', 'x'"):
            answer = attacker.query(f"SELECT {name}({given}) SETTINGS max_execution_time = 2 FORMAT TSVRaw")
            assert SECRET not in answer, name


def test_file_function_cannot_be_restored(target: Target) -> None:
    """The function that replaces file() can be neither dropped nor replaced, nor python() allowed again."""
    for user in USERS:
        attacker = target.attacker(user)
        for sql in (
            "DROP FUNCTION file",
            "CREATE OR REPLACE FUNCTION file AS (p) -> p",
            "SYSTEM RELOAD FUNCTIONS",
            "SELECT * FROM python('x') SETTINGS allow_python_table_function = 1",
            "SET allow_python_table_function = 1",
        ):
            assert "Code: " in attacker.query(sql)
        assert "disabled" in attacker.query(f"SELECT file('{target.canary}')")


# Where the kernel cannot confine the server


@pytest.mark.slow
def test_unconfined_server_reads_and_writes_no_file_by_functions_and_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The closed functions and settings do not depend on Landlock; FROM INFILE does, as the documentation states."""
    monkeypatch.setattr(launch, "process", open_server)
    outside = tmp_path / "outside"
    outside.write_text(SECRET + "\n")
    with target_server(tmp_path / "tape") as target:
        for user in USERS:
            attacker = target.attacker(user)
            answers = [attacker.query(sql) for sql in _expressions(outside)]
            for name in (
                "output_format_schema",
                "format_schema",
                "format_template_row",
                "format_template_resultset",
            ):
                for format_ in ("Protobuf", "CapnProto", "Template"):
                    answers.append(
                        attacker.query(f"SELECT 1 AS x SETTINGS {name} = '{outside}' FORMAT {format_}")
                    )
            assert [answer for answer in answers if SECRET in answer or "Code: " not in answer] == []
        assert outside.read_text() == SECRET + "\n"
        owner = target.attacker("tape")
        owner.query(f"INSERT INTO deribit_raw.t FROM INFILE '{outside}' FORMAT LineAsString")
        assert SECRET in owner.query("SELECT x FROM deribit_raw.t"), "the server of this test is confined"
