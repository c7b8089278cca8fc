"""A table that differs from its yml fails a test that reports the difference.

It names the model, the property, and its declared and actual values.
"""

from __future__ import annotations

import re

import pytest

from harness.dbt_project import Project, failures

pytestmark = pytest.mark.slow

NONE = "none"
COMMENT = r" COMMENT '(?:[^'\\]|\\.)*'"
CANDLE_KEY = "ORDER BY (instrument_name, bucket_at)"
# table → the drift planted in its DDL (text, replaced by) → the reported difference (property, declared, actual)
DRIFTS: dict[str, list[tuple[str, str, list[tuple[str, str, str]]]]] = {
    "ohlcv_1m_versions": [
        ("`iv_close` Nullable(Float64) CODEC(ZSTD(3)),", "", [("column iv_close", "19", NONE)]),
        (
            "ReplacingMergeTree(version)",
            "ReplacingMergeTree(trade_count)",
            [("version column", "version", "trade_count")],
        ),
        (
            CANDLE_KEY,
            f"{CANDLE_KEY} TTL bucket_at + toIntervalYear(9)",
            [("TTL", NONE, "bucket_at + toIntervalYear(9)")],
        ),
    ],
    "ohlcv_1h_versions": [
        ("`iv_low`", "`iv_least`", [("column iv_low", "18", NONE), ("column iv_least", NONE, "18")]),
        ("`open` Float64", "`open` Float32", [("type of open", "Float64", "Float32")]),
        ("`low` Nullable(Float64)", "`low` Float64", [("type of low", "Nullable(Float64)", "Float64")]),
        (
            "`close` Nullable(Float64) CODEC(ZSTD(3))",
            "`close` Nullable(Float64) CODEC(LZ4)",
            [("codec of close", "ZSTD(3)", "LZ4")],
        ),
        (
            "(toYYYYMM(bucket_at))",
            "toYear(bucket_at)",
            [("partition key", "toYYYYMM(bucket_at)", "toYear(bucket_at)")],
        ),
    ],
    "trade_versions": [
        (
            "`kind` LowCardinality(String)",
            "`kind` String",
            [("type of kind", "LowCardinality(String)", "String")],
        ),
        ("TYPE minmax", "TYPE set(9)", [("index by_time", "minmax", "set(9)")]),
    ],
    "instrument_ends": [
        (
            "ReplacingMergeTree(version)",
            "MergeTree",
            [("engine", "ReplacingMergeTree", "MergeTree"), ("version column", "version", NONE)],
        ),
        ("ORDER BY (instrument_name)", "ORDER BY (last_at)", [("sort key", "instrument_name", "last_at")]),
    ],
    "verified_months": [
        ("\n)\nENGINE", ",\n `more` UInt8\n)\nENGINE", [("column more", NONE, "7")]),
    ],
}


def plant(dbt: Project, table: str) -> None:
    """Rebuild `table`, empty, with its drift."""
    ddl = re.sub(COMMENT, "", dbt.client.command(f"SHOW CREATE TABLE deribit.{table} FORMAT TSVRaw"))
    for old, new, _ in DRIFTS[table]:
        assert old in ddl
        ddl = ddl.replace(old, new)
    dbt.client.command(f"DROP TABLE deribit.{table} SYNC")
    dbt.client.command(ddl)


@pytest.fixture(scope="module")
def drifted(dbt: Project) -> tuple[dict[str, str], list[str]]:
    """Failed tests and log lines with every drift applied."""
    dbt.empty()
    for table in DRIFTS:
        plant(dbt, table)
    dbt.logged.clear()
    return failures(dbt.invoke("test", "--select", "test_name:matches_declared_schema")), dbt.logged[:]


@pytest.mark.parametrize("table", DRIFTS)
def test_each_kind_of_drift_is_reported(drifted: tuple[dict[str, str], list[str]], table: str) -> None:
    """Columns, types, Nullable, LowCardinality; codec, engine, version column, keys, TTL, index."""
    failed, log_lines = drifted
    assert f"matches_declared_schema_{table}_" in failed
    about_table = [line.removeprefix(f"{table}: ") for line in log_lines if line.startswith(f"{table}: ")]
    for _, _, differences in DRIFTS[table]:
        for name, declared, actual in differences:
            lines = [line for line in about_table if line.startswith(f"{name}: ")]
            assert len(lines) == 1, about_table
            assert declared in lines[0].split(", actual ")[0]
            assert actual in lines[0].split(", actual ")[1]


def test_unchanged_tables_pass(drifted: tuple[dict[str, str], list[str]]) -> None:
    """Only tables with applied drift fail."""
    assert set(drifted[0]) == {f"matches_declared_schema_{table}_" for table in DRIFTS}
