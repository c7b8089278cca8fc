"""The embedded server answers as a ClickHouse server does."""

from __future__ import annotations

import clickhouse_connect

from extract.clickhouse.embedded.config import memory_limit_bytes


def _client(settings):
    return clickhouse_connect.get_client(
        host=settings.host, port=settings.port, username=settings.user, password=settings.password
    )


def test_answers_over_http_with_the_pinned_engine(clickhouse_client):
    """The pinned wheel has the listeners, which are not part of its public API."""
    assert clickhouse_client.command("SELECT 1") == 1
    assert clickhouse_client.command("SELECT version()").startswith("26.9.")
    assert clickhouse_client.command("SELECT currentUser()") == "tape"


def test_many_sessions_at_once(clickhouse):
    """The session limit that locks out `default` does not apply to other users."""
    clients = [_client(clickhouse) for _ in range(5)]
    for client in clients:
        client.command("CREATE TEMPORARY TABLE mine (a Int8)")
    for client in clients:
        assert client.command("SELECT count() FROM mine") == 0
        client.close()


def test_what_dbt_dlt_and_an_analyst_do_is_allowed(query):
    """Each statement once, in a separate database."""
    statements = (
        "DROP DATABASE IF EXISTS open SYNC",
        "CREATE DATABASE open",
        "CREATE TABLE open.t (a Int64, b String) ENGINE = MergeTree ORDER BY a "
        "SETTINGS non_replicated_deduplication_window = 100",
        "CREATE TABLE open.r (a Int64, v UInt64) ENGINE = ReplacingMergeTree(v) ORDER BY a",
        "INSERT INTO open.t VALUES (1, 'x'), (2, 'y')",
        "CREATE VIEW open.v AS SELECT * FROM open.t",
        "CREATE MATERIALIZED VIEW open.mv TO open.r AS SELECT a, toUInt64(a) AS v FROM open.t",
        "CREATE MATERIALIZED VIEW open.every REFRESH EVERY 1 HOUR (a Int64) ENGINE = MergeTree ORDER BY a "
        "AS SELECT a FROM open.t",
        "CREATE TABLE open.t2 ENGINE = MergeTree ORDER BY a AS SELECT * FROM open.t",
        "EXCHANGE TABLES open.t AND open.t2",
        "RENAME TABLE open.t2 TO open.t3",
        "ALTER TABLE open.t ADD COLUMN c Int8, ADD INDEX i b TYPE minmax",
        "ALTER TABLE open.t UPDATE b = 'z' WHERE a = 2",
        "ALTER TABLE open.t DELETE WHERE a = 1",
        "DELETE FROM open.t WHERE a = 2",
        "ALTER TABLE open.t ADD PROJECTION p (SELECT a ORDER BY b)",
        "ALTER TABLE open.t DROP PARTITION tuple()",
        "OPTIMIZE TABLE open.t FINAL",
        "TRUNCATE TABLE open.t",
        "CREATE TEMPORARY TABLE tmp (a Int8)",
        "SYSTEM FLUSH LOGS",
        "SYSTEM STOP MERGES open.t",
        "SYSTEM START MERGES open.t",
        "SYSTEM STOP VIEW open.every",
        "DROP TABLE open.t3 SYNC",
        "DROP VIEW open.v",
        "DROP DATABASE open SYNC",
    )
    assert {statement: query(statement) for statement in statements} == dict.fromkeys(statements, "")


def test_queries_are_logged_and_times_are_utc(query):
    """query_log records queries with their user; times are UTC whatever the machine's zone; memory is bounded."""
    query("SELECT 'find me'")
    query("SYSTEM FLUSH LOGS")
    logged = "SELECT DISTINCT user FROM system.query_log WHERE query LIKE 'SELECT \\'find%'"
    assert query(logged) == "tape"
    assert "TTL event_date + toIntervalDay(14)" in query("SHOW CREATE TABLE system.query_log")
    assert query("SELECT toString(toDateTime(0))") == "1970-01-01 00:00:00"
    limit = "SELECT toUInt64(value) FROM system.server_settings WHERE name = 'max_server_memory_usage'"
    assert 0 < int(query(limit)) <= memory_limit_bytes()
