"""Soak test: load, read and back up for minutes or hours, kill every process, and fail a share of all requests.

A sandbox exchange reveals its trades in real time while `tape follow` loads them, readers query the database and the API of
`tape serve`, and `tape backup` runs again and again. In the first half each process is killed in turn: the run, the backup,
the API, the engine of ClickHouse and its supervisor. In the second half none is, so that memory and handles can be
compared over time. Afterwards nothing may be missing, nothing may be there twice, and nothing may have grown without
bound; the last backup is restored and compared, and each check of `tape health` has to be ok.

Run `python -m bench.soak [--minutes N] [--rate R]`, or `make soak SOAK="--minutes 60"`; exit code 1 if something is wrong.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import secrets
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from rich.console import Console
from rich.table import Table

from extract.clickhouse.client import Database, open_database
from extract.clickhouse.embedded.config import IDLE_THREADS
from extract.clickhouse.embedded.home import ServerHome
from extract.clickhouse.embedded.probe import free_port
from extract.clickhouse.embedded.server import down, up
from extract.clickhouse.finished import finished_rows, unfinished_loads
from extract.clickhouse.settings import LOCAL_USER, ClickHouseSettings
from extract.errors import OutsideError, UsageError
from extract.paths import ROOT
from extract.sandbox.faults import Faults
from extract.sandbox.server import SandboxExchange
from extract.sandbox.tape import Tape
from harness.processes import children

BIN = Path(sys.executable).parent
TRADES_PER_SECOND = 60
HISTORY = 1.25
"""Length of the tape, in relation to the time in which the exchange reveals it."""
SETTLED_MS = 120_000
"""Time after a trade at which a run counts its minute as covered."""
SAMPLE_S = 1.0
BACKUP_EVERY_S = 5.0
COMMAND_S = 300
STATES_AT_MOST = 40
"""States of the pipeline that pruning leaves, with a margin."""
FILES_AT_MOST = 6_000
"""Files below TAPE_DIR besides ClickHouse's: dlt keeps those of the packages of one session."""
PARTS_AT_MOST = 3_000

READS = {
    "raw trades": f"select count(), uniqExact(instrument_name, trade_seq) from {finished_rows('trades')}",
    "trades": "select count(), uniqExact(instrument_name, trade_seq) from deribit.trades",
    "minutes": "select sum(trade_count), sum(trade_count) from deribit.ohlcv_1m",
}
"""Queries of the readers: rows, and rows that are different from each other. Their numbers never decrease."""


@dataclass
class Growth:
    """Samples of one quantity. `share` and `more`: by how much it may grow from the first third of them to the last."""

    unit: str
    share: float = 0.0
    more: float = 0.0
    at_most: float = float("inf")
    samples: list[float] = field(default_factory=list)

    @property
    def first(self) -> float:
        return statistics.median(self.samples[: max(1, len(self.samples) // 3)])

    @property
    def last(self) -> float:
        return statistics.median(self.samples[-max(1, len(self.samples) // 3) :])

    @property
    def is_bounded(self) -> bool:
        return self.last <= min(self.at_most, self.first * (1 + self.share) + self.more)


@dataclass
class SoakReport:
    """What happened, and what is wrong (`failures`, sentences; empty if all is well)."""

    minutes: float
    counts: Counter[str] = field(default_factory=Counter)
    growth: dict[str, Growth] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def show(self) -> None:
        console = Console(width=120)
        events = Table("event", "number", box=None, pad_edge=False)
        for event, count in sorted(self.counts.items()):
            events.add_row(event, f"{count:,}")
        console.print(events)
        quantities = Table("quantity", "first third", "last third", "most", "", box=None, pad_edge=False)
        for name, each in self.growth.items():
            if each.samples:
                values = (f"{value:,.0f} {each.unit}" for value in (each.first, each.last, max(each.samples)))
                quantities.add_row(name, *values, "" if each.is_bounded else "grows")
        console.print(quantities)
        for failure in self.failures:
            console.print(f"wrong: {failure}", markup=False)


class Command:
    """A command that is started again whenever it has ended, as systemd would; its output goes to a file."""

    def __init__(self, name: str, words: list[str], env: dict[str, str], log: Path, pause_s: float) -> None:
        self.name = name
        self.codes: Counter[int] = Counter()
        self.process: subprocess.Popen[bytes] | None = None
        self._words, self._env, self._log, self._pause_s = words, env, log, pause_s
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name)
        self._thread.start()

    def _run(self) -> None:
        while not self._is_over.is_set():
            with self._log.open("ab") as log:
                self.process = subprocess.Popen(self._words, cwd=ROOT, env=self._env, stdout=log, stderr=log)
                self.codes[self.process.wait()] += 1
            self._is_over.wait(self._pause_s)

    def send(self, number: signal.Signals) -> bool:
        """Send a signal; False if the command does not run."""
        process = self.process
        if process is None or process.poll() is not None:
            return False
        process.send_signal(number)
        return True

    def stop(self) -> None:
        """Let it end, by SIGTERM if it runs until then."""
        self._is_over.set()
        self.send(signal.SIGTERM)
        self._thread.join()


class Soak:
    """One soak test in a directory of its own."""

    def __init__(self, minutes: float, fault_rate: float, scratch: Path, seed: int = 1) -> None:
        self.report = SoakReport(minutes)
        self.seconds = minutes * 60
        self.random = random.Random(seed)
        self.scratch = scratch
        self.tape_dir = scratch / "tape"
        self.settings = ClickHouseSettings(
            "local", "127.0.0.1", free_port(), LOCAL_USER, secrets.token_urlsafe(24)
        )
        live_s = 0.9 * self.seconds
        self.begin_ms = int(time.time() * 1000)
        self.tape = Tape.generate(
            seed=seed,
            trades=int(TRADES_PER_SECOND * HISTORY * live_s),
            days=HISTORY * live_s / 86_400,
            end_ms=self.begin_ms + int(live_s * 1000),
        )
        [(self.busiest, _)] = Counter(trade["instrument_name"] for trade in self.tape.trades).most_common(1)
        self.api_port = free_port()
        self.started_s: float | None = None
        faults = f"rate={fault_rate},seed={seed},slow=0.5" if fault_rate else None
        self.exchange = SandboxExchange(self.tape, faults=faults, clock=self._exchange_ms)
        self.is_over = threading.Event()
        self.is_calm = threading.Event()

    def _exchange_ms(self) -> int:
        """The time at the exchange, which begins to pass once everything has been set up."""
        passed_s = time.monotonic() - self.started_s if self.started_s else 0.0
        return self.begin_ms + int(passed_s * 1000)

    def run(self) -> SoakReport:
        """Load, read, back up and kill for the minutes, then check everything."""
        key = self.scratch / "backup.key"
        key.write_text(secrets.token_hex(32))
        backup = [
            "backup",
            "--to",
            str(self.scratch / "backups"),
            "--key-file",
            str(key),
            "--keep",
            "daily=1",
        ]
        with self.exchange, self._server():
            self.env = self._environment()
            self._must("dlt", "pipeline", "run", "--max-minutes", "1")
            self._must("dbt", "run", "--target", "local", "--target-path", str(self.scratch / "dbt"))
            self.started_s = time.monotonic()
            with ExitStack() as stack:
                stack.callback(self.is_over.set)
                commands = {
                    "follow": self._command("follow", 1.0, "follow", "--every", "2s"),
                    "backup": self._command("backup", BACKUP_EVERY_S, *backup),
                    "serve": self._command("serve", 1.0, "serve", "--port", str(self.api_port)),
                }
                for command in commands.values():
                    stack.callback(command.stop)
                threads = [threading.Thread(target=self._read, args=each) for each in READS.items()]
                threads.append(threading.Thread(target=self._read_api))
                threads.append(threading.Thread(target=self._sample, args=(commands,)))
                for thread in threads:
                    thread.start()
                    stack.callback(thread.join)
                    stack.callback(self.is_over.set)
                self._kill_in_turn(commands)
                self.is_calm.set()
                time.sleep(self.seconds / 2)
            for name, command in commands.items():
                self._count_ends(name, command)
            self.exchange.faults = Faults()
            self.exchange.now_ms = max(self.exchange.now_ms, self.tape.trades[-1]["timestamp"] + SETTLED_MS)
            self._must("dlt", "pipeline", "run")
            self._check_data()
            self._must("tape", *backup)
            report = self._must("tape", *self._restore_words(backup))
            self._expect(json.loads(report)["trades"] == len(self.tape.trades), "the backup lacks trades")
            self._check_health()
            self._check_growth()
        return self.report

    def _restore_words(self, backup: list[str]) -> list[str]:
        return ["restore", "--from", backup[2], *backup[3:5], "--verify", "--json"]

    def _environment(self) -> dict[str, str]:
        inherited = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        return inherited | {
            "TAPE_DIR": str(self.tape_dir),
            "CLICKHOUSE_LOCAL_PORT": str(self.settings.port),
            "CLICKHOUSE_LOCAL_PASSWORD": self.settings.password,
            "SOURCES__DERIBIT__API_URL": self.exchange.url,
            "SOURCES__DERIBIT__HISTORY_URL": self.exchange.history_url,
            "SOURCES__DERIBIT__REQUESTS_PER_SECOND": "200",
            "SOURCES__DERIBIT__SERIES": "none",
            "RUNTIME__DLTHUB_TELEMETRY": "false",
            "DBT_PROJECT_DIR": str(ROOT / "dbt_project"),
            "DBT_PROFILES_DIR": str(ROOT / "profiles"),
            "DBT_LOG_PATH": str(self.scratch / "dbt-logs"),
        }

    @contextmanager
    def _server(self) -> Iterator[None]:
        up(self.settings, self.tape_dir)
        try:
            yield
        finally:
            down(self.tape_dir)

    def _command(self, name: str, pause_s: float, *words: str) -> Command:
        return Command(name, [str(BIN / "tape"), *words], self.env, self.scratch / f"{name}.log", pause_s)

    def _must(self, program: str, *words: str) -> str:
        """Output of a command that has to succeed."""
        done = subprocess.run(
            [str(BIN / program), *words],
            cwd=ROOT,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=COMMAND_S,
        )
        output = f"{done.stdout[-2000:]}{done.stderr[-2000:]}"
        self._expect(done.returncode == 0, f"{program} {words[0]} ended with {done.returncode}: {output}")
        return done.stdout

    def _expect(self, is_true: bool, failure: str) -> None:
        if not is_true:
            self.report.failures.append(failure)

    def _kill_in_turn(self, commands: dict[str, Command]) -> None:
        """For half of the time: kill one process after the other, with time to recover in between."""
        home = ServerHome(self.tape_dir)

        def kill_engine() -> bool:
            """The supervisor starts it again."""
            supervisor = home.server_pid()
            engines = children(supervisor) if supervisor else []
            for pid in engines[:1]:
                os.kill(pid, signal.SIGKILL)
            return bool(engines)

        def kill_supervisor() -> bool:
            if supervisor := home.server_pid():
                os.kill(supervisor, signal.SIGKILL)
            for _ in range(20):
                with suppress(OutsideError, UsageError):
                    up(self.settings, self.tape_dir)
                    return True
                time.sleep(0.5)
            self.report.failures.append("the server did not start after its supervisor was killed")
            return False

        kills: dict[str, Callable[[], bool]] = {
            "kill of follow": lambda: commands["follow"].send(signal.SIGKILL),
            "kill of the engine": kill_engine,
            "kill of backup": lambda: commands["backup"].send(signal.SIGKILL),
            "kill of the API": lambda: commands["serve"].send(signal.SIGKILL),
            "end of follow": lambda: commands["follow"].send(signal.SIGTERM),
            "kill of the supervisor": kill_supervisor,
        }
        every_s = max(10.0, self.seconds / 2 / 40)
        until_s = time.monotonic() + self.seconds / 2
        for name in itertools.cycle(kills):
            time.sleep(every_s * self.random.uniform(0.5, 1.5))
            if time.monotonic() > until_s:
                return
            deadline_s = time.monotonic() + every_s
            while not kills[name]() and time.monotonic() < deadline_s:
                time.sleep(0.1)  # a backup runs only some of the time
            self.report.counts[name] += 1

    def _read(self, name: str, sql: str) -> None:
        """Query until the end: no row may be there twice, and none may vanish again."""
        database: Database | None = None
        most = 0
        while not self.is_over.wait(0.2):
            try:
                database = database or open_database(self.settings)
                [(rows, different)] = database.rows(sql, settings={"select_sequential_consistency": 1})
            except (OutsideError, UsageError):  # it is being killed, or starts
                self.report.counts[f"failed reads of {name}"] += 1
                continue
            self.report.counts[f"reads of {name}"] += 1
            self._expect(rows == different, f"{rows - different} rows of {name} were there twice")
            self._expect(rows >= most, f"{name} had {most} rows, and then {rows}")
            most = max(most, rows)
        if database:
            database.close()

    def _read_api(self) -> None:
        """Page through the trades of one instrument until the end, with the same promises."""
        most = 0
        with httpx.Client(
            base_url=f"http://127.0.0.1:{self.api_port}", timeout=30, trust_env=False
        ) as client:
            while not self.is_over.wait(0.5):
                try:
                    numbers = self._fetch_numbers(client)
                except httpx.HTTPError:  # it is being killed, or starts, or its database is
                    self.report.counts["failed reads of the API"] += 1
                    continue
                self.report.counts["reads of the API"] += 1
                self._expect(numbers == sorted(set(numbers)), "the API repeated trades, or disordered them")
                self._expect(len(numbers) >= most, f"the API had {most} trades, and then {len(numbers)}")
                most = max(most, len(numbers))

    def _fetch_numbers(self, client: httpx.Client) -> list[int]:
        """Trade numbers of all pages. Raises httpx.HTTPError; any answer but 200 and 503 is a failure."""
        numbers: list[int] = []
        parameters: dict[str, str | int] = {"limit": 1000}
        while True:
            answer = client.get(f"/v1/instruments/{self.busiest}/trades", params=parameters)
            self._expect(
                answer.status_code in (200, 503), f"the API: {answer.status_code} {answer.text[:200]}"
            )
            page = answer.raise_for_status().json()
            numbers += [each["trade_seq"] for each in page["items"]]
            if not page["next_cursor"]:
                return numbers
            parameters["cursor"] = page["next_cursor"]

    def _sample(self, commands: dict[str, Command]) -> None:
        """Measure processes, files and tables once a second, while nothing is killed."""
        growth: dict[str, Growth] = defaultdict(lambda: Growth(""))
        for process in ("follow", "serve", "server"):
            growth[f"memory of {process}"] = Growth("MiB", 0.3, 96)
            growth[f"handles of {process}"] = Growth("", 0.2, 16)
            growth[f"threads of {process}"] = Growth("", 0.2, 16)
        # The engine keeps IDLE_THREADS idle threads, and each thread has three files open.
        growth["threads of server"] = Growth("", 0.2, 2 * IDLE_THREADS)
        growth["handles of server"] = Growth("", 0.2, 6 * IDLE_THREADS)
        growth["files below TAPE_DIR"] = Growth("", 9.0, 100, FILES_AT_MOST)
        growth["files of backups"] = Growth("", 1.0, 50)
        growth["tables"] = Growth("")
        growth["parts"] = Growth("", 4.0, 500, PARTS_AT_MOST)
        self.report.growth = growth
        self.is_calm.wait()
        database = open_database(self.settings)
        while not self.is_over.wait(SAMPLE_S):
            processes = {name: commands[name].process for name in ("follow", "serve")}
            pids = {
                **{name: process.pid if process else None for name, process in processes.items()},
                "server": ServerHome(self.tape_dir).server_pid(),
            }
            for name, pid in pids.items():
                if pid and (use := _use(pid)):
                    for quantity, value in zip(("memory", "handles", "threads"), use, strict=True):
                        growth[f"{quantity} of {name}"].samples.append(value)
            growth["files below TAPE_DIR"].samples.append(_count_files(self.tape_dir, excluding="clickhouse"))
            growth["files of backups"].samples.append(_count_files(self.scratch / "backups"))
            [(tables, parts)] = database.rows(
                "select (select count() from system.tables where database like 'deribit%'), "
                "(select count() from system.parts where active and database like 'deribit%')"
            )
            growth["tables"].samples.append(tables)
            growth["parts"].samples.append(parts)
        database.close()

    def _count_ends(self, name: str, command: Command) -> None:
        for code, count in command.codes.items():
            self.report.counts[f"{name} ended with {code}"] += count
        allowed = {0, 4, -signal.SIGKILL, -signal.SIGTERM}
        self._expect(
            set(command.codes) <= allowed,
            f"{name} ended with {dict(command.codes)}, see {self.scratch}/{name}.log",
        )
        if name == "backup":
            self._expect(command.codes[0] > 0, "no backup was completed")

    def _check_data(self) -> None:
        """Compare what is loaded with the tape."""
        database = open_database(self.settings)
        wanted = Counter((trade["instrument_name"], trade["trade_seq"]) for trade in self.tape.trades)
        for table in ("deribit_raw.trades", "deribit.trades"):
            loaded = Counter(database.rows(f"select instrument_name, trade_seq from {table}"))
            self.report.counts[f"rows of {table} in the end"] = loaded.total()
            self._expect(not wanted - loaded, f"{(wanted - loaded).total()} trades are not in {table}")
            self._expect(not loaded - wanted, f"{(loaded - wanted).total()} trades are in {table} twice")
        self._expect(not unfinished_loads(database), "there are unfinished load packages")
        states = database.value("select count() from deribit_raw._dlt_pipeline_state")
        self.report.counts["stored states in the end"] = states
        self._expect(states <= STATES_AT_MOST, f"{states} states of the pipeline are stored")
        self.report.counts["load packages"] = database.value("select count() from deribit_raw._dlt_loads")
        self.report.counts["requests"] = next(self.exchange._request_numbers) - 1
        database.close()
        self._must("tape", "gaps")

    def _check_health(self) -> None:
        """No check fires after a clean day, apart from the disks of the machine."""
        disks = ["--disk", "0.2:0.1", "--disk-days", "0.2:0.1"]
        for check in json.loads(self._must("tape", "health", "--json", "--require-backup", *disks) or "[]"):
            self.report.counts["checks of health in the end"] += 1
            self._expect(check["state"] == "ok", f"{check['check']} is {check['state']}: {check['text']}")
        self._expect(
            self.report.counts["checks of health in the end"] >= 10, "tape health made less than ten checks"
        )

    def _check_growth(self) -> None:
        for name, each in self.report.growth.items():
            self._expect(
                bool(each.samples) and each.is_bounded,
                f"{name} grew from {each.first:,.0f} to {each.last:,.0f}"
                if each.samples
                else f"{name}: not measured",
            )


def _use(pid: int) -> tuple[float, int, int] | None:
    """Resident MiB, open handles and threads of a process and its descendants; None if it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        lines = dict(line.split(":", 1) for line in status.splitlines())
        own = int(lines["VmRSS"].split()[0]) / 1024, len(os.listdir(f"/proc/{pid}/fd")), int(lines["Threads"])
    except (OSError, KeyError):
        return None
    uses = [own, *filter(None, map(_use, children(pid)))]
    memory, handles, threads = (sum(values) for values in zip(*uses, strict=True))
    return memory, int(handles), int(threads)


def _count_files(folder: Path, excluding: str = "") -> int:
    return sum(
        len(names)
        for directory, _, names in os.walk(folder)
        if not excluding or excluding not in Path(directory).relative_to(folder).parts
    )


def soak(minutes: float, fault_rate: float = 0.03) -> SoakReport:
    """Run a soak test in a temporary directory, which stays if something is wrong."""
    scratch = Path(tempfile.mkdtemp(prefix="tape-soak-"))
    report = Soak(minutes, fault_rate, scratch).run()
    if report.failures:
        report.failures.append(f"logs are in {scratch}")
    else:
        shutil.rmtree(scratch)
    return report


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--rate", type=float, default=0.03, help="share of the exchange's answers that fail")
    options = parser.parse_args()
    report = soak(options.minutes, options.rate)
    report.show()
    return int(bool(report.failures))


if __name__ == "__main__":
    sys.exit(main())
