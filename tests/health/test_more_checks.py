"""Checks of candles, of what the exchange sends and of the operation: each fires on its fault and returns to ok."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from extract.clickhouse.client import shared_database
from extract.clickhouse.runs import recorded_run
from extract.clickhouse.settings import ClickHouseSettings
from extract.errors import FinalError
from extract.health import operation
from extract.health.measurement import Inventory
from tests.support.commands import Done
from tests.support.raw_tables import Raw

NOW = "settings mutations_sync = 1"
LEVELS = {
    "1m": "toStartOfMinute(at)",
    "15m": "toStartOfFifteenMinutes(at)",
    "1h": "toStartOfHour(at)",
    "4h": "toStartOfInterval(at, interval 4 hour)",
    "1d": "toStartOfDay(at)",
    "1w": "toMonday(at)",
    "1mo": "toStartOfMonth(at)",
}


@pytest.fixture
def raw(clean_clickhouse: ClickHouseSettings, clickhouse_env: ClickHouseSettings) -> Raw:
    """Raw tables with one trade in a package that was finished an hour ago, and one in a package of ten days ago."""
    raw = Raw(
        shared_database(clickhouse_env),
        ("trades", "coverage", "instruments", "rejected_trades"),
        is_finished=False,
    )
    for load_id, hours in (("1", 240), ("2", 1)):
        raw.client.command(
            "insert into deribit_raw._dlt_loads (load_id, status, inserted_at) "
            f"select '{load_id}', 0, now64(6) - interval {hours} hour"
        )
    raw.insert("instruments", instrument_name="BTC-PERPETUAL", _dlt_load_id="1")
    raw.client.command(
        "insert into deribit_raw.coverage (currency, kind, covered_from, covered_to, _dlt_load_id) "
        "select 'BTC', 'future', '2016-01-01', now64(3) - interval 1 hour, '2'"
    )
    raw.client.command(
        "insert into deribit_raw.trades (instrument_name, trade_seq, timestamp, currency, kind, _dlt_load_id) "
        "select 'BTC-PERPETUAL', number + 1, now64(3) - interval 3 hour, 'BTC', 'future', '2' from numbers(2)"
    )
    return raw


@pytest.fixture
def models(raw: Raw) -> Raw:
    """Hand-made models: trades, and candles of all levels for three days, each of one trade an hour."""
    raw.client.command("create database deribit")
    raw.client.command(
        "create table deribit.consumed_loads engine = MergeTree order by load_id as "
        "select load_id from deribit_raw._dlt_loads"
    )
    raw.client.command(
        "create table deribit.trade_versions engine = MergeTree partition by toYYYYMM(timestamp) order by timestamp as "
        "select toDateTime64(toStartOfHour(now('UTC')) - toIntervalHour(number), 3, 'UTC') as timestamp from numbers(80)"
    )
    for level, bucket in LEVELS.items():
        raw.client.command(
            f"create table deribit.ohlcv_{level} engine = MergeTree order by bucket_at as "
            f"select 'BTC-PERPETUAL' as instrument_name, toDateTime({bucket}, 'UTC') as bucket_at, count() as trade_count, "
            "toDecimal64(count(), 8) as volume, max(toDecimal64(toHour(at), 8)) as high, "
            "min(toDecimal64(toHour(at), 8)) as low "
            "from (select timestamp as at from deribit.trade_versions) group by bucket_at"
        )
    return raw


@pytest.fixture
def health(tape: Callable[..., Done]) -> Callable[..., dict[str, Any]]:
    """A function that runs one check, or all of them; the result is empty where there is nothing to check."""

    def run(name: str, *words: str) -> dict[str, Any]:
        results = json.loads(tape("health", "--json", "--check", name, *words).out)
        return results[0] if results else {}

    return run


Health = Callable[..., dict[str, Any]]


def test_no_check_fires_on_a_clean_database(models: Raw, tape: Callable[..., Done]) -> None:
    """Apart from the disks of the machine, which the tests do not choose."""
    done = tape("health", "--json", "--disk", "0.2:0.1", "--disk-days", "0.2:0.1")
    checks = {each["check"]: each["state"] for each in json.loads(done.out)}
    assert (done.code, {name: state for name, state in checks.items() if state != "ok"}) == (0, {})
    assert {"candles", "levels", "rejected", "fields", "streams", "schema", "runs", "disk-days"} <= set(
        checks
    )


def test_candle_level_that_ends_too_early(models: Raw, health: Health) -> None:
    """The newest candle of each level in turn is missing."""
    for level in LEVELS:
        table = f"deribit.ohlcv_{level}"
        models.client.command(f"create table deribit.spare as {table}")
        models.client.command(
            f"insert into deribit.spare select * from {table} where bucket_at < (select max(bucket_at) from {table})"
        )
        models.client.command(f"exchange tables deribit.spare and {table}")
        candles = health("candles")
        assert candles["state"] in ("warn", "alarm")
        assert f"ohlcv_{level} ends" in candles["text"]
        models.client.command(f"exchange tables deribit.spare and {table}")
        models.client.command("drop table deribit.spare sync")
    assert health("candles")["state"] == "ok"


def test_candles_wait_for_pending_packages(models: Raw, health: Health) -> None:
    """A package that the models have not consumed is reported by the check of the models."""
    models.client.command("truncate table deribit.ohlcv_1d")
    models.client.command(
        "insert into deribit_raw._dlt_loads (load_id, status, inserted_at) select '3', 0, now64(6)"
    )
    assert health("candles")["state"] == "ok"
    models.client.command("insert into deribit.consumed_loads values ('3')")
    assert health("candles")["state"] == "alarm"


def test_missing_candle_level_alarms(models: Raw, health: Health) -> None:
    models.client.command("rename table deribit.ohlcv_4h to deribit.spare")
    assert health("candles")["text"] == "there are no candles of 4h; run: dbt build"
    assert health("candles")["state"] == "alarm"
    models.client.command("rename table deribit.spare to deribit.ohlcv_4h")
    assert health("candles")["state"] == "ok"


@pytest.mark.parametrize(
    ("level", "change", "differing"),
    [
        ("1h", "volume = volume + 1", 25),  # 24 hours differ from their minutes, and their day from them
        ("1d", "high = high + 1", 1),
        ("1m", "trade_count = trade_count + 1", 24),
    ],
)
def test_levels_that_disagree(models: Raw, health: Health, level: str, change: str, differing: int) -> None:
    """Yesterday's candles of a coarse or fine level were changed; months dropped from a level do not count."""
    models.client.command(
        f"alter table deribit.ohlcv_{level} update {change} where toDate(bucket_at) = yesterday() {NOW}"
    )
    levels = health("levels")
    assert levels["state"] in ("warn", "alarm")
    assert levels["value"] == differing
    models.client.command(
        "create table deribit.retention_drops engine = MergeTree order by month as "
        "select toYYYYMM(today() - number) as month from numbers(4)"
    )
    assert health("levels")["state"] == "ok"


def test_rejected_records_of_the_last_day(raw: Raw, health: Health) -> None:
    """Those of an older package do not count, nor does time that was set aside, which is a gap."""
    raw.insert("rejected_trades", reason="no price", raw="{}", _dlt_load_id="1")
    raw.insert("rejected_trades", reason="set aside", raw='{"unproven_to_ms": 1}', _dlt_load_id="2")
    assert health("rejected")["state"] == "ok"
    for _ in range(2):
        raw.insert("rejected_trades", reason="no price", raw='{"trade_seq": 1}', _dlt_load_id="2")
    raw.make("rejected_records")
    raw.client.command(
        "insert into deribit_raw.rejected_records (series, series_key, reason, raw, _dlt_load_id) "
        "values ('funding_rates', 'BTC-PERPETUAL', 'odd', '{}', '2')"
    )
    rejected = health("rejected")
    assert (rejected["state"], rejected["value"]) == ("warn", 3)
    assert rejected["text"].endswith("most of them: no price")
    assert health("rejected", "--rejected", "1:3")["state"] == "alarm"
    raw.client.command(
        "alter table deribit_raw._dlt_loads update inserted_at = now() - interval 25 hour where 1 " + NOW
    )
    assert health("rejected")["state"] == "ok"


def test_unknown_fields_of_the_last_day(raw: Raw, health: Health) -> None:
    """Each name once, from any table with a column `extra`; a name is new for a day, and on the first day none is."""
    sql = "insert into deribit_raw.{} (instrument_name, extra, _dlt_load_id) values ('X', '{}', '{}')"
    raw.client.command(sql.format("trades", '{"old": 1}', "1"))
    assert health("fields")["state"] == "ok"
    raw.client.command(sql.format("trades", '{"rpi": 1, "venue": "a"}', "2"))
    raw.client.command(sql.format("instruments", '{"rpi": 1, "old": 2}', "2"))
    fields = health("fields")
    assert (fields["state"], fields["value"]) == ("warn", 2)
    assert fields["text"].endswith(": rpi, venue")
    assert health("fields", "--fields", "3:9")["state"] == "ok"
    for hours, state in ((25, "ok"), (1, "warn")):
        raw.client.command(
            f"alter table deribit_raw._dlt_loads update inserted_at = now() - interval {hours} hour "
            f"where load_id = '2' {NOW}"
        )
        assert health("fields")["state"] == state
    raw.client.command(f"alter table deribit_raw._dlt_loads delete where load_id = '1' {NOW}")
    assert health("fields")["state"] == "ok"


def test_new_streams_of_this_week(raw: Raw, health: Health) -> None:
    """What came with the first package is not new; what came later is, for a week."""
    raw.insert("instruments", instrument_name="XYZ_USDC", currency="XYZ", kind="spot", _dlt_load_id="2")
    streams = health("streams")
    assert (streams["state"], streams["value"]) == ("warn", 1)
    assert streams["text"].endswith(": XYZ spot")
    raw.client.command(
        "alter table deribit_raw._dlt_loads update inserted_at = now() - interval 8 day where load_id = '2' "
        "settings mutations_sync = 1"
    )
    assert health("streams")["state"] == "ok"


def test_schema_drift_of_a_raw_table(raw: Raw, health: Health) -> None:
    """A column too many, one of another type, one too few."""
    raw.client.command("alter table deribit_raw.trades add column surprise String")
    raw.client.command("alter table deribit_raw.trades modify column mark_price Nullable(String)")
    raw.client.command("alter table deribit_raw.coverage drop column _dlt_id")
    schema = health("schema")
    assert (schema["state"], schema["value"]) == ("alarm", 3)
    assert "trades.mark_price, trades.surprise" in schema["text"]
    assert "coverage._dlt_id" in schema["text"]
    raw.client.command(
        "alter table deribit_raw.trades drop column surprise, modify column mark_price Nullable(Float64)"
    )
    raw.client.command("alter table deribit_raw.coverage add column _dlt_id String")
    assert health("schema")["state"] == "ok"


def test_runs_that_did_not_happen_or_failed(raw: Raw, health: Health) -> None:
    """Without a record the newest load package counts; then the last run that succeeded, whatever it loaded."""
    assert health("runs")["value"] == pytest.approx(3600, abs=60)
    with pytest.raises(FinalError), recorded_run(raw.database, "one"):
        raise FinalError("the exchange is down")
    assert health("runs")["state"] == "alarm"
    assert "no run has succeeded; the last one failed: the exchange is down" in health("runs")["text"]
    with recorded_run(raw.database, "one"):
        pass
    assert (health("runs")["state"], health("runs")["value"]) == ("ok", pytest.approx(0, abs=30))
    with pytest.raises(KeyboardInterrupt), recorded_run(raw.database, "one"):
        raise KeyboardInterrupt
    assert health("runs")["text"].endswith("1 have failed since: KeyboardInterrupt")
    raw.client.command(
        "alter table deribit_runs.runs update ended_at = ended_at - interval 30 hour where 1 settings mutations_sync = 1"
    )
    assert health("runs")["state"] == "warn"


def test_run_close_to_its_limit(raw: Raw, health: Health) -> None:
    """The longest one of the last day counts; runs without a limit do not."""
    insert = (
        "insert into deribit_runs.runs (started_at, ended_at, holder, limit_s, is_failed, error) "
        "select now64(3) - interval {} second, now64(3), 'one', {}, false, ''"
    )
    with recorded_run(raw.database, "one"):
        pass
    assert health("duration") == {}
    raw.client.command(insert.format(700, 900))
    assert (health("duration")["state"], health("duration")["value"]) == (
        "ok",
        pytest.approx(77.8, abs=0.1),
    )
    raw.client.command(insert.format(730, 900))
    assert health("duration")["state"] == "warn"
    raw.client.command(insert.format(1300, 900))
    assert health("duration")["state"] == "alarm"
    raw.client.command("truncate table deribit_runs.runs")
    raw.client.command(insert.format(100, 900))
    assert health("duration")["state"] == "ok"


def test_age_of_the_last_proven_backup(raw: Raw, health: Health) -> None:
    """No backup is a warning only if one is required; one that was not proven does not count."""
    assert health("backup") == {}
    assert health("backup", "--require-backup")["state"] == "warn"
    raw.client.command("create database if not exists deribit_runs")
    raw.client.command(
        "create table deribit_runs.backups (at DateTime64(3, 'UTC'), location String, rows UInt64, bytes UInt64, "
        "is_proven Bool) engine = MergeTree order by at"
    )
    insert = "insert into deribit_runs.backups select now64(3) - interval {} hour, '/b', 1, 1, {}"
    raw.client.command(insert.format(1, "false"))
    assert health("backup")["text"] == "there is no proven backup yet; run: tape backup"
    raw.client.command(insert.format(60, "true"))
    assert (health("backup")["state"], health("backup")["value"] // 3600) == ("alarm", 60)
    raw.client.command(insert.format(30, "true"))
    assert health("backup")["state"] == "warn"
    raw.client.command(insert.format(2, "true"))
    assert health("backup")["state"] == "ok"


def create_candle_checks(models: Raw) -> None:
    models.client.command(
        "create table deribit.candle_checks (instrument_name String, level String, window_at DateTime, "
        "bucket_at DateTime, last_bucket_at DateTime, bars UInt32, classification String, "
        "checked_at DateTime64(3, 'UTC')) engine = MergeTree order by checked_at"
    )


def record_comparison(
    models: Raw, name: str, hours: tuple[int, int], minutes_ago: int, failures: str = ""
) -> None:
    """Record that the bars of `hours` were compared; `failures`: rows (hour, bars, classification) of some of them."""
    rows = f"({hours[0]}, {hours[1]}, 50, 'compared')" + failures
    models.client.command(
        f"insert into deribit.candle_checks select '{name}', '1h', toDateTime(0), toDateTime(3600 * row.1), "
        f"toDateTime(3600 * row.2), row.3, row.4, now64(3) - interval {minutes_ago} minute "
        f"from (select arrayJoin([{rows}]) as row)"
    )


def record_set_aside(models: Raw, name: str) -> None:
    models.client.command(
        f"insert into deribit.candle_checks select '{name}', '1h', toDateTime(0), toDateTime(0), toDateTime(36000), 0, "
        "'set_aside', now64(3)"
    )


def test_age_of_the_last_verification(models: Raw, health: Health) -> None:
    assert health("verify-age") == {}
    create_candle_checks(models)
    for days, state in ((16, "alarm"), (9, "warn"), (1, "ok")):
        record_comparison(models, "X", (0, 9), days * 1440)
        assert health("verify-age")["state"] == state
    models.client.command("truncate table deribit.candle_checks")
    record_comparison(models, "X", (0, 9), 9 * 1440)
    record_set_aside(models, "X")
    assert health("verify-age")["state"] == "warn"


def test_bars_that_verify_could_not_explain(models: Raw, health: Health) -> None:
    """Of each bar the last comparison of its time counts; one of another part of its chart does not hide it."""
    assert health("verify") == {}
    create_candle_checks(models)
    for bars, classification, state in ((100, "missing", "alarm"), (3, "unexplained", "warn")):
        models.client.command("truncate table deribit.candle_checks")
        for minutes_ago in (11, 10):
            record_comparison(models, "X", (0, 9), minutes_ago, f", (4, 4, {bars}, '{classification}')")
        record_comparison(models, "Y", (0, 9), 9)
        record_comparison(models, "X", (0, 3), 8)
        record_comparison(models, "X", (5, 9), 7, ", (7, 7, 100, 'restated')")
        record_set_aside(models, "X")
        assert (health("verify")["state"], health("verify")["value"]) == (state, bars)
        record_comparison(models, "X", (4, 4), 6)
        assert health("verify")["state"] == "ok"


def test_series_that_is_late(raw: Raw, health: Health) -> None:
    """Of the keys of a series the newest counts; of the series, the one that is the furthest behind."""
    assert health("series-lag") == {}
    raw.make("series_coverage")

    def cover(series: str, key: str, hours: int, load_id: str = "1") -> None:
        raw.client.command(
            "insert into deribit_raw.series_coverage "
            "(series, series_key, covered_from, covered_to, loaded_rows, checked_at, _dlt_load_id) "
            f"select '{series}', '{key}', '2020-01-01', now64(3) - interval {hours} hour, 1, now64(3), '{load_id}'"
        )

    cover("funding_rates", "BTC-PERPETUAL", 1)
    cover("funding_rates", "OLD-PERPETUAL", 9000)
    cover("delivery_prices", "btc_usd", 30)
    lag = health("series-lag")
    assert (lag["state"], lag["value"] // 3600) == ("warn", 30)
    assert lag["text"] == "the newest row of delivery_prices is 30 h old"
    cover("delivery_prices", "btc_usd", 3, "2")
    assert health("series-lag")["state"] == "ok"


def test_days_of_disk_left(models: Raw, health: Health) -> None:
    """The growth of this month and the last one counts, and a disk that is an object store does not."""
    days_left = health("disk-days", "--disk-days", "0.2:0.1")
    assert (days_left["state"], days_left["value"] > 0) == ("ok", True)
    assert health("disk-days", "--disk-days", "4000:3700")["state"] == "alarm"

    def days(free: int, total: int, last_month: int, this_month: int) -> float | None:
        answers = {"disks": [("default", free, total)], "growth": [(last_month, this_month)]}
        inventory = SimpleNamespace(rows=answers.__getitem__)
        measured = operation.measure_disk_days(inventory, datetime(2026, 3, 11, tzinfo=UTC))  # type: ignore[arg-type]
        return measured.value if measured else None

    assert days(1000, 2000, 300, 0) == 100
    assert days(1000, 2000, 300, 500) == 20  # ten days of March
    assert days(1000, 2000, 0, 0) == operation.MOST_DAYS
    assert days(1 << 62, 1 << 62, 300, 0) is None
    assert Inventory.read(models.database).rows("growth")[0][1] > 0
