"""What this database tells of its own cost: bytes a trade at rest by table, processor seconds a million trades."""

from __future__ import annotations

from dataclasses import dataclass

from extract.clickhouse.client import shared_database
from extract.clickhouse.errors import UndefinedRelationError
from extract.clickhouse.settings import MART_DATABASE, RAW_DATABASE, ClickHouseSettings

LEAST_TRADES = 10_000
"""Below so many, what each part takes by itself outweighs the trades."""
LEAST_WORK = 100_000
"""Below so many, what each statement, each request and each start takes by itself outweighs the trades."""

_PARTS = f"""
select
    database || '.' || if(startsWith(table, '_dlt_'), '_dlt', table) as name,
    sum(bytes_on_disk) as bytes,
    sum(rows) as rows
from system.parts
where active and database in ('{RAW_DATABASE}', '{MART_DATABASE}')
group by name
order by bytes desc"""

# Models are written from raw tables, so a statement that only takes in names the raw database alone.
_WORK = f"""
select
    sumIf(written_rows, tables = ['{RAW_DATABASE}.trades']) as trades,
    sumIf(ProfileEvents['OSCPUVirtualTimeMicroseconds'], databases = ['{RAW_DATABASE}']) / 1e6 as raw_s,
    sumIf(ProfileEvents['OSCPUVirtualTimeMicroseconds'], has(databases, '{MART_DATABASE}')) / 1e6 as model_s
from system.query_log
where type = 'QueryFinish' and query_kind = 'Insert'"""


@dataclass(frozen=True)
class Measured:
    """`trades` in the raw table, and bytes a trade by table of both databases."""

    trades: int
    bytes_per_trade: dict[str, float]

    @property
    def has_models(self) -> bool:
        return any(table.startswith(f"{MART_DATABASE}.") for table in self.bytes_per_trade)


@dataclass(frozen=True)
class Work:
    """Processor seconds of inserts a million trades, over `trades` that the query log knows of."""

    trades: int
    raw_s_per_million: float
    model_s_per_million: float
    """0.0 where no models were built."""


def measured(settings: ClickHouseSettings) -> Measured | None:
    """None where fewer than LEAST_TRADES are loaded. Raises OutsideError or UsageError where nobody answers."""
    rows = shared_database(settings).rows(_PARTS)
    trades = next((int(count) for name, _, count in rows if name == f"{RAW_DATABASE}.trades"), 0)
    if trades < LEAST_TRADES:
        return None
    return Measured(trades, {name: int(size) / trades for name, size, _ in rows})


def work(settings: ClickHouseSettings, least: int = LEAST_WORK) -> Work | None:
    """None where the query log is not kept, or knows of fewer than `least` trades."""
    try:
        [(trades, raw_s, model_s)] = shared_database(settings).rows(_WORK)
    except UndefinedRelationError:
        return None
    if trades < least:
        return None
    return Work(int(trades), raw_s / trades * 1e6, model_s / trades * 1e6)
