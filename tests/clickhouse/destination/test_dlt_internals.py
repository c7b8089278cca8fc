"""Private parts of dlt that `extract/clickhouse/destination/` uses: a test for each fails when dlt changes it."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable
from importlib import import_module
from typing import Any

import pytest
from dlt.common.versioned_state import compress_state
from dlt.destinations.impl.clickhouse.clickhouse import ClickHouseClient, ClickHouseLoadJob
from dlt.destinations.impl.clickhouse.configuration import ClickHouseClientConfiguration
from dlt.destinations.impl.clickhouse.factory import ClickHouseTypeMapper, clickhouse
from dlt.destinations.impl.clickhouse.sql_client import ClickHouseSqlClient
from dlt.destinations.job_client_impl import SqlJobClientWithStagingDataset
from dlt.destinations.sql_client import DBApiCursorImpl, SqlClientBase, raise_database_error
from dlt.destinations.utils import _convert_to_old_pyformat

from extract.clickhouse.destination import tape_clickhouse
from extract.clickhouse.destination.stored import decode_state
from extract.paths import ROOT

SIGNATURES: dict[str, tuple[Callable[..., Any], list[str]]] = {
    "SQL client base": (
        SqlClientBase.__init__,
        ["self", "database_name", "dataset_name", "staging_dataset_name", "capabilities"],
    ),
    "job client base": (
        SqlJobClientWithStagingDataset.__init__,
        ["self", "schema", "config", "sql_client"],
    ),
    "end of a load": (ClickHouseClient.complete_load, ["self", "load_id"]),
    "stored schema": (ClickHouseClient._update_schema_in_storage, ["self", "schema"]),
    "schema update": (
        ClickHouseClient.update_stored_schema,
        ["self", "only_tables", "expected_update", "force"],
    ),
    "column definition": (ClickHouseClient._get_column_def_sql, ["self", "c", "table"]),
    "table definition": (
        ClickHouseClient._get_table_update_sql,
        ["self", "table_name", "new_columns", "generate_alter"],
    ),
    "job preparation": (ClickHouseClient.prepare_load_job_execution, ["self", "job"]),
    "dataset names": (ClickHouseClient.create_dataset_names, ["schema", "config"]),
    "dataset name": (ClickHouseClientConfiguration._make_dataset_name, ["self", "schema_name"]),
    "bound dataset name": (
        ClickHouseClientConfiguration._bind_dataset_name,
        ["self", "dataset_name", "default_schema_name"],
    ),
    "capabilities": (clickhouse._raw_capabilities, ["self"]),
    "adjusted capabilities": (clickhouse.capabilities, ["self", "config", "naming"]),
    "type mapper": (
        ClickHouseTypeMapper.from_destination_type,
        ["self", "db_type", "precision", "scale"],
    ),
    "positional parameters": (
        _convert_to_old_pyformat,
        ["new_style_string", "args", "operational_error_cls"],
    ),
    "escaped per cent": (ClickHouseSqlClient.escape_pct, ["expr"]),
    "quoted parameters": (ClickHouseSqlClient._sanitise_dbargs, ["db_args"]),
    "connection": (SqlClientBase._ensure_native_conn, ["self"]),
    "cursor": (DBApiCursorImpl.__init__, ["self", "curr"]),
    "errors": (raise_database_error, ["f"]),
}


@pytest.mark.parametrize("what", SIGNATURES)
def test_signature_is_unchanged(what: str) -> None:
    function, parameters = SIGNATURES[what]
    assert list(inspect.signature(function).parameters)[: len(parameters)] == parameters


def test_load_job_has_its_package_and_file() -> None:
    """Both are parts of the deduplication token."""
    source = inspect.getsource(import_module("dlt.common.destination.client"))
    assert "self._load_id" in source
    assert callable(ClickHouseLoadJob.file_name)


def test_table_definition_has_an_empty_primary_key_where_only_a_sort_key_is_given() -> None:
    """The project removes this text from the statement."""
    source = inspect.getsource(import_module("dlt.destinations.impl.clickhouse.clickhouse"))
    assert "PRIMARY KEY" in source
    assert "tuple()" in source


def test_type_names_of_dlt_are_mapped_by_a_table() -> None:
    assert ClickHouseTypeMapper.dbt_to_sct["Float64"] == "double"


def test_stored_state_is_decoded() -> None:
    state: Any = {"_state_version": 7, "sources": {"deribit": {"exchange": "x"}}}
    assert decode_state(compress_state(state)) == state


def test_destination_is_registered_by_its_name() -> None:
    """dlt's commands import it by the name in the pipeline's state."""
    assert tape_clickhouse().destination_type.endswith(".tape_clickhouse")


def test_private_parts_of_dlt_are_used_in_one_folder() -> None:
    """Other modules neither import a private name of dlt nor modules of its destinations and storages."""
    allowed = ("dlt.destinations.adapters",)
    private = (
        "dlt.destinations",
        "dlt.load",
        "dlt.normalize",
        "dlt.common.storages",
        "dlt.common.versioned_state",
    )
    offences = []
    for path in (ROOT / "extract").rglob("*.py"):
        if (ROOT / "extract/clickhouse/destination") in path.parents:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dlt"):
                module = node.module or ""
                is_private = module.startswith(private) and module not in allowed
                if is_private or any(each.name.startswith("_") for each in node.names):
                    offences.append((path.name, module))
    assert offences == []
