"""Job client of dlt with a deduplication token on each insert and column hints for ClickHouse types."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from typing import Any

from dlt.common import logger
from dlt.common.destination import DestinationCapabilitiesContext
from dlt.common.destination.client import RunnableLoadJob
from dlt.common.schema import Schema, TColumnSchema
from dlt.destinations.exceptions import DatabaseTerminalException
from dlt.destinations.impl.clickhouse.clickhouse import ClickHouseClient, ClickHouseLoadJob
from dlt.destinations.impl.clickhouse.typing import CODEC_HINT, HINT_TO_CLICKHOUSE_ATTR
from dlt.destinations.job_client_impl import SqlJobClientWithStagingDataset

from extract.clickhouse.create import wait_for_replicas
from extract.clickhouse.destination import dedup_tokens
from extract.clickhouse.destination.configuration import TapeClickHouseConfiguration
from extract.clickhouse.destination.hints import TYPE_HINT
from extract.clickhouse.destination.sql_client import TapeSqlClient


class TapeClickHouseClient(ClickHouseClient):
    sql_client: TapeSqlClient  # type: ignore[assignment]  # over HTTP, where dlt's own uses the native protocol

    def __init__(
        self,
        schema: Schema,
        config: TapeClickHouseConfiguration,
        capabilities: DestinationCapabilitiesContext,
    ) -> None:
        dataset_name, staging_dataset_name = self.create_dataset_names(schema, config)
        self.sql_client = TapeSqlClient(dataset_name, staging_dataset_name, capabilities, config)
        # Not ClickHouseClient.__init__, which creates the native SQL client.
        SqlJobClientWithStagingDataset.__init__(self, schema, config, self.sql_client)
        self.config = config
        self.active_hints = deepcopy(HINT_TO_CLICKHOUSE_ATTR)
        self.type_mapper = self.capabilities.get_type_mapper()
        self.before_complete: Callable[[str], None] = lambda load_id: None

    def prepare_load_job_execution(self, job: RunnableLoadJob) -> None:
        """Set the token for the job's inserts. Jobs that are not files have none, see `dedup_tokens`."""
        super().prepare_load_job_execution(job)
        is_file = isinstance(job, ClickHouseLoadJob)
        self.sql_client.insert_token = (
            dedup_tokens.file_token(job._load_id, job.file_name()) if is_file else None
        )

    def complete_load(self, load_id: str) -> None:
        self.before_complete(load_id)
        self.sql_client.insert_token = f"{load_id}/{self.schema.loads_table_name}/{self.schema.name}"
        try:
            super().complete_load(load_id)
        finally:
            self.sql_client.insert_token = None

    def _update_schema_in_storage(self, schema: Schema) -> None:
        # The tables of this schema may be new, and one of them is written now.
        wait_for_replicas()
        # dlt may write the same hash again after a drop, so the token is only for the retries of this call.
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
        update = super().update_stored_schema(only_tables, expected_update, force)  # type: ignore[arg-type]  # None is dlt's default
        self._set_table_settings()
        return update

    def _set_table_settings(self) -> None:
        """Set what each table lacks, by its actual engine: Cloud replaces MergeTree by SharedMergeTree."""
        tables = self.sql_client.execute_sql(
            "SELECT name, engine, engine_full FROM system.tables WHERE database = currentDatabase()"
        )
        for name, engine, definition in tables or ():
            wanted = dedup_tokens.table_settings(engine)
            lacking = ", ".join(f"{key} = {value}" for key, value in wanted.items() if key not in definition)
            if name not in self.schema.tables or not lacking:
                continue
            table = self.sql_client.make_qualified_table_name(name)
            try:
                self.sql_client.execute_sql(f"ALTER TABLE {table} MODIFY SETTING {lacking}")
            except DatabaseTerminalException as error:
                if not engine.startswith(("Replicated", "Shared")):
                    raise
                # By default these store tokens for a shorter time.
                logger.warning(f"{table} has its default deduplication window: {error}")

    def _get_column_def_sql(self, c: TColumnSchema, table: Any = None) -> str:
        hints: Mapping[str, Any] = c
        if not hints.get(TYPE_HINT):
            return super()._get_column_def_sql(c, table)
        codec = f" CODEC({hints[CODEC_HINT]})" if hints.get(CODEC_HINT) else ""
        return f"{self.sql_client.escape_column_name(hints['name'])} {hints[TYPE_HINT]}{codec}"

    def _get_table_update_sql(
        self, table_name: str, new_columns: Sequence[TColumnSchema], generate_alter: bool
    ) -> list[str]:
        sql = super()._get_table_update_sql(table_name, new_columns, generate_alter)
        if not generate_alter and "\nORDER BY " in sql[0]:
            # With a sort key, an empty primary key would leave the table without an index.
            sql[0] = sql[0].replace("\nPRIMARY KEY tuple()", "", 1)
        return sql
