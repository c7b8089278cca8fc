"""Fixtures of the dbt project on the ClickHouse of the test process."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import clickhouse_connect
import pytest

from extract.clickhouse.settings import ClickHouseSettings

if TYPE_CHECKING:  # importing dbt takes seconds, which tests without it need not wait for
    from harness.dbt_project import Project


@pytest.fixture(scope="session")
def dbt(clickhouse: ClickHouseSettings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """Parsed once. The environment is the one of a user whose local ClickHouse is the tests' server."""
    from harness.dbt_project import Project

    with pytest.MonkeyPatch.context() as env:
        env.setenv("CLICKHOUSE_LOCAL_HOST", clickhouse.host)
        env.setenv("CLICKHOUSE_LOCAL_PORT", str(clickhouse.port))
        env.setenv("CLICKHOUSE_LOCAL_USER", clickhouse.user)
        env.setenv("CLICKHOUSE_LOCAL_PASSWORD", clickhouse.password)
        client = clickhouse_connect.get_client(
            host=clickhouse.host, port=clickhouse.port, username=clickhouse.user, password=clickhouse.password
        )
        yield Project(client, tmp_path_factory.mktemp("dbt"))
        client.close()


@pytest.fixture
def fresh_dbt(dbt: Project) -> Project:
    """Empty raw tables and no models."""
    dbt.fresh()
    return dbt
