"""One database with a planted hole and an absent stretch, one `tape serve`, one browser for all tests of the page."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path

import pytest

from extract.background import BackgroundCommand
from extract.clickhouse.client import shared_database
from extract.clickhouse.settings import ClickHouseSettings
from extract.paths import ROOT
from extract.sandbox.instrument_names import HOUR_MS
from extract.sandbox.live import LiveTape, clock_ms
from extract.sandbox.server import SandboxExchange
from extract.sandbox.tape import Record
from tests.support.browser import Visitor, open_browser
from tests.support.commands import UserShell, environment
from tests.support.loaded_user import User

HISTORY_HOURS = 3
"""The history of the tape ends so long ago; since then the exchange trades densely, as the demo's does."""


@dataclass
class Planted:
    """A database that lacks trades: `missing` ones were lost, `absent` ones the exchange does not have."""

    user: User
    missing: list[Record] = field(default_factory=list)
    absent: list[Record] = field(default_factory=list)
    now_ms: int = 0

    def stored(self, name: str) -> list[Record]:
        """Trades of an instrument that are in the database, by the exchange's own records."""
        lost = {(each["instrument_name"], each["trade_seq"]) for each in self.missing}
        return [
            each
            for each in self.user.exchange.records()
            if each["instrument_name"] == name
            and each["timestamp"] <= self.now_ms
            and (name, each["trade_seq"]) not in lost
        ]


def day_of(record: Record) -> str:
    return datetime.fromtimestamp(record["timestamp"] / 1000, UTC).date().isoformat()


def _inner_of_one_day(records: list[Record], name: str, count: int) -> list[Record]:
    """`count` consecutive trades of an instrument, in the middle of the trades of one day before the last two."""
    trades = sorted(
        (each for each in records if each["instrument_name"] == name), key=lambda each: each["trade_seq"]
    )
    days = [list(group) for _, group in groupby(trades, key=day_of)]
    day = max(days[1:-2], key=len)
    middle = len(day) // 2
    assert len(day) > count + 4
    return day[middle : middle + count]


@pytest.fixture(scope="package")
def planted(
    clickhouse: ClickHouseSettings,
    drop_databases: Callable[[], None],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Planted]:
    """Loaded with series by commands of a user; the models are built."""
    drop_databases()
    now_ms = clock_ms() - 90_000
    tape = LiveTape(now_ms - HISTORY_HOURS * HOUR_MS, trades=4000, days=6)
    with (
        pytest.MonkeyPatch.context() as env,
        SandboxExchange(tape.history, clock=now_ms, extend=tape.until) as exchange,
    ):
        shell = UserShell(environment(clickhouse, tmp_path_factory.mktemp("user"))).at(exchange)
        for name, value in shell.env.items():
            if name.startswith(("CLICKHOUSE_", "TAPE_", "SOURCES__")):
                env.setenv(name, value)
        env.delenv("SOURCES__DERIBIT__SERIES", raising=False)
        user = User(exchange, shared_database(clickhouse), shell)
        records = tape.history.trades
        here = Planted(user, now_ms=now_ms)
        here.absent = _inner_of_one_day(records, "ETH-PERPETUAL", 2)
        exchange.forget("ETH-PERPETUAL", [each["trade_seq"] for each in here.absent])
        shell.ok("dlt", "pipeline", "run", "--since", "8d")
        here.missing = _inner_of_one_day(records, "BTC-PERPETUAL", 3)
        user.lose([(each["instrument_name"], each["trade_seq"]) for each in here.missing])
        shell.ok("dbt", "--quiet", "run", cwd=ROOT / "dbt_project")
        yield here
    drop_databases()


@contextmanager
def serving(shell: UserShell, tape_dir: Path, *options: str, **env: str) -> Iterator[str]:
    """`tape serve` on a free port; its URL."""
    command = BackgroundCommand(tape_dir, "serve")
    command.start("--port", "0", *options, env=shell.env | env)
    try:
        yield command.ready_url() + "/"
    finally:
        command.stop()


@pytest.fixture(scope="package")
def served(planted: Planted, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of the page of `planted`."""
    with serving(planted.user.shell, tmp_path_factory.mktemp("serve")) as url:
        yield url


@pytest.fixture(scope="package")
def visit() -> Iterator[Visitor]:
    """Open a URL in a new page of one browser."""
    with open_browser() as visitor:
        yield visitor
