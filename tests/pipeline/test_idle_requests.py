"""A run without new trades sends few requests."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from clickhouse_connect.driver.client import Client

from extract.pipeline.run import run
from extract.sandbox.server import SandboxExchange
from extract.sandbox.tape import Tape
from extract.source.options import RunOptions


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
