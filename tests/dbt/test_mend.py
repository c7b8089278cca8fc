"""`dbt run` completes tables that lost or changed rows, whatever happened to them."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import pytest

from extract.clickhouse.refresh import refresh
from extract.retention.drop import drop_months
from harness import raw_tables
from harness.dbt_project import TABLES, Project, copy_project, failures
from tests.dbt.test_model_truth import DAY_MS, LOADS, NOON_MS, trade
from tests.support.candle_truth import assert_true

WRONG = (
    "insert into deribit.ohlcv_{0}_versions "
    "select * replace ({1}, version + 1 as version) from deribit.ohlcv_{0}_versions"
)
DAMAGES = (
    "truncate table deribit.ohlcv_1m_versions",
    "alter table deribit.ohlcv_1h_versions drop partition 202501",
    "delete from deribit.ohlcv_1h_versions where toDate(bucket_at) = '2025-01-01'",
    "truncate table deribit.trade_versions",
    "alter table deribit.trade_versions drop partition 202501",
    "truncate table deribit.loaded_seqs",
    "truncate table deribit.instrument_ends",
    "truncate table deribit.consumed_loads",
    "drop table deribit.ohlcv_1h_versions sync",
    "drop table deribit.trade_versions sync",
    WRONG.format("1h", "open + 1 as open") + " limit 3",
    WRONG.format("1h", "size + 1 as size") + " limit 1",
    WRONG.format("1m", "0 as block_volume, 7 as negotiated_count") + " limit 1",
    "truncate table deribit.expiry_hours_versions",
    "drop table deribit.expiry_hours_versions sync",
    "insert into deribit.expiry_hours_versions "
    "select * replace (forward + 1 as forward, version + 1 as version) from deribit.expiry_hours_versions limit 1",
    "insert into deribit.expiry_hours_versions "
    "select * replace ('NONE' as underlying) from deribit.expiry_hours_versions limit 1",
)


@pytest.fixture(scope="module")
def built(dbt: Project) -> Project:
    dbt.empty()
    for load_id, trades in LOADS.items():
        raw_tables.load(dbt.client, load_id, trades)
    refresh(dbt.database)
    return dbt


def ends(dbt: Project) -> list[dict[str, object]]:
    return dbt.rows("select * except (version) from deribit.instrument_ends final order by instrument_name")


@pytest.mark.parametrize(
    "damage",
    [
        DAMAGES[0],
        *(pytest.param(damage, marks=pytest.mark.slow) for damage in DAMAGES[3::3]),
        *(
            pytest.param(damage, marks=[pytest.mark.slow, pytest.mark.heavy])
            for damage in (*DAMAGES[1::3], *DAMAGES[2::3])
        ),
    ],
)
def test_damaged_table_is_complete_after_a_run(built: Project, damage: str) -> None:
    """Lost tables, partitions and rows, and wrong candles of any level: every trade, candle and tally is right again."""
    before = ends(built)
    built.client.command(damage)
    built.run(*TABLES)
    assert_true(built, LOADS)
    assert ends(built) == before


@pytest.mark.slow
def test_audit_compares_months_that_have_not_changed(built: Project) -> None:
    """An ordinary run compares none of them."""
    count = "select count() as n from deribit.verified_months"
    built.run(*TABLES)
    before = built.rows(count)
    built.run(*TABLES)
    assert built.rows(count) == before
    built.run(*TABLES, "--vars", "audit: true")
    assert built.rows(count)[0]["n"] > before[0]["n"]
    assert_true(built, LOADS)


@pytest.mark.slow(minutes=1)
def test_updated_trades_have_the_values_of_raw_again(built: Project) -> None:
    """In an ordinary run; rows that were not updated in place are compared by an audit."""
    built.run(*TABLES)
    built.client.command(
        "alter table deribit.trade_versions update price = price + 1, iv_digits = null, liquidation = 'M' "
        "where trade_seq % 2 = 1 settings mutations_sync = 2"
    )
    built.run(*TABLES)
    assert_true(built, LOADS)
    built.client.command(
        "insert into deribit.trade_versions select * replace (amount + 1 as amount) from deribit.trade_versions final"
    )
    built.run(*TABLES, "--vars", "audit: true")
    assert_true(built, LOADS)


INVENTED = (
    "insert into deribit.{0} select * replace ({1}, 18446744073709551615 - rowNumberInAllBlocks() % 2 as version) "
    "from deribit.{0} final"
)


@pytest.mark.slow(minutes=2)
def test_rows_with_a_version_that_no_refresh_has_are_replaced(built: Project) -> None:
    """Also after a merge has removed the right ones, and where there is no trade."""
    before = ends(built)
    for table, column in {
        "ohlcv_1m_versions": "open + 7 as open",
        "ohlcv_1h_versions": "open + 7 as open",
        "expiry_hours_versions": "forward + 7 as forward",
        "instrument_ends": "price + 7 as price",
    }.items():
        built.client.command(INVENTED.format(table, column))
    built.client.command("optimize table deribit.ohlcv_1h_versions final")
    built.client.command(INVENTED.format("ohlcv_1h_versions", "bucket_at + 3600 as bucket_at"))
    built.run(*TABLES, "--vars", "audit: true")
    assert_true(built, LOADS)
    assert ends(built) == before


@pytest.mark.slow(minutes=2)
@pytest.mark.parametrize(
    "loss",
    [
        "truncate table deribit.refresh_log",
        pytest.param("drop table deribit.refresh_log sync", marks=pytest.mark.heavy),
    ],
)
def test_candles_change_after_the_log_lost_its_rows(dbt: Project, loss: str) -> None:
    """The log's number of rows is the version of what is computed: new rows have to win against stored ones."""
    dbt.empty()
    loads = {f"176400000{n}.5": [trade(seq=n, at_ms=NOON_MS + n, price=100.0 + n)] for n in range(1, 5)}
    for load_id in sorted(loads)[:3]:
        raw_tables.load(dbt.client, load_id, loads[load_id])
        refresh(dbt.database)
    dbt.run(*TABLES)
    dbt.client.command(loss)
    raw_tables.load(dbt.client, "1764000004.5", loads["1764000004.5"])
    if not loss.startswith("drop"):
        refresh(dbt.database)  # with small versions
    dbt.run(*TABLES)
    assert_true(dbt, loads)
    loads["1764000005.5"] = [trade(seq=5, at_ms=NOON_MS + 5, price=200.0)]
    raw_tables.load(dbt.client, "1764000005.5", loads["1764000005.5"])
    refresh(dbt.database)
    assert_true(dbt, loads)


@pytest.mark.slow
def test_candles_outlive_trades_that_cannot_be_restored(dbt: Project) -> None:
    """`tape retention` dropped the month from raw, and then the trades were truncated. The other month is restored.

    A run refuses until the user accepts the loss.
    """
    dbt.empty()
    option = "BTC-31JAN25-90000-C"
    loads = {
        "1764000001.5": [
            trade(),
            trade(option, price=0.05, iv=50.0),
            trade(seq=2, at_ms=NOON_MS + 70 * DAY_MS),
        ]
    }
    raw_tables.load(dbt.client, "1764000001.5", loads["1764000001.5"])
    refresh(dbt.database)
    dbt.run(*TABLES)
    queries = [
        f"select * from deribit.{view} order by all"
        for view in ("ohlcv_1m", "ohlcv_1h", "ohlcv_1mo", "expiry_hours")
    ]
    before = [dbt.rows(query) for query in queries]
    list(drop_months(dbt.database, {"raw_trades": 1}, date(2025, 4, 15), ["raw_trades"]))
    dbt.client.command("truncate table deribit.trade_versions")
    message = failures(dbt.invoke("run", *TABLES))["consumed_loads"]
    assert "trade_versions has lost rows of 202501, which cannot be computed again" in message
    dbt.run(*TABLES, "--vars", "accept_lost_months: true")
    dbt.run(*TABLES)
    assert [dbt.rows(query) for query in queries] == before
    assert dbt.rows("select trade_seq from deribit.trades") == [{"trade_seq": 2}]


@pytest.mark.slow
def test_trade_that_moved_while_its_number_was_lost_is_in_one_month(dbt: Project) -> None:
    """The load did not know that it restates it. Of the others, one moved as loads should, and one moved back since."""
    dbt.empty()
    later = NOON_MS + 70 * DAY_MS
    loads = {
        "1764000001.5": [
            trade("A-PERPETUAL"),
            trade("A-PERPETUAL", 2),
            trade("B-PERPETUAL"),
            trade("C-PERPETUAL"),
        ],
        "1764000002.5": [trade("B-PERPETUAL", at_ms=later), trade("C-PERPETUAL", at_ms=later)],
        "1764000003.5": [trade("C-PERPETUAL")],
        "1764000004.5": [trade("A-PERPETUAL", at_ms=later, price=7.0)],
    }
    for load_id in sorted(loads):
        if load_id == "1764000004.5":
            dbt.run(*TABLES)
            dbt.client.command("truncate table deribit.loaded_seqs")
        raw_tables.load(dbt.client, load_id, loads[load_id])
        refresh(dbt.database)
    dbt.run(*TABLES)
    assert_true(dbt, loads)


MIDDLE_PART = """
    select name from system.parts where active and database = 'deribit' and table = {table:String}
    order by min_block_number limit 1 offset 1"""
KEPT = ("loaded_seqs", "instrument_ends", "ohlcv_1h_versions", "trade_versions")


@pytest.mark.slow
@pytest.mark.parametrize("table", KEPT)
def test_lost_part_between_others_is_restored(dbt: Project, table: str) -> None:
    """Neither the first nor the last part of the month, so that their block numbers do not show it."""
    dbt.empty()
    loads = {
        f"176400000{n}.5": [trade(f"{name}-PERPETUAL", at_ms=NOON_MS + n * 3_600_000)]
        for n, name in enumerate("ABC", 1)
    }
    dbt.client.command(f"system stop merges deribit.{table}")
    for load_id, trades in loads.items():
        raw_tables.load(dbt.client, load_id, trades)
        refresh(dbt.database)
    dbt.run(*TABLES)
    before = ends(dbt)
    part = dbt.client.query(MIDDLE_PART, parameters={"table": table}).first_row[0]
    dbt.client.command(f"alter table deribit.{table} detach part '{part}'")
    dbt.run(*TABLES)
    dbt.client.command(f"system start merges deribit.{table}")
    assert_true(dbt, loads)
    assert ends(dbt) == before
    assert dbt.rows("select count(distinct instrument_name) as n from deribit.loaded_seqs") == [{"n": 3}]


@pytest.mark.slow
def test_audit_restores_a_lost_version_of_a_trade(dbt: Project) -> None:
    """The trade was restated in its month, and only the older version is left."""
    dbt.empty()
    loads = {f"176400000{n}.5": [trade(price=float(n))] for n in (1, 2)}
    for load_id, trades in loads.items():
        raw_tables.load(dbt.client, load_id, trades)
        refresh(dbt.database)
    dbt.client.command("delete from deribit.trade_versions where price = 2")
    dbt.run(*TABLES, "--vars", "audit: true")
    assert_true(dbt, loads)


@pytest.mark.slow
def test_trades_of_more_packages_than_are_selected_at_once_are_restored(dbt: Project) -> None:
    dbt.empty()
    rows = [trade(seq=n) | {"_dlt_load_id": f"{1764000000 + n}.5"} for n in range(1, 1003)]
    raw_tables.insert_rows(dbt.client, "trades", rows)
    dbt.client.command(
        "insert into deribit_raw._dlt_loads (load_id, status, inserted_at) "
        "select concat(toString(1764000001 + number), '.5'), 0, now64(6) from numbers(1002)"
    )
    refresh(dbt.database)
    dbt.client.command("truncate table deribit.trade_versions")
    dbt.run(*TABLES)
    assert dbt.rows("select count() as n from deribit.trades") == [{"n": 1002}]


AUDIT = ("--vars", "audit: true")
HOUR_MS = 3_600_000
UPDATE = "alter table deribit.trade_versions update {0} settings mutations_sync = 2"
FOREIGN = "insert into deribit.trade_versions select * replace ({0}) from deribit.trade_versions where {1}"


def load(dbt: Project, load_id: str, trades: list[dict[str, Any]]) -> None:
    raw_tables.load(dbt.client, load_id, trades)
    refresh(dbt.database)


def delete_package(dbt: Project, load_id: str) -> None:
    for where in ("trades where _dlt_load_id", "_dlt_loads where load_id"):
        dbt.client.command(f"delete from deribit_raw.{where} = '{load_id}'")


def hourly_trades(*seqs: int) -> list[dict[str, Any]]:
    return [trade(seq=seq, at_ms=NOON_MS + seq * HOUR_MS) for seq in seqs]


@pytest.mark.slow
def test_audit_removes_versions_and_marks_that_raw_does_not_have(dbt: Project) -> None:
    """Also a restatement whose package was deleted. Right marks remain, and so does a trade that raw has lost."""
    dbt.empty()
    loads = {
        "1764000001.5": hourly_trades(*range(1, 9)),
        "1764000002.5": [trade(seq=8, at_ms=NOON_MS + 70 * DAY_MS, price=8.0)],
        "1764000003.5": [trade(seq=1, at_ms=NOON_MS + HOUR_MS, price=7.0)],
        "1764000004.5": [trade(seq=2, at_ms=NOON_MS + 70 * DAY_MS, price=7.0)],
        "1764000005.5": hourly_trades(9),
    }
    for load_id, trades in loads.items():
        load(dbt, load_id, trades)
    for load_id in ("1764000003.5", "1764000004.5", "1764000005.5"):
        delete_package(dbt, load_id)
    for replaced, seq in (
        ("price + 1 as price, version + 1 as version", 3),
        ("price + 1 as price, 18446744073709551615 as version", 4),
        ("1 as is_moved, version + 1 as version", 5),
        ("1 as is_moved", 6),
    ):
        dbt.client.command(FOREIGN.format(replaced, f"trade_seq = {seq}"))
    dbt.client.command("optimize table deribit.trade_versions final")
    dbt.client.command(UPDATE.format("is_moved = 1 where trade_seq = 7"))
    dbt.run(*TABLES, *AUDIT)
    assert_true(
        dbt, {load_id: loads[load_id] for load_id in ("1764000001.5", "1764000002.5", "1764000005.5")}
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "damage",
    [
        UPDATE.format("price = 1 where trade_seq = 3"),
        FOREIGN.format("price + 1 as price, version + 4096 * 60000000 as version", "trade_seq = 3"),
    ],
)
def test_run_compares_values_of_a_month_that_was_never_compared(dbt: Project, damage: str) -> None:
    """If rows of it were updated, or have a version that no load package has yet."""
    dbt.empty()
    loads = {"1764000001.5": hourly_trades(*range(1, 6))}
    load(dbt, "1764000001.5", loads["1764000001.5"])
    dbt.client.command(damage)
    dbt.run(*TABLES)
    assert_true(dbt, loads)


PLANTED = {
    1: "price + 1 as price",
    2: "price + 1 as price, version + 1 as version",
    3: "price + 1 as price, version + 4096 * 500000 as version",
    4: "price + 1 as price, version + 4096 * 1000000 as version",
    5: "1 as is_moved",
    6: "1 as is_moved, version + 4096 * 1000000 as version",
}
"""By number of a trade: another value with its version, as of its package, of no package and of the next one; and marks."""


@pytest.mark.slow
@pytest.mark.parametrize("is_merged", [False, pytest.param(True, marks=pytest.mark.heavy)])
def test_run_replaces_inserted_trades_that_raw_does_not_have(dbt: Project, is_merged: bool) -> None:
    """In an ordinary run, also if a merge has removed the right rows; rows of earlier comparisons are not read again."""
    dbt.empty()
    loads = {
        "1764000001.5": hourly_trades(*range(1, 9)),
        "1764000002.5": [*hourly_trades(9), trade(seq=8, at_ms=NOON_MS + 70 * DAY_MS, price=8.0)],
    }
    for load_id, trades in loads.items():
        load(dbt, load_id, trades)
    dbt.run(*TABLES)
    for seq, replaced in PLANTED.items():
        dbt.client.command(FOREIGN.format(replaced, f"trade_seq = {seq}"))
    if is_merged:
        dbt.client.command("optimize table deribit.trade_versions final")
    dbt.run(*TABLES)
    assert_true(dbt, loads)
    dbt.logged.clear()
    loads["1764000003.5"] = hourly_trades(10)
    load(dbt, "1764000003.5", loads["1764000003.5"])
    dbt.run(*TABLES)
    assert not any("trade_versions" in message for message in dbt.logged)
    assert_true(dbt, loads)


@pytest.mark.slow(minutes=1)
@pytest.mark.parametrize(
    "restore",
    [
        ["alter table deribit.trade_versions replace partition 202501 from deribit.backup"],
        ["drop table deribit.trade_versions sync", "rename table deribit.backup to deribit.trade_versions"],
    ],
)
def test_trades_restored_from_an_older_backup_have_their_newest_versions(
    dbt: Project, restore: list[str]
) -> None:
    """Trades were restated since the backup, so that no number is missing. Candles are not made from the old versions."""
    dbt.empty()
    loads = {"1764000001.5": hourly_trades(*range(1, 6))}
    load(dbt, "1764000001.5", loads["1764000001.5"])
    dbt.client.command("create or replace table deribit.backup as deribit.trade_versions")
    dbt.client.command("insert into deribit.backup select * from deribit.trade_versions")
    loads["1764000002.5"] = [trade(seq=3, at_ms=NOON_MS + 3 * HOUR_MS, price=7.0)]
    load(dbt, "1764000002.5", loads["1764000002.5"])
    try:
        dbt.run(*TABLES)
        for statement in restore:
            dbt.client.command(statement)
        dbt.run(*TABLES)
        assert_true(dbt, loads)
    finally:
        dbt.client.command("drop table if exists deribit.backup sync")


EXTRA = "bitmapBuild([toUInt64(4)]) as seqs, bitmapBuild([toUInt64(5)]) as followers"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damages", "options"),
    [
        (
            [
                "alter table deribit.loaded_seqs update followers = seqs where true settings mutations_sync = 2"
            ],
            (),
        ),
        (
            [
                f"insert into deribit.loaded_seqs select * replace ({EXTRA}) from deribit.loaded_seqs",
                "insert into deribit.trade_versions select * replace (99 as trade_seq) from deribit.trade_versions limit 1",
            ],
            AUDIT,
        ),
    ],
)
def test_numbers_of_no_trade_hide_no_gap(dbt: Project, damages: list[str], options: tuple[str, ...]) -> None:
    """An ordinary run removes them if bitmaps were updated, an audit always; also the number of a trade deleted by hand."""
    dbt.empty()
    load(dbt, "1764000001.5", hourly_trades(1, 2, 3, 6))
    dbt.run(*TABLES)
    queries = (
        "select first_missing_seq, last_missing_seq from deribit.trade_gaps order by all",
        "select instrument_name, bitmapCardinality(seqs) as n from deribit.instrument_tallies",
    )
    before = [dbt.rows(query) for query in queries]
    assert before[0] == [{"first_missing_seq": 4, "last_missing_seq": 5}]
    for damage in damages:
        dbt.client.command(damage)
    dbt.run(*TABLES)
    dbt.client.command("delete from deribit.trade_versions where trade_seq = 99")
    dbt.run(*TABLES, *options)
    assert [dbt.rows(query) for query in queries] == before


@pytest.mark.slow
def test_audit_replaces_wrong_first_and_last_trades(dbt: Project) -> None:
    """And removes those of instruments without trades; `dbt test` finds both before."""
    dbt.empty()
    load(dbt, "1764000001.5", hourly_trades(1, 2, 3))
    dbt.run(*TABLES)
    before = ends(dbt)
    for replaced in (
        "price + 7 as price, addYears(last_at, 20) as last_at, version + 1 as version",
        "'FAKE-PERPETUAL' as instrument_name",
    ):
        dbt.client.command(
            f"insert into deribit.instrument_ends select * replace ({replaced}) from deribit.instrument_ends final"
        )
    tests = ("test", "--select", "test_name:instruments_are_sound")
    assert dbt.invoke(*tests).result.results[-1].failures == 2
    dbt.run(*TABLES, *AUDIT)
    assert ends(dbt) == before
    dbt.must(*tests)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["trade_versions", "loaded_seqs"])
def test_full_refresh_of_one_table_fills_it(dbt: Project, model: str) -> None:
    """Without building `consumed_loads`, which fills it otherwise."""
    dbt.empty()
    loads = {"1764000001.5": hourly_trades(1, 2, 3, 6)}
    load(dbt, "1764000001.5", loads["1764000001.5"])
    dbt.run(*TABLES)
    before = ends(dbt)
    dbt.run("--full-refresh", "--select", model)
    assert_true(dbt, loads)
    assert ends(dbt) == before
    assert dbt.rows("select sum(missing) as n from deribit.trade_gaps") == [{"n": 2}]


def test_two_first_builds_at_once_create_each_table_once(dbt: Project) -> None:
    """The other one creates the tables and views after this one has found that there are none."""
    dbt.empty()
    dbt.fresh()
    has_created = []

    def create_models(event: Any) -> None:
        if event.info.name == "NodeStart" and not has_created:
            has_created.append(True)
            dbt.create_models()

    dbt.runner.callbacks.append(create_models)
    try:
        dbt.run("--threads", "1", "--select", "config.materialized:incremental", "trade_versions")
    finally:
        dbt.runner.callbacks.remove(create_models)
    assert has_created


@pytest.mark.slow
def test_build_after_a_new_trade_does_not_read_the_months_before(dbt: Project) -> None:
    """All trades of the instrument are in one chunk of numbers, so that no table says which are in the changed month."""
    dbt.empty()
    days, per_day = 700, 50
    raw_tables.load(
        dbt.client,
        "1764000001.5",
        (
            trade("A-PERPETUAL", day * per_day + n, at_ms=NOON_MS + day * DAY_MS + n)
            for day in range(days)
            for n in range(1, per_day + 1)
        ),
    )
    refresh(dbt.database)
    dbt.run(*TABLES)
    raw_tables.load(
        dbt.client, "1764000002.5", [trade("A-PERPETUAL", days * per_day + 1, at_ms=NOON_MS + days * DAY_MS)]
    )
    refresh(dbt.database)
    since = dbt.rows("select toString(now64(6)) as at")[0]["at"]
    dbt.run(*TABLES)
    dbt.client.command("system flush logs")
    [read] = dbt.rows(
        "select max(read_rows) as rows, count() as statements from system.query_log "
        f"where type = 'QueryFinish' and event_time_microseconds > '{since}' and has(databases, 'deribit')"
    )
    assert read["statements"] > 20
    assert read["rows"] < days * per_day / 2
    for level in ("1m", "15m", "1h", "4h", "1d", "1w", "1mo"):
        month = dbt.client.query(
            f"select count() from deribit.ohlcv_{level} where toYYYYMM(bucket_at) = 202601"
        )
        assert int(month.summary["read_rows"]) < days / 4, level


@pytest.mark.slow
def test_all_trades_are_searched_for_moves_in_portions(dbt: Project, tmp_path: Path) -> None:
    """Portions of some thousand trades instead of some million."""
    copy = copy_project(tmp_path)
    macros = copy / "macros/mend.sql"
    macros.write_text(macros.read_text().replace("return(500000)", "return(1000)"))
    portioned = Project(dbt.client, tmp_path, project_dir=copy)
    portioned.run()
    instruments, trades = 20, 600
    rows = (
        trade(f"BTC-{name}", seq, at_ms=NOON_MS + seq * DAY_MS // 10)
        for name in range(instruments)
        for seq in range(1, trades + 1)
    )
    raw_tables.load(dbt.client, "1764000001.5", rows)
    refresh(dbt.database)
    since = dbt.rows("select toString(now64(6)) as at")[0]["at"]
    portioned.run(*TABLES, "--vars", "audit: true")
    dbt.client.command("system flush logs")
    [read] = dbt.rows(
        "select count() as portions from system.query_log where type = 'QueryFinish' "
        f"and event_time_microseconds > '{since}' and query like '%having count() > groupBitmap(%'"
    )
    assert read["portions"] >= instruments * trades // 4_000
