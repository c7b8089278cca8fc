"""Measure the HTTP API: requests per second and latency on one process, beside its ClickHouse, with a client on loopback.

A history is loaded and built (the parts are as the loads left them), the API is started as a user starts it, and one route
after the other is called over eight connections for some seconds:

    status          /v1/backfill/status
    price           the current price of a random instrument
    candles         a day of one-minute candles of a random perpetual, out of a few that everybody looks at
    candles, cold   the same of a day that was not called before
    trades          the newest 1,000 trades of a random perpetual

Run `python -m bench.serve [--trades N] [--seconds S]`; exit code 1 if status or price have less than 300 requests per
second, candles less than 100, or 99 % of them take longer than 100 ms.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.own_project import END_S, OwnProject, own_project
from extract.clickhouse.refresh import refresh
from harness import raw_tables

CONNECTIONS = 8
DAYS = 90
PACKAGE = 500_000
COINS = ("BTC", "ETH", "SOL", "XRP", "ADA", "DOT", "LTC", "BCH", "AVAX", "UNI")
OPTIONS = 400
POPULAR_DAYS = 5
PROMISES = {"status": 300, "price": 300, "candles": 100}
"""Requests per second."""
P99_AT_MOST_MS = 100

_LOAD = """
insert into deribit_raw.trades (
    trade_seq, trade_id, timestamp, instrument_name, price, amount, direction, tick_direction, index_price, mark_price,
    iv, currency, kind, _dlt_load_id
)
with
    n % 100 < 70 as is_perpetual,
    if(is_perpetual, intDiv(n, 100) * 70 + n % 100, intDiv(n, 100) * 30 + n % 100 - 70) as place,
    if(is_perpetual, {coins:Int64}, {options:Int64}) as instruments,
    place % instruments as instrument
select
    intDiv(place, instruments) + 1,
    toString(300000000 + n),
    toDateTime64({start:UInt64}, 3, 'UTC') + toIntervalMillisecond(intDiv(n * {span:Int64} * 1000, {total:Int64})),
    if(
        is_perpetual,
        concat({names:Array(String)}[instrument + 1], '-PERPETUAL'),
        concat('BTC-25DEC26-', toString(1000 * (instrument + 1)), '-C')
    ),
    if(is_perpetual, 90000 + toUInt32(cityHash64(n) % 20000) / 2, (1 + toUInt32(cityHash64(n) % 500)) / 2000),
    if(is_perpetual, 10.0 * (1 + toUInt32(cityHash64(n, 1) % 500)), (1 + toUInt32(cityHash64(n, 1) % 100)) / 10),
    if(cityHash64(n, 2) % 2 = 1, 'buy', 'sell'),
    toUInt32(cityHash64(n, 3) % 4),
    95000 + toUInt32(cityHash64(n, 4) % 100000) / 100,
    95000 + toUInt32(cityHash64(n, 5) % 100000) / 100,
    if(is_perpetual, null, 40 + toUInt32(cityHash64(n, 6) % 2000) / 100),
    if(is_perpetual, {names:Array(String)}[instrument + 1], 'BTC'),
    if(is_perpetual, 'future', 'option'),
    {load:String}
from (select toInt64(number) + {first:Int64} as n from numbers({count:UInt64}))
settings max_partitions_per_insert_block = 1000"""


@dataclass(frozen=True)
class Result:
    """Calls of one route: their number per second, and milliseconds of the median, the 99th percentile and the slowest."""

    calls: int
    per_second: float
    median_ms: float
    p99_ms: float
    slowest_ms: float
    bytes_per_call: float


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trades", type=int, default=10_000_000)
    parser.add_argument("--seconds", type=float, default=10.0, help="length of each measurement")
    options = parser.parse_args()
    with own_project() as dbt:
        began = time.monotonic()
        dbt.run()
        load(dbt, options.trades)
        print(
            f"{options.trades:,} trades loaded and built in {time.monotonic() - began:.0f} s", file=sys.stderr
        )
        with serving(dbt) as port:
            results = {
                name: asyncio.run(measure(port, path, options.seconds)) for name, path in routes().items()
            }
    return int(not show(results, options.trades))


def load(dbt: OwnProject, trades: int) -> None:
    """Load the history in packages, and refresh the models after each."""
    raw_tables.cover_everything(dbt.client, "future", "option", currencies=COINS)
    for number, first in enumerate(range(0, trades, PACKAGE)):
        load_id = f"{1_764_100_000 + number}.5"
        values = {
            "first": first, "count": min(PACKAGE, trades - first), "total": trades, "start": END_S - DAYS * 86_400,
            "span": DAYS * 86_400, "coins": len(COINS), "options": OPTIONS, "names": list(COINS), "load": load_id,
        }  # fmt: skip
        dbt.client.command(_LOAD, parameters=values)
        raw_tables.load(dbt.client, load_id, [])
        refresh(dbt.database)


@contextmanager
def serving(dbt: OwnProject) -> Iterator[int]:
    """Run `tape serve` on the project's database; its port."""
    [password] = dbt.scratch.glob("server/reader-password")
    env = os.environ | {
        "CLICKHOUSE_LOCAL_HOST": dbt.settings.host,
        "CLICKHOUSE_LOCAL_PORT": str(dbt.settings.port),
        "CLICKHOUSE_READER_PASSWORD": password.read_text().strip(),
    }
    command = [str(Path(sys.executable).with_name("tape")), "serve", "--port", "0"]
    server = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        line = server.stdout.readline()
        assert line.startswith("ready "), line
        yield int(line.rsplit(":", 1)[1])
    finally:
        server.terminate()
        server.wait(30)


def routes() -> dict[str, Callable[[], str]]:
    """A function for each route that returns the path of the next call."""
    draw = random.Random(1)
    names = [f"{coin}-PERPETUAL" for coin in COINS]
    end = datetime.fromtimestamp(END_S, UTC)
    days = [(end - timedelta(days=day)).date() for day in range(2, DAYS - 1)]
    unseen = [(name, day) for name in names for day in days[POPULAR_DAYS:]]
    draw.shuffle(unseen)

    def candles(name: str, day: object) -> str:
        after = datetime.fromisoformat(f"{day}") + timedelta(days=1)
        return f"/v1/instruments/{name}/candles?level=1m&since={day}&until={after:%Y-%m-%d}"

    return {
        "status": lambda: "/v1/backfill/status",
        "price": lambda: f"/v1/instruments/{draw.choice(names)}/price",
        "candles": lambda: candles(draw.choice(names[:2]), draw.choice(days[:POPULAR_DAYS])),
        "candles, cold": lambda: candles(*unseen.pop()),
        "trades": lambda: f"/v1/instruments/{draw.choice(names)}/trades?order=desc",
    }


async def measure(port: int, path: Callable[[], str], seconds: float) -> Result:
    """Call a route over several connections, each call after the answer to the one before."""
    milliseconds: list[float] = []
    sizes: list[int] = []
    for warm_up in (True, False):
        milliseconds.clear()
        sizes.clear()
        end_s = time.monotonic() + (seconds / 5 if warm_up else seconds)
        await asyncio.gather(*(_call(port, path, end_s, milliseconds, sizes) for _ in range(CONNECTIONS)))
    milliseconds.sort()
    return Result(
        len(milliseconds),
        len(milliseconds) / seconds,
        statistics.median(milliseconds),
        milliseconds[int(len(milliseconds) * 0.99)],
        milliseconds[-1],
        statistics.mean(sizes),
    )


async def _call(
    port: int, path: Callable[[], str], end_s: float, milliseconds: list[float], sizes: list[int]
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**22)
    while time.monotonic() < end_s:
        began = time.perf_counter()
        writer.write(f"GET {path()} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        [length] = (line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        body = await reader.readexactly(int(length.split(b":")[1]))
        milliseconds.append((time.perf_counter() - began) * 1000)
        sizes.append(len(body))
    writer.close()


def show(results: dict[str, Result], trades: int) -> bool:
    """Print the table; whether every promise holds."""
    table = Table(title=f"HTTP API on {trades:,} trades, {CONNECTIONS} connections")
    for column in ("route", "calls", "per second", "median", "99 %", "slowest", "kB per call", "promise"):
        table.add_column(column, justify="left" if column == "route" else "right")
    holds = True
    for name, result in results.items():
        promise = PROMISES.get(name)
        kept = promise is None or (result.per_second >= promise and result.p99_ms < P99_AT_MOST_MS)
        holds &= kept
        table.add_row(
            name,
            f"{result.calls:,}",
            f"{result.per_second:,.0f}",
            f"{result.median_ms:.1f} ms",
            f"{result.p99_ms:.1f} ms",
            f"{result.slowest_ms:.0f} ms",
            f"{result.bytes_per_call / 1000:,.0f}",
            "" if promise is None else f"{promise}/s: {'kept' if kept else 'BROKEN'}",
        )
    Console(width=120).print(table)
    return holds


if __name__ == "__main__":
    sys.exit(main())
