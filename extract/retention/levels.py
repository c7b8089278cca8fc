"""Levels of retention: raw trades, trades and candles, from fine to coarse, and the retention declared for each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import yaml

from extract.clickhouse.settings import MART_DATABASE, RAW_DATABASE
from extract.errors import UsageError
from extract.paths import ROOT

PROJECT = ROOT / "dbt_project" / "dbt_project.yml"
RAW = "raw_trades"
TRADES = "trades"


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


def read_levels() -> dict[str, Level]:
    """Levels by name, finer levels first, so that a month is compared with coarser levels that are not dropped yet.

    Candle levels are those of `vars.candle_levels` of dbt_project.yml.
    """
    levels = [
        Level(RAW, f"{RAW_DATABASE}.trades", f"{RAW_DATABASE}.trades", "timestamp", None),
        Level(TRADES, f"{MART_DATABASE}.trade_versions", f"{MART_DATABASE}.trades", "timestamp", RAW),
    ]
    for name, candle in _read_vars("candle_levels").items():
        finer = f"ohlcv_{candle['finer']}" if "finer" in candle else TRADES
        view = f"{MART_DATABASE}.ohlcv_{name}"
        levels.append(Level(f"ohlcv_{name}", f"{view}_versions", view, "bucket_at", finer, candle["bucket"]))
    return {level.name: level for level in levels}


def declared_retention() -> dict[str, int | None]:
    """Months to retain by level, from `vars.retention_months` of dbt_project.yml. Raises UsageError if it is invalid."""
    declared, levels = _read_vars("retention_months"), read_levels()
    for level, months in declared.items():
        if level not in levels:
            raise UsageError(
                f"retention_months in {PROJECT} names {level!r}, which is not a level; the levels are {', '.join(levels)}."
            )
        if months is not None and (type(months) is not int or months < 0):
            raise UsageError(
                f"retention_months of {level} in {PROJECT} is {months!r}; write a number of months, or null for no limit."
            )
    return declared


def _read_vars(name: str) -> dict[str, Any]:
    if not PROJECT.exists():
        raise UsageError(f"There is no {PROJECT}; run this command from a checkout of the project.")
    return dict((yaml.safe_load(PROJECT.read_text()).get("vars") or {}).get(name) or {})
