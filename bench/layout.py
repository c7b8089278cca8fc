"""Compare sort keys of `deribit.trades` by rows, bytes and time of typical queries, and by bytes per trade.

Each candidate is a merged copy of the table behind the view, queried with FINAL as the view does. Rows, uncompressed
bytes and milliseconds are those of the server's query_log; the median of some runs counts.

Run `python -m bench.layout [--trades N] [--repeat N]`.
"""

from __future__ import annotations

import argparse
import sys
import uuid
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from bench.own_project import TRADES, build_trades, own_project
from bench.storage import SIZE
from harness.dbt_project import Project

COPY = "deribit.candidate"
MONTH = "toYYYYMM(timestamp)"
# ORDER BY and skip indexes; None: as declared.
CANDIDATES: dict[str, tuple[str | None, tuple[str, ...]]] = {
    "as declared": (None, ()),
    "instrument, seq": (f"instrument_name, trade_seq, {MONTH}", ()),
    "  with indexes of expiry and time": (
        f"instrument_name, trade_seq, {MONTH}",
        ("expiry TYPE minmax", "timestamp TYPE minmax"),
    ),
    "underlying, instrument, seq": (f"underlying, instrument_name, trade_seq, {MONTH}", ()),
    "underlying, expiry, instrument, seq": (f"underlying, expiry, instrument_name, trade_seq, {MONTH}", ()),
    "instrument, time": ("instrument_name, timestamp, trade_seq", ()),
    "underlying, day, instrument, seq": ("underlying, toDate(timestamp), instrument_name, trade_seq", ()),
    "time": ("timestamp, instrument_name, trade_seq", ()),
}
# The busiest instrument of the sandbox's month, a day in the middle, and the most traded expiry.
PARAMETERS = """
SELECT
    topK(1)(instrument_name)[1] AS instrument,
    toString(topKIf(1)(assumeNotNull(expiry), kind = 'option' AND underlying = 'BTC')[1]) AS expiry,
    toString(toDate(min(timestamp)) + 12) AS day
FROM deribit.trades
"""
DAY = "timestamp >= '{day}' AND timestamp < toDateTime64('{day}', 3, 'UTC') + toIntervalDay(1)"
QUERIES = {
    "one instrument's day": f"""
        SELECT timestamp, price, amount, direction FROM {COPY} FINAL
        WHERE instrument_name = '{{instrument}}' AND {DAY}""",
    "a chain at a time": f"""
        SELECT strike, option_type, argMax(price, (timestamp, trade_seq)) FROM {COPY} FINAL
        WHERE kind = 'option' AND underlying = 'BTC' AND expiry = '{{expiry}}' AND timestamp <= '{{day}}'
        GROUP BY strike, option_type""",
    "an underlying's day": f"""
        SELECT kind, toStartOfHour(timestamp) AS hour, count(), sum(amount), max(price) FROM {COPY} FINAL
        WHERE underlying = 'BTC' AND {DAY} GROUP BY kind, hour""",
}


@dataclass(frozen=True)
class Cost:
    """Cost of one query."""

    ms: int
    rows: int
    bytes: int


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trades", type=int, default=300_000, help="trades to generate")
    parser.add_argument("--repeat", type=int, default=5, help="runs of each query")
    options = parser.parse_args()
    table = Table("sorted by", "bytes per trade", *QUERIES, box=None, pad_edge=False)
    with own_project() as dbt:
        build_trades(dbt, "generated", options.trades)
        (facts,) = dbt.rows(PARAMETERS)
        for name, (key, indexes) in CANDIDATES.items():
            size = _copy(dbt, key, indexes)
            costs = [_cost(dbt, text.format(**facts), options.repeat) for text in QUERIES.values()]
            costs_text = (f"{cost.rows:,} rows, {cost.bytes / 1e6:.1f} MB, {cost.ms} ms" for cost in costs)
            table.add_row(name, f"{size:.2f}", *costs_text)
    Console(width=160).print(f"{options.trades:,} generated trades of a month", table)
    return 0


def _copy(dbt: Project, key: str | None, indexes: tuple[str, ...]) -> float:
    """Create the merged copy sorted by `key` with these skip indexes, or as declared; bytes of data per trade."""
    ddl: str = dbt.client.command(f"SHOW CREATE TABLE {TRADES} FORMAT TSVRaw").replace(TRADES, COPY)
    if key:
        lines = [line for line in ddl.splitlines() if not line.startswith("    INDEX ")]
        ddl = "\n".join(f"ORDER BY ({key})" if line.startswith("ORDER BY") else line for line in lines)
        added = "".join(f",\n    INDEX i{n} {index} GRANULARITY 1" for n, index in enumerate(indexes))
        ddl = ddl.replace(",\n)", f"{added}\n)").replace("SETTINGS ", "SETTINGS allow_nullable_key = 1, ")
    dbt.client.command(f"DROP TABLE IF EXISTS {COPY} SYNC")
    dbt.client.command(ddl)
    dbt.client.command(f"INSERT INTO {COPY} SELECT * FROM {TRADES}")
    dbt.client.command(f"OPTIMIZE TABLE {COPY} FINAL")
    size: float = dbt.client.query(SIZE, parameters={"table": COPY}).first_item["data"]
    return size


def _cost(dbt: Project, query: str, repeat: int) -> Cost:
    """Cost of the median run."""
    ids = [str(uuid.uuid4()) for _ in range(repeat)]
    for query_id in ids:
        dbt.client.query(query, settings={"query_id": query_id})
    dbt.client.command("SYSTEM FLUSH LOGS")
    (row,) = dbt.rows(
        "SELECT quantileExact(0.5)(query_duration_ms) AS ms, any(read_rows) AS rows, any(read_bytes) AS bytes "
        f"FROM system.query_log WHERE type = 'QueryFinish' AND query_id IN {tuple(ids)}"
    )
    return Cost(row["ms"], row["rows"], row["bytes"])


if __name__ == "__main__":
    sys.exit(main())
