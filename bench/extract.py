"""How fast trades get from HTTP pages on loopback to rows that can be queried: us, ClickHouse itself, plain dlt.

All three read the same pages from the same server and write to the same ClickHouse, one after the other. Ours is
`dlt pipeline run` as a user types it, from the start of the process to its end, into an empty database; ClickHouse
reads with `INSERT … SELECT … FROM url()` into a table of the very same definition. Each row counts what came out.

Run `python -m bench.extract [--trades N] [--plain-trades N] [--rounds N]`, or `make bench`.
"""

from __future__ import annotations

import argparse
import contextlib
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

BIN = Path(sys.executable).parent
OURS = "deribit-tape"
CLICKHOUSE = "ClickHouse, url()"
PLAIN_DLT = "plain dlt, rest_api"
MEBIBYTE = 1 << 20
AT_LEAST_OF_CLICKHOUSE = 0.5
AT_LEAST_OF_PLAIN_DLT = 15.0
AT_MOST_PEAK_GROWTH = 1.2
WATCH_S = 0.05


@dataclass(frozen=True)
class Usage:
    """Processor time and peak of the resident memory of a command and the processes that it started, all together."""

    cpu_s: float
    peak_bytes: int


@dataclass(frozen=True)
class Result:
    """One measurement: what came out, in what time, at the cost of which processor time and resident memory.

    `usage` is of the client's processes, None where the server works alone.
    """

    name: str
    trades: int
    seconds: float
    usage: Usage | None
    server_cpu_s: float
    server_peak_bytes: int

    @property
    def cpu_s(self) -> float:
        """Processor time of both sides: what remains comparable when others use the machine too."""
        return (self.usage.cpu_s if self.usage else 0.0) + self.server_cpu_s

    @property
    def peak_bytes(self) -> int:
        return self.usage.peak_bytes if self.usage else 0

    @property
    def per_second(self) -> float:
        return self.trades / self.seconds


class Bench:
    """The page server's address, the ClickHouse under load, and what is measured on them."""

    def __init__(self, url: str, settings: ClickHouseSettings, server_pid: int, directory: Path) -> None:
        self.url = url
        self.settings = settings
        self.directory = directory
        self._server_pid = server_pid
        self._client = open_client(settings, query_limit=0)

    def us(self, trades: int) -> Result:
        """The user's command, into an empty database, with nothing remembered; checks every trade."""
        self._drop(RAW_DATABASE, "bench", "plain")
        env = os.environ | {
            "CLICKHOUSE_MODE": "local",
            "CLICKHOUSE_LOCAL_HOST": self.settings.host,
            "CLICKHOUSE_LOCAL_PORT": str(self.settings.port),
            "TAPE_DIR": tempfile.mkdtemp(dir=self.directory, prefix="tape"),
            "SOURCES__DERIBIT__API_URL": self.url,
            "SOURCES__DERIBIT__HISTORY_URL": self.url,
            "SOURCES__DERIBIT__REQUESTS_PER_SECOND": "100000",
        }
        last = datetime.fromtimestamp((FIRST_MS + (trades - 1) * STEP_MS) / 1000, UTC).isoformat()
        command = [BIN / "dlt", "pipeline", "run", "--currency", CURRENCY, "--kind", KIND, "--until", last]
        return self._measure(OURS, trades, f"{RAW_DATABASE}.trades", lambda: _run(command, env))

    def clickhouse(self, trades: int) -> Result:
        """ClickHouse parses and inserts the same pages by itself, into a table like ours."""
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
        """dlt's rest_api source as it comes."""
        self._drop(RAW_DATABASE, "bench", "plain")
        directory = tempfile.mkdtemp(dir=self.directory, prefix="plain")
        where = [self.url, str(trades), self.settings.host, str(self.settings.port), "plain", directory]
        command = [sys.executable, "-m", "bench.plain_dlt", *where]
        return self._measure(PLAIN_DLT, trades, "plain.trades", lambda: _run(command, dict(os.environ)))

    def _drop(self, *databases: str) -> None:
        """What others left to be merged would be merged at the cost of whoever comes next."""
        for name in databases:
            self._client.command(f"DROP DATABASE IF EXISTS {name} SYNC")

    def _measure(self, name: str, trades: int, table: str, work: Callable[[], Usage | None]) -> Result:
        peak_file = Path(f"/proc/{self._server_pid}/clear_refs")
        peak_file.write_text("5")  # the kernel forgets the peak so far
        server_cpu_s = _cpu_s(self._server_pid)
        began = time.perf_counter()
        usage = work()
        seconds = time.perf_counter() - began
        server_cpu_s = _cpu_s(self._server_pid) - server_cpu_s
        [(rows, keys)] = self._client.query(
            f"SELECT count(), uniqExact(instrument_name, trade_seq) FROM {table}"
        ).result_rows
        if rows != trades or keys != trades:
            raise SystemExit(f"{name}: {rows:,} rows with {keys:,} keys came of {trades:,} trades.")
        return Result(name, trades, seconds, usage, server_cpu_s, _peak_bytes(self._server_pid))


INSERT = """
INSERT INTO bench.by_url
  (trade_seq, trade_id, timestamp, instrument_name, price, amount, direction, tick_direction, index_price, mark_price,
   iv, contracts, liquidation, block_trade_id, block_trade_leg_count, block_rfq_id, combo_id, combo_trade_id, legs,
   currency, kind, extra, _dlt_load_id)
SELECT t.trade_seq, t.trade_id, fromUnixTimestamp64Milli(t.timestamp, 'UTC'), t.instrument_name, t.price, t.amount,
  t.direction, t.tick_direction, t.index_price, t.mark_price, t.iv, t.contracts, t.liquidation, t.block_trade_id,
  t.block_trade_leg_count, t.block_rfq_id, t.combo_id, t.combo_trade_id, t.legs, '{currency}', '{kind}', NULL, '1'
FROM (
  SELECT arrayJoin(result.trades) AS t
  FROM url('{url}', JSONEachRow, 'result Tuple(has_more Bool, trades Array(Tuple(
    trade_seq Int64, trade_id String, timestamp Int64, instrument_name String, price Float64, amount Float64,
    direction String, tick_direction Nullable(Int64), index_price Nullable(Float64), mark_price Nullable(Float64),
    iv Nullable(Float64), contracts Nullable(Float64), liquidation Nullable(String), block_trade_id Nullable(String),
    block_trade_leg_count Nullable(Int64), block_rfq_id Nullable(Int64), combo_id Nullable(String),
    combo_trade_id Nullable(String), legs Nullable(String))))')
)"""


def _run(command: list[object], env: dict[str, str]) -> Usage:
    """What a command used, with the processes that it started and waited for."""
    process = subprocess.Popen([str(word) for word in command], cwd=ROOT, env=env, stdout=subprocess.DEVNULL)
    peak = 0
    while not (ended := os.wait4(process.pid, os.WNOHANG))[0]:
        peak = max(peak, sum(map(_resident_bytes, _family(process.pid))))
        time.sleep(WATCH_S)
    _, status, usage = ended
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command[0]} ended with exit code {process.returncode}; its message is above.")
    return Usage(usage.ru_utime + usage.ru_stime, peak)


def _family(pid: int) -> Iterator[int]:
    """A process and those that it started, and they."""
    yield pid
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                yield from _family(int(child))


def _resident_bytes(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def _peak_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def started(trades: int) -> Iterator[Bench]:
    """Pages (kept for the next time), a page server and a ClickHouse with the right to read URLs."""
    kept = tape_dir() / "bench"
    kept.mkdir(parents=True, exist_ok=True)
    # The embedded server may not read from other hosts, nor may its user ask for it; ClickHouse's own row must.
    config.TAPE_PRIVILEGES += ", URL"
    launch.server_process = open_server
    pages = subprocess.Popen(
        [sys.executable, "-m", "bench.pages", str(kept / f"{trades}.json"), str(trades)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert pages.stdout is not None
        url = f"http://127.0.0.1:{int(pages.stdout.readline())}/api/v2"
        with tempfile.TemporaryDirectory(dir=kept) as directory:
            home = Path(directory) / "server"
            with embedded_server(home) as settings:
                pid = ServerHome(home).server_pid()
                assert pid is not None
                yield Bench(url, settings, pid, Path(directory))
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
    """What is promised beside what was measured; rates are compared by their medians over the rounds."""
    peaks = {r.trades: r.peak_bytes for r in results if r.name == OURS}
    ours, whole = median_rate(results, OURS, max(peaks)), max(peaks)
    for name, least in ((CLICKHOUSE, AT_LEAST_OF_CLICKHOUSE), (PLAIN_DLT, AT_LEAST_OF_PLAIN_DLT)):
        if any(r.name == name for r in results):
            ratio = ours / median_rate(results, name)
            yield f"{_kept(ratio >= least)} {ratio:.2f} times the trades/s of {name}; promised: at least {least:g}"
    if len(peaks) > 1:
        growth = peaks[whole] / peaks[min(peaks)]
        yield (
            f"{_kept(growth <= AT_MOST_PEAK_GROWTH)} {growth:.2f} times the peak memory for "
            f"{whole / min(peaks):g} times the trades; promised: at most {AT_MOST_PEAK_GROWTH:g}"
        )


def median_rate(results: list[Result], name: str, trades: int | None = None) -> float:
    return statistics.median(r.per_second for r in results if r.name == name and trades in (None, r.trades))


def _kept(kept: bool) -> str:
    return "kept  " if kept else "BROKEN"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trades", type=int, default=5_000_000, help="default: 5,000,000")
    parser.add_argument(
        "--plain-trades", type=int, default=300_000, help="plain dlt gets a sample; default: 300,000"
    )
    parser.add_argument(
        "--rounds", type=int, default=1, help="us and ClickHouse in turns, for a machine that others use too"
    )
    options = parser.parse_args()
    with started(options.trades) as bench:
        results = [bench.us(max(1, options.trades // 10))]
        for _ in range(options.rounds):
            results += [bench.us(options.trades), bench.clickhouse(options.trades)]
        results.append(bench.plain_dlt(min(options.plain_trades, options.trades)))
        show(results)
    for line in verdicts(results):
        print(line)


if __name__ == "__main__":
    main()
