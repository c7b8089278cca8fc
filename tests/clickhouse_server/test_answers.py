"""The embedded server answers as a ClickHouse server does."""

from __future__ import annotations

import clickhouse_connect


def _client(settings):
    return clickhouse_connect.get_client(
        host=settings.host, port=settings.port, username=settings.user, password=settings.password
    )


def test_answers_over_http_with_the_pinned_engine(clickhouse_client):
    """The pinned wheel still has the listeners, which are no public API of it."""
    assert clickhouse_client.command("SELECT 1") == 1
    assert clickhouse_client.command("SELECT version()").startswith("26.9.")
    assert clickhouse_client.command("SELECT currentUser()") == "tape"


def test_many_sessions_at_once(clickhouse):
    """The limit that locks `default` out does not touch our user."""
    clients = [_client(clickhouse) for _ in range(5)]
    for client in clients:
        client.command("CREATE TEMPORARY TABLE mine (a Int8)")
    for client in clients:
        assert client.command("SELECT count() FROM mine") == 0
        client.close()
