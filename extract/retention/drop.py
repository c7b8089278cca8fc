"""Dropping old months, level by level, and none whose coarser candles do not say the same.

A level's month goes only after every candle made from it agrees with it in trades and volume, bucket by bucket. Before
it goes it is written down in `retention_drops`: dbt then leaves the months that it reaches into as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Any

import yaml
from clickhouse_connect.driver.client import Client

from extract.clickhouse.settings import MART_DATABASE, RAW_DATABASE
from extract.errors import CannotTellError, UsageError
from extract.paths import ROOT
from extract.source.tables import DROPPED_TRADES

DROPS = f"{MART_DATABASE}.retention_drops"
RAW = "raw_trades"
PROJECT = ROOT / "dbt_project" / "dbt_project.yml"

Keep = Mapping[str, int | None]
"""Level → whole months before the current one that stay; None keeps everything."""


@dataclass(frozen=True)
class Level:
    """`table` has the partitions, `view` what readers see; `coarser` are the levels that are made from it."""

    name: str
    table: str
    view: str
    time: str
    coarser: tuple[str, ...]


def _candles(level: str, *coarser: str) -> Level:
    name = f"ohlcv_{level}"
    return Level(
        name,
        f"{MART_DATABASE}.{name}_versions",
        f"{MART_DATABASE}.{name}",
        "bucket_at",
        tuple(f"ohlcv_{each}" for each in coarser),
    )


LEVELS = {
    level.name: level
    for level in (
        Level(RAW, f"{RAW_DATABASE}.trades", f"{RAW_DATABASE}.trades", "timestamp", ("trades",)),
        Level(
            "trades", f"{MART_DATABASE}.trade_versions", f"{MART_DATABASE}.trades", "timestamp", ("ohlcv_1m",)
        ),
        _candles("1m", "15m"),
        _candles("15m", "1h"),
        _candles("1h", "4h"),
        _candles("4h", "1d"),
        _candles("1d", "1w", "1mo"),
        _candles("1w"),
        _candles("1mo"),
    )
}
"""Finer before coarser: what a month is checked against is still there."""

BUCKET_STARTS = {
    "ohlcv_1m": "toStartOfMinute({})",
    "ohlcv_15m": "toStartOfFifteenMinutes({})",
    "ohlcv_1h": "toStartOfHour({})",
    "ohlcv_4h": "toStartOfInterval({}, interval 4 hour)",
    "ohlcv_1d": "toStartOfDay({})",
    "ohlcv_1w": "toMonday({})",
    "ohlcv_1mo": "toStartOfMonth({})",
}


@dataclass(frozen=True)
class Month:
    """One month of one level that is older than what is kept. `refusal` says why it stays all the same."""

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


def declared_keep() -> dict[str, int | None]:
    """`vars.retention_months` of dbt_project.yml. Raises UsageError that names what is wrong there."""
    declared = (yaml.safe_load(PROJECT.read_text()).get("vars") or {}).get("retention_months") or {}
    for level, months in declared.items():
        if level not in LEVELS:
            raise UsageError(
                f"retention_months in {PROJECT} names {level!r}, which is no level; they are {', '.join(LEVELS)}."
            )
        if months is not None and (type(months) is not int or months < 0):
            raise UsageError(
                f"retention_months of {level} in {PROJECT} is {months!r}; say a number of months, or null for everything."
            )
    return declared


def plan(client: Client, keep: Keep, today: date, levels: Sequence[str] = ()) -> list[Month]:
    """What is older than `keep` says, checked. Raw is looked at only where `levels` names it.

    Raises CannotTellError before the models are built.
    """
    return list(_checked(client, keep, today, levels))


def apply(client: Client, keep: Keep, today: date, levels: Sequence[str] = ()) -> list[Month]:
    """As `plan`, and drops what is not refused, finer levels first; each month is checked right before it goes."""
    done: list[Month] = []
    for month in _checked(client, keep, today, levels):
        if not month.refusal:
            _drop(client, LEVELS[month.level], month.month)
        done.append(replace(month, is_dropped=not month.refusal))
    return done


def _checked(client: Client, keep: Keep, today: date, levels: Sequence[str]) -> Iterator[Month]:
    _require_built(client)
    for name, level in LEVELS.items():
        months = keep.get(name)
        if months is None or name not in (levels or LEVELS.keys() - {RAW}):
            continue
        for month in _old_months(client, level, today, months):
            yield replace(month, refusal=_refusal(client, level, month.month))


def _require_built(client: Client) -> None:
    tables = {each.table for each in LEVELS.values()} | {DROPS}
    there = {
        name
        for (name,) in client.query(
            "SELECT concat(database, '.', name) FROM system.tables WHERE database IN {databases:Array(String)}",
            parameters={"databases": [RAW_DATABASE, MART_DATABASE]},
        ).result_rows
    }
    if missing := sorted(tables - there):
        raise CannotTellError(f"There is no {missing[0]} yet; run: dbt build")


def _old_months(client: Client, level: Level, today: date, months: int) -> list[Month]:
    """Partitions that end before the kept months begin, oldest first."""
    first_kept = today.year * 12 + today.month - 1 - months
    rows = client.query(
        "SELECT toUInt32(partition_id), sum(rows), sum(bytes_on_disk) FROM system.parts "
        "WHERE active AND concat(database, '.', table) = {table:String} GROUP BY 1 HAVING sum(rows) > 0 ORDER BY 1",
        parameters={"table": level.table},
    ).result_rows
    return [
        Month(level.name, month, count, size)
        for month, count, size in rows
        if month // 100 * 12 + month % 100 - 1 < first_kept
    ]


def _refusal(client: Client, level: Level, month: int) -> str | None:
    """Why this month has to stay: what was made from it does not say the same."""
    for name in level.coarser:
        coarser = LEVELS[name]
        query = _MISSING_TRADES if level.name == RAW else _DIFFERING_BUCKETS
        start = BUCKET_STARTS.get(name, "{}").format(level.time)
        text = query.format(fine=level, coarse=coarser, start=start, drops=DROPS, trades=_trades(level))
        (differing,) = client.query(text, parameters={"month": month, "table": level.table}).result_rows[0]
        if differing:
            what = "trades are not in" if level.name == RAW else "buckets differ in"
            return f"{differing:,} {what} {coarser.view}"
    return None


def _trades(level: Level) -> str:
    return "count()" if level.name == "trades" else "sum(trade_count)"


# A bucket of the coarser level that reaches into a month dropped before was checked then, and is closed since.
_DIFFERING_BUCKETS = """
with

dropped as (
    select month from {drops}
    where table_id in (select uuid from system.tables where concat(database, '.', name) = {{table:String}})
),

buckets as (
    select distinct toDateTime({start}, 'UTC') as bucket
    from {fine.view}
    where toYYYYMM({fine.time}) = {{month:UInt32}}
        and toYYYYMM(bucket) not in (select dropped.month from dropped)
        and ('{coarse.name}' != 'ohlcv_1w' or toYYYYMM(bucket + toIntervalDay(6)) not in (select dropped.month from dropped))
),

fine as (
    select instrument_name, toDateTime({start}, 'UTC') as bucket, toUInt64({trades}) as trades, sum(one.volume) as total
    from {fine.view} as one
    where bucket in (select buckets.bucket from buckets)
    group by instrument_name, bucket
),

coarse as (
    select instrument_name, bucket_at as bucket, trade_count as trades, volume as total
    from {coarse.view}
    where bucket_at in (select buckets.bucket from buckets)
)

select count()
from fine
full outer join coarse on fine.instrument_name = coarse.instrument_name and fine.bucket = coarse.bucket
where (fine.trades, fine.total) != (coarse.trades, coarse.total)"""

_MISSING_TRADES = """
select uniqExact(instrument_name, trade_seq)
from {fine.view}
where toYYYYMM(timestamp) = {{month:UInt32}}
    and (instrument_name, trade_seq) not in (select instrument_name, trade_seq from {coarse.view})"""

# Numbers less their rank are the same within a run of neighbours.
_REMEMBER_TRADES = f"""
insert into {RAW_DATABASE}.{DROPPED_TRADES.name} (instrument_name, currency, kind, first_seq, last_seq)
with

trades as (
    select instrument_name, trade_seq, any(currency) as currency, any(kind) as kind
    from {RAW_DATABASE}.trades
    where toYYYYMM(timestamp) = {{month:UInt32}}
    group by instrument_name, trade_seq
),

ranked as (
    select *, trade_seq - row_number() over (partition by instrument_name order by trade_seq) as run
    from trades
)

select instrument_name, any(currency), any(kind), min(trade_seq), max(trade_seq)
from ranked
group by instrument_name, run"""


def _drop(client: Client, level: Level, month: int) -> None:
    client.command(
        f"INSERT INTO {DROPS} (table_name, table_id, month, dropped_at) "
        "SELECT concat(database, '.', name), uuid, {month:UInt32}, now64(3) "
        "FROM system.tables WHERE concat(database, '.', name) = {table:String}",
        parameters={"month": month, "table": level.table},
    )
    if level.name == RAW:
        client.command(DROPPED_TRADES.create_sql())
        client.command(_REMEMBER_TRADES, parameters={"month": month})
    client.command(f"ALTER TABLE {level.table} DROP PARTITION ID '{month}'")
