"""The data tests of the dbt project ignore unmerged duplicates, fail for damaged rows, and stop no model."""

from __future__ import annotations

import pytest

from extract.clickhouse.refresh import refresh
from extract.health.measurement import Inventory
from extract.health.models import measure_marts
from harness import raw_tables
from harness.dbt_project import TABLES, Project, failures
from tests.dbt.test_model_truth import DAY_MS, NOON_MS, STORED, trade
from tests.support.candle_truth import assert_true

SOUND = "test_name:*_are_sound"
ODD = (*TABLES, "odd_trades", "ohlcv_1mo")
TRADES = [trade(seq=seq, at_ms=NOON_MS + seq * DAY_MS, price=100.0 + seq) for seq in range(1, 6)]
LOADS = {"1764000001.5": TRADES, "1764000002.5": TRADES}
LOST = {
    "instruments": "DELETE FROM deribit.instrument_ends WHERE true",
    "trades": "DELETE FROM deribit.trade_versions WHERE trade_seq = 3",
    "ohlcv_1h": "DELETE FROM deribit.ohlcv_1h_versions WHERE toDate(bucket_at) = '2025-01-02'",
}
"""Models whose test has to fail, and the statement that loses a row of each."""
INVENTED = "INSERT INTO deribit.trade_versions SELECT * REPLACE STRICT (99 AS trade_seq) FROM deribit.trade_versions LIMIT 1"
INVENTED_LATER = (
    "INSERT INTO deribit.trade_versions "
    "SELECT * REPLACE STRICT (99 AS trade_seq, version + 4096 * 60000000 AS version) "
    "FROM deribit.trade_versions WHERE NOT is_moved LIMIT 1"
)
"""As if of a load package that is a minute newer, and that was never loaded."""
WRONG_CANDLES = (
    "open + 1 AS open",
    "open - 1 AS high",
    "0 AS buy_volume",
    "size + toDecimal128('0.000000000001', 12) AS size",
    "null AS block_volume",
)
"""A wrong open, high, side, volume (by its last digit) and share of block trades, each in another bucket."""
SKIPPED = {"tested_months", "matches_declared_schema_tested_months_"}
"""The record that the tests have passed."""
PLANTED = (
    "INSERT INTO deribit.ohlcv_{level}_versions "
    "SELECT * REPLACE STRICT ({columns}) FROM deribit.ohlcv_{level}_versions FINAL "
    "ORDER BY bucket_at LIMIT 1 OFFSET {bucket}"
)


@pytest.fixture
def sound(dbt: Project) -> Project:
    """Five trades, every package twice: parts full of duplicates."""
    dbt.empty()
    for load_id, trades in LOADS.items():
        raw_tables.load(dbt.client, load_id, trades)
        refresh(dbt.database)
    assert dbt.rows("SELECT count() AS n FROM deribit.trade_versions")[0]["n"] > 5
    return dbt


@pytest.mark.slow
def test_package_that_is_being_refreshed_fails_no_test(sound: Project) -> None:
    """As while `tape follow` loads: its trades are in one table, and not yet in the candles and tallies.

    Wrong rows that no such package explains fail, also then.
    """
    load_id = "1764000003.5"
    moved = TRADES[0] | {"timestamp": TRADES[0]["timestamp"] + 31 * DAY_MS}
    new = [trade(seq=6, at_ms=NOON_MS + DAY_MS), trade("NEW-PERPETUAL")]
    raw_tables.load(sound.client, load_id, [*new, moved, TRADES[1] | {"price": 7.0}])
    for table in ("moved_trades", "trade_versions"):
        sound.client.command(
            f"INSERT INTO deribit.{table} SELECT * FROM deribit.refresh_{table}(loads = ['{load_id}'])"
        )
    assert sound.rows("SELECT count() AS n FROM deribit.trades") == [{"n": 7}]
    assert failed_models(sound) == {}
    sound.client.command(PLANTED.format(level="1h", columns="open + 1 AS open", bucket=3))
    assert failed_models(sound) == {"ohlcv_1h": 1}
    refresh(sound.database)
    sound.must("build", *TABLES)
    assert failed_models(sound) == {}
    sound.client.command(INVENTED_LATER)
    assert "trades" in failed_models(sound)


def failed_models(dbt: Project) -> dict[str, int]:
    """Number of rows that the test of each model returns, for those that fail."""
    results = dbt.invoke("test", "--select", SOUND).result.results
    return {
        each.node.attached_node.split(".")[-1]: each.failures
        for each in results
        if each.status in ("fail", "error")
    }


@pytest.mark.slow
def test_lost_rows_are_detected_and_restored(sound: Project) -> None:
    """A lost row fails the test of its model, and a build restores it. Unmerged duplicates pass, as tests read the views."""
    assert failed_models(sound) == {}
    for statement in LOST.values():
        sound.client.command(statement)
    assert set(LOST) <= failed_models(sound).keys()
    sound.must("build", *TABLES)
    assert failed_models(sound) == {}
    assert_true(sound, LOADS)


@pytest.mark.slow
def test_wrong_rows_are_detected_and_candles_are_replaced(sound: Project) -> None:
    """`dbt test` fails for each wrong candle of any level and an invented trade; `dbt build` logs and replaces candles."""
    # Otherwise a level would be wrong in the same way as the one that it is computed from.
    for shift, level in enumerate(STORED):
        for n, columns in enumerate(WRONG_CANDLES):
            sound.client.command(PLANTED.format(level=level, columns=columns, bucket=(n + shift) % 5))
    failed = failed_models(sound)
    for level in STORED:
        assert failed[f"ohlcv_{level}"] >= len(WRONG_CANDLES)
    sound.logged.clear()
    sound.must("build", *TABLES)
    for level in STORED:
        assert (
            f"ohlcv_{level}_versions: 5 candles of [202501] were missing or wrong and are replaced"
            in sound.logged
        )
    assert_true(sound, LOADS)
    sound.client.command(INVENTED)
    assert failed_models(sound).keys() >= {"trades"}


@pytest.mark.slow
def test_wrong_forwards_are_detected_and_replaced(dbt: Project) -> None:
    """A wrong forward and volatility, an hour that has no trades, and one that is missing."""
    dbt.empty()
    loads = {
        "1764000001.5": [
            trade(f"BTC-{day}JAN25-90000-{side}", hour + 1, NOON_MS + hour * 3_600_000, price=0.05, iv=50.0)
            for day in (10, 17, 24, 31)
            for side in "CP"
            for hour in range(2)
        ]
    }
    raw_tables.load(dbt.client, "1764000001.5", loads["1764000001.5"])
    refresh(dbt.database)
    assert failed_models(dbt) == {}
    for columns, day in (
        ("forward + 1 AS forward", 10),
        ("51 AS call_25_iv", 17),
        ("bucket_at - 3600 AS bucket_at", 24),
    ):
        dbt.client.command(
            f"INSERT INTO deribit.expiry_hours_versions SELECT * REPLACE STRICT ({columns}, version + 1 AS version) "
            f"FROM deribit.expiry_hours_versions FINAL WHERE toDayOfMonth(expiry) = {day} ORDER BY bucket_at LIMIT 1"
        )
    dbt.client.command("DELETE FROM deribit.expiry_hours_versions WHERE toDayOfMonth(expiry) = 31")
    # Two of them also have another number of trades in their month.
    assert failed_models(dbt) == {"expiry_hours_versions": 7}
    dbt.logged.clear()
    dbt.must("build", *TABLES)
    assert "expiry_hours_versions: 5 hours of [202501] were missing or wrong and are replaced" in dbt.logged
    assert failed_models(dbt) == {}
    assert_true(dbt, loads)


@pytest.mark.slow(minutes=2)
def test_odd_trade_fails_every_build_until_it_is_settled(dbt: Project) -> None:
    """It stops no model, also in later builds without odd trades, and `tape health` alarms; a restatement settles it."""
    dbt.empty()
    odd = trade("BTC-31DEC24-90000-C", 1, NOON_MS)
    raw_tables.load(dbt.client, "1764000001.5", [odd, trade()])
    assert failures(dbt.invoke("build", *ODD)).keys() == {"is_empty_odd_trades_"}
    assert dbt.rows("SELECT count() AS n FROM deribit.ohlcv_1mo") == [{"n": 2}]
    raw_tables.load(dbt.client, "1764000002.5", [trade(seq=2)])
    assert failures(dbt.invoke("build", *ODD)).keys() == {"is_empty_odd_trades_"}
    [row] = dbt.rows("SELECT instrument_name, reason FROM deribit.odd_trades")
    assert row == {"instrument_name": odd["instrument_name"], "reason": "traded after its expiry"}
    assert measure_marts(Inventory.read(dbt.database)).is_broken
    raw_tables.load(dbt.client, "1764000003.5", [odd | {"timestamp": NOON_MS - 2 * DAY_MS}])
    dbt.must("build", *ODD)
    assert not measure_marts(Inventory.read(dbt.database)).is_broken


@pytest.mark.slow
def test_failed_test_skips_no_model(sound: Project) -> None:
    """Every other model that anyone reads is built although the tests of trades and of their table fail."""
    sound.client.command(INVENTED)
    sound.client.command("ALTER TABLE deribit.trade_versions MODIFY COLUMN currency String CODEC(LZ4)")
    sound.client.command("DROP VIEW deribit.ohlcv_1mo")
    result = sound.invoke("build")
    failed = {"trades_are_sound_trades_", "matches_declared_schema_trade_versions_"}
    assert failures(result).keys() == failed | SKIPPED
    assert sound.rows("SELECT count() AS n FROM deribit.ohlcv_1mo") == [{"n": 1}]


@pytest.mark.slow(minutes=2)
def test_failed_test_fails_every_build_until_the_rows_are_right(sound: Project) -> None:
    """Also those after the one that compared the month; then it is tested no more. `tape health` alarms until then."""
    count = "SELECT count() AS n FROM deribit.tested_months"
    sound.run(*TABLES)  # without tests, so that none fails
    hours_later(sound)
    sound.client.command(INVENTED)
    assert not measure_marts(Inventory.read(sound.database)).is_broken
    for _ in range(2):
        assert failures(sound.invoke("build", *TABLES)).keys() == {"trades_are_sound_trades_"} | SKIPPED
        hours_later(sound)
    assert sound.rows(count) == [{"n": 0}]
    health = measure_marts(Inventory.read(sound.database))
    assert health.is_broken
    assert health.text == "the data tests of a dbt build have not passed for 8 h; run: dbt build"
    sound.client.command("DELETE FROM deribit.trade_versions WHERE trade_seq = 99")
    sound.must("build", *TABLES)
    assert sound.rows(count)[0]["n"] > 0
    hours_later(sound)
    assert not measure_marts(Inventory.read(sound.database)).is_broken


def hours_later(dbt: Project) -> None:
    """Let all comparisons and tests so far be four hours older."""
    for table, column in (("verified_months", "verified_at"), ("tested_months", "tested_at")):
        for statement in (
            f"CREATE TABLE deribit.older AS deribit.{table}",
            f"INSERT INTO deribit.older SELECT * REPLACE ({column} - INTERVAL 4 HOUR AS {column}) FROM deribit.{table}",
            f"EXCHANGE TABLES deribit.older AND deribit.{table}",
            "DROP TABLE deribit.older SYNC",
        ):
            dbt.client.command(statement)


@pytest.mark.slow
def test_odd_trade_in_a_month_that_another_run_compared_is_shown(dbt: Project) -> None:
    """It was loaded by `dbt run` with a selector, and its key is lost before the next build."""
    dbt.empty()
    raw_tables.load(dbt.client, "1764000001.5", [trade("BTC-31DEC24-90000-C", 1, NOON_MS)])
    dbt.run("--selector", "fresh")
    assert dbt.rows("SELECT count() AS n FROM deribit.odd_trades") == [{"n": 1}]
    for _ in range(2):
        dbt.client.command("TRUNCATE TABLE deribit.odd_trade_keys")
        assert failures(dbt.invoke("build", "--select", "odd_trade_keys", "odd_trades")).keys() == {
            "is_empty_odd_trades_"
        }
