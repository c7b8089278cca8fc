"""A run loads the series besides trades after the trades, and an idle run requests none of them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from clickhouse_connect.driver.client import Client

from extract.cli.run_summary import notes
from extract.pipeline.run import run
from extract.pipeline.stop import StopSignal
from extract.pipeline.summary import StreamsSetAsideError
from extract.sandbox.faults import Faults
from extract.sandbox.server import SandboxExchange
from extract.sandbox.tape import Tape
from extract.source.options import RunOptions
from extract.source.tables import RAW_TABLES, SERIES_TABLES
from tests.support.small_windows import packages_in

Listed = Callable[[Tape], SandboxExchange]
HOUR = 3_600_000


@pytest.fixture(autouse=True)
def with_series(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "SOURCES__DERIBIT__SERIES", "funding_rates, delivery_prices, settlements, volatility_index"
    )


def rows_in(client: Client, name: str) -> int:
    return int(client.command(f"select count() from deribit_raw.{name}"))


def methods(exchange: SandboxExchange) -> set[str]:
    return {request.path.rpartition("/")[2] for request in exchange.requests}


@pytest.mark.slow
def test_run_loads_series_and_an_idle_run_requests_none(listed: Listed, clickhouse_client: Client) -> None:
    """Tables are as the registry defines them; the next hour adds one funding rate; a failing series is set aside."""
    exchange = listed(Tape.generate(seed=5, trades=300, days=3))
    summary = run(RunOptions(currencies=("BTC",)))
    assert rows_in(clickhouse_client, "funding_rates") == len(
        exchange.series("funding_rates", "BTC-PERPETUAL")
    )
    assert rows_in(clickhouse_client, "delivery_prices") == len(exchange.series("delivery_prices", "btc_usd"))
    assert rows_in(clickhouse_client, "settlements") == len(exchange.series("settlements", "BTC"))
    assert summary.series["settlements"] == rows_in(clickhouse_client, "settlements")
    assert any("New rows of series" in note for note in notes(summary))
    for name in (*SERIES_TABLES, "series_coverage"):
        if name != "book_summaries":
            described = clickhouse_client.query(f"describe deribit_raw.{name}").result_rows
            assert {row[0]: row[1] for row in described} == dict(RAW_TABLES[name].columns)

    packages = packages_in(clickhouse_client)
    exchange.requests.clear()
    assert not run(RunOptions(currencies=("BTC",))).series
    assert not methods(exchange) & {
        "get_funding_rate_history",
        "get_delivery_prices",
        "get_volatility_index_data",
    }
    assert packages_in(clickhouse_client) == packages

    exchange.now_ms += HOUR
    exchange.faults = Faults.parse("traps=stuck")
    assert run(RunOptions(currencies=("BTC",), kinds=("future",))).series["funding_rates"] == 1
    with pytest.raises(StreamsSetAsideError, match="volatility_index of BTC 3600 was set aside"):
        run(RunOptions(currencies=("BTC",)))


def test_stopped_run_loads_no_series(listed: Listed, clickhouse_client: Client) -> None:
    listed(Tape.generate(seed=5, trades=50, days=1))
    stop = StopSignal()
    stop.request("by the test")
    summary = run(RunOptions(currencies=("BTC",)), stop=stop)
    assert not summary.series
    assert not summary.is_complete
