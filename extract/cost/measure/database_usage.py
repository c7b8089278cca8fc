"""Measured cost of a database: bytes at rest per trade by table, and processor seconds per million trades."""

from __future__ import annotations

from dataclasses import dataclass

from extract.clickhouse.client import shared_database
from extract.clickhouse.disk import loaded_disk_use
from extract.clickhouse.errors import UndefinedRelationError
from extract.clickhouse.settings import MART_DATABASE, RAW_DATABASE, ClickHouseSettings
from extract.clickhouse.statements import load_statements
from extract.source.tables import SERIES_TABLES

MIN_TRADES_STORED = 10_000
"""With fewer trades, the fixed bytes of each part outweigh those of the trades."""
MIN_TRADES_PROCESSED = 100_000
"""With fewer trades, the fixed cost of each statement, request and process outweighs that of the trades."""

_STATEMENTS = load_statements(__file__, "database_usage.sql")


@dataclass(frozen=True)
class StoredBytes:
    """Bytes at rest per trade, by table of both databases without series, and the number of `trades` loaded."""

    trades: int
    per_trade: dict[str, float]

    @property
    def has_models(self) -> bool:
        return any(table.startswith(f"{MART_DATABASE}.") for table in self.per_trade)


@dataclass(frozen=True)
class ProcessorTime:
    """Processor seconds of inserts per million trades, over the `trades` in the query log; 0.0 without models."""

    trades: int
    raw_s_per_million: float
    model_s_per_million: float


def measure_stored_bytes(settings: ClickHouseSettings) -> StoredBytes | None:
    """None with fewer than MIN_TRADES_STORED trades. Raises OutsideError or UsageError if the server fails."""
    loaded = loaded_disk_use(settings)
    if loaded.rows < MIN_TRADES_STORED:
        return None
    rows = shared_database(settings).rows(_STATEMENTS["stored_bytes"])
    series = {f"{RAW_DATABASE}.{name}" for name in SERIES_TABLES}
    sizes = {name: int(size) for name, size in rows if name not in series}
    sizes[f"{RAW_DATABASE}.trades"] = loaded.bytes
    return StoredBytes(loaded.rows, {name: size / loaded.rows for name, size in sizes.items()})


def measure_processor_time(
    settings: ClickHouseSettings, min_trades: int = MIN_TRADES_PROCESSED
) -> ProcessorTime | None:
    """None if the server has no query log, or one with fewer than `min_trades` trades."""
    try:
        [(trades, raw_s, model_s)] = shared_database(settings).rows(_STATEMENTS["processor_time"])
    except UndefinedRelationError:
        return None
    if trades < min_trades:
        return None
    return ProcessorTime(int(trades), raw_s / trades * 1e6, model_s / trades * 1e6)
