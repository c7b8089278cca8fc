"""Levels of retention: raw trades, trades and candles, from fine to coarse, and the retention declared for each."""

from __future__ import annotations

from dataclasses import dataclass

import yaml

from extract.clickhouse.settings import MART_DATABASE, RAW_DATABASE
from extract.errors import UsageError
from extract.paths import ROOT

PROJECT = ROOT / "dbt_project" / "dbt_project.yml"
RAW = "raw_trades"
TRADES = "trades"

# Level, the level that it is made from, and the start of the bucket of a time.
_CANDLES = (
    ("1m", None, "toStartOfMinute({})"),
    ("15m", "1m", "toStartOfFifteenMinutes({})"),
    ("1h", "15m", "toStartOfHour({})"),
    ("4h", "1h", "toStartOfInterval({}, interval 4 hour)"),
    ("1d", "4h", "toStartOfDay({})"),
    ("1w", "1d", "toMonday({})"),
    ("1mo", "1d", "toStartOfMonth({})"),
)


@dataclass(frozen=True)
class Level:
    """`table` has the partitions, `view` is what readers query; `finer` is the level that it is made from.

    `bucket` is the start of the bucket that the time `{}` is in.
    """

    name: str
    table: str
    view: str
    time: str
    finer: str | None
    bucket: str = "{}"


def _candles(level: str, finer: str | None, bucket: str) -> Level:
    name = f"ohlcv_{level}"
    made_from = f"ohlcv_{finer}" if finer else TRADES
    return Level(
        name, f"{MART_DATABASE}.{name}_versions", f"{MART_DATABASE}.{name}", "bucket_at", made_from, bucket
    )


LEVELS = {
    level.name: level
    for level in (
        Level(RAW, f"{RAW_DATABASE}.trades", f"{RAW_DATABASE}.trades", "timestamp", None),
        Level(TRADES, f"{MART_DATABASE}.trade_versions", f"{MART_DATABASE}.trades", "timestamp", RAW),
        *(_candles(*each) for each in _CANDLES),
    )
}
"""By name, finer levels first: a month is compared with coarser levels that are not dropped yet."""


def declared_retention() -> dict[str, int | None]:
    """Months to retain by level, from `vars.retention_months` of dbt_project.yml. Raises UsageError if it is invalid."""
    declared = (yaml.safe_load(PROJECT.read_text()).get("vars") or {}).get("retention_months") or {}
    for level, months in declared.items():
        if level not in LEVELS:
            raise UsageError(
                f"retention_months in {PROJECT} names {level!r}, which is not a level; the levels are {', '.join(LEVELS)}."
            )
        if months is not None and (type(months) is not int or months < 0):
            raise UsageError(
                f"retention_months of {level} in {PROJECT} is {months!r}; write a number of months, or null for no limit."
            )
    return dict(declared)
