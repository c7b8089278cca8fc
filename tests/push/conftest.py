"""A user's local and cloud databases, empty before each test: the test server, and a second one behind the edge."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from clickhouse_connect.driver.client import Client

from extract.clickhouse.client import open_client, shared_client
from extract.clickhouse.settings import ClickHouseSettings
from extract.pipeline.run import run
from extract.sandbox.server import SandboxExchange
from extract.sandbox.tape import Tape
from extract.source.options import RunOptions
from tests.support.clickhouse import drop_project_databases
from tests.support.commands import Done, tape_here
from tests.support.edge import Edge

Key = tuple[str, int]
KEYS = "select instrument_name, trade_seq from deribit_raw.trades order by all"


@dataclass
class Both:
    """Clients of both servers. `cloud` bypasses the edge, which the code under test goes through."""

    local: Client
    cloud: Client

    def run(self, mode: str, **options: object) -> int:
        """`dlt pipeline run` into one of the two; the number of trades loaded."""
        with pytest.MonkeyPatch.context() as env:
            env.setenv("CLICKHOUSE_MODE", mode)
            return run(RunOptions(**options)).total

    def tape(self, *words: str) -> Done:
        """`tape WORDS` in this process."""
        return tape_here(*words)

    def keys(self, side: Client) -> list[Key]:
        """Keys of all rows in deribit_raw.trades."""
        return [tuple(row) for row in side.query(KEYS).result_rows]

    def same(self, *tables: str) -> bool:
        """Whether tables have the same rows, compared as ClickHouse's text."""
        texts = [
            [side.command(f"select * from deribit_raw.{table} order by all format TSV") for table in tables]
            for side in (self.local, self.cloud)
        ]
        assert any(texts[0]), "there is nothing to compare"
        return texts[0] == texts[1]


@pytest.fixture
def both(
    clean_clickhouse: ClickHouseSettings,
    clickhouse_env: ClickHouseSettings,
    edge: Edge,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Both]:
    """Two servers without the project's databases; the environment names both."""
    for name, value in edge.env("loader").items():
        monkeypatch.setenv(name, value)
    with open_client(edge.clickhouse) as cloud:
        drop_project_databases(cloud)
        yield Both(shared_client(clickhouse_env), cloud)


@pytest.fixture
def listed(
    start_exchange: Callable[..., SandboxExchange], monkeypatch: pytest.MonkeyPatch
) -> Callable[[Tape], SandboxExchange]:
    """Start an exchange with a tape of a few windows and point the environment at it."""

    def start(tape: Tape) -> SandboxExchange:
        exchange = start_exchange(tape)
        exchange.now_ms += 120_000  # all of the tape is settled
        monkeypatch.setenv("SOURCES__DERIBIT__API_URL", exchange.url)
        monkeypatch.setenv("SOURCES__DERIBIT__HISTORY_URL", exchange.history_url)
        monkeypatch.setenv("SOURCES__DERIBIT__WINDOW_TRADES", "700")
        monkeypatch.setenv("SOURCES__DERIBIT__REQUESTS_PER_SECOND", "1000")
        return exchange

    return start
