"""Tables that lose rows after `tape retention` dropped months: exact again, or refused before anything is changed."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest

from extract.clickhouse.refresh import refresh
from extract.retention.drop import drop_months
from harness import raw_tables
from harness.dbt_project import TABLES, Project, failures
from tests.dbt.test_model_truth import DAY_MS, NOON_MS, trade
from tests.support.candle_truth import assert_expiry_hours, newest_trades

DROPPED = ["raw_trades", "trades", "ohlcv_1m"]
ACCEPT = ("--vars", "accept_lost_months: true")
EXPIRED, OPTION = "BTC-27DEC24-90000-C", "BTC-31MAR25-90000-C"
# November 2024 to February 2025. All trades of the expired option are dropped.
LOADS = {
    "1764000001.5": [
        *(trade(seq=1000 + n, at_ms=NOON_MS + (n * 4 - 60) * DAY_MS) for n in range(30)),
        *(trade(OPTION, n + 1, NOON_MS + (n * 9 - 30) * DAY_MS, price=0.05, iv=50.0) for n in range(8)),
        *(trade(EXPIRED, n + 1, NOON_MS + (n * 2 - 30) * DAY_MS, price=0.05, iv=50.0) for n in range(4)),
    ],
    "1764000002.5": [
        trade(seq=1003, at_ms=NOON_MS - 40 * DAY_MS, price=3.0),
        trade(seq=1020, at_ms=NOON_MS + 22 * DAY_MS, price=3.0),
    ],
}
LATE = trade(seq=1001, at_ms=NOON_MS - 56 * DAY_MS, price=7.0)
VIEWS = (
    *("trades", "ohlcv_1m", "ohlcv_1h", "ohlcv_1d", "ohlcv_1mo", "expiry_hours"),
    *("trade_gaps", "instruments", "current_prices", "odd_trades", "pending_loads"),
)
SOUND = ("--select", "test_name:*_are_sound")


def shown(dbt: Project, views: tuple[str, ...] = VIEWS) -> dict[str, list[dict[str, Any]]]:
    rows = {view: dbt.rows(f"select * from deribit.{view} order by all") for view in views}
    return rows | {
        "ends": dbt.rows("select * except (version) from deribit.instrument_ends final order by all")
    }


@pytest.fixture
def old_months_dropped(dbt: Project) -> Project:
    """Raw trades, trades and minutes of November to January are dropped; everything else has been compared."""
    dbt.empty()
    for load_id, trades in LOADS.items():
        raw_tables.load(dbt.client, load_id, trades)
        refresh(dbt.database)
    dbt.run(*TABLES)
    months = drop_months(dbt.database, dict.fromkeys(DROPPED, 1), date(2025, 3, 10), DROPPED)
    assert len(months) == 9
    assert all(month.is_dropped for month in months)
    return dbt


@pytest.mark.slow(minutes=1)
@pytest.mark.parametrize(
    "table",
    [
        "retention_drops",
        "loaded_seqs",
        *(
            pytest.param(table, marks=pytest.mark.heavy)
            for table in (
                *("consumed_loads", "refresh_log", "moved_trades", "odd_trade_keys", "touched_minutes"),
                *("ohlcv_1m_versions", "trade_versions", "verified_months", "tested_months"),
            )
        ),
    ],
)
def test_truncated_table_is_as_it_was_after_a_run(old_months_dropped: Project, table: str) -> None:
    dbt = old_months_dropped
    before = shown(dbt)
    dbt.client.command(f"truncate table deribit.{table}")
    dbt.run(*TABLES)
    assert shown(dbt) == before


REFUSED = {
    "instrument_ends": "the first and last trades of 3 instruments",
    "expiry_hours_versions": "rows of 202412, 202501",
    "ohlcv_1h_versions": "rows of 202411, 202412, 202501",
}
"""Tables of which rows in dropped months cannot be computed again, and what the message calls them."""


@pytest.mark.slow(minutes=2)
@pytest.mark.parametrize(
    "table", ["ohlcv_1h_versions", *(pytest.param(t, marks=pytest.mark.heavy) for t in list(REFUSED)[:2])]
)
def test_lost_rows_of_dropped_months_are_reported_until_they_are_there_again(
    old_months_dropped: Project, table: str
) -> None:
    """A run stops before it changes anything; after the loss is accepted, only rows of dropped months are missing."""
    dbt = old_months_dropped
    before = shown(dbt)
    dbt.client.command(
        "create or replace table deribit.backup engine = MergeTree order by tuple() as "
        f"select * from deribit.{table} final"
    )
    try:
        dbt.client.command(f"truncate table deribit.{table}")
        lost = shown(dbt)
        for _ in range(2):
            message = failures(dbt.invoke("run", *TABLES))[table]
            assert f"{table} has lost {REFUSED[table]}, which cannot be computed again" in message
        assert shown(dbt) == lost
        dbt.client.command(f"insert into deribit.{table} select * from deribit.backup")
    finally:
        dbt.client.command("drop table if exists deribit.backup sync")
    dbt.run(*TABLES, *ACCEPT)
    assert shown(dbt) == before
    dbt.run(*TABLES)
    assert shown(dbt) == before


@pytest.mark.slow(minutes=2)
def test_full_refresh_after_retention_changes_nothing_or_is_refused(old_months_dropped: Project) -> None:
    """Of each table by itself, and of all that the list of consumed packages is made from."""
    dbt = old_months_dropped
    before = shown(dbt)
    refused = ("loaded_seqs", "trade_versions", "ohlcv_1m_versions", *REFUSED)
    for table in refused:
        message = failures(dbt.invoke("run", "--full-refresh", "--select", table))[table]
        assert f"{table} would lose the months that `tape retention` dropped from" in message
        assert shown(dbt) == before, table
    for tables in (
        (
            "retention_drops",
            "consumed_loads",
            "refresh_log",
            "moved_trades",
            "odd_trade_keys",
            "touched_minutes",
        ),
        ("verified_months", "tested_months", "pending_loads"),
    ):
        dbt.run("--full-refresh", "--select", *tables)
        assert shown(dbt) == before, tables
    assert not dbt.invoke("run", "--full-refresh", "--select", "+consumed_loads").success
    assert not dbt.invoke("run", "--full-refresh", *TABLES).success
    assert shown(dbt) == before
    dbt.run(*TABLES)
    assert shown(dbt) == before


@pytest.mark.slow(minutes=2)
def test_late_trade_changes_no_candle_while_the_record_of_drops_is_lost(old_months_dropped: Project) -> None:
    """A load, between the loss and the build that restores it; also if the table itself was dropped."""
    dbt = old_months_dropped
    candles = ("ohlcv_1h", "ohlcv_1d", "expiry_hours")
    before = shown(dbt, candles)
    drops = dbt.rows("select table_id, month from deribit.retention_drops order by all")
    dbt.client.command("truncate table deribit.retention_drops")
    raw_tables.load(dbt.client, "1764000003.5", [LATE, trade(OPTION, 2, NOON_MS - 21 * DAY_MS, price=0.07)])
    refresh(dbt.database)
    assert shown(dbt, candles) == before
    dbt.client.command("drop table deribit.retention_drops sync")
    dbt.run(*TABLES)
    assert shown(dbt, candles) == before
    assert dbt.rows("select table_id, month from deribit.retention_drops order by all") == drops


@pytest.mark.slow(minutes=2)
def test_candles_outlive_months_that_were_dropped_by_hand(dbt: Project) -> None:
    """Nothing is recorded of these drops: a build keeps the candles and fails, until the user accepts their loss."""
    dbt.empty()
    for load_id, trades in LOADS.items():
        raw_tables.load(dbt.client, load_id, trades)
        refresh(dbt.database)
    dbt.run(*TABLES)
    candles = ("ohlcv_1m", "ohlcv_1h", "expiry_hours")
    before = shown(dbt, candles)
    for table in ("deribit_raw.trades", "deribit.trade_versions"):
        dbt.client.command(f"alter table {table} drop partition 202412")
    for _ in range(2):
        failed = failures(dbt.invoke("build", *TABLES))
        assert "candles_are_sound_ohlcv_1m_1m" in failed, failed
        assert shown(dbt, candles) == before
    message = failures(dbt.invoke("run", "--full-refresh", "--select", "ohlcv_1m_versions"))[
        "ohlcv_1m_versions"
    ]
    assert "ohlcv_1m_versions would lose 202412, of which trade_versions has no rows any more" in message
    assert shown(dbt, candles) == before
    dbt.must("build", *TABLES, *ACCEPT)
    months = dbt.rows("select distinct toYYYYMM(bucket_at) as month from deribit.ohlcv_1h order by all")
    assert [row["month"] for row in months] == [202411, 202501, 202502]


@pytest.mark.slow
def test_late_trade_in_a_month_without_minutes_leaves_the_forward(dbt: Project) -> None:
    """A load does not find the other trades of the hour without their candles; a run then computes it from all of them."""
    dbt.empty()
    loads = {"1764000001.5": LOADS["1764000001.5"]}
    raw_tables.load(dbt.client, "1764000001.5", loads["1764000001.5"])
    refresh(dbt.database)
    dbt.run(*TABLES)
    drop_months(dbt.database, {"ohlcv_1m": 1}, date(2025, 3, 10), ["ohlcv_1m"])
    hours = "select * from deribit.expiry_hours order by all"
    before = dbt.rows(hours)
    loads["1764000002.5"] = [trade(OPTION, 100, NOON_MS - 30 * DAY_MS - 1000, price=0.06, iv=50.0)]
    raw_tables.load(dbt.client, "1764000002.5", loads["1764000002.5"])
    refresh(dbt.database)
    assert dbt.rows(hours) == before
    dbt.run(*TABLES)
    assert_expiry_hours(dbt, newest_trades(loads))


@pytest.mark.slow
def test_trade_that_moves_into_a_dropped_month_is_not_lost(dbt: Project) -> None:
    """Its old row in raw is in a month that is compared. Then it is deleted by hand, and its test fails."""
    dbt.empty()
    raw_tables.load(dbt.client, "1764000001.5", LOADS["1764000001.5"])
    refresh(dbt.database)
    drop_months(dbt.database, {"trades": 1}, date(2025, 3, 10), ["trades"])
    raw_tables.load(
        dbt.client,
        "1764000002.5",
        [trade(seq=1029, at_ms=NOON_MS - 50 * DAY_MS), trade(seq=1003, at_ms=NOON_MS + 40 * DAY_MS)],
    )
    refresh(dbt.database)
    dbt.must("build", *TABLES)
    dbt.must("test", *SOUND)
    dbt.client.command("delete from deribit.trade_versions where trade_seq = 1029")
    assert failures(dbt.invoke("test", *SOUND)).keys() >= {"trades_are_sound_trades_"}
