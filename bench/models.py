"""Does the cost of `dbt build` follow what is new? The same new trades on one history and on another ten times as long.

Each history is loaded and built; then the same load package comes on top of it, as many trades as one per cent of the
shorter history, and one `dbt build` with all its tests is measured: its time, without the start of Python and the parsing
of the project, which are the same for both, and the rows that ClickHouse read for it, by its query_log.

Run `python -m bench.models [--trades N] [--times N] [--repeat N]`; exit code 1 if a ratio is above 1.3.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from extract.clickhouse.client import open_client
from extract.clickhouse.server import embedded_server
from extract.clickhouse.settings import ClickHouseSettings
from tests.dbt.project import Project

AT_MOST_TIMES = 1.3
NEW_SHARE = 0.01
MONTH_S = 30 * 86_400
HISTORY_MONTHS = 3
END_S = 1_764_547_200  # 2025-12-01: every history ends here, and the new trades follow
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

    history: int
    seconds: float
    read_rows: int


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trades", type=int, default=1_000_000, help="trades of the shorter history")
    parser.add_argument("--times", type=int, default=10, help="how many times as long the longer one is")
    parser.add_argument("--repeat", type=int, default=3, help="new packages on each; the median time counts")
    parser.add_argument("--verbose", action="store_true", help="the models and tests that read most")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, _project(Path(scratch)) as dbt:
        costs = [
            _cost_on(dbt, asked.trades, times, asked.repeat, asked.verbose) for times in (1, asked.times)
        ]
    return _show(costs, round(asked.trades * NEW_SHARE))


@contextmanager
def _project(scratch: Path) -> Iterator[Project]:
    with embedded_server(scratch / "server") as settings:
        os.environ |= _environment(settings)
        with open_client(settings) as client:
            yield Project(client, scratch)


def _environment(settings: ClickHouseSettings) -> dict[str, str]:
    return {
        "CLICKHOUSE_LOCAL_HOST": settings.host,
        "CLICKHOUSE_LOCAL_PORT": str(settings.port),
        "CLICKHOUSE_LOCAL_USER": settings.user,
        "CLICKHOUSE_LOCAL_PASSWORD": settings.password,
    }


def _cost_on(dbt: Project, trades: int, times: int, repeat: int, verbose: bool) -> Cost:
    """Of one per cent of `trades` new ones on a history of `times` as many: median seconds, rows read."""
    dbt.fresh()
    history, new = trades * times, round(trades * NEW_SHARE)
    months = HISTORY_MONTHS * times
    _load(dbt, "1764547200.0", 0, history, END_S - months * MONTH_S, months * MONTH_S)
    began_s = time.perf_counter()
    dbt.must("build")
    print(f"{history:,} trades built in {time.perf_counter() - began_s:.1f} s", file=sys.stderr)
    # As much time as they took in the history: the same trades an hour.
    span_s = round(HISTORY_MONTHS * MONTH_S * NEW_SHARE)
    costs = []
    for n in range(repeat):
        _load(dbt, f"{1_764_547_201 + n}.0", history + n * new, new, END_S + n * span_s, span_s)
        costs.append(_measured(dbt, history, verbose and n == 0))
    return sorted(costs, key=lambda cost: cost.seconds)[len(costs) // 2]


def _load(dbt: Project, load_id: str, first: int, count: int, start_s: int, span_s: int) -> None:
    """One load package: trades number `first` and on, spread evenly over a time."""
    numbers = {"first": first, "count": count, "start": start_s, "span": span_s}
    instruments = {"instruments": INSTRUMENTS, "futures": FUTURES, "load": load_id}
    dbt.client.command(_LOAD, parameters=numbers | instruments)
    dbt.client.command(
        "INSERT INTO deribit_raw._dlt_loads SELECT {load:String}, 'deribit', 0, now64(6), ''",
        parameters={"load": load_id},
    )


def _measured(dbt: Project, history: int, verbose: bool) -> Cost:
    (began,) = dbt.rows("SELECT toString(now64(6)) AS at")
    began_s = time.perf_counter()
    dbt.must("build")
    seconds = time.perf_counter() - began_s
    dbt.client.command("SYSTEM FLUSH LOGS")
    where = f"type = 'QueryFinish' AND event_time_microseconds > '{began['at']}' AND is_initial_query"
    (read,) = dbt.rows(f"SELECT sum(read_rows) AS n FROM system.query_log WHERE {where}")
    if verbose:
        _say_who_read(dbt, where)
    return Cost(history, seconds, read["n"])


def _say_who_read(dbt: Project, where: str) -> None:
    """The nodes that read most; a hook's own queries bear no name and show their beginning."""
    query = (
        "SELECT sum(read_rows) AS n, sum(query_duration_ms) AS ms, "
        'extract(query, \'"node_id": "([^"]+)\') AS node, '
        "if(node = '', substring(replaceRegexpAll(query, '\\\\s+', ' '), 1, 80), node) AS who "
        f"FROM system.query_log WHERE {where} GROUP BY node, who ORDER BY n DESC LIMIT 12"
    )
    for row in dbt.rows(query):
        print(f"{row['n']:>12,} rows {row['ms']:>6,} ms  {row['who']}", file=sys.stderr)


def _show(costs: list[Cost], new: int) -> int:
    """The table; 1 if a ratio is above the promise."""
    short, long = costs
    ratios = (long.seconds / short.seconds, long.read_rows / short.read_rows)
    table = Table("history", "new trades", "dbt build", "rows read", box=None, pad_edge=False)
    for column in table.columns:
        column.justify = "right"
    for cost in costs:
        table.add_row(f"{cost.history:,}", f"{new:,}", f"{cost.seconds:.2f} s", f"{cost.read_rows:,}")
    table.add_row("ratio", "", *(f"{ratio:.2f} (at most {AT_MOST_TIMES})" for ratio in ratios))
    Console(width=100).print(table)
    return int(max(ratios) > AT_MOST_TIMES)


if __name__ == "__main__":
    sys.exit(main())
