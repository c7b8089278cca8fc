"""Views of the dbt project: created only where they change, described in the database, the same for every reader."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from extract.clickhouse.client import PINNED_SETTINGS
from extract.clickhouse.refresh import refresh
from extract.paths import ROOT
from harness import raw_tables
from harness.dbt_project import Project
from tests.dbt.test_model_truth import NOON_MS, trade

READER_SETTINGS: dict[str, Any] = {
    "join_use_nulls": 1,
    "join_default_strictness": "ANY",
    "join_algorithm": "partial_merge",
    "any_join_distinct_right_table_keys": 1,
    "aggregate_functions_null_for_empty": 1,
    "empty_result_for_aggregation_by_empty_set": 1,
    "group_by_use_nulls": 1,
    "transform_null_in": 1,
    "data_type_default_nullable": 1,
    "cast_keep_nullable": 1,
    "prefer_column_name_to_alias": 1,
    "enable_extended_results_for_datetime_functions": 1,
    "use_variant_as_common_type": 1,
    "use_skip_indexes_if_final_exact_mode": 0,
    "date_time_overflow_behavior": "throw",
    "short_circuit_function_evaluation": "disable",
    "final": 1,
    "session_timezone": "Asia/Tokyo",
    "compatibility": "23.3",
    "union_default_mode": "DISTINCT",
    "least_greatest_legacy_null_behavior": 1,
    "single_join_prefer_left_table": 0,
    "count_distinct_implementation": "uniq",
    "enable_positional_arguments": 0,
}
"""Settings that a reader's profile may have, each of which changes the result of some query."""


@pytest.fixture(scope="module")
def built(dbt: Project) -> Project:
    """Two traded instruments and one that is listed only, so that joins find no row on either side."""
    dbt.empty()
    listed = {"instrument_name": "BTC-28JUN24", "kind": "future", "_dlt_load_id": "1764000001.5"}
    raw_tables.insert_rows(dbt.client, "instruments", [listed])
    trades = [trade(seq=seq, at_ms=NOON_MS + seq) for seq in (1, 2, 5)]
    old = trade("BTC-31JAN25-90000-C", 2, NOON_MS - 40 * 3_600_000, price=0.05, iv=50.0)
    raw_tables.load(dbt.client, "1764000001.5", [*trades, old])
    refresh(dbt.database)
    return dbt


def view_ids(dbt: Project) -> dict[str, str]:
    rows = dbt.rows(
        "SELECT name, toString(uuid) AS id FROM system.tables WHERE database = 'deribit' AND engine = 'View'"
    )
    return {row["name"]: row["id"] for row in rows}


@pytest.mark.slow
def test_unchanged_views_are_not_created_again(built: Project) -> None:
    """A view that was altered by hand, or whose description differs, is created from the project."""
    before = view_ids(built)
    built.client.command("CREATE OR REPLACE VIEW deribit.trade_gaps AS SELECT 1 AS n")
    built.client.command("ALTER TABLE deribit.covered_spans MODIFY COMMENT 'another'")
    built.run("--select", "config.materialized:view")
    after = view_ids(built)
    assert {name for name in after if before[name] != after[name]} == {"trade_gaps", "covered_spans"}
    built.must("test", "--select", "test_name:matches_declared_schema")


@pytest.mark.slow
def test_every_table_and_column_has_a_comment(built: Project) -> None:
    """The descriptions in the yml files are the comments in the database, for users of /play and BI tools.

    The views that only a refresh reads have none.
    """
    is_seen = "database = 'deribit' AND ({0} = 'refresh_log' OR {0} NOT LIKE 'refresh_%')"
    tables = built.rows(f"SELECT name, comment FROM system.tables WHERE {is_seen.format('name')}")
    columns = built.rows(f"SELECT table, name, comment FROM system.columns WHERE {is_seen.format('table')}")
    assert len(tables) > 25
    assert [row for row in [*tables, *columns] if not row["comment"]] == []
    by_name = {(row["table"], row["name"]): row["comment"] for row in columns}
    assert by_name["trades", "direction"] == "Side of the taker: buy or sell."


@pytest.mark.slow
def test_views_return_the_same_rows_to_every_reader(built: Project) -> None:
    """Whatever settings the reader's profile has: all of them, and those that BI tools set."""
    views = sorted(name for name in view_ids(built) if not name.startswith("stg_"))
    wanted = {view: read(built, view, {}) for view in views}
    assert wanted["instruments"][1] == 3
    for setting in ("join_use_nulls", "aggregate_functions_null_for_empty", None):
        profile = {setting: READER_SETTINGS[setting]} if setting else READER_SETTINGS
        assert {view: read(built, view, profile) for view in views} == wanted


def read(dbt: Project, view: str, settings: dict[str, Any]) -> tuple[list[str], int] | str:
    try:
        rows = dbt.client.query(f"SELECT * FROM deribit.{view}", settings=settings).result_rows
    except Exception as error:
        return str(error)
    return sorted(map(repr, rows)), len(rows)


def test_every_client_pins_the_settings_that_change_results() -> None:
    """dbt's profile pins those of `tape` and dlt in both targets; views pin no other ones."""
    outputs = yaml.safe_load((ROOT / "profiles" / "profiles.yml").read_text())["deribit_tape"]["outputs"]
    for target in ("local", "cloud", "dev", "ci"):
        pinned = outputs[target]["custom_settings"]
        assert {name: pinned.get(name) for name in PINNED_SETTINGS} == PINNED_SETTINGS
        assert pinned["select_sequential_consistency"] == 1
    models = yaml.safe_load((ROOT / "dbt_project" / "dbt_project.yml").read_text())["models"]["deribit_tape"]
    for folder in ("staging", "marts", "ops"):
        view_settings = models[folder]["+query_settings"]
        # One is for speed only, see `test_versions_of_a_row_are_in_one_partition`.
        speed = {"do_not_merge_across_partitions_select_final": 1}
        assert speed.items() <= view_settings.items() <= (PINNED_SETTINGS | speed).items()
        assert view_settings["use_skip_indexes_if_final_exact_mode"] == 1


def test_versions_of_a_row_are_in_one_partition(built: Project) -> None:
    """So `FINAL` need not merge partitions: the sort key has the month by which a table is partitioned, or its time."""
    tables = built.rows(
        "select name, partition_key, sorting_key from system.tables "
        "where database = 'deribit' and engine like '%ReplacingMergeTree' and partition_key != ''"
    )
    assert len(tables) >= 4
    for table in tables:
        by_month = re.fullmatch(r"\(?toYYYYMM\((\w+)\)\)?", table["partition_key"])
        assert by_month is not None, table
        assert by_month[1] in re.findall(r"\w+", table["sorting_key"]), table
