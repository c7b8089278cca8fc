"""`tape retention` on a real server: it drops only months that agree with the coarser level, and closes them."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest

from extract.cli.main import tape
from extract.clickhouse.client import Database
from extract.clickhouse.refresh import refresh
from extract.coverage.gaps import find_gaps
from extract.errors import CannotTellError, UsageError
from extract.retention import levels
from extract.retention.drop import Month, drop_months, plan_drops
from extract.retention.levels import declared_retention
from harness import raw_tables
from harness.dbt_project import TABLES, Project, failures
from harness.raw_tables import cover_everything
from tests.dbt.test_model_truth import DAY_MS, NOON_MS, trade
from tests.support.candle_truth import assert_true

TODAY = date(2025, 2, 10)
KEEP = {"ohlcv_1m": 1}
OLD, OLDER = 202412, 202411
SOUND = ("--select", "test_name:candles_are_sound", "test_name:trades_are_sound")
# Noon of 1 January 2025 is trade 0; three a day, in two minutes.
LOADS = {
    "1764000001.5": [
        trade(name, 1000 + day * 3 + n, NOON_MS + day * DAY_MS + n * 7_000, price=90_000.0 + day + n)
        for name in ("BTC-PERPETUAL", "ETH_USDC-PERPETUAL")
        for day in range(-45, 36)
        for n in range(3)
    ]
}
LATE = trade("BTC-PERPETUAL", 1, NOON_MS - 10 * DAY_MS + 1_000, price=1.0)


@pytest.fixture
def built(dbt: Project) -> Project:
    """November 2024 to February 2025, at every level."""
    dbt.empty()
    for load_id, trades in LOADS.items():
        raw_tables.load(dbt.client, load_id, trades)
    refresh(dbt.database)
    return dbt


def refusals(months: list[Month]) -> dict[tuple[str, int], str | None]:
    return {(month.level, month.month): month.refusal for month in months}


def months_of(dbt: Project, level: str) -> set[int]:
    rows = dbt.rows(f"SELECT DISTINCT toYYYYMM(bucket_at) AS month FROM deribit.ohlcv_{level}")
    return {row["month"] for row in rows}


def everything(dbt: Project) -> dict[str, Any]:
    """Candles of the stored level that is made from dropped months, and of views over it."""
    return {level: dbt.candles(level) for level in ("1h", "4h", "1d", "1mo")}


@pytest.mark.slow
def test_old_months_are_dropped_and_late_trades_change_no_candle_in_them(built: Project) -> None:
    """A plan drops nothing; apply drops the planned months; a late trade of a dropped month arrives; all is rebuilt."""
    client = built.client
    assert plan_drops(built.database, declared_retention(), TODAY) == []
    planned = plan_drops(built.database, KEEP, TODAY)
    assert refusals(planned) == {(level, month): None for level in KEEP for month in (OLDER, OLD)}
    assert [month.rows for month in planned if month.level == "ohlcv_1m"] == [2 * 2 * 14, 2 * 2 * 31]
    assert all(month.bytes > 0 for month in planned)
    assert months_of(built, "1m") == {OLDER, OLD, 202501, 202502}

    before = everything(built)
    assert all(month.is_dropped for month in drop_months(built.database, KEEP, TODAY))
    assert months_of(built, "1m") == months_of(built, "15m") == {202501, 202502}
    assert everything(built) == before
    assert plan_drops(built.database, KEEP, TODAY) == []

    raw_tables.load(client, "1764000002.5", [LATE])
    built.run(*TABLES)
    assert everything(built) == before
    assert built.rows("SELECT count() AS n FROM deribit.trades WHERE price = 1") == [{"n": 1}]
    built.must("test", *SOUND)

    alone = built.invoke("run", "--full-refresh", "--select", "ohlcv_1h_versions")
    assert "would lose the months that `tape retention` dropped" in str(failures(alone))
    assert everything(built) == before
    built.run("--full-refresh")
    assert_true(built, LOADS | {"1764000002.5": [LATE]})


@pytest.mark.slow
def test_month_that_differs_from_its_coarser_candles_is_refused(built: Project) -> None:
    """A volume that differs in the last digit, one more trade, a lost bucket: only that month is refused."""
    client = built.client
    for change in ("size + toDecimal128('0.000000000001', 12) AS size", "trade_count + 1 AS trade_count"):
        client.command(
            f"INSERT INTO deribit.ohlcv_1h_versions SELECT * REPLACE STRICT ({change}, version + 1 AS version) "
            f"FROM deribit.ohlcv_1h_versions FINAL WHERE toYYYYMM(bucket_at) = {OLDER} LIMIT 1"
        )
        assert refusals(plan_drops(built.database, KEEP, TODAY))["ohlcv_1m", OLDER] is not None
        built.run("--full-refresh", "--select", "ohlcv_1h_versions")
        assert refusals(plan_drops(built.database, KEEP, TODAY))["ohlcv_1m", OLDER] is None
    client.command("DELETE FROM deribit.ohlcv_1h_versions WHERE toStartOfDay(bucket_at) = '2024-12-02'")
    applied = refusals(drop_months(built.database, {"ohlcv_1m": 1, "trades": 1}, TODAY))
    assert applied.pop(("ohlcv_1m", OLD)) == "4 buckets differ in deribit.ohlcv_1h"
    assert set(applied.values()) == {None}
    assert months_of(built, "1m") == {OLD, 202501, 202502}


@pytest.mark.slow
def test_month_is_refused_if_any_level_made_from_it_lacks_a_bucket(built: Project) -> None:
    """Each stored level is compared with the one that is made from it."""
    database = built.database
    for coarser in levels.read_levels().values():
        if coarser.finer in (None, levels.RAW):
            continue
        database.command(f"create table deribit.saved as {coarser.table}")
        database.command(f"insert into deribit.saved select * from {coarser.table}")
        database.command(f"delete from {coarser.table} where toYYYYMM(bucket_at) = {OLDER}")
        refusal = refusals(plan_drops(database, {coarser.finer: 1}, TODAY))[coarser.finer, OLDER]
        assert refusal is not None, coarser.name
        assert refusal.endswith(f"buckets differ in {coarser.view}")
        database.command(f"insert into {coarser.table} select * from deribit.saved")
        database.command("drop table deribit.saved sync")
        assert refusals(plan_drops(database, {coarser.finer: 1}, TODAY))[coarser.finer, OLDER] is None


@pytest.mark.slow
def test_raw_months_are_dropped_only_by_name_and_only_if_trades_are_complete(built: Project) -> None:
    """A month with a load that dbt has not consumed is refused."""
    client, keep = built.client, {"raw_trades": 1}
    assert plan_drops(built.database, keep, TODAY) == []
    raw_tables.load(client, "1764000002.5", [LATE])
    applied = refusals(drop_months(built.database, keep, TODAY, ["raw_trades"]))
    assert applied == {("raw_trades", OLDER): None, ("raw_trades", OLD): "1 trades are not in deribit.trades"}
    months = built.rows("SELECT DISTINCT toYYYYMM(timestamp) AS month FROM deribit_raw.trades ORDER BY 1")
    assert [row["month"] for row in months] == [OLD, 202501, 202502]
    built.run(*TABLES)
    built.must("test", *SOUND)


LOST = [("BTC-PERPETUAL", 950), ("ETH_USDC-PERPETUAL", 1050)]  # in December and in January


@pytest.fixture
def with_gaps(dbt: Project) -> Project:
    """The project of `built` with all time covered and without the trades LOST."""
    dbt.empty()
    cover_everything(dbt.client, "future")
    trades = LOADS["1764000001.5"]
    raw_tables.load(
        dbt.client, "1764000001.5", [t for t in trades if (t["instrument_name"], t["trade_seq"]) not in LOST]
    )
    refresh(dbt.database)
    return dbt


@pytest.mark.slow
def test_month_dropped_from_trades_is_not_a_gap(with_gaps: Project) -> None:
    """Both statements report the same gaps as before; the raw table still has the times of their neighbours."""
    before, progress = gaps_of(with_gaps), progress_of(with_gaps)
    firsts = {name: date(2024, 11, 17) for name, _ in LOST}
    assert first_days_of(with_gaps) == firsts
    heads = [(name, 1, 864) for name, _ in LOST]
    assert before == tape_gaps(with_gaps.database) == sorted(heads + [(name, seq, seq) for name, seq in LOST])
    assert [row["missing"] for row in progress] == [2 * 864 + 2]
    drop_months(with_gaps.database, {"trades": 1}, TODAY)
    assert with_gaps.rows("SELECT min(toYYYYMM(timestamp)) AS month FROM deribit.trades") == [
        {"month": 202501}
    ]
    assert gaps_of(with_gaps) == tape_gaps(with_gaps.database) == before
    raw_tables.load(with_gaps.client, "1764000004.5", [LATE | {"trade_seq": 2000}])
    with_gaps.run(*TABLES)
    assert gaps_of(with_gaps) == tape_gaps(with_gaps.database)
    assert gaps_of(with_gaps)[: len(before) // 2] == before[: len(before) // 2]
    assert first_days_of(with_gaps) == firsts, "the first trade is known although it was dropped"


@pytest.mark.slow
def test_month_dropped_from_raw_is_not_a_gap(with_gaps: Project) -> None:
    """A gap whose neighbours were dropped has no time: the model lists it, and `tape repair` does not request it."""
    client, before = with_gaps.client, gaps_of(with_gaps)
    applied = drop_months(with_gaps.database, {"raw_trades": 1, "trades": 1}, TODAY, ["raw_trades", "trades"])
    assert all(month.is_dropped for month in applied)
    assert {month.level for month in applied} == {"raw_trades", "trades"}
    assert gaps_of(with_gaps) == before
    assert tape_gaps(with_gaps.database) == [("ETH_USDC-PERPETUAL", 1050, 1050)]
    raw_tables.load(client, "1764000004.5", [LATE | {"trade_seq": 1109, "timestamp": NOON_MS + 36 * DAY_MS}])
    with_gaps.run(*TABLES)
    assert gaps_of(with_gaps) == [*before[:2], ("BTC-PERPETUAL", 1108, 1108), *before[2:]]
    assert progress_of(with_gaps)[0]["missing"] == 2
    for model in ("trade_versions", "loaded_seqs"):
        refused = with_gaps.invoke("run", "--full-refresh", "--select", model)
        assert "months that `tape retention` dropped from deribit_raw.trades" in str(failures(refused))


@pytest.mark.slow
def test_first_and_last_trade_are_known_after_they_were_dropped(dbt: Project) -> None:
    """Late trades of the dropped month are the ends only if they are outside of the known ones; a rebuild is refused."""
    dbt.empty()
    option, december = "BTC-26DEC25-90000-C", NOON_MS - 20 * DAY_MS
    of_option = [trade(option, n, december + n * 60_000, price=n / 100, iv=50.0) for n in range(1, 8)]
    raw_tables.load(
        dbt.client, "1764000001.5", [trade(), *(each for each in of_option if each["trade_seq"] in (2, 4, 6))]
    )
    refresh(dbt.database)
    assert ends_of(dbt, option) == (of_option[1]["timestamp"], of_option[5]["timestamp"], 6, 0.06)
    drop_months(dbt.database, {"trades": 1}, TODAY)
    for n, first, last in ((3, 2, 6), (5, 2, 6), (1, 1, 6), (7, 1, 7)):
        raw_tables.load(dbt.client, f"176400001{n}.5", [of_option[n - 1]])
        refresh(dbt.database)
        expected = (of_option[first - 1]["timestamp"], of_option[last - 1]["timestamp"], last, last / 100)
        assert ends_of(dbt, option) == expected
    dbt.run(*TABLES, "--vars", "audit: true")
    refused = dbt.invoke("run", "--full-refresh", "--select", "instrument_ends")
    assert "months that `tape retention` dropped from trade_versions" in str(failures(refused))
    assert ends_of(dbt, option) == expected
    dbt.must("test", "--select", "test_name:instruments_are_sound")


def ends_of(dbt: Project, instrument: str) -> tuple[Any, ...]:
    """Time of the first trade; time, number and price of the last one."""
    query = """
        SELECT toUnixTimestamp64Milli(first_at), toUnixTimestamp64Milli(last_at), trade_seq, price
        FROM deribit.instrument_tallies WHERE instrument_name = {name:String}"""
    return dbt.client.query(query, parameters={"name": instrument}).first_row


def gaps_of(dbt: Project) -> list[tuple[str, int, int]]:
    """Gaps of the model deribit.trade_gaps."""
    query = "SELECT instrument_name, first_missing_seq, last_missing_seq FROM deribit.trade_gaps ORDER BY ALL"
    return [tuple(row) for row in dbt.client.query(query).result_rows]


def first_days_of(dbt: Project) -> dict[str, date]:
    query = "SELECT instrument_name, toDate(first_traded_on) FROM deribit.instruments"
    return dict(dbt.client.query(query).result_rows)


def tape_gaps(database: Database) -> list[tuple[str, int, int]]:
    """Gaps of `tape gaps`."""
    return sorted((gap.range.instrument_name, gap.range.first, gap.range.last) for gap in find_gaps(database))


def progress_of(dbt: Project) -> list[dict[str, Any]]:
    return dbt.rows("SELECT currency, kind, missing, absent FROM deribit.backfill_progress ORDER BY ALL")


def test_command_follows_the_declared_retention(
    built: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path
) -> None:
    """By default nothing is dropped; dbt_project.yml sets the months; a mistake in it is named."""
    assert tape.main(["retention", "--plan"], standalone_mode=False) == 0
    assert "Nothing is older" in capsys.readouterr().out
    declared = levels.PROJECT.read_text()
    project = tmp_path / "dbt_project.yml"
    monkeypatch.setattr(levels, "PROJECT", project)
    project.write_text(declared.replace(" ohlcv_1m: null", " ohlcv_1m: 1"))
    assert tape.main(["retention", "--plan"], standalone_mode=False) == 0
    shown = capsys.readouterr().out
    assert "ohlcv_1m  2024-11" in shown
    assert "4 of 4 months would be dropped" in shown
    for text, words in ((" ohlcv_2m: 1", "names 'ohlcv_2m'"), (" trades: -1", "of trades in .* is -1")):
        project.write_text(declared.replace(" trades: null", text))
        with pytest.raises(UsageError, match=words):
            tape.main(["retention", "--plan"], standalone_mode=False)
    with pytest.raises(UsageError, match="Choose one of"):
        tape.main(["retention"], standalone_mode=False)
    built.client.command("DROP TABLE deribit.ohlcv_1h_versions SYNC")
    project.write_text(declared.replace(" ohlcv_1m: null", " ohlcv_1m: 1"))
    with pytest.raises(CannotTellError, match=r"There is no deribit\.ohlcv_1h_versions yet; run: dbt build"):
        tape.main(["retention", "--plan"], standalone_mode=False)
