"""Measure whether memory and time stay in proportion: the models of one history, and of one ten times as long.

Each history has trades of 2,000 thin instruments, nearly each of which is a candle of its own at every level up to a
day: the worst case. The longer one has more packages of the same size, over more months. Phases, each on the same
server, which is limited to 4 GB: `load` refreshes the models after each package, `first build` builds them from nothing,
`dbt build` is a build with all tests of a database that it has not compared before, and `audit` compares every month.

Run `python -m bench.scale [--trades N] [--times N]`; exit code 1 if any statement of a phase of the longer history
takes more than 1.2 times the memory of the shorter one, or the phase more than 1.1 times its share of the time.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.own_project import CANDLES, END_S, MONTH_S, TRADES, OwnProject, load_sparse, own_project
from bench.storage import SIZE
from extract.clickhouse.embedded import config
from extract.clickhouse.refresh import refresh

AT_MOST_MEMORY = 1.2
AT_MOST_TIME = 1.1
PACKAGES = 10
MONTHS = 2
"""Of the shorter history: short enough for its months to fill the portions of `dbt build`, whose memory is compared."""
SERVER_BYTES = 4_000_000_000
STATEMENTS = 8
"""Statements that are printed for each phase."""

_STATEMENTS = r"""
    select
        coalesce(
            nullIf(extract(query, '(?i)insert into (\\S+)'), ''), nullIf(extract(query, '"node_id": "([^"]+)'), ''),
            substring(replaceRegexpAll(query, '\\s+', ' '), 1, 60)
        ) as statement,
        count() as times,
        sum(query_duration_ms) / 1000 as seconds,
        max(memory_usage) as peak_bytes
    from system.query_log
    where type = 'QueryFinish' and event_time_microseconds > '{}' and has(databases, 'deribit')
    group by statement
    order by peak_bytes desc"""


@dataclass(frozen=True)
class Cost:
    """Time of a phase, and its statements in descending order of peak memory."""

    seconds: float
    statements: list[dict[str, Any]]

    @property
    def peak_bytes(self) -> int:
        return int(self.statements[0]["peak_bytes"])


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trades", type=int, default=1_000_000, help="trades of the shorter history")
    parser.add_argument("--times", type=int, default=10, help="length ratio of the longer history")
    options = parser.parse_args()
    config.memory_limit_bytes = lambda: SERVER_BYTES
    costs = [_measure(options.trades, times) for times in (1, options.times)]
    for phase, cost in costs[1].items():
        _show_statements(phase, cost)
    return int(not _show(costs, options.trades, options.times))


def _measure(trades: int, times: int) -> dict[str, Cost]:
    costs: dict[str, Cost] = {}

    def measure(phase: str, work: Callable[[], object]) -> None:
        costs[phase] = cost = _measured(dbt, work)
        print(
            f"{phase} of {trades * times:,} trades: {cost.seconds:.1f} s, {cost.peak_bytes / 2**20:,.0f} MiB",
            flush=True,
        )

    with own_project() as dbt:
        dbt.run()
        measure("load", lambda: _load(dbt, trades, times))
        dbt.client.command("drop database deribit sync")
        dbt.client.command("create database deribit")
        measure("first build", dbt.run)
        dbt.client.command("truncate table deribit.verified_months")
        measure("dbt build", lambda: dbt.must("build"))
        measure("audit", lambda: dbt.run("--vars", "audit: true"))
        _show_bytes(dbt)
    return costs


def _load(dbt: OwnProject, trades: int, times: int) -> None:
    """Load and refresh ten packages per unit of length, each over its share of the months."""
    packages = PACKAGES * times
    span_s = MONTHS * MONTH_S // PACKAGES
    for n in range(packages):
        load_id = f"{END_S - packages + n}.0"
        start_s = END_S - (packages - n) * span_s
        load_sparse(dbt.client, load_id, n * trades // PACKAGES, trades // PACKAGES, start_s, span_s)
        refresh(dbt.database, [load_id])


def _measured(dbt: OwnProject, phase: Callable[[], object]) -> Cost:
    since = dbt.rows("SELECT toString(now64(6)) AS at")[0]["at"]
    began_s = time.perf_counter()
    phase()
    seconds = time.perf_counter() - began_s
    dbt.client.command("SYSTEM FLUSH LOGS")
    return Cost(seconds, dbt.rows(_STATEMENTS.format(since)))


def _show_bytes(dbt: OwnProject) -> None:
    """Print the bytes of trades and of all candles, merged."""
    for table in (TRADES, *CANDLES):
        dbt.client.command(f"OPTIMIZE TABLE {table} FINAL")
    trades, *candles = (
        dbt.client.query(SIZE, parameters={"table": table}).first_row[2] for table in (TRADES, *CANDLES)
    )
    print(
        f"bytes: trades {trades:,}, candles of all levels {sum(candles):,}, {sum(candles) / trades:.2f} times"
    )


def _show_statements(phase: str, cost: Cost) -> None:
    """Print the statements of a phase of the longer history that need most memory."""
    table = Table(phase, "times", "seconds", "peak memory", box=None, pad_edge=False)
    for each in cost.statements[:STATEMENTS]:
        peak = f"{each['peak_bytes'] / 2**20:,.0f} MiB"
        table.add_row(each["statement"], f"{each['times']:,}", f"{each['seconds']:.1f}", peak)
    Console(width=120).print(table)


def _show(costs: list[dict[str, Cost]], trades: int, times: int) -> bool:
    table = Table("phase", "trades", "seconds", "peak memory", "largest statement", box=None, pad_edge=False)
    is_within_promise = True
    for phase, short in costs[0].items():
        long = costs[1][phase]
        for count, cost in ((trades, short), (trades * times, long)):
            table.add_row(
                phase,
                f"{count:,}",
                f"{cost.seconds:.1f}",
                f"{cost.peak_bytes / 2**20:,.0f} MiB",
                cost.statements[0]["statement"],
            )
        memory, seconds = long.peak_bytes / short.peak_bytes, long.seconds / short.seconds
        table.add_row(
            "",
            "ratio",
            f"{seconds:.2f} (at most {AT_MOST_TIME * times:.1f})",
            f"{memory:.2f} (at most {AT_MOST_MEMORY})",
        )
        is_within_promise &= memory <= AT_MOST_MEMORY and seconds <= AT_MOST_TIME * times
    Console(width=120).print(table)
    return is_within_promise


if __name__ == "__main__":
    sys.exit(main())
