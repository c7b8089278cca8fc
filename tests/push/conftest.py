"""Local and cloud of a user: the tests' own server, and a second one behind the edge, both empty before each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from clickhouse_connect.driver.client import Client

from extract.clickhouse.client import open_client, shared_client
from extract.clickhouse.settings import ClickHouseSettings
from extract.pipeline.options import RunOptions
from extract.pipeline.run import run
from extract.sandbox.server import SandboxExchange
from extract.sandbox.tape import Tape
from tests.support.clickhouse import drop_project_databases
from tests.support.commands import Done, tape_here
from tests.support.edge import Edge

Key = tuple[str, int]
KEYS = "select instrument_name, trade_seq from deribit_raw.trades order by all"


@dataclass
class Both:
    """`cloud` is the way around the edge; what is under test goes through it, as the environment says."""

    local: Client
    cloud: Client

    def run(self, mode: str, **options: object) -> int:
        """`dlt pipeline run` into one of the two; how many trades it loaded."""
        with pytest.MonkeyPatch.context() as env:
            env.setenv("CLICKHOUSE_MODE", mode)
            return run(RunOptions(**options)).total

    def tape(self, *words: str) -> Done:
        """`tape WORDS` in this process."""
        return tape_here(*words)

    def keys(self, side: Client) -> list[Key]:
        """Of all rows in deribit_raw.trades, one for each row."""
        return [tuple(row) for row in side.query(KEYS).result_rows]

    def same(self, *tables: str) -> bool:
        """Whether whole tables hold the same rows, by ClickHouse's own text of each."""
        texts = [
            [side.command(f"select * from deribit_raw.{table} order by all format TSV") for table in tables]
            for side in (self.local, self.cloud)
        ]
        assert any(texts[0]), "nothing is compared with nothing"
        return texts[0] == texts[1]


@pytest.fixture
def both(
    clean_clickhouse: ClickHouseSettings,
    clickhouse_env: ClickHouseSettings,
    edge: Edge,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Both]:
    """Two servers without our databases; the environment names both."""
    for name, value in edge.env("loader").items():
        monkeypatch.setenv(name, value)
    with open_client(edge.clickhouse) as cloud:
        drop_project_databases(cloud)
        yield Both(shared_client(clickhouse_env), cloud)


@pytest.fixture
def listed(
    start_exchange: Callable[..., SandboxExchange], monkeypatch: pytest.MonkeyPatch
) -> Callable[[Tape], SandboxExchange]:
    """Starts an exchange over a tape and points the environment at it; a few windows hold it all."""

    def start(tape: Tape) -> SandboxExchange:
        exchange = start_exchange(tape)
        exchange.now_ms += 120_000  # all of the tape is settled
        monkeypatch.setenv("SOURCES__DERIBIT__API_URL", exchange.url)
        monkeypatch.setenv("SOURCES__DERIBIT__HISTORY_URL", exchange.history_url)
        monkeypatch.setenv("SOURCES__DERIBIT__WINDOW_TRADES", "700")
        monkeypatch.setenv("SOURCES__DERIBIT__REQUESTS_PER_SECOND", "1000")
        return exchange

    return start
