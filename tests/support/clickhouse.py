"""A ClickHouse for the tests: one embedded server per test process, started on first use."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import clickhouse_connect
import pytest
from clickhouse_connect.driver.client import Client

from extract.clickhouse.embedded.server import embedded_server
from extract.clickhouse.settings import MART_DATABASE, RAW_DATABASE, RUNS_DATABASE, ClickHouseSettings


def drop_project_databases(client: Client) -> None:
    """Drop the databases of the project, as before a first run."""
    for database in (RAW_DATABASE, MART_DATABASE, RUNS_DATABASE):
        client.command(f"DROP DATABASE IF EXISTS {database} SYNC")


@pytest.fixture(scope="session")
def clickhouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseSettings]:
    """Settings of the server of this test process; each worker of xdist has a separate base directory."""
    with embedded_server(tmp_path_factory.mktemp("clickhouse")) as settings:
        yield settings


@pytest.fixture
def clickhouse_client(clickhouse: ClickHouseSettings) -> Iterator[Client]:
    """A client logged in as the server's user, on database `default`."""
    client = clickhouse_connect.get_client(
        host=clickhouse.host, port=clickhouse.port, username=clickhouse.user, password=clickhouse.password
    )
    yield client
    client.close()


@pytest.fixture(scope="session")
def drop_databases(clickhouse: ClickHouseSettings) -> Callable[[], None]:
    """A function that drops the databases of the project, as before a first run."""

    def drop() -> None:
        with clickhouse_connect.get_client(
            host=clickhouse.host, port=clickhouse.port, username=clickhouse.user, password=clickhouse.password
        ) as client:
            drop_project_databases(client)

    return drop


@pytest.fixture
def clean_clickhouse(
    clickhouse: ClickHouseSettings, drop_databases: Callable[[], None]
) -> ClickHouseSettings:
    """The server without the databases of the project."""
    drop_databases()
    return clickhouse


@pytest.fixture
def clickhouse_env(
    clickhouse: ClickHouseSettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> ClickHouseSettings:
    """Environment of a user whose local ClickHouse is the server of the tests and whose TAPE_DIR is empty."""
    monkeypatch.setenv("CLICKHOUSE_MODE", "local")
    monkeypatch.setenv("CLICKHOUSE_LOCAL_HOST", clickhouse.host)
    monkeypatch.setenv("CLICKHOUSE_LOCAL_PORT", str(clickhouse.port))
    monkeypatch.setenv("CLICKHOUSE_LOCAL_USER", clickhouse.user)
    monkeypatch.setenv("CLICKHOUSE_LOCAL_PASSWORD", clickhouse.password)
    monkeypatch.setenv("TAPE_DIR", str(tmp_path / "tape"))
    return clickhouse


def deribit_tables(client: Client) -> set[str]:
    """Names of all tables of the project's databases."""
    sql = "SELECT database || '.' || name FROM system.tables WHERE database LIKE 'deribit%'"
    return {name for (name,) in client.query(sql).result_rows}
