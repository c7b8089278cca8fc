"""The API while data changes: holes, late trades, a database that stops, and heavy questions."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import httpx
import pytest

from extract.clickhouse.client import open_database
from extract.clickhouse.embedded.probe import free_port
from extract.clickhouse.settings import ClickHouseSettings
from extract.errors import TapeError
from harness import raw_tables
from harness.dbt_project import Project
from tests.dbt.test_model_truth import trade
from tests.support.api import running_api
from tests.support.proxy import Proxy, proxy_to
from tests.support.waiting import wait_until

NAME = "BTC-PERPETUAL"
DAY_MS = 86_400_000
START_MS = 1_735_732_800_000
"""2025-01-01 12:00 UTC."""
STREAM = {"instrument_name": NAME, "currency": "BTC", "kind": "future"}
HOLES = (*range(40, 43), *range(70, 72))
"""Missing numbers; the exchange does not have the second range."""


def numbered(numbers: range | list[int]) -> list[dict[str, Any]]:
    """Trades of three days, a hundred a day."""
    return [
        trade(NAME, number, START_MS + number * DAY_MS // 33) for number in numbers if number not in HOLES
    ]


@pytest.fixture(scope="module")
def database(dbt: Project) -> Project:
    """A hundred trades with two holes, one of which is absent at the exchange."""
    from extract.clickhouse.refresh import refresh

    dbt.empty()
    raw_tables.cover_everything(dbt.client, "future")
    raw_tables.insert_rows(
        dbt.client,
        "absent_trades",
        [{**STREAM, "first_seq": 70, "last_seq": 71, "_dlt_load_id": "1764000001.5"}],
    )
    raw_tables.load(dbt.client, "1764000001.5", numbered(range(1, 101)))
    refresh(dbt.database)
    return dbt


@pytest.fixture
def proxy(clickhouse: ClickHouseSettings) -> Iterator[Proxy]:
    with proxy_to(clickhouse.port) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def api(database: Project, reader_login: ClickHouseSettings) -> Iterator[httpx.Client]:
    with running_api(reader_login) as client:
        yield client


def test_missing_and_absent_trades_are_in_every_answer(api: httpx.Client) -> None:
    """In the list of gaps, in the calendar, and in the proof of each answer whose time they are in."""
    gaps = api.get("/v1/gaps").json()
    assert [
        (gap["first_missing_seq"], gap["last_missing_seq"], gap["known_absent"]) for gap in gaps["items"]
    ] == [
        (40, 42, False),
        (70, 71, True),
    ]
    assert gaps["items"][0]["after_at"] < gaps["items"][0]["before_at"]
    assert gaps["coverage"] == {
        "proven": False,
        "missing": 3,
        "absent": 2,
        "as_of": "2199-01-01T00:00:00.000Z",
    }
    assert len(api.get("/v1/gaps?known_absent=true").json()["items"]) == 1
    states = {
        day["day"]: day["state"]
        for day in api.get("/v1/coverage?since=2024-12-31&until=2025-01-07").json()["items"][0]["days"]
    }
    assert states == {
        "2024-12-31": "proven", "2025-01-01": "proven", "2025-01-02": "missing", "2025-01-03": "absent",
        "2025-01-04": "proven", "2025-01-05": "proven", "2025-01-06": "proven",
    }  # fmt: skip
    trades = f"/v1/instruments/{NAME}/trades"
    assert api.get(trades).json()["coverage"]["missing"] == 3
    assert api.get(f"{trades}?since=2025-01-04").json()["coverage"] == {
        "proven": True, "missing": 0, "absent": 0, "as_of": "2199-01-01T00:00:00.000Z",
    }  # fmt: skip
    candles = api.get(f"/v1/instruments/{NAME}/candles?since=2025-01-02&until=2025-01-03&level=1h")
    assert candles.json()["coverage"]["missing"] == 3
    assert api.get("/v1/backfill/status").json()["status"] == "error"


def test_late_trades_shift_no_page(api: httpx.Client, database: Project) -> None:
    """Of trades that arrive between two pages, only those after the cursor are in the rest; no row is repeated or lost."""
    from extract.clickhouse.refresh import refresh

    path = f"/v1/instruments/{NAME}/trades"
    first = api.get(path, params={"limit": 50}).json()
    raw_tables.load(
        database.client,
        "1764000002.5",
        [trade(NAME, 41, START_MS + 41 * DAY_MS // 33), *numbered(range(101, 121))],
    )
    refresh(database.database)
    wait_until(lambda: len(api.get(path, params={"limit": 200}).json()["items"]) == 95 + 21)
    second = api.get(path, params={"limit": 500, "cursor": first["next_cursor"]}).json()
    seqs = [item["trade_seq"] for item in (*first["items"], *second["items"])]
    assert seqs == [number for number in range(1, 121) if number not in HOLES]
    assert second["next_cursor"] is None


def test_new_load_is_visible_within_seconds(api: httpx.Client, database: Project) -> None:
    """Although answers are cached: the next answer after two seconds is never older than them."""
    from extract.clickhouse.refresh import refresh

    path = f"/v1/instruments/{NAME}/price"
    before = api.get(path).json()
    raw_tables.load(database.client, "1764000003.5", [trade(NAME, 500, START_MS + 30 * DAY_MS, price=77.0)])
    refresh(database.database)
    time.sleep(2.1)
    after = api.get(path).json()
    assert before["trade_seq"] < 500
    assert (after["trade_seq"], after["price"]) == (500, "77")


@pytest.mark.slow
def test_server_that_stops_is_unavailable_until_it_is_back(
    database: Project, reader_login: ClickHouseSettings, proxy: Proxy
) -> None:
    """503 in the same shape, for every route, and no restart of the API is needed."""
    with running_api(replace(reader_login, port=proxy.port)) as api:
        paths = (
            "/health",
            f"/v1/instruments/{NAME}/trades",
            "/v1/backfill/status",
            f"/v1/instruments/{NAME}/price",
        )
        assert [api.get(path).status_code for path in paths] == [200] * 4
        proxy.target_port = free_port()
        proxy.disconnect()
        time.sleep(1.1)
        for path in paths:
            answer = api.get(path)
            assert (answer.status_code, answer.json()["code"]) == (503, "unavailable"), path
            assert answer.headers["Retry-After"]
            assert str(proxy.port) not in answer.text
        proxy.target_port = reader_login.port
        assert [api.get(path).status_code for path in paths] == [200] * 4


@pytest.mark.slow
def test_heavy_questions_are_cut_off_and_the_server_stays_well(
    api: httpx.Client, database: Project, reader_login: ClickHouseSettings
) -> None:
    """Twenty at once, all trades many times over, sorted by price: each ends with a sentence, and others are answered."""
    heavy = (
        "select * from deribit.trades as trades cross join numbers(20000000) as copies order by price, number "
        "settings max_execution_time = 4, max_memory_usage = 200000000, max_bytes_before_external_sort = 0, "
        "max_bytes_ratio_before_external_sort = 0"
    )

    def ask(_: int) -> str:
        reader = open_database(reader_login)
        try:
            reader.formatted(heavy, "Null")
        except TapeError as error:
            return str(error)
        finally:
            reader.close()
        return "answered"

    with ThreadPoolExecutor(20) as pool:
        answers = pool.map(ask, range(20))
        time.sleep(1)
        during = [
            api.get(f"/v1/instruments/{NAME}/trades?limit={limit}").status_code for limit in range(3, 8)
        ]
        sentences = list(answers)
    assert all(
        any(
            reason in sentence
            for reason in ("MEMORY_LIMIT_EXCEEDED", "TIMEOUT_EXCEEDED", "TOO_MANY_SIMULTANEOUS")
        )
        for sentence in sentences
    ), sentences
    assert set(during) <= {200, 422, 503}
    assert api.get("/health").status_code == 200
    [stored] = database.rows(f"SELECT count() AS trades FROM deribit.trades WHERE instrument_name = '{NAME}'")
    items = api.get(f"/v1/instruments/{NAME}/trades?limit=10000").json()["items"]
    assert len(items) == stored["trades"] > 0
