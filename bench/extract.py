"""Measure extraction from HTTP pages on loopback to queryable rows: this project, ClickHouse's `url()`, plain dlt.

All three read the same pages from the same server and write to the same ClickHouse, one after the other. The project's
row is `dlt pipeline run` as a user runs it, whole process, into an empty database. ClickHouse uses
`INSERT … SELECT … FROM url()` into a table with the same definition. The rows of each result are counted.

Run `python -m bench.extract [--trades N] [--plain-trades N] [--rounds N]`, or `make bench`.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench import open_server
from bench.pages import CURRENCY, FIRST_MS, KIND, PAGE, STEP_MS
from extract.clickhouse.client import open_client
from extract.clickhouse.embedded import config, launch
from extract.clickhouse.embedded.home import ServerHome
from extract.clickhouse.embedded.server import embedded_server
from extract.clickhouse.settings import RAW_DATABASE, ClickHouseSettings
from extract.paths import ROOT, tape_dir
from extract.source.tables import TRADES
from harness.processes import peak_bytes, process_tree, resident_bytes

BIN = Path(sys.executable).parent
PROJECT = "deribit-tape"
CLICKHOUSE = "ClickHouse, url()"
PLAIN_DLT = "plain dlt, rest_api"
MEBIBYTE = 1 << 20
AT_LEAST_OF_CLICKHOUSE = 0.55
AT_LEAST_OF_PLAIN_DLT = 18.0
AT_MOST_PEAK_GROWTH = 1.1
WATCH_S = 0.05


@dataclass(frozen=True)
class Usage:
    """CPU time and peak resident memory of a command and all processes that it started."""

    cpu_s: float
    peak_bytes: int


@dataclass(frozen=True)
class Result:
    """One measurement: loaded trades, time, CPU time and memory. `usage` is None where only the server worked."""

    name: str
    trades: int
    seconds: float
    usage: Usage | None
    server_cpu_s: float
    server_peak_bytes: int

    @property
    def cpu_s(self) -> float:
        """CPU time of client and server, which stays comparable when the machine is shared."""
        return (self.usage.cpu_s if self.usage else 0.0) + self.server_cpu_s

    @property
    def peak_bytes(self) -> int:
        return self.usage.peak_bytes if self.usage else 0

    @property
    def per_second(self) -> float:
        return self.trades / self.seconds


class Bench:
    """The measurements, on one page server and one ClickHouse."""

    def __init__(self, url: str, settings: ClickHouseSettings, server_pid: int, directory: Path) -> None:
        self.url = url
        self.settings = settings
        self.directory = directory
        self._server_pid = server_pid
        self._client = open_client(settings, query_limit=0)

    def project(self, trades: int) -> Result:
        """Run the user's command into an empty database without state."""
        self._drop(RAW_DATABASE, "bench", "plain")
        env = os.environ | {
            "CLICKHOUSE_MODE": "local",
            "CLICKHOUSE_LOCAL_HOST": self.settings.host,
            "CLICKHOUSE_LOCAL_PORT": str(self.settings.port),
            "CLICKHOUSE_LOCAL_PASSWORD": self.settings.password,
            "TAPE_DIR": tempfile.mkdtemp(dir=self.directory, prefix="tape"),
            "SOURCES__DERIBIT__API_URL": self.url,
            "SOURCES__DERIBIT__HISTORY_URL": self.url,
            "SOURCES__DERIBIT__REQUESTS_PER_SECOND": "100000",
        }
        last = datetime.fromtimestamp((FIRST_MS + (trades - 1) * STEP_MS) / 1000, UTC).isoformat()
        command = [BIN / "dlt", "pipeline", "run", "--currency", CURRENCY, "--kind", KIND, "--until", last]
        return self._measure(PROJECT, trades, f"{RAW_DATABASE}.trades", lambda: _run(command, env))

    def clickhouse(self, trades: int) -> Result:
        """Let ClickHouse parse and insert the same pages, into a table with the same definition."""
        self._drop("bench", "plain")
        self._client.command("CREATE DATABASE bench")
        self._client.command(f"CREATE TABLE bench.by_url AS {RAW_DATABASE}.trades")
        self._client.command(f"TRUNCATE TABLE {RAW_DATABASE}.trades SYNC")
        pages = -(-trades // PAGE)
        url = (
            f"{self.url}/public/get_last_trades_by_currency_and_time"
            f"?currency={CURRENCY}&kind={KIND}&count={PAGE}&page={{0..{pages - 1}}}"
        )
        settings = {
            "glob_expansion_max_elements": 1_000_000,
            "input_format_json_defaults_for_missing_elements_in_named_tuple": 1,
            "input_format_skip_unknown_fields": 1,
            "max_insert_threads": 2,  # a little faster than the default
            "send_progress_in_http_headers": 1,
        }
        sql = INSERT.format(url=url, currency=CURRENCY, kind=KIND)

        def insert() -> None:
            self._client.command(sql, settings=settings)

        return self._measure(CLICKHOUSE, trades, "bench.by_url", insert)

    def plain_dlt(self, trades: int) -> Result:
        """Run dlt's rest_api source without tuning."""
        self._drop(RAW_DATABASE, "bench", "plain")
        directory = tempfile.mkdtemp(dir=self.directory, prefix="plain")
        where = [self.url, str(trades), self.settings.host, str(self.settings.port), "plain", directory]
        command = [sys.executable, "-m", "bench.plain_dlt", *where]
        env = os.environ | {"CLICKHOUSE_LOCAL_PASSWORD": self.settings.password}
        return self._measure(PLAIN_DLT, trades, "plain.trades", lambda: _run(command, env))

    def _drop(self, *databases: str) -> None:
        """Drop databases whose background merges would distort the next measurement."""
        for name in databases:
            self._client.command(f"DROP DATABASE IF EXISTS {name} SYNC")

    def _measure(self, name: str, trades: int, table: str, work: Callable[[], Usage | None]) -> Result:
        peak_file = Path(f"/proc/{self._server_pid}/clear_refs")
        peak_file.write_text("5")  # resets the kernel's peak
        server_cpu_s = _cpu_s(self._server_pid)
        began = time.perf_counter()
        usage = work()
        seconds = time.perf_counter() - began
        server_cpu_s = _cpu_s(self._server_pid) - server_cpu_s
        [(rows, keys)] = self._client.query(
            f"SELECT count(), uniqExact(instrument_name, trade_seq) FROM {table}"
        ).result_rows
        if rows != trades or keys != trades:
            raise SystemExit(f"{name}: {rows:,} rows with {keys:,} keys were loaded of {trades:,} trades.")
        return Result(name, trades, seconds, usage, server_cpu_s, peak_bytes(self._server_pid))


FIELDS = [name for name in TRADES.columns if name not in ("currency", "kind", "extra", "_dlt_load_id")]
INSERT = """
INSERT INTO bench.by_url ({columns}, currency, kind, extra, _dlt_load_id)
SELECT {values}, '{{currency}}', '{{kind}}', NULL, '1'
FROM (
  SELECT arrayJoin(result.trades) AS t
  FROM url('{{url}}', JSONEachRow, 'result Tuple(has_more Bool, trades Array(Tuple({types})))')
)""".format(
    columns=", ".join(FIELDS),
    values=", ".join(
        "fromUnixTimestamp64Milli(t.timestamp, 'UTC')" if name == "timestamp" else f"t.{name}"
        for name in FIELDS
    ),
    types=", ".join(f"{name} {'Int64' if name == 'timestamp' else TRADES.columns[name]}" for name in FIELDS),
)


def _run(command: list[object], env: dict[str, str]) -> Usage:
    """Run a command; its usage includes the processes that it started and waited for."""
    process = subprocess.Popen([str(each) for each in command], cwd=ROOT, env=env, stdout=subprocess.DEVNULL)
    peak = 0
    while not (ended := os.wait4(process.pid, os.WNOHANG))[0]:
        peak = max(peak, sum(map(resident_bytes, process_tree(process.pid))))
        time.sleep(WATCH_S)
    _, status, usage = ended
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command[0]} ended with exit code {process.returncode}; its message is above.")
    return Usage(usage.ru_utime + usage.ru_stime, peak)


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def started(trades: int) -> Iterator[Bench]:
    """Start a page server, whose file is reused by the next run, and a ClickHouse that may read URLs."""
    directory_of_pages = tape_dir() / "bench"
    directory_of_pages.mkdir(parents=True, exist_ok=True)
    # The embedded server and its user may not read URLs, which the url() row needs.
    config.TAPE_PRIVILEGES += ", URL"
    launch.process = open_server
    pages = subprocess.Popen(
        [sys.executable, "-m", "bench.pages", str(directory_of_pages / f"{trades}.json"), str(trades)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert pages.stdout is not None
        url = f"http://127.0.0.1:{int(pages.stdout.readline())}/api/v2"
        with tempfile.TemporaryDirectory(dir=directory_of_pages) as directory:
            home = Path(directory) / "server"
            with embedded_server(home) as settings:
                pid = ServerHome(home).server_pid()
                assert pid is not None
                children = (
                    Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
                )  # the engine, supervised
                yield Bench(url, settings, int(children[0]), Path(directory))
    finally:
        pages.kill()
        pages.wait()


def show(results: list[Result]) -> None:
    table = Table(
        "", "trades", "seconds", "trades/s", "CPU s", "of it server", "peak MiB", "server MiB", box=None
    )
    for column in table.columns[1:]:
        column.justify = "right"
    for r in results:
        peak = f"{r.peak_bytes / MEBIBYTE:,.0f}" if r.peak_bytes else "-"
        figures = (f"{r.trades:,}", f"{r.seconds:,.1f}", f"{r.per_second:,.0f}", f"{r.cpu_s:,.1f}")
        server = (f"{r.server_cpu_s:,.1f}", peak, f"{r.server_peak_bytes / MEBIBYTE:,.0f}")
        table.add_row(r.name, *figures, *server)
    Console(width=120).print(table)


def verdicts(results: list[Result]) -> Iterator[str]:
    """Compare each promise with the measurement; rates are medians over the rounds."""
    peaks = {r.trades: r.peak_bytes for r in results if r.name == PROJECT}
    rate, whole = median_rate(results, PROJECT, max(peaks)), max(peaks)
    for name, least in ((CLICKHOUSE, AT_LEAST_OF_CLICKHOUSE), (PLAIN_DLT, AT_LEAST_OF_PLAIN_DLT)):
        if any(r.name == name for r in results):
            ratio = rate / median_rate(results, name)
            yield f"{_verdict(ratio >= least)} {ratio:.2f} times the trades/s of {name}; promised: at least {least:g}"
    if len(peaks) > 1:
        growth = peaks[whole] / peaks[min(peaks)]
        yield (
            f"{_verdict(growth <= AT_MOST_PEAK_GROWTH)} {growth:.2f} times the peak memory for "
            f"{whole / min(peaks):g} times the trades; promised: at most {AT_MOST_PEAK_GROWTH:g}"
        )


def median_rate(results: list[Result], name: str, trades: int | None = None) -> float:
    return statistics.median(r.per_second for r in results if r.name == name and trades in (None, r.trades))


def _verdict(is_kept: bool) -> str:
    return "kept  " if is_kept else "BROKEN"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trades", type=int, default=5_000_000, help="default: 5,000,000")
    parser.add_argument(
        "--plain-trades", type=int, default=300_000, help="trades of plain dlt; default: 300,000"
    )
    parser.add_argument(
        "--rounds",
        type=int,
        default=3,
        help="rounds of project and ClickHouse in turns, for a shared machine",
    )
    options = parser.parse_args()
    with started(options.trades) as bench:
        results = [bench.project(max(1, options.trades // 10))]
        for _ in range(options.rounds):
            results += [bench.project(options.trades), bench.clickhouse(options.trades)]
        results.append(bench.plain_dlt(min(options.plain_trades, options.trades)))
        show(results)
    for line in verdicts(results):
        print(line)


if __name__ == "__main__":
    main()
