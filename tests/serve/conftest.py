"""A database with a sandbox's trades and series, all models, and the API on it, for a whole module."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from extract.clickhouse.refresh import refresh
from extract.clickhouse.settings import ClickHouseSettings
from extract.sandbox.tape import Tape
from tests.support.api import running_api
from tests.support.loaded_user import User

if TYPE_CHECKING:  # importing dbt takes seconds
    from harness.dbt_project import Project


@dataclass(frozen=True)
class Market:
    """The database behind the API, read by its owner: ground truth that does not pass through the API."""

    user: User

    def rows(self, sql: str, **parameters: Any) -> list[dict[str, Any]]:
        return list(self.user.client.query(sql, parameters=parameters).named_results())

    def texts(self, columns: list[str], sql: str, **parameters: Any) -> list[list[str | None]]:
        """Rows with each value as ClickHouse writes it as text."""
        shown = ", ".join(f"toString({column})" for column in columns)
        result = self.user.client.query(f"select {shown} from ({sql})", parameters=parameters)
        return [list(row) for row in result.result_rows]

    def value(self, sql: str, **parameters: Any) -> Any:
        return self.user.client.query(sql, parameters=parameters).result_rows[0][0]

    def refresh(self) -> None:
        refresh(self.user.database)


@pytest.fixture(scope="module")
def market(dbt: Project, new_user: Callable[[Tape], User]) -> Market:
    """4,000 trades of three days with everything that the exchange has, and their series; every model is built."""
    user = new_user(Tape.generate(seed=1, trades=4_000, days=3))
    with pytest.MonkeyPatch.context() as env:
        env.delenv("SOURCES__DERIBIT__SERIES")
        user.load()
    dbt.client.command("CREATE DATABASE IF NOT EXISTS deribit")  # the adapter of dbt knows that it existed
    dbt.run()
    return Market(user)


@pytest.fixture(scope="module")
def api(market: Market, reader_login: ClickHouseSettings) -> Iterator[httpx.Client]:
    """A client of the API, which is logged in as the reader."""
    with running_api(reader_login) as client:
        yield client
