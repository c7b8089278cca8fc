"""`tape init` creates the tables that the first run would create, and changes no existing table."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from click.testing import CliRunner
from clickhouse_connect.driver.client import Client

from extract.cli.main import tape
from extract.clickhouse.client import shared_database
from extract.clickhouse.settings import RAW_DATABASE, ClickHouseSettings
from extract.pipeline.run import run
from extract.sandbox.server import SandboxExchange
from extract.schema.catalogue import read_catalogue
from extract.source.options import RunOptions


def init() -> str:
    done = CliRunner().invoke(tape, ["init"], standalone_mode=False)
    assert done.exception is None
    return done.output


def test_init_creates_the_tables_of_a_first_run(
    clean_clickhouse: ClickHouseSettings,
    clickhouse_env: ClickHouseSettings,
    clickhouse_client: Client,
    drop_databases: Callable[[], None],
    exchange: SandboxExchange,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Columns, their order, engines and keys; a run loads into them; a second `init` changes nothing."""
    monkeypatch.setenv("SOURCES__DERIBIT__API_URL", exchange.url)
    monkeypatch.setenv("SOURCES__DERIBIT__HISTORY_URL", exchange.history_url)
    assert "local has its raw tables, in deribit_raw" in init()
    created = read_catalogue(shared_database(clickhouse_env))
    assert clickhouse_client.command(f"select count() from {RAW_DATABASE}.trades") == 0
    assert {f"{RAW_DATABASE}.trades", f"{RAW_DATABASE}.instruments"} <= created.keys()
    loaded = run(RunOptions(currencies=["BTC"], kinds=["spot"])).total
    assert loaded > 0
    assert "local already has its raw tables" in init()
    assert clickhouse_client.command(f"select count() from {RAW_DATABASE}.trades") == loaded
    drop_databases()
    run(RunOptions(currencies=["BTC"], kinds=["spot"]))
    assert read_catalogue(shared_database(clickhouse_env)) == created
