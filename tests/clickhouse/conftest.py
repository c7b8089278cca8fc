"""A new database and new pipelines for each test, and a proxy in front of the server."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import dlt
import pytest
from clickhouse_connect.driver.client import Client

from extract.clickhouse.destination import tape_clickhouse
from extract.clickhouse.settings import ClickHouseSettings
from tests.support.proxy import Proxy, proxy_to


@pytest.fixture
def database(clickhouse_client: Client) -> Iterator[str]:
    name = f"raw_{uuid.uuid4().hex[:12]}"
    yield name
    for database in (name, f"{name}_staging"):
        clickhouse_client.command(f"DROP DATABASE IF EXISTS {database} SYNC")


@pytest.fixture
def new_pipeline(
    clickhouse: ClickHouseSettings, database: str, tmp_path: Path
) -> Callable[..., dlt.Pipeline]:
    """Create a pipeline into `database`; another `directory` is like another machine, `port` is that of a proxy."""

    def make(directory: str = "here", port: int | None = None, **options: object) -> dlt.Pipeline:
        settings = replace(clickhouse, port=port or clickhouse.port)
        return dlt.pipeline(
            "trades",
            destination=tape_clickhouse(settings, **options),
            dataset_name=database,
            pipelines_dir=str(tmp_path / directory),
        )

    return make


@pytest.fixture
def pipeline(new_pipeline: Callable[..., dlt.Pipeline]) -> dlt.Pipeline:
    return new_pipeline()


@pytest.fixture
def proxy(clickhouse: ClickHouseSettings) -> Iterator[Proxy]:
    with proxy_to(clickhouse.port) as proxy:
        yield proxy
