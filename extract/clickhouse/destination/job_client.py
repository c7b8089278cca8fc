"""dlt's job client: tables, hints and load jobs as dlt's own, with plain database names and a token on each insert."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from copy import deepcopy
from typing import Any

from dlt.common import logger
from dlt.common.destination import DestinationCapabilitiesContext
from dlt.common.destination.client import PreparedTableSchema, RunnableLoadJob
from dlt.common.schema import Schema, TColumnSchema
from dlt.destinations.exceptions import DatabaseTerminalException
from dlt.destinations.impl.clickhouse.clickhouse import ClickHouseClient, ClickHouseLoadJob
from dlt.destinations.impl.clickhouse.typing import CODEC_HINT, HINT_TO_CLICKHOUSE_ATTR
from dlt.destinations.job_client_impl import ModelLoadJob, SqlJobClientWithStagingDataset

from extract.clickhouse.destination import dedup_tokens
from extract.clickhouse.destination.configuration import TapeClickHouseConfiguration
from extract.clickhouse.destination.sql_client import TapeSqlClient

TYPE_HINT = "x-clickhouse-type"


def column_types(**types: str) -> dict[str, dict[str, str]]:
    """Column hints with ClickHouse's own types, spelt in full as the server prints them, for what dlt cannot say.

    `columns=column_types(kind="LowCardinality(String)", tick_direction="UInt8")`; nullable only if the type says so.
    """
    return {name: {"name": name, TYPE_HINT: type_} for name, type_ in types.items()}


class TapeClickHouseClient(ClickHouseClient):
    def __init__(
        self,
        schema: Schema,
        config: TapeClickHouseConfiguration,
        capabilities: DestinationCapabilitiesContext,
    ) -> None:
        dataset_name, staging_dataset_name = self.create_dataset_names(schema, config)
        self.sql_client = TapeSqlClient(dataset_name, staging_dataset_name, capabilities, config)
        # Not dlt's own __init__, which would make the native SQL client.
        SqlJobClientWithStagingDataset.__init__(self, schema, config, self.sql_client)
        self.config = config
        self.active_hints = deepcopy(HINT_TO_CLICKHOUSE_ATTR)
        self.type_mapper = self.capabilities.get_type_mapper()

    def prepare_load_job_execution(self, job: RunnableLoadJob) -> None:
        """A job that adds rows gets its token; a merge or replace statement does not, see `tokens`."""
        super().prepare_load_job_execution(job)
        adds_rows = isinstance(job, ClickHouseLoadJob | ModelLoadJob)
        self.sql_client.insert_token = (
            dedup_tokens.file_token(job._load_id, job.file_name()) if adds_rows else None
        )

    def complete_load(self, load_id: str) -> None:
        self.sql_client.insert_token = f"{load_id}/{self.schema.loads_table_name}/{self.schema.name}"
        try:
            super().complete_load(load_id)
        finally:
            self.sql_client.insert_token = None

    def _update_schema_in_storage(self, schema: Schema) -> None:
        # dlt looks for the hash before it writes, and may write it again after a drop: the token is for this once.
        self.sql_client.insert_token = (
            f"{schema.version_table_name}/{schema.stored_version_hash}/{time.time_ns()}"
        )
        try:
            super()._update_schema_in_storage(schema)
        finally:
            self.sql_client.insert_token = None

    def update_stored_schema(
        self, only_tables: Iterable[str] | None = None, expected_update: Any = None, force: bool = False
    ) -> Any:
        only_tables = None if only_tables is None else list(only_tables)
        update = super().update_stored_schema(only_tables, expected_update, force)
        self._remember_tokens()
        return update

    def _remember_tokens(self) -> None:
        """Let each table remember tokens long enough. By its real engine: a cloud turns MergeTree into SharedMergeTree."""
        tables = self.sql_client.execute_sql(
            "SELECT name, engine, engine_full FROM system.tables WHERE database = currentDatabase()"
        )
        for name, engine, definition in tables or ():
            window = dedup_tokens.window_setting(engine)
            if name not in self.schema.tables or window is None or window[0] in definition:
                continue
            table = self.sql_client.make_qualified_table_name(name)
            try:
                self.sql_client.execute_sql(f"ALTER TABLE {table} MODIFY SETTING {window[0]} = {window[1]}")
            except DatabaseTerminalException as error:
                if not engine.startswith(("Replicated", "Shared")):
                    raise
                # These remember tokens by default, if not for as long.
                logger.warning(f"{table} keeps its default deduplication window: {error}")

    def _verify_database_supports_exchange(self) -> None:
        # A database that is still to be created gets the server's own engine, which can.
        if self.sql_client.has_dataset():
            super()._verify_database_supports_exchange()

    def _get_column_def_sql(self, c: TColumnSchema, table: PreparedTableSchema | None = None) -> str:
        column_type = c.get(TYPE_HINT)
        if not column_type:
            return super()._get_column_def_sql(c, table)
        codec = f" CODEC({c[CODEC_HINT]})" if c.get(CODEC_HINT) else ""
        return f"{self.sql_client.escape_column_name(c['name'])} {column_type}{codec}"

    def _get_table_update_sql(
        self, table_name: str, new_columns: Sequence[TColumnSchema], generate_alter: bool
    ) -> list[str]:
        sql = super()._get_table_update_sql(table_name, new_columns, generate_alter)
        if not generate_alter and "\nORDER BY " in sql[0]:
            # An empty primary key beside a sort key would leave the table without an index.
            sql[0] = sql[0].replace("\nPRIMARY KEY tuple()", "", 1)
        return sql
