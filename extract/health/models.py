"""Checks of the models: what they have not consumed, each candle level, and the comparison with the exchange's candles."""

from __future__ import annotations

from extract.clickhouse.finished import describe_waiting
from extract.clickhouse.settings import MART_DATABASE
from extract.errors import CannotTellError
from extract.health.measurement import Inventory, Measurement, enumerate_names, seconds_since
from extract.times import duration

BUCKETS = {
    "1m": ("toStartOfMinute({})", 2),
    "15m": ("toStartOfFifteenMinutes({})", 2),
    "1h": ("toStartOfHour({})", 2),
    "4h": ("toStartOfInterval({}, interval 4 hour)", 2),
    "1d": ("toStartOfDay({})", 7),
    "1w": ("toMonday({})", 14),
    "1mo": ("toStartOfMonth({})", 62),
}
"""By level: the start of the bucket that the time `{}` is in, and days before it in which to look for a candle."""
STORED = (("1m", "1h"), ("1h", "1d"))
"""Levels that are stored, each with the coarser one that is made from it; all others are views."""


def measure_marts(inventory: Inventory) -> Measurement:
    """Age of the oldest finished load package that the models have not consumed.

    Odd trades that are not settled, and data tests that have failed in a `dbt build`, alarm.
    """
    if "consumed_loads" not in inventory.marts:
        raise CannotTellError("There are no models yet; run: dbt build")
    if "odd_trades" in inventory.marts:
        [(odd,)] = inventory.rows("odd_trades")
        if odd:
            return Measurement(
                0,
                f"{odd:,} trades are odd and neither restated nor accepted: {MART_DATABASE}.odd_trades",
                is_broken=True,
            )
    if {"verified_months", "tested_months"} <= inventory.marts:
        [(untested, since)] = inventory.rows("untested_months")
        if untested:
            return Measurement(
                0,
                f"the data tests of a dbt build have not passed for {duration(seconds_since(since))}; run: dbt build",
                is_broken=True,
            )
    [(pending, since)] = inventory.rows("loads_pending")
    if not pending:
        return Measurement(0, "the models have consumed every finished load package")
    lag_s = seconds_since(since)
    return Measurement(lag_s, f"{describe_waiting(pending)}, since {duration(lag_s)}; run: dbt build")


def measure_candles(inventory: Inventory) -> Measurement | None:
    """By how much the newest candle of the latest level precedes the bucket of the newest trade of the models.

    Not measured while load packages are pending, which the check of the models reports. A level that does not exist
    alarms.
    """
    missing = [level for level in BUCKETS if f"ohlcv_{level}" not in inventory.marts]
    if len(missing) == len(BUCKETS) or "trade_versions" not in inventory.marts:
        return None
    if missing:
        return Measurement(
            None, f"there are no candles of {enumerate_names(missing, len(BUCKETS))}; run: dbt build"
        )
    [(pending, _)] = inventory.rows("loads_pending")
    [(newest,)] = inventory.rows("newest_trade")
    if pending or newest.year < 2000:
        return Measurement(0, "the models have load packages to consume first" if pending else "no trades")
    at = f"toDateTime({int(newest.timestamp())}, 'UTC')"
    lags: dict[str, float] = {}
    for level, (bucket, days) in BUCKETS.items():
        [(_, expected, last)] = inventory.rows(
            "newest_candle", level=level, bucket=bucket.format(at), days=str(days)
        )
        lags[level] = min((expected - last).total_seconds(), days * 86_400)
    level, lag_s = max(lags.items(), key=lambda each: each[1])
    if not lag_s:
        return Measurement(0, f"all {len(lags)} levels reach the newest trade")
    return Measurement(lag_s, f"ohlcv_{level} ends {duration(lag_s)} before the newest trade; run: dbt build")


def measure_levels(inventory: Inventory) -> Measurement | None:
    """Candles that differ from those of the finer level, on three days."""
    if not {f"ohlcv_{level}" for pair in STORED for level in pair} <= inventory.marts:
        return None
    dropped = "select toUInt32(0)"
    if "retention_drops" in inventory.marts:
        dropped = f"select month from {MART_DATABASE}.retention_drops"
    differing = {}
    for fine, coarse in STORED:
        bucket = BUCKETS[coarse][0].format("bucket_at")
        [(count,)] = inventory.rows(
            "differing_candles", fine=fine, coarse=coarse, bucket=bucket, dropped_months=dropped
        )
        if count:
            differing[f"ohlcv_{coarse}"] = count
    if not differing:
        return Measurement(0, "candles agree with those of the finer level, on the three days compared")
    return Measurement(
        sum(differing.values()),
        f"{sum(differing.values()):,} candles of {enumerate_names(differing)} differ from those of the finer level, on "
        "the three days compared",
    )


def read_candle_checks(inventory: Inventory) -> tuple[int, int, float] | None:
    """Charts that `tape verify` compared, bars that failed, and seconds since the last comparison; None without one."""
    if "candle_checks" not in inventory.marts:
        return None
    [(charts, failures, checked_at)] = inventory.rows("candle_checks")
    return (charts, failures, seconds_since(checked_at)) if charts else None


def measure_verify(checks: tuple[int, int, float] | None) -> Measurement | None:
    """Bars whose trades are missing here, or that are unexplained, when their time was last compared."""
    if not checks:
        return None
    charts, failures, age_s = checks
    text = f"{failures:,} bars differ from" if failures else "nothing differs from"
    return Measurement(
        failures,
        f"{text} the exchange's candles in {charts:,} charts, the last one compared {duration(age_s)} ago",
    )


def measure_verify_age(checks: tuple[int, int, float] | None) -> Measurement | None:
    """Age of the last comparison."""
    if not checks:
        return None
    return Measurement(checks[2], f"the last `tape verify` was {duration(checks[2])} ago")
