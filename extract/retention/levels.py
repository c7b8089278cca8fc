"""Levels of retention: raw trades, trades and candles, from fine to coarse, and snapshots; what is declared for each.

The other series besides trades are small, and are not dropped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import yaml

from extract.clickhouse.settings import MART_DATABASE, RAW_DATABASE
from extract.errors import UsageError
from extract.paths import ROOT

PROJECT = ROOT / "dbt_project" / "dbt_project.yml"
MAX_MONTHS = 1_200
RAW = "raw_trades"
TRADES = "trades"
SNAPSHOTS = "book_summaries"
BY_NAME_ONLY = frozenset({RAW, SNAPSHOTS})
"""Levels that are dropped only if the command names them: raw trades, and what no one can load again."""


@dataclass(frozen=True)
class Level:
    """`table` has the partitions, `view` is what readers query; `finer` is the level that it is made from.

    `is_optional`: a database may lack it. `bucket` is the start of the bucket that the time `{}` is in.
    """

    name: str
    table: str
    view: str
    time: str
    finer: str | None
    bucket: str = "{}"
    is_optional: bool = False


def read_levels() -> dict[str, Level]:
    """Levels by name, finer levels first, so that a month is compared with coarser levels that are not dropped yet.

    Candle levels are the stored ones of `vars.candle_levels` of dbt_project.yml; the others are views over them.
    """
    levels = [
        Level(RAW, f"{RAW_DATABASE}.trades", f"{RAW_DATABASE}.trades", "timestamp", None),
        Level(TRADES, f"{MART_DATABASE}.trade_versions", f"{MART_DATABASE}.trades", "timestamp", RAW),
    ]
    for name, candle in _read_vars("candle_levels").items():
        if not candle.get("is_stored"):
            continue
        finer = f"ohlcv_{candle['finer']}" if "finer" in candle else TRADES
        view = f"{MART_DATABASE}.ohlcv_{name}"
        levels.append(Level(f"ohlcv_{name}", f"{view}_versions", view, "bucket_at", finer, candle["bucket"]))
    snapshots = f"{RAW_DATABASE}.{SNAPSHOTS}"
    levels.append(Level(SNAPSHOTS, snapshots, snapshots, "timestamp", None, is_optional=True))
    return {level.name: level for level in levels}


def declared_retention() -> dict[str, int | None]:
    """Months to retain by level, from `vars.retention_months` of dbt_project.yml. Raises UsageError if it is invalid."""
    declared, levels = _read_vars("retention_months"), read_levels()
    for level, months in declared.items():
        if level not in levels:
            raise UsageError(
                f"retention_months in {PROJECT} names {level!r}, which is not a level; the levels are {', '.join(levels)}."
            )
        if months is not None and (type(months) is not int or not 0 <= months <= MAX_MONTHS):
            raise UsageError(
                f"retention_months of {level} in {PROJECT} is {months!r}; write a number of months up to {MAX_MONTHS:,}, "
                "or null for no limit."
            )
    return declared


def _read_vars(name: str) -> dict[str, Any]:
    if not PROJECT.exists():
        raise UsageError(f"There is no {PROJECT}; run this command from a checkout of the project.")
    return dict((yaml.safe_load(PROJECT.read_text()).get("vars") or {}).get(name) or {})
