"""Measure whether the cost of `dbt build` depends on new trades only: one history, and one ten times as long.

Each history is loaded and built on its own server. Then both get the same load packages in turn, each one per cent of the
shorter history, and the `dbt build` (with all tests) that follows is measured: its time, without the start of Python and
the parsing of the project, and the rows that ClickHouse read, by its query_log. Taking turns exposes both to the same load
of the machine; the medians count.

Last, an unchanged database: time of `dbt run` and `dbt build` on the longer history as a user runs them, and inserted rows.

Run `python -m bench.models [--trades N] [--times N] [--repeat N]`; exit code 1 if a promise is broken.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.own_project import OwnProject, own_project
from harness import raw_tables
from harness.dbt_project import Project, run_words

AT_MOST_TIMES = 1.3
UNCHANGED_AT_MOST_S = {"run": 15, "build": 45}
BIN = Path(sys.executable).parent
NEW_SHARE = 0.01
MONTH_S = 30 * 86_400
HISTORY_MONTHS = 3
END_S = 1_764_547_200  # 2025-12-01: the end of every history; new trades follow
INSTRUMENTS = 200
FUTURES = 40

_LOAD = """
INSERT INTO deribit_raw.trades (
    trade_seq, trade_id, timestamp, instrument_name, price, amount, direction, tick_direction, index_price, mark_price,
    iv, currency, kind, _dlt_load_id
)
SELECT
    intDiv(n, {instruments:UInt64}) + 1,
    toString(300000000 + n),
    toDateTime64({start:UInt64}, 3, 'UTC')
        + toIntervalMillisecond(intDiv((n - {first:UInt64}) * {span:UInt64} * 1000, {count:UInt64})),
    if(
        n % {instruments:UInt64} < {futures:UInt64},
        concat('C', toString(n % {instruments:UInt64}), '-PERPETUAL'),
        concat('BTC-25DEC26-', toString(1000 * (n % {instruments:UInt64})), '-C')
    ),
    if(n % {instruments:UInt64} < {futures:UInt64}, 90000 + cityHash64(n) % 20000 / 2, (1 + cityHash64(n) % 500) / 2000),
    if(n % {instruments:UInt64} < {futures:UInt64}, 10 * (1 + cityHash64(n, 1) % 500), (1 + cityHash64(n, 1) % 100) / 10),
    if(cityHash64(n, 2) % 2, 'buy', 'sell'),
    cityHash64(n, 3) % 4,
    95000 + cityHash64(n, 4) % 100000 / 100,
    95000 + cityHash64(n, 5) % 100000 / 100,
    if(n % {instruments:UInt64} < {futures:UInt64}, null, 40 + cityHash64(n, 6) % 2000 / 100),
    'BTC',
    if(n % {instruments:UInt64} < {futures:UInt64}, 'future', 'option'),
    {load:String}
FROM (SELECT number + {first:UInt64} AS n FROM numbers({count:UInt64}))
SETTINGS max_partitions_per_insert_block = 1000"""


@dataclass(frozen=True)
class Cost:
    """One `dbt build` of new trades."""

    seconds: float
    read_rows: int


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trades", type=int, default=50_000, help="trades of the shorter history")
    parser.add_argument("--times", type=int, default=10, help="length ratio of the longer history")
    parser.add_argument("--repeat", type=int, default=3, help="new packages per history; the median counts")
    parser.add_argument("--verbose", action="store_true", help="print the slowest models and tests")
    options = parser.parse_args()
    new = round(options.trades * NEW_SHARE)
    with own_project() as short, own_project() as long:
        histories = [(short, options.trades, 1), (long, options.trades * options.times, options.times)]
        for dbt, trades, times in histories:
            _build_history(dbt, trades, times)
        costs: dict[int, list[Cost]] = {trades: [] for _, trades, _ in histories}
        for n in range(options.repeat):
            for dbt, trades, _ in histories:
                _load_new(dbt, trades, n, new)
                costs[trades].append(_measured(dbt, options.verbose and n == 0))
        is_within_promise = _show(costs, new)
        return int(not (_show_unchanged(long) and is_within_promise))


def _build_history(dbt: Project, trades: int, times: int) -> None:
    """Load ten packages per unit of length, then build."""
    packages = 10 * times
    for n in range(packages):
        months = HISTORY_MONTHS * times
        start_s = END_S - months * MONTH_S
        span_s = months * MONTH_S // packages
        _load(
            dbt,
            f"{END_S - packages + n}.0",
            n * trades // packages,
            trades // packages,
            start_s + n * span_s,
            span_s,
        )
    began_s = time.perf_counter()
    dbt.must("build")
    print(f"{trades:,} trades built in {time.perf_counter() - began_s:.1f} s", file=sys.stderr)


def _load_new(dbt: Project, history: int, n: int, new: int) -> None:
    """Load package `n` of new trades, at the hourly rate of the history."""
    span_s = round(HISTORY_MONTHS * MONTH_S * NEW_SHARE)
    _load(dbt, f"{END_S + 1 + n}.0", history + n * new, new, END_S + n * span_s, span_s)


def _load(dbt: Project, load_id: str, first: int, count: int, start_s: int, span_s: int) -> None:
    """Load one package: `count` trades from number `first` on, spread evenly over `span_s` seconds."""
    numbers = {"first": first, "count": count, "start": start_s, "span": span_s}
    instruments = {"instruments": INSTRUMENTS, "futures": FUTURES, "load": load_id}
    dbt.client.command(_LOAD, parameters=numbers | instruments)
    raw_tables.load(dbt.client, load_id, [])


def _measured(dbt: Project, verbose: bool) -> Cost:
    began_s, since = time.perf_counter(), _now(dbt)
    dbt.must("build")
    seconds = time.perf_counter() - began_s
    if verbose:
        _print_slowest(dbt, since)
    return Cost(seconds, _logged(dbt, since, "read_rows"))


def _now(dbt: Project) -> str:
    return str(dbt.rows("SELECT toString(now64(6)) AS at")[0]["at"])


def _logged(dbt: Project, since: str, what: str) -> int:
    """Sum of a column of the server's query_log over the queries that clients sent."""
    dbt.client.command("SYSTEM FLUSH LOGS")
    (row,) = dbt.rows(f"SELECT sum({what}) AS n FROM system.query_log WHERE {_FINISHED.format(since)}")
    return int(row["n"])


_FINISHED = "type = 'QueryFinish' AND is_initial_query AND event_time_microseconds > '{}'"


def _print_slowest(dbt: Project, since: str) -> None:
    """Print the slowest nodes; a hook's queries have no name and show their first characters."""
    dbt.client.command("SYSTEM FLUSH LOGS")
    query = (
        "SELECT sum(read_rows) AS n, sum(query_duration_ms) AS ms, "
        'extract(query, \'"node_id": "([^"]+)\') AS node, '
        "if(node = '', substring(replaceRegexpAll(query, '\\\\s+', ' '), 1, 80), node) AS who "
        f"FROM system.query_log WHERE {_FINISHED.format(since)} GROUP BY node, who ORDER BY ms DESC LIMIT 12"
    )
    for row in dbt.rows(query):
        print(f"{row['n']:>12,} rows {row['ms']:>6,} ms  {row['who']}", file=sys.stderr)


def _show(costs: dict[int, list[Cost]], new: int) -> bool:
    """Print the table by history; whether both ratios are within the promise."""
    table = Table("history", "new trades", "dbt build", "rows read", box=None, pad_edge=False)
    for column in table.columns:
        column.justify = "right"
    medians = []
    for history, each in costs.items():
        seconds = statistics.median(cost.seconds for cost in each)
        read_rows = statistics.median(cost.read_rows for cost in each)
        medians.append((seconds, read_rows))
        table.add_row(f"{history:,}", f"{new:,}", f"{seconds:.2f} s", f"{read_rows:,.0f}")
    ratios = [long / short for short, long in zip(*medians, strict=True)]
    table.add_row("ratio", "", *(f"{ratio:.2f} (at most {AT_MOST_TIMES})" for ratio in ratios))
    Console(width=100).print(table)
    return max(ratios) <= AT_MOST_TIMES


def _show_unchanged(dbt: OwnProject) -> bool:
    """Run `dbt run` and `dbt build` as processes without new trades; whether they are fast and insert nothing."""
    is_within_promise = True
    for command, at_most_s in UNCHANGED_AT_MOST_S.items():
        since, began_s = _now(dbt), time.perf_counter()
        subprocess.run([BIN / "dbt", *run_words(command, dbt.scratch)], check=True, stdout=subprocess.DEVNULL)
        seconds, rows = time.perf_counter() - began_s, _logged(dbt, since, "written_rows")
        print(
            f"unchanged: dbt {command} {seconds:.1f} s (at most {at_most_s}), {rows} rows inserted (at most 0)"
        )
        is_within_promise &= seconds <= at_most_s and rows == 0
    return is_within_promise


if __name__ == "__main__":
    sys.exit(main())
