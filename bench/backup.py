"""Measure a backup, an incremental one, and a restore: time, rate, bytes and peak memory.

A sandbox exchange's trades are loaded, then multiplied in the database over two years. The backup goes to a folder, and is
restored into a second server, which is started for it.

Run `python -m bench.backup [--trades N]`, or `make bench-backup BENCH_BACKUP="--trades 5000000"`.
"""

from __future__ import annotations

import argparse
import os
import secrets
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from extract.backup.backup import BackupReport, back_up
from extract.backup.restore import RestoreReport, restore
from extract.clickhouse.client import open_client
from extract.clickhouse.embedded.server import embedded_server
from extract.clickhouse.settings import ClickHouseSettings
from extract.pipeline.run import run
from extract.sandbox.server import SandboxExchange
from extract.sandbox.tape import Tape
from extract.source.options import RunOptions
from harness.bulk_trades import multiply
from harness.processes import peak_bytes

LOADED_TRADES = 50_000
Report = BackupReport | RestoreReport
_PEAK = """
    select max(memory_usage) from system.query_log
    where type = 'QueryFinish' and event_time_microseconds > {since:DateTime64(6)}"""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trades", type=int, default=5_000_000)
    trades = parser.parse_args().trades
    table = Table(
        "step", "seconds", "rows/s", "bytes", "statement's peak", "process", box=None, pad_edge=False
    )
    with tempfile.TemporaryDirectory(prefix="tape-backup-") as scratch:
        _measure(Path(scratch), trades, table)
    Console(width=120).print(table)
    return 0


def _measure(scratch: Path, trades: int, table: Table) -> None:
    key, folder = scratch / "backup.key", str(scratch / "backups")
    key.write_text(secrets.token_hex(32))
    os.environ["TAPE_DIR"] = str(scratch / "tape")
    with embedded_server(scratch / "source") as source, embedded_server(scratch / "target") as target:
        _use(source)
        _load(source, trades)
        first = _step(table, source, "backup", trades, lambda: back_up(folder, key))
        _step(table, source, "backup, unchanged", trades, lambda: back_up(folder, key))
        _use(target)
        _step(table, target, "restore", trades, lambda: restore(folder, key))
        print(f"{trades:,} trades, {first.bytes:,} bytes in {first.files:,} files")


def _use(settings: ClickHouseSettings) -> None:
    """Let the environment name this server."""
    os.environ |= {
        "CLICKHOUSE_MODE": "local",
        "CLICKHOUSE_LOCAL_PORT": str(settings.port),
        "CLICKHOUSE_LOCAL_PASSWORD": settings.password,
    }


def _load(settings: ClickHouseSettings, trades: int) -> None:
    with SandboxExchange(Tape.generate(seed=1, trades=LOADED_TRADES, days=30)) as exchange:
        os.environ |= {
            "SOURCES__DERIBIT__API_URL": exchange.url,
            "SOURCES__DERIBIT__HISTORY_URL": exchange.history_url,
            "SOURCES__DERIBIT__REQUESTS_PER_SECOND": "1000",
            "SOURCES__DERIBIT__SERIES": "none",
        }
        run(RunOptions())
    with open_client(settings) as client:
        multiply(client, trades, package_rows=500_000)


def _step(
    table: Table, settings: ClickHouseSettings, name: str, rows: int, work: Callable[[], Report]
) -> Report:
    with open_client(settings) as client:
        since = client.command("select toString(now64(6))")
        began_s = time.perf_counter()
        result = work()
        seconds = time.perf_counter() - began_s
        client.command("system flush logs")
        peak = client.query(_PEAK, {"since": since}).first_row[0]
    table.add_row(
        name,
        f"{seconds:.1f}",
        f"{rows / seconds:,.0f}",
        f"{result.bytes:,}",
        f"{peak / 2**20:,.0f} MiB",
        f"{peak_bytes(os.getpid()) / 2**20:,.0f} MiB",
    )
    return result


if __name__ == "__main__":
    sys.exit(main())
