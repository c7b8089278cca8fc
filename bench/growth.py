"""Measure what a run a minute adds to ClickHouse, and what it reads there, with thousands of live instruments.

Each run loads one new trade of an exchange that lists all of the instruments, and refreshes the models. Bytes are those
on disk of merged tables. Not limited are the tables of trades and of what the models compute from them, and the claims
of the lease: runs delete those that are older than ten minutes, and here all runs take less.

Run `python -m bench.growth [--runs N] [--instruments N] [--raw]`, or `make bench-growth`; exit code 1 if a thousand runs
would add 200 kB or more, or a run reads more than a few rows for each earlier one.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.own_project import OwnProject, own_project
from extract.pipeline.run import run
from extract.sandbox.server import SandboxExchange
from extract.sandbox.tape import Tape
from extract.source.options import RunOptions

AT_MOST_BYTES = 200_000
PER_RUNS = 1_000
AT_MOST_READS = 10.0
"""Rows for each earlier run: of `_dlt_loads`, of claims of the lease, and its trade in lookups of last numbers."""
SETTLED_RUNS = 40
"""Runs before the bytes are measured, after which the number of stored states grows no more."""
FIRST_RUN = 10
COMPARED_RUNS = 20
"""Runs from the 10th on, and the last runs, whose median is compared: each tenth run or so also deletes what is old."""
STATEMENTS = 12
"""Statements that are printed."""
BEGIN_MS = 1_764_547_200_000  # 2025-12-01
MINUTE_MS = 60_000
NAME = "BTC-27DEC30-{}-{}"

CLAIMS = "deribit_runs.leases"
OF_TRADES = {
    "deribit_raw.trades", "deribit.trade_versions", "deribit.loaded_seqs", "deribit.ohlcv_1m_versions",
    "deribit.ohlcv_1h_versions", "deribit.instrument_ends", "deribit.moved_trades",
}  # fmt: skip

_BYTES = """
    select concat(database, '.', table) as name, sum(bytes_on_disk) as bytes, sum(rows) as rows
    from system.parts
    where active and startsWith(database, 'deribit')
    group by name"""
_READS = r"""
    select
        substring(replaceRegexpAll(replaceRegexpAll(query, '\\s+', ' '), '[0-9]+', '#'), 1, 70) as statement,
        count() as queries,
        sum(read_rows) as read_rows,
        sum(read_bytes) as read_bytes
    from system.query_log
    where type = 'QueryFinish' and event_time_microseconds between '{}' and '{}'
    group by statement"""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=1_000)
    parser.add_argument("--instruments", type=int, default=5_000)
    parser.add_argument("--raw", action="store_true", help="without models")
    options = parser.parse_args()
    if options.runs < 2 * SETTLED_RUNS:
        parser.error(f"--runs is at least {2 * SETTLED_RUNS}")
    names = [NAME.format(1_000 * (n // 2 + 1), "CP"[n % 2]) for n in range(options.instruments)]
    tape = Tape.of(_trade(name, 1, n, BEGIN_MS + n) for n, name in enumerate(names))
    with (
        own_project() as dbt,
        tempfile.TemporaryDirectory() as directory,
        SandboxExchange(tape, clock=BEGIN_MS + 60 * MINUTE_MS) as exchange,
    ):
        os.environ |= {
            "TAPE_DIR": directory,
            "SOURCES__DERIBIT__API_URL": exchange.url,
            "SOURCES__DERIBIT__HISTORY_URL": exchange.history_url,
            "SOURCES__DERIBIT__REQUESTS_PER_SECOND": "1000",
        }
        if not options.raw:
            dbt.run()
        moments = [_server_time(dbt)]
        began_s = time.perf_counter()
        for n in range(options.runs):
            if n == SETTLED_RUNS:
                before = _bytes(dbt)
            if n:
                exchange.now_ms += MINUTE_MS
                name = names[(n - 1) % len(names)]
                exchange.add(
                    [_trade(name, 2 + (n - 1) // len(names), len(names) + n, exchange.now_ms - MINUTE_MS)]
                )
            loaded = run(RunOptions(), settings=dbt.settings).total
            assert loaded == (1 if n else len(names)), loaded
            moments.append(_server_time(dbt))
        print(f"{options.runs:,} runs in {time.perf_counter() - began_s:.0f} s")
        dbt.client.command("system flush logs")
        added = _show_bytes(before, _bytes(dbt), options.runs - SETTLED_RUNS)
        reads = _show_reads(dbt, moments)
    return int(added >= AT_MOST_BYTES or reads > AT_MOST_READS)


def _trade(name: str, seq: int, number: int, at_ms: int) -> dict[str, Any]:
    return {
        "trade_seq": seq, "trade_id": str(300_000_000 + number), "timestamp": at_ms, "instrument_name": name,
        "price": 0.05, "mark_price": 0.05, "index_price": 95_000.0, "iv": 50.0, "amount": 1.0, "contracts": 1.0,
        "direction": "buy", "tick_direction": 0,
    }  # fmt: skip


def _server_time(dbt: OwnProject) -> str:
    return str(dbt.rows("select toString(now64(6)) as at")[0]["at"])


def _bytes(dbt: OwnProject) -> dict[str, tuple[int, int]]:
    """Bytes and rows by table, merged."""
    for row in dbt.rows(_BYTES):
        dbt.client.command(f"optimize table {row['name']} final")
    return {row["name"]: (row["bytes"], row["rows"]) for row in dbt.rows(_BYTES)}


def _show_bytes(before: dict[str, tuple[int, int]], after: dict[str, tuple[int, int]], runs: int) -> float:
    """Print what was added to each table; the bytes that PER_RUNS runs add, without those that are not limited."""
    table = Table("table", "rows added", "bytes added", "", box=None, pad_edge=False)
    total = 0
    for name, (size, rows) in sorted(after.items()):
        old_size, old_rows = before.get(name, (0, 0))
        why = "of trades" if name in OF_TRADES else "of ten minutes" if name == CLAIMS else ""
        total += 0 if why else size - old_size
        table.add_row(name, f"{rows - old_rows:,}", f"{size - old_size:,}", why)
    Console(width=120).print(table)
    per_runs = total / runs * PER_RUNS
    print(
        f"{PER_RUNS:,} runs add {per_runs:,.0f} bytes (below {AT_MOST_BYTES:,}); measured: {total:,} by {runs:,}"
    )
    return per_runs


def _show_reads(dbt: OwnProject, moments: list[str]) -> float:
    """Print what the compared runs read, and the statements that read more; the rows more for each run between them."""
    last = len(moments) - 1
    table = Table("runs", "queries", "rows read", "bytes read", box=None, pad_edge=False)
    compared = [range(first, first + COMPARED_RUNS) for first in (FIRST_RUN, last - COMPARED_RUNS + 1)]
    rows, statements = [], []
    for runs in compared:
        each = [dbt.rows(_READS.format(moments[n - 1], moments[n])) for n in runs]
        statements.append(Counter[str]())
        for row in (row for run_rows in each for row in run_rows):
            statements[-1][row["statement"]] += row["read_rows"] / COMPARED_RUNS
        columns = ("queries", "read_rows", "read_bytes")
        medians = {
            key: statistics.median(sum(row[key] for row in run_rows) for run_rows in each) for key in columns
        }
        rows.append(medians["read_rows"])
        table.add_row(f"{runs[0]:,} to {runs[-1]:,}", *(f"{medians[key]:,.0f}" for key in columns))
    Console(width=120).print(table)
    growing = Table("statement that reads more", "rows", "rows later", box=None, pad_edge=False)
    earlier, later = statements
    for statement, _ in (later - earlier).most_common(STATEMENTS):
        growing.add_row(statement, f"{earlier[statement]:,.0f}", f"{later[statement]:,.0f}")
    Console(width=120).print(growing)
    more = (rows[1] - rows[0]) / max(1, compared[1][0] - compared[0][0])
    print(f"rows read: {more:.1f} more for each earlier run (at most {AT_MOST_READS})")
    return more


if __name__ == "__main__":
    sys.exit(main())
