"""Loading into a server that somebody else administers: low limits, and no right to create databases."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from extract.clickhouse.client import Database, shared_database
from extract.clickhouse.embedded import config
from extract.clickhouse.embedded.server import embedded_server
from extract.clickhouse.settings import ClickHouseSettings, clickhouse_settings
from extract.coverage.gaps import find_gaps
from extract.coverage.repair import repair_gaps
from extract.coverage.status import fetch_status
from extract.errors import FinalError
from extract.pipeline.run import run
from extract.sandbox.server import SandboxExchange
from extract.sandbox.tape import Tape
from extract.source.options import RunOptions

PASSWORD = "canary-shared"
MONTHS = 120
RIGHTS = "SHOW, SELECT, INSERT, ALTER TABLE, CREATE TABLE, DROP TABLE, TRUNCATE"
LIMIT = "max_partitions_per_insert_block"
ODD = "".join(
    f"<{name}>{value}</{name}>"
    for name, value in {
        "join_use_nulls": 1,
        "data_type_default_nullable": 1,
        "aggregate_functions_null_for_empty": 1,
        "prefer_column_name_to_alias": 1,
        "group_by_use_nulls": 1,
        "transform_null_in": 1,
        "union_default_mode": "DISTINCT",
    }.items()
)
PROFILES = f"""<profiles>
        <narrow><{LIMIT}>7</{LIMIT}><constraints><{LIMIT}><max>50</max></{LIMIT}></constraints></narrow>
        <odd>{ODD}</odd>
        <fixed><{LIMIT}>7</{LIMIT}><constraints><{LIMIT}><readonly/></{LIMIT}></constraints></fixed>"""
DATABASES = ("deribit_raw", "deribit", "deribit_runs")


def user_xml(name: str, profile: str, rights: str) -> str:
    queries = (f"GRANT {rights} ON *.*", "GRANT TABLE ENGINE ON MergeTree")
    grants = "".join(f"<query>{query}</query>" for query in queries)
    return (
        f"<{name}><password>{PASSWORD}</password><networks><ip>127.0.0.1</ip></networks>"
        f"<profile>{profile}</profile><quota>default</quota><grants>{grants}</grants></{name}>"
    )


USERS = "".join(
    [
        user_xml("guest", "default", RIGHTS),
        user_xml("narrow", "narrow", f"{RIGHTS}, CREATE DATABASE"),
        user_xml("fixed", "fixed", f"{RIGHTS}, CREATE DATABASE"),
        user_xml("odd", "odd", f"{RIGHTS}, CREATE DATABASE"),
        user_xml("plain", "default", f"{RIGHTS}, CREATE DATABASE"),
        user_xml("tableless", "default", "SHOW, SELECT, INSERT"),
    ]
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseSettings]:
    with pytest.MonkeyPatch.context() as patch:
        users_xml = config.users_xml

        def with_more_users(*arguments: object) -> str:
            text = users_xml(*arguments)  # type: ignore[arg-type]
            return text.replace("</users>", f"{USERS}</users>").replace("<profiles>", PROFILES)

        patch.setattr(config, "users_xml", with_more_users)
        with embedded_server(tmp_path_factory.mktemp("shared")) as settings:
            yield settings


@pytest.fixture(scope="module")
def sparse() -> Iterator[SandboxExchange]:
    """One instrument that traded once a month, in more months than an insert may have by default."""
    [template] = [
        each
        for each in Tape.generate(1, 100, 1.0).trades
        if each["instrument_name"] == "BTC-PERPETUAL" and "liquidation" not in each
    ][:1]
    trades = [
        {
            **template,
            "trade_seq": number + 1,
            "trade_id": str(1000 + number),
            "timestamp": round(
                datetime(2016 + number // 12, number % 12 + 1, 10, tzinfo=UTC).timestamp() * 1000
            ),
        }
        for number in range(MONTHS)
    ]
    with SandboxExchange(Tape.of(trades)) as exchange:
        exchange.now_ms += 120_000
        yield exchange


@pytest.fixture
def log_in(
    server: ClickHouseSettings, sparse: SandboxExchange, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], Database]:
    """`log_in(user)`: the user's database, which is empty; the environment is that of the user."""
    owner = shared_database(server)
    for name in DATABASES:
        owner.command(f"drop database if exists {name} sync")

    def log_in(user: str) -> Database:
        for name, value in {
            "CLICKHOUSE_MODE": "local",
            "CLICKHOUSE_LOCAL_HOST": server.host,
            "CLICKHOUSE_LOCAL_PORT": str(server.port),
            "CLICKHOUSE_LOCAL_USER": user,
            "CLICKHOUSE_LOCAL_PASSWORD": PASSWORD,
            "TAPE_DIR": str(tmp_path / "tape"),
            "SOURCES__DERIBIT__API_URL": sparse.url,
            "SOURCES__DERIBIT__HISTORY_URL": sparse.history_url,
        }.items():
            monkeypatch.setenv(name, value)
        return owner

    return log_in


def load() -> None:
    run(RunOptions(currencies=("BTC",), kinds=("future",)))


@pytest.mark.slow
@pytest.mark.parametrize("user", ["plain", "narrow", "fixed"])
def test_package_of_many_months_is_loaded_whatever_the_limit(
    log_in: Callable[[str], Database], user: str
) -> None:
    """The default of 100, one that can be raised to 50, and one of 7 that cannot be changed: each trade once."""
    database = log_in(user)
    load()
    assert database.rows("select count(), uniqExact(trade_seq) from deribit_raw.trades") == [(MONTHS, MONTHS)]
    assert find_gaps(database) == []


def test_existing_databases_need_no_right_to_create_them(log_in: Callable[[str], Database]) -> None:
    database = log_in("guest")
    for name in DATABASES:
        database.command(f"create database {name}")
    load()
    assert database.value("select count() from deribit_raw.trades") == MONTHS


def test_existing_tables_need_no_right_to_create_them(
    log_in: Callable[[str], Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user who may only insert continues what another one has begun."""
    database = log_in("plain")
    load()
    monkeypatch.setenv("CLICKHOUSE_LOCAL_USER", "tableless")
    load()
    assert database.value("select count() from deribit_raw.trades") == MONTHS


@pytest.mark.slow
def test_profile_of_the_user_changes_no_result(
    log_in: Callable[[str], Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Settings that change joins, types, aggregates and unions."""
    owner = log_in("odd")
    load()
    owner.command("delete from deribit_raw.trades where trade_seq in (3, 4, 9)")
    odd = shared_database(clickhouse_settings())
    assert odd.value("select getSetting('join_use_nulls')") is False
    assert find_gaps(odd) == find_gaps(owner)
    assert [(gap.range.first, gap.range.last) for gap in find_gaps(odd)] == [(3, 4), (9, 9)]
    [status], [expected] = fetch_status(odd), fetch_status(owner)
    assert (status.trades, status.missing, status.spans) == (MONTHS - 3, 3, expected.spans)
    assert repair_gaps().fetched == 3
    assert find_gaps(odd) == []


@pytest.mark.parametrize(
    ("existing", "missing"), [((), "deribit_runs"), (("deribit_runs",), "deribit_raw")], ids=str
)
def test_missing_database_is_named_with_the_statement_that_creates_it(
    log_in: Callable[[str], Database], existing: tuple[str, ...], missing: str
) -> None:
    database = log_in("guest")
    for name in existing:
        database.command(f"create database {name}")
    with pytest.raises(FinalError) as refused:
        load()
    sentence = str(refused.value)
    assert sentence.startswith("ClickHouse at http://")
    assert f"has no database {missing}, and user 'guest' may not create it" in sentence
    assert f"create database if not exists `{missing}`" in sentence
