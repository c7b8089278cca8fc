"""SQL client of dlt for statements, results and file inserts over HTTP(S), on the shared client of the process."""

from __future__ import annotations

import io
import re
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO, ClassVar

import clickhouse_connect.dbapi
import numpy as np
from clickhouse_connect.dbapi.cursor import Cursor
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import Error
from dlt.common.destination import DestinationCapabilitiesContext
from dlt.destinations.exceptions import (
    DatabaseException,
    DatabaseTerminalException,
    DatabaseTransientException,
    DatabaseUndefinedRelation,
)
from dlt.destinations.impl.clickhouse.sql_client import ClickHouseSqlClient
from dlt.destinations.sql_client import DBApiCursorImpl, SqlClientBase, raise_database_error
from dlt.destinations.typing import DBTransaction
from dlt.destinations.utils import _convert_to_old_pyformat
from pyarrow import parquet

from extract.clickhouse.client import Database, shared_client, supported_settings
from extract.clickhouse.create import create_missing
from extract.clickhouse.destination import dedup_tokens
from extract.clickhouse.destination.configuration import TapeClickHouseConfiguration
from extract.clickhouse.errors import UndefinedRelationError, to_tape_error
from extract.clickhouse.partition_limit import divide_by_month, months_of, partition_limit
from extract.errors import RetriableError, TapeError

CHUNK_BYTES = 1 << 20
_LEAD = r"(?:\s|\(|--[^\n]*\n|/\*.*?\*/)*"
_INSERT = re.compile(_LEAD + r"INSERT\b", re.IGNORECASE | re.DOTALL)
_HAS_RESULT = re.compile(
    _LEAD + r"(SELECT|WITH|SHOW|DESCRIBE|DESC|EXPLAIN|EXISTS|VALUES)\b", re.IGNORECASE | re.DOTALL
)


class TapeSqlClient(SqlClientBase[Client], DBTransaction):
    """SQL client of one dataset, which is a database. The next inserts have `insert_token`, see `dedup_tokens`."""

    dbapi: ClassVar[Any] = clickhouse_connect.dbapi

    def __init__(
        self,
        dataset_name: str,
        staging_dataset_name: str,
        capabilities: DestinationCapabilitiesContext,
        config: TapeClickHouseConfiguration,
    ) -> None:
        super().__init__(None, dataset_name, staging_dataset_name, capabilities)  # type: ignore[arg-type]  # as dlt's own
        self.config = config
        self.credentials = config.credentials
        self.settings = config.credentials.settings()
        self.insert_token: str | None = None
        self._client: Client | None = None

    @raise_database_error
    def open_connection(self) -> Client:
        self._client = shared_client(self.settings)
        return self._client

    def close_connection(self) -> None:
        """Release the client; its connections stay open for the next job."""
        self._client = None

    @property
    def native_connection(self) -> Client | None:  # type: ignore[override]  # None while closed, as dlt expects
        return self._client

    @contextmanager
    def begin_transaction(self) -> Iterator[DBTransaction]:
        """Do nothing: ClickHouse commits each statement separately."""
        yield self

    def commit_transaction(self) -> None: ...

    def rollback_transaction(self) -> None: ...

    def has_dataset(self) -> bool:
        with self._cursor(
            "SELECT 1 FROM system.databases WHERE name = %(name)s", {"name": self._database}
        ) as cursor:
            return cursor.fetchone() is not None

    def create_dataset(self) -> None:
        create_missing(Database(self._connected, self.settings), self._database)

    def drop_dataset(self) -> None:
        with self._cursor(f"DROP DATABASE {self.fully_qualified_dataset_name()} SYNC"):
            pass

    def drop_tables(self, *tables: str) -> None:
        # SYNC releases the name at once, so that a new table of that name does not inherit the tokens.
        for table in tables:
            self.execute_sql(f"DROP TABLE IF EXISTS {self.make_qualified_table_name(table)} SYNC")

    def execute_sql(self, sql: Any, *args: Any, **kwargs: Any) -> Sequence[Sequence[Any]] | None:
        with self.execute_query(sql, *args, **kwargs) as cursor:
            return cursor.fetchall() if cursor.description else None

    @contextmanager
    @raise_database_error
    def execute_query(self, query: Any, *args: Any, **kwargs: Any) -> Iterator[DBApiCursorImpl]:
        """Run one statement with positional `%s` or named `%(name)s` parameters."""
        parameters: dict[str, Any] = dict(kwargs)
        if args:
            query, positional = _convert_to_old_pyformat(
                query, args, clickhouse_connect.dbapi.OperationalError
            )
            parameters.update(positional)
        with self._cursor(query, parameters, database=self._database) as cursor:
            yield DBApiCursorImpl(cursor)  # type: ignore[arg-type]  # has the methods that dlt uses

    @raise_database_error
    def insert_file(self, file_path: str, table_name: str, file_format: str, compression: str) -> Any:
        """Stream a file into a table. By its token, the same file inserted twice is in the table once.

        A file with more months than the server allows in one insert is inserted in parts, each with a token.
        """
        months = _months_in(file_path) if file_format.lower() == "parquet" else 0
        limit = partition_limit(self._connected, months)
        if months > limit.most:
            for month, part in divide_by_month(parquet.read_table(file_path), int(limit.most)):
                block = io.BytesIO()
                parquet.write_table(part, block)
                self._insert(table_name, block.getvalue(), file_format, None, f"/{month}", limit.settings)
            return None
        with open(file_path, "rb") as file:
            # The file's own compression; parquet is compressed internally.
            gzip = "gzip" if compression == "gz" else None
            return self._insert(table_name, _chunks(file), file_format, gzip, "", limit.settings)

    def _insert(
        self, table_name: str, block: Any, file_format: str, compression: str | None, part: str, settings: Any
    ) -> Any:
        token = self.insert_token and f"{self.insert_token}{part}"
        return self._connected.raw_insert(
            self.make_qualified_table_name(table_name),
            insert_block=block,
            fmt=file_format,
            compression=compression,
            settings=supported_settings(
                self._connected,
                dedup_tokens.file_settings(token, self.config.insert_block_rows)
                | settings
                | self._consistency,
            ),
        )

    @contextmanager
    @raise_database_error
    def _cursor(
        self, query: str, parameters: dict[str, Any] | None = None, database: str | None = None
    ) -> Iterator[Cursor]:
        settings = dict(self._consistency)
        if _INSERT.match(query):
            settings |= dedup_tokens.statement_settings(self.insert_token)
        if parameters:
            query = ClickHouseSqlClient.escape_pct(query)
            parameters = ClickHouseSqlClient._sanitise_dbargs(parameters)
        settings = supported_settings(self._connected, settings) | (
            {"database": database} if database else {}
        )
        with Cursor(self._connected) as cursor:
            if _HAS_RESULT.match(query):
                cursor.execute(query, parameters, settings, pyformat_encoded=False)
            else:
                self._connected.command(query, parameters, settings=settings)
                cursor.data = []
            yield cursor

    @property
    def _connected(self) -> Client:
        self._ensure_native_conn()
        assert self._client is not None
        return self._client

    @property
    def _database(self) -> str:
        return self.fully_qualified_dataset_name(quote=False)

    @property
    def _consistency(self) -> dict[str, Any]:
        """Settings for reading the latest writes from any replica, and for mutations to finish before returning."""
        settings: dict[str, Any] = {
            "select_sequential_consistency": self.config.select_sequential_consistency,
            "mutations_sync": 1,
        }
        if self.credentials.session_timezone:
            settings["session_timezone"] = self.credentials.session_timezone
        return settings

    def _make_database_exception(self, ex: Exception) -> Exception:  # type: ignore[override]
        if isinstance(ex, DatabaseException) or not isinstance(ex, Error | OSError | TapeError):
            return ex
        failure = to_tape_error(ex, self.settings)
        if isinstance(failure, UndefinedRelationError):
            return DatabaseUndefinedRelation(failure)
        return (
            DatabaseTransientException if isinstance(failure, RetriableError) else DatabaseTerminalException
        )(failure)

    @staticmethod
    def is_dbapi_exception(ex: Exception) -> bool:
        return isinstance(ex, Error)


def _chunks(file: BinaryIO) -> Generator[bytes, None, None]:
    while chunk := file.read(CHUNK_BYTES):
        yield chunk


def _months_in(file_path: str) -> int:
    """How many months the trades of a parquet file have; 0 for files of other tables."""
    file = parquet.ParquetFile(file_path)
    if "timestamp" not in file.schema_arrow.names:
        return 0
    return len(np.unique(months_of(file.read(columns=["timestamp"]))))
