"""Measure the questions about one hour of options: chain, smile and term structure; and all analyses.

The tape has 90 days: 30 % option trades of BTC, half of them of 600 options that are live all the time and half of others
that expire within three days, 10 % trades of dated futures and 60 % of perpetuals. Milliseconds, rows and MiB are those of
the server's query_log; the median of some runs counts.

Run `python -m bench.volatility [--trades N] [--repeat N]`.
"""

from __future__ import annotations

import argparse
import sys
import uuid

from rich.console import Console
from rich.table import Table

from bench.own_project import CANDLES, TRADES, OwnProject, own_project
from extract.clickhouse.refresh import refresh
from harness import raw_tables

PACKAGE = 1_000_000
_LOAD = """
    insert into deribit_raw.trades (
        trade_seq, trade_id, timestamp, instrument_name, price, amount, direction, tick_direction, index_price,
        mark_price, iv, currency, kind, _dlt_load_id
    )
    with
        n % 10 as part,
        toDateTime64('2025-09-02 00:00:00', 3, 'UTC')
            + toIntervalMillisecond(intDiv(n * 7776000000, {trades:UInt64})) as at,
        cityHash64(n) as h,
        round(90000 + 5000 * sin(n / {trades:UInt64} * 20), 2) as index,
        ['26DEC25', '30JAN26', '27MAR26', '26JUN26', '5DEC25', '12DEC25'][1 + cityHash64(n, 1) % 6] as far,
        toDate(at) + 1 + cityHash64(n, 1) % 3 as near_day,
        concat(toString(toDayOfMonth(near_day)), upper(formatDateTime(near_day, '%b%y'))) as near,
        70000 + 1000 * (cityHash64(n, 2) % if(h % 2 = 0, 50, 30)) as strike,
        cityHash64(n, 3) % 2 = 0 as is_call,
        ['BTC', 'ETH', 'SOL', 'XRP', 'ADA', 'DOT', 'LTC', 'BCH', 'AVAX', 'UNI'][1 + h % 10] as coin
    select
        n + 1,
        toString(300000000 + n),
        at,
        multiIf(
            part < 6, concat(coin, '-PERPETUAL'),
            part = 6, concat('BTC-', far),
            concat('BTC-', if(h % 2 = 0, far, near), '-', toString(strike), if(is_call, '-C', '-P'))
        ),
        multiIf(
            part < 6, round(index, 1), part = 6, round(index * 1.01, 1),
            round(0.01 + greatest(if(is_call, 1 - strike / index, strike / index - 1), 0), 4)
        ),
        1 + cityHash64(n, 1) % 10,
        if(cityHash64(n, 2) % 2, 'buy', 'sell'),
        0,
        index,
        0.01,
        if(part > 6, 40 + h % 2000 / 100, null),
        if(part < 6, coin, 'BTC'),
        if(part > 6, 'option', 'future'),
        {load:String}
    from (select number + {first:UInt64} as n from numbers({count:UInt64}))
    settings max_partitions_per_insert_block = 1000"""
_NEWEST = (
    "underlying = 'BTC' and bucket_at > '2025-11-28 00:00:00' and bucket_at <= '2025-11-30 00:00:00' "
    "qualify bucket_at = max(bucket_at) over ()"
)
QUESTIONS = {
    "chain of the newest hour": f"option_chain_at(underlying = 'BTC', at = '2025-11-30 00:00:00') where {_NEWEST}",
    "chain of an hour in the middle": "option_chain_at(underlying = 'BTC', at = '2025-10-15 12:00:00')",
    "smile of the newest hour": f"iv_smile_1h where {_NEWEST}",
    "term structure of the newest hour": f"iv_tenors_1h where {_NEWEST}",
    "forwards of all hours": "forwards_1h",
}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trades", type=int, default=10_000_000, help="trades to generate")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each question")
    options = parser.parse_args()
    table = Table("question", "rows", "ms", "rows read", "MiB", box=None, pad_edge=False)
    with own_project() as dbt:
        dbt.run()
        _load(dbt, options.trades)
        for name, relation in QUESTIONS.items():
            table.add_row(name, *_cost(dbt, f"select * from deribit.{relation}", options.repeat))
        for name, sql in _analyses(dbt).items():
            table.add_row(f"analysis {name}", *_cost(dbt, sql, options.repeat))
    Console(width=160).print(f"{options.trades:,} generated trades of 90 days", table)
    return 0


def _load(dbt: OwnProject, trades: int) -> None:
    """Load the tape in packages, and refresh the models after each; then merge months, as an hour does."""
    for first in range(0, trades, PACKAGE):
        load = f"{1_764_100_000 + first // PACKAGE}.5"
        numbers = {"first": first, "count": min(PACKAGE, trades - first), "trades": trades}
        dbt.client.command(_LOAD, parameters={**numbers, "load": load})
        raw_tables.load(dbt.client, load, [])
        refresh(dbt.database, [load])
    for table in (TRADES, *CANDLES, "deribit.expiry_hours_versions"):
        dbt.client.command(f"OPTIMIZE TABLE {table} FINAL")


def _analyses(dbt: OwnProject) -> dict[str, str]:
    """SQL of each analysis, about the newest day of the tape."""
    compiled = dbt.must("compile", "--select", "resource_type:analysis").result.results
    return {each.node.name: each.node.compiled_code for each in compiled}


def _cost(dbt: OwnProject, sql: str, repeat: int) -> tuple[str, ...]:
    """Rows of the answer, and cost of the median run."""
    ids = [str(uuid.uuid4()) for _ in range(repeat)]
    rows = [len(dbt.client.query(sql, settings={"query_id": each}).result_rows) for each in ids]
    dbt.client.command("SYSTEM FLUSH LOGS")
    (cost,) = dbt.rows(
        "SELECT quantileExact(0.5)(query_duration_ms) AS ms, any(read_rows) AS read, max(memory_usage) AS bytes "
        f"FROM system.query_log WHERE type = 'QueryFinish' AND query_id IN {tuple(ids)}"
    )
    return f"{rows[0]:,}", f"{cost['ms']:,}", f"{cost['read']:,}", f"{cost['bytes'] / 2**20:.0f}"


if __name__ == "__main__":
    sys.exit(main())
