"""Drop old partitions, but only after the next coarser candles have been verified.

A month of a level is dropped only if every candle made from it agrees with it in trades and volume, bucket by bucket.
It is first recorded, in `retention_drops` and again in `verified_months`: dbt then leaves the months that it reaches into
unchanged, also if one of these tables loses its rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Any

from extract.clickhouse.client import Database
from extract.clickhouse.create import create_missing
from extract.clickhouse.settings import MART_DATABASE, RAW_DATABASE
from extract.clickhouse.statements import load_statements, render
from extract.errors import CannotTellError
from extract.retention.levels import BY_NAME_ONLY, RAW, TRADES, Level, read_levels
from extract.source.tables import DROPPED_TRADES, RAW_TABLES

Retention = Mapping[str, int | None]
"""Level → whole months before the current one to retain; None retains everything."""

DROPS = f"{MART_DATABASE}.retention_drops"
VERIFIED = f"{MART_DATABASE}.verified_months"

_STATEMENTS = load_statements(__file__, "agreement.sql")


@dataclass(frozen=True)
class Month:
    """One month (YYYYMM) of one level that is older than its retention. `refusal`: why it cannot be dropped."""

    level: str
    month: int
    rows: int
    bytes: int
    refusal: str | None = None
    is_dropped: bool = False

    def to_json(self) -> dict[str, Any]:
        return {
            "level": self.level,
            "month": f"{self.month // 100}-{self.month % 100:02}",
            "rows": self.rows,
            "bytes": self.bytes,
            "refusal": self.refusal,
            "dropped": self.is_dropped,
        }


def plan_drops(
    database: Database, retention: Retention, today: date, levels: Sequence[str] = ()
) -> list[Month]:
    """Months older than `retention`, verified. Raw trades and snapshots are included only if `levels` names them.

    Raises CannotTellError before the models are built.
    """
    return [month for _, month in _verified_months(database, retention, today, levels)]


def drop_months(
    database: Database, retention: Retention, today: date, levels: Sequence[str] = ()
) -> list[Month]:
    """Drop the months of `plan_drops` that are not refused, finer levels first; verify each right before."""
    months: list[Month] = []
    for level, month in _verified_months(database, retention, today, levels):
        if not month.refusal:
            _drop(database, level, month.month)
        months.append(replace(month, is_dropped=not month.refusal))
    return months


def _verified_months(
    database: Database, retention: Retention, today: date, levels: Sequence[str]
) -> Iterator[tuple[Level, Month]]:
    all_levels = read_levels()
    _require_models(database, all_levels.values())
    for name, level in all_levels.items():
        months = retention.get(name)
        if months is None or name not in (levels or all_levels.keys() - BY_NAME_ONLY):
            continue
        coarser = [each for each in all_levels.values() if each.finer == name]
        year, month = divmod(today.year * 12 + today.month - 1 - months, 12)
        parameters = {"table": level.table, "first_retained": year * 100 + month + 1}
        for old_month, rows, size in database.rows(_STATEMENTS["old_months"], parameters):
            refusal = _find_refusal(database, level, coarser, old_month)
            yield level, Month(name, old_month, rows, size, refusal)


def _require_models(database: Database, levels: Iterable[Level]) -> None:
    required = {each.table for each in levels if not each.is_optional} | {DROPS, VERIFIED}
    sql = "select concat(database, '.', name) from system.tables where database in {databases:Array(String)}"
    tables = {name for (name,) in database.rows(sql, {"databases": [RAW_DATABASE, MART_DATABASE]})}
    if missing := sorted(required - tables):
        raise CannotTellError(f"There is no {missing[0]} yet; run: dbt build")


def _find_refusal(
    database: Database, level: Level, coarser_levels: Sequence[Level], month: int
) -> str | None:
    """Why this month cannot be dropped: a level made from it differs."""
    statement, problem = (
        ("missing_trades", "trades are not in")
        if level.name == RAW
        else ("differing_buckets", "buckets differ in")
    )
    for coarser in coarser_levels:
        values = {
            "fine": level.view,
            "coarse": coarser.view,
            "time": level.time,
            "bucket": coarser.bucket.format(level.time),
            "trades": "count()" if level.name == TRADES else "sum(trade_count)",
        }
        sql = render(_STATEMENTS[statement], values.__getitem__)
        if differing := database.value(sql, {"month": month, "table": level.table}):
            return f"{differing:,} {problem} {coarser.view}"
    return None


def _drop(database: Database, level: Level, month: int) -> None:
    for record in ("record_drop", "record_drop_again"):
        database.command(_STATEMENTS[record], {"month": month, "table": level.table})
    if level.name == RAW:
        create_missing(database, RAW_DATABASE, {DROPPED_TRADES.name: DROPPED_TRADES.create_sql()})
        sql = render(_STATEMENTS["record_dropped_trades"], lambda name: RAW_TABLES[name].loaded_relation)
        database.command(sql, {"month": month})
    database.command(f"alter table {level.table} drop partition id '{month}'")
