"""The embedded server answers as a ClickHouse server does."""

from __future__ import annotations


def test_answers_over_http_with_the_pinned_engine(clickhouse_client):
    """The pinned wheel still has the listeners, which are no public API of it."""
    assert clickhouse_client.command("SELECT 1") == 1
    assert clickhouse_client.command("SELECT version()").startswith("26.9.")
    assert clickhouse_client.command("SELECT currentUser()") == "tape"
