"""Small windows, so that a short history becomes many load packages, and a runner whose runs can be killed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from clickhouse_connect.driver.client import Client

from extract.clickhouse.settings import ClickHouseSettings
from extract.paths import ROOT
from extract.sandbox.instrument_names import parse
from extract.sandbox.server import SandboxExchange
from extract.sandbox.tape import Tape

SMALL = {
    "SOURCES__DERIBIT__WINDOW_TRADES": "60",
    "SOURCES__DERIBIT__PAGE_SIZE": "20",
    "SOURCES__DERIBIT__REQUESTS_PER_SECOND": "1000",
}


class Runner:
    """Runs the pipeline, or `what`, in children of one process that has imported everything."""

    def __init__(self, *what: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.killable_run", *what],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = int(self._line())

    def run(self, kill_after_s: float | None = None) -> int:
        """The exit code of one run: -9 if it was killed."""
        return self._ask("never" if kill_after_s is None else f"after {kill_after_s}")

    def run_to_news(self, killed_before: Path) -> int:
        """The exit code of a run that is killed before the first kind of change that the file does not list yet."""
        return self._ask(f"before {killed_before}")

    def _ask(self, when: str) -> int:
        assert self._process.stdin is not None
        self._process.stdin.write(when + "\n")
        self._process.stdin.flush()
        return int(self._line())

    def close(self) -> None:
        self._process.communicate(timeout=60)

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()


@pytest.fixture
def small_windows(
    clickhouse_env: ClickHouseSettings,
    clean_clickhouse: ClickHouseSettings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The environment of a new user, with windows of 60 trades."""
    for name, value in SMALL.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def listed(
    small_windows: None, start_exchange: Callable[..., SandboxExchange], monkeypatch: pytest.MonkeyPatch
) -> Callable[[Tape], SandboxExchange]:
    """A function that starts an exchange over a tape and points the environment at it."""

    def start(tape: Tape) -> SandboxExchange:
        exchange = start_exchange(tape)
        monkeypatch.setenv("SOURCES__DERIBIT__API_URL", exchange.url)
        monkeypatch.setenv("SOURCES__DERIBIT__HISTORY_URL", exchange.history_url)
        return exchange

    return start


@pytest.fixture
def runner(small_windows: None) -> Iterator[Callable[[], Runner]]:
    """A function that starts a runner in the current environment."""
    made: list[Runner] = []

    def make() -> Runner:
        made.append(Runner())
        return made[-1]

    yield make
    for each in made:
        each.close()


def keys_of(tape: Tape) -> list[tuple[str, int]]:
    """(instrument_name, trade_seq) of the tape's BTC trades, in order."""
    return sorted(
        (t["instrument_name"], t["trade_seq"])
        for t in tape.trades
        if parse(t["instrument_name"]).currency == "BTC"
    )


def keys_in(client: Client) -> list[tuple[str, int]]:
    """(instrument_name, trade_seq) of every row of the raw table, in order."""
    sql = "SELECT instrument_name, trade_seq FROM deribit_raw.trades ORDER BY ALL"
    return [tuple(row) for row in client.query(sql).result_rows]


def packages_in(client: Client) -> int:
    """Number of load packages that hold trades."""
    return client.command("SELECT uniqExact(_dlt_load_id) FROM deribit_raw.trades")


def tape_files() -> list[str]:
    """Every file below the working directories of the pipeline."""
    paths = []
    for directory, _, names in os.walk(os.path.join(os.environ["TAPE_DIR"], "dlt", "pipelines")):
        paths += [os.path.join(directory, name) for name in names]
    return paths
