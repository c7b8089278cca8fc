"""A run without new trades sends few requests."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from clickhouse_connect.driver.client import Client

from extract.pipeline.run import run
from extract.sandbox.server import SandboxExchange
from extract.sandbox.tape import Tape
from extract.source.options import EXPIRED_VALID_MS, RunOptions
from tests.support.histories import BEGIN_MS, trade


def test_idle_run_of_all_streams_sends_at_most_ten_requests(
    listed: Callable[[Tape], SandboxExchange], clickhouse_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time, the currencies, the live instruments, and one page for each of six currencies.

    To ClickHouse as many, besides those that open a connection.
    """
    exchange = listed(Tape.generate(seed=9, trades=300, days=2))
    monkeypatch.setenv("SOURCES__DERIBIT__PAGE_SIZE", "1000")
    run(RunOptions())
    exchange.requests.clear()
    began = clickhouse_client.command("select toString(now64(6))")
    summary = run(RunOptions())
    assert summary.total == 0
    assert len(exchange.requests) <= 10, [request.path for request in exchange.requests]
    ended = clickhouse_client.command("select toString(now64(6)), 'end of the run'")[0]
    clickhouse_client.command("system flush logs query_log")
    statements = clickhouse_client.query(
        "select left(replaceRegexpAll(query, '\\s+', ' '), 60) from system.query_log where type = 'QueryStart' "
        f"and event_time_microseconds between '{began}' and '{ended}' and query not like '%end of the run%'"
    ).result_rows
    assert 0 < len(statements) <= 10, statements


def test_kind_that_existed_only_between_two_runs_is_loaded_and_looked_for_once_a_day(
    listed: Callable[[Tape], SandboxExchange], clickhouse_client: Client
) -> None:
    """Its instruments are neither live when a run starts, nor were they expired when the run before did."""
    hour_ms = 3_600_000
    futures = [trade("BTC-PERPETUAL", n, n, BEGIN_MS + n * 10 * hour_ms // 100) for n in range(1, 100)]
    options = [trade("BTC-15NOV23-36000-C", n, 500 + n, BEGIN_MS + hour_ms + n) for n in range(1, 4)]
    exchange = listed(Tape.of(futures))
    exchange.now_ms = BEGIN_MS + hour_ms // 2
    run(RunOptions())
    exchange.add(options)
    exchange.now_ms = BEGIN_MS + 30 * hour_ms
    run(RunOptions())
    loaded = clickhouse_client.query("select kind, count() from deribit_raw.trades group by all order by all")
    assert loaded.result_rows == [("future", 99), ("option", 3)]

    def lists() -> int:
        """Requests of a run for expired instruments of all currencies."""
        exchange.requests.clear()
        run(RunOptions())
        wanted = {"currency": "any", "expired": "true"}
        return sum(wanted.items() <= request.params.items() for request in exchange.requests)

    assert lists() == 0
    exchange.now_ms += EXPIRED_VALID_MS - 1
    assert lists() == 0
    exchange.now_ms += 60_000
    assert lists() > 0
    assert lists() == 0, "although nothing was traded"
