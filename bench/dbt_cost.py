"""What one `dbt build` reads and takes for the same new trades on a history and on one ten times as long.

    python -m bench.dbt_cost [TRADES]

TRADES (100,000 by default) is the shorter history; 1% of it is new. History is merged first.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

import clickhouse_connect
from clickhouse_connect.driver.client import Client

from extract.clickhouse.server import embedded_server
from tests.dbt.project import Project
from tests.dbt.truth import LEVELS

TABLES = ("trade_versions", *(f"ohlcv_{level}_versions" for level in LEVELS))
# Six of ten trades are the perpetual's, the rest of a hundred options; one each 26 s.
TRADES = """
    INSERT INTO deribit_raw.trades (trade_seq, trade_id, timestamp, instrument_name, price, amount, direction,
        index_price, mark_price, iv, currency, kind, _dlt_load_id)
    WITH number + {first:Int64} AS n, n % 10 < 6 AS is_future,
        (intDiv(n, 10) * 4 + n % 10 - 6) % 100 AS strike
    SELECT if(is_future, intDiv(n, 10) * 6 + n % 10, intDiv(n, 250)) + 1, toString(n),
        toDateTime64('2024-01-01', 3, 'UTC') + toIntervalMillisecond(n * 26000),
        if(is_future, 'BTC-PERPETUAL', concat('BTC-27DEC30-', toString(strike * 1000 + 1000), '-C')),
        50000 + n % 100, 10, if(n % 3 = 0, 'buy', 'sell'), 50000, 50000, if(is_future, NULL, 50), 'BTC',
        if(is_future, 'future', 'option'), {load:String}
    FROM numbers({count:UInt64})
"""
READS = """
    SELECT sum(read_rows) AS reads, sum(written_rows) AS writes FROM system.query_log
    WHERE type = 'QueryFinish' AND event_time_microseconds > {since:String}
"""


def load(client: Client, load_id: str, first: int, count: int) -> None:
    client.command(TRADES, parameters={"first": first, "count": count, "load": load_id})
    client.command(
        "INSERT INTO deribit_raw._dlt_loads SELECT {id:String}, 'deribit', 0, now64(6), ''",
        parameters={"id": load_id},
    )


def measure(dbt: Project, trades: int, new: int) -> tuple[int, float]:
    """Rows read and seconds of the `dbt build` that follows `new` trades on a history of `trades`."""
    dbt.fresh()
    for n in range(10):
        load(dbt.client, f"{1764000000 + n}.5", n * trades // 10, trades // 10)
    dbt.run()
    for table in TABLES:
        dbt.client.command(f"OPTIMIZE TABLE deribit.{table} FINAL")
    load(dbt.client, "1765000000.5", trades, new)
    dbt.client.command("SYSTEM FLUSH LOGS")
    since, started = str(dbt.client.command("SELECT now64(6)")), time.perf_counter()
    dbt.must("build")
    seconds = time.perf_counter() - started
    dbt.client.command("SYSTEM FLUSH LOGS")
    return dbt.client.query(READS, parameters={"since": since}).first_item["reads"], seconds


def main(trades: int) -> None:
    with tempfile.TemporaryDirectory() as scratch, embedded_server(Path(scratch) / "clickhouse") as settings:
        os.environ["CLICKHOUSE_LOCAL_HOST"], os.environ["CLICKHOUSE_LOCAL_PORT"] = (
            settings.host,
            str(settings.port),
        )
        os.environ["CLICKHOUSE_LOCAL_USER"], os.environ["CLICKHOUSE_LOCAL_PASSWORD"] = (
            settings.user,
            settings.password,
        )
        client = clickhouse_connect.get_client(
            host=settings.host, port=settings.port, username=settings.user, password=settings.password
        )
        dbt = Project(client, Path(scratch) / "dbt")
        short, long = (measure(dbt, history, trades // 100) for history in (trades, 10 * trades))
    for history, (reads, seconds) in ((trades, short), (10 * trades, long)):
        print(f"{history:>11,} trades + {trades // 100:,} new: {reads:>10,} rows read, {seconds:5.1f} s")
    print(f"ratio: {long[0] / short[0]:.2f} rows, {long[1] / short[1]:.2f} time (at most 1.3)")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
