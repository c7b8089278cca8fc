"""Measure an export of many trades to Parquet: time, and memory of the client and of the server, for two sizes.

The sparse tape of the storage benchmark, months of thin options, is loaded once per size. Every file is read back by DuckDB
and compared with the database in counts, keys and sums.

Run `python -m bench.export [--trades N] [--times N]`; exit code 1 if the files differ from the database, or the longer
history needs more than 1.3 times the memory of the shorter one.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import duckdb
from rich.console import Console
from rich.table import Table

from bench.own_project import END_S, MONTH_S, OwnProject, load_sparse, own_project
from extract.clickhouse.refresh import refresh
from harness import raw_tables

AT_MOST_MEMORY = 1.3
TRADES_PER_MONTH = 1_000_000
PACKAGE_TRADES = 250_000
TABLES = "trades,candles_1h"


@dataclass(frozen=True)
class Cost:
    """One export. Memory is the peak of the process `tape export`, and of its largest statement on the server, in bytes."""

    trades: int
    seconds: float
    verify_seconds: float
    bytes: int
    client_memory: int
    server_memory: int
    is_equal: bool


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trades", type=int, default=1_000_000, help="trades of the shorter history")
    parser.add_argument("--times", type=int, default=10, help="length ratio of the longer history")
    options = parser.parse_args()
    costs = [_measure(trades) for trades in (options.trades, options.trades * options.times)]
    return int(not _show(costs))


def _measure(trades: int) -> Cost:
    with own_project() as dbt, tempfile.TemporaryDirectory() as scratch:
        dbt.run()
        _load(dbt, trades)
        folder = Path(scratch) / "lake"
        words = [sys.executable, "-c", _PROGRAM, "export", str(folder)]
        began_s = time.perf_counter()
        peak = int(
            subprocess.run([*words, "--tables", TABLES], check=True, stdout=subprocess.PIPE).stdout.split()[
                -1
            ]
        )
        seconds = time.perf_counter() - began_s
        began_s = time.perf_counter()
        subprocess.run([*words, "--verify"], check=True, stdout=subprocess.DEVNULL)
        verify_seconds = time.perf_counter() - began_s
        size = sum(path.stat().st_size for path in folder.rglob("*.parquet"))
        return Cost(trades, seconds, verify_seconds, size, peak, _server_memory(dbt), _is_equal(dbt, folder))


_PROGRAM = """
import atexit, os
from harness.processes import peak_bytes
atexit.register(lambda: print(peak_bytes(os.getpid())))
from extract.cli.main import main
main()
"""


def _load(dbt: OwnProject, trades: int) -> None:
    """Load packages of the same size, over as many months as there are millions of trades."""
    packages = max(1, trades // PACKAGE_TRADES)
    span_s = MONTH_S * trades // TRADES_PER_MONTH // packages
    raw_tables.cover_everything(dbt.client, "option")
    for n in range(packages):
        load_id = f"{END_S - packages + n}.0"
        start_s = END_S - (packages - n) * span_s
        load_sparse(dbt.client, load_id, n * trades // packages, trades // packages, start_s, span_s)
        refresh(dbt.database, [load_id])


def _server_memory(dbt: OwnProject) -> int:
    dbt.client.command("system flush logs")
    sql = "select max(memory_usage) as peak from system.query_log where query ilike '%format parquet%'"
    return int(dbt.rows(sql)[0]["peak"])


def _is_equal(dbt: OwnProject, folder: Path) -> bool:
    """Whether counts, keys and sums of the files are those of the database."""
    columns = (
        "count(*), count(distinct (instrument_name, trade_seq)), sum(volume), sum(notional), sum(trade_seq)",
        "count(*), count(distinct (instrument_name, bucket_at)), sum(volume), sum(notional), sum(trade_count)",
    )
    for columns_of, name, source in zip(columns, TABLES.split(","), ("trades", "ohlcv_1h"), strict=True):
        own = duckdb.sql(f"select {columns_of} from read_parquet('{folder}/{name}/**/*.parquet')").fetchone()
        truth = dbt.client.query(f"select {columns_of} from deribit.{source}").first_row
        print(name, own, file=sys.stderr)
        if own != truth:
            print(name, truth, "in the database", file=sys.stderr)
            return False
    return True


def _show(costs: list[Cost]) -> bool:
    table = Table(
        "trades",
        "export",
        "verify",
        "trades/s",
        "bytes per trade",
        "client",
        "server",
        box=None,
        pad_edge=False,
    )
    for cost in costs:
        table.add_row(
            f"{cost.trades:,}",
            f"{cost.seconds:.1f} s",
            f"{cost.verify_seconds:.1f} s",
            f"{cost.trades / cost.seconds:,.0f}",
            f"{cost.bytes / cost.trades:.1f}",
            f"{cost.client_memory / 2**20:,.0f} MiB",
            f"{cost.server_memory / 2**20:,.0f} MiB",
        )
    Console(width=120).print(table)
    short, long = costs
    is_flat = (
        long.client_memory <= AT_MOST_MEMORY * short.client_memory
        and long.server_memory <= AT_MOST_MEMORY * short.server_memory
    )
    return is_flat and all(cost.is_equal for cost in costs)


if __name__ == "__main__":
    sys.exit(main())
