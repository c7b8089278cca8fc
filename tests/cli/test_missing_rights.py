"""Commands as users without rights, with a read-only profile, or with a wrong address: one sentence, no traceback."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from extract.clickhouse.client import Database, shared_database
from extract.clickhouse.embedded import config
from extract.clickhouse.embedded.server import embedded_server
from extract.clickhouse.roles import ROLES
from extract.clickhouse.settings import ClickHouseSettings
from extract.paths import ROOT, dlt_dir
from extract.retention import levels
from extract.sandbox.server import SandboxExchange
from extract.sandbox.tape import Tape
from tests.support.commands import BIN, TIMEOUT_S, Done, tape_here
from tests.support.retention_tables import create_records_of_drops

PASSWORD = "canary-rights"
VIEWER = """
        <viewer>
            <password>{password}</password>
            <networks><ip>127.0.0.1</ip></networks>
            <profile>viewer</profile>
            <quota>default</quota>
            <grants><query>GRANT SELECT ON *.*</query></grants>
        </viewer>
        <outsider>
            <password>{password}</password>
            <networks><ip>127.0.0.1</ip></networks>
            <profile>default</profile>
            <quota>default</quota>
            <grants><query>GRANT SELECT ON system.*</query></grants>
        </outsider>
    </users>"""
PROFILE = "<profiles>\n        <viewer><readonly>1</readonly></viewer>"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseSettings]:
    """A server with the three roles, a user with a read-only profile, and one who may read no data."""
    with pytest.MonkeyPatch.context() as patch:
        for role in ROLES:
            patch.setenv(role.password_variable, PASSWORD)
        users_xml = config.users_xml

        def with_more_users(*arguments: object) -> str:
            text = users_xml(*arguments)  # type: ignore[arg-type]
            return text.replace("</users>", VIEWER.format(password=PASSWORD)).replace("<profiles>", PROFILE)

        patch.setattr(config, "users_xml", with_more_users)
        with embedded_server(tmp_path_factory.mktemp("rights")) as settings:
            yield settings


@pytest.fixture(scope="module")
def exchange() -> Iterator[SandboxExchange]:
    with SandboxExchange(Tape.generate(1, 300, 1.0)) as running:
        yield running


@pytest.fixture
def env(
    server: ClickHouseSettings, exchange: SandboxExchange, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> pytest.MonkeyPatch:
    """The environment of the server's owner, with a sandbox exchange and an empty TAPE_DIR."""
    for name, value in {
        "CLICKHOUSE_MODE": "local",
        "CLICKHOUSE_LOCAL_HOST": server.host,
        "CLICKHOUSE_LOCAL_PORT": str(server.port),
        "CLICKHOUSE_LOCAL_USER": server.user,
        "CLICKHOUSE_LOCAL_PASSWORD": server.password,
        "TAPE_DIR": str(tmp_path / "tape"),
        "SOURCES__DERIBIT__API_URL": exchange.url,
        "SOURCES__DERIBIT__HISTORY_URL": exchange.history_url,
    }.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


@pytest.fixture(scope="module")
def owner(server: ClickHouseSettings) -> Database:
    """Raw tables with one gap, covered and old; models as empty tables, except for one month of one level."""
    database = shared_database(server)
    for name in ("deribit_raw", "deribit"):
        database.command(f"create database {name}")
    time = "DateTime64(3, 'UTC')"
    stream = "currency String, kind String"
    for table, columns in {
        "trades": f"instrument_name String, trade_seq Int64, timestamp {time}, {stream}, _dlt_load_id String, "
        "trade_id String",
        "coverage": f"{stream}, covered_from {time}, covered_to {time}, _dlt_load_id String",
        "_dlt_loads": "load_id String, status Int64, inserted_at DateTime64(6, 'UTC')",
    }.items():
        database.command(f"create table deribit_raw.{table} ({columns}) engine = MergeTree order by tuple()")
    database.command(
        "insert into deribit_raw.coverage select 'BTC', 'future', '2016-01-01', '2025-01-02', '1'"
    )
    database.command(
        "insert into deribit_raw.trades select 'BTC-27JUN25', number * 2 + 1, '2025-01-01', 'BTC', 'future', '1', '7' "
        "from numbers(2)"
    )
    database.command("insert into deribit_raw._dlt_loads select '1', 0, now64(6)")
    for level in levels.read_levels().values():
        if not level.table.startswith("deribit_raw."):
            database.command(
                f"create table {level.table} ({level.time} {time}) engine = MergeTree "
                f"partition by toYYYYMM({level.time}) order by tuple()"
            )
    database.command("insert into deribit.ohlcv_1h_versions select '2020-01-01'")
    create_records_of_drops(database.client)
    return database


WRITES = {
    "run": ["run"],
    "reset": ["reset", "--yes"],
    "retention": ["retention", "--apply"],
    "repair": ["repair"],
    "tails": ["gaps", "--tails"],
    "measure-volume": ["measure-volume"],
    "poc-backfill": ["poc-backfill", "--month", "2025-01"],
}


def run_here(words: list[str]) -> Done:
    """`tape WORDS` in this process, or `dlt pipeline run`, which tunes its process, in one of its own."""
    if words != ["run"]:
        return tape_here(*words)
    (dlt_dir("local") / "pipelines").mkdir(
        parents=True, exist_ok=True
    )  # not a first run, which starts page workers
    ended = subprocess.run(
        [str(BIN / "dlt"), "pipeline", "run"], cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S
    )
    return Done(ended.returncode, ended.stdout, ended.stderr)


def run_without_rights(words: list[str]) -> tuple[int, str]:
    """Exit code of a command that has to fail, and the one sentence that it prints."""
    done = run_here(words)
    lines = [line for line in done.err.splitlines() if " streams (" not in line]
    assert len(lines) == 1, done.err
    assert done.out == ""
    assert PASSWORD not in done.err
    return done.code, lines[0]


@pytest.mark.slow
@pytest.mark.parametrize("words", WRITES.values(), ids=WRITES.keys())
@pytest.mark.parametrize("user", ["viewer", "reader"])
def test_command_that_writes_needs_the_right_to_write(
    env: pytest.MonkeyPatch, owner: Database, tmp_path: Path, user: str, words: list[str]
) -> None:
    """With a read-only profile, and as a role that only reads: exit code 4, and nothing is changed."""
    project = tmp_path / "dbt_project.yml"
    project.write_text(levels.PROJECT.read_text().replace(" ohlcv_1h: null", " ohlcv_1h: 1"))
    env.setattr(levels, "PROJECT", project)
    env.setenv("CLICKHOUSE_LOCAL_USER", user)
    env.setenv("CLICKHOUSE_LOCAL_PASSWORD", PASSWORD)
    code, sentence = run_without_rights(words)
    assert code == 4, sentence
    assert sentence.startswith("ClickHouse at ")
    assert owner.value("select count() from deribit_raw.trades") == 2
    assert owner.value("select count() from deribit.ohlcv_1h_versions") == 1


@pytest.mark.slow
@pytest.mark.parametrize("user", ["viewer", "reader"])
def test_reading_needs_no_more_than_the_right_to_read(
    env: pytest.MonkeyPatch, owner: Database, user: str
) -> None:
    """`status`, `gaps`, `health` and `retention --plan` answer."""
    env.setenv("CLICKHOUSE_LOCAL_USER", user)
    env.setenv("CLICKHOUSE_LOCAL_PASSWORD", PASSWORD)
    assert tape_here("status").code == 0
    gaps = tape_here("gaps")
    assert (gaps.code, gaps.err) == (1, "")
    assert "1 trades of 1 instruments are missing" in gaps.out
    assert tape_here("retention", "--plan").code == 0
    assert tape_here("health").err == ""


@pytest.mark.parametrize(
    "words", [["run"], ["status"], ["gaps"], ["retention", "--plan"], ["repair"]], ids=" ".join
)
def test_user_who_may_read_nothing_gets_one_sentence(
    env: pytest.MonkeyPatch, owner: Database, words: list[str]
) -> None:
    """Tables that a user may not see do not exist for that user: cannot tell, or the server refuses."""
    env.setenv("CLICKHOUSE_LOCAL_USER", "outsider")
    env.setenv("CLICKHOUSE_LOCAL_PASSWORD", PASSWORD)
    code, _ = run_without_rights(words)
    assert code in (2, 4)


def test_init_needs_the_right_to_create(
    env: pytest.MonkeyPatch, server: ClickHouseSettings, owner: Database
) -> None:
    """Where the tables exist it has nothing to do; where they do not, a user who may not create them is refused."""
    env.setenv("CLICKHOUSE_LOCAL_USER", "viewer")
    env.setenv("CLICKHOUSE_LOCAL_PASSWORD", PASSWORD)
    assert tape_here("init").code == 0
    owner.command("rename table deribit_raw.trades to deribit_raw.away")
    try:
        code, sentence = run_without_rights(["init"])
    finally:
        owner.command("rename table deribit_raw.away to deribit_raw.trades")
    assert code == 4
    assert sentence.startswith("ClickHouse at ")


@pytest.mark.parametrize(
    "words", [["run"], ["status"], ["gaps"], ["repair"], ["retention", "--plan"], ["init"]], ids=" ".join
)
def test_wrong_address_is_one_sentence(
    env: pytest.MonkeyPatch, exchange: SandboxExchange, words: list[str]
) -> None:
    """Something other than ClickHouse answers, or nothing does."""
    env.setenv("CLICKHOUSE_LOCAL_PORT", str(exchange.port))
    code, sentence = run_without_rights(words)
    assert code == 3
    assert "CLICKHOUSE_LOCAL_PORT" in sentence
    env.setenv("CLICKHOUSE_LOCAL_PORT", "9")
    code, sentence = run_without_rights(words)
    assert code == 4
    assert "make up" in sentence
