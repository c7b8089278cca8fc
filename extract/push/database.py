"""Database access for a push: its tables and columns, raw blocks in and out, every call retried."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from extract.clickhouse.client import open_database, quote_identifier, supported_settings
from extract.clickhouse.destination import dedup_tokens
from extract.clickhouse.finished import FINISHED_LOADS
from extract.clickhouse.settings import RAW_DATABASE, ClickHouseSettings
from extract.clickhouse.statements import load_statements, render
from extract.errors import OutsideError, RetriableError
from extract.retry import Retrier, RetryPolicy

FORMAT = "Native"
ENCODING = "zstd"
QUERY_ID_PREFIX = "tape-push-"
"""Prefix of the query ids of a push's inserts."""
RETRIES = RetryPolicy(attempts=3, total_s=900.0, first_s=1.0, longest_s=5.0)
EARLIER_INSERT_TIMEOUT_S = 120.0

TRADES = "trades"
STATEMENTS = {
    name: render(sql, {"finished_loads": FINISHED_LOADS}.__getitem__)
    for name, sql in load_statements(__file__, "push.sql").items()
}

T = TypeVar("T")


@dataclass(frozen=True)
class RawTable:
    """A table of deribit_raw; `columns` are (name, type) in local's order. Names in SQL are quoted."""

    name: str
    columns: tuple[tuple[str, str], ...]

    @property
    def identifier(self) -> str:
        return f"{RAW_DATABASE}.{quote_identifier(self.name)}"

    @property
    def column_names(self) -> list[str]:
        return [quote_identifier(name) for name, _ in self.columns]

    @property
    def key(self) -> list[str]:
        """Columns that identify a row of a load package; all of them where the table has no key."""
        return ["instrument_name", "trade_seq"] if self.name == TRADES else self.column_names

    @property
    def reported_columns(self) -> list[str]:
        """Columns by which a differing row is reported: its load package and, of a trade, its key."""
        return ["_dlt_load_id", *(self.key if self.name == TRADES else ())]

    @property
    def key_hash(self) -> str:
        return f"cityHash64(tuple({', '.join(self.key)}))"

    @property
    def content_hash(self) -> str:
        return f"cityHash64(tuple({', '.join(self.column_names)}))"


class PushDatabase:
    """`local` or `cloud`. Every method raises UsageError or OutsideError, the latter after `retrier` has given up."""

    def __init__(self, settings: ClickHouseSettings, retrier: Retrier) -> None:
        self.settings = settings
        self._retrier = retrier
        # Thousands of load ids go in the request's body, because the length of a URL is limited.
        self.connection = open_database(settings, form_encode_query_params=True, autogenerate_query_id=False)
        self.tables: dict[str, RawTable] = {}
        """Tables of deribit_raw as of the last `refresh`."""
        self.refresh()

    def refresh(self) -> None:
        """Read the tables and their columns again."""
        columns: dict[str, list[tuple[str, str]]] = {}
        for table, name, type_ in self.rows(STATEMENTS["columns"]):
            columns.setdefault(table, []).append((name, type_))
        self.tables = {table: RawTable(table, tuple(each)) for table, each in columns.items()}

    def rows(self, sql: str, **parameters: Any) -> list[tuple[Any, ...]]:
        """Run a query on whichever replica answers, after it has caught up, and return its rows."""
        settings = {"select_sequential_consistency": 1}
        return self.retry(lambda: self.connection.rows(sql, parameters, settings))

    def read(self, sql: str, **parameters: Any) -> bytes:
        """Run a query and return its whole result as one compressed block, for `write` to the other database."""
        # The server sends nothing until the result is complete: a partial block would end in the other database.
        settings = {"enable_http_compression": 1, "http_zlib_compression_level": 3, "wait_end_of_query": 1}

        def read() -> bytes:
            with self.connection.translated_errors():
                stream: Any = self.connection.client.raw_stream(
                    sql, parameters, settings, FORMAT, transport_settings={"Accept-Encoding": ENCODING}
                )
                with stream:
                    block: bytes = stream.read(decode_content=False)
                    return block

        return self.retry(read)

    def write(self, table: RawTable, block: bytes, token: str) -> None:
        """Insert a block of one partition atomically; a block with a known `token` is not inserted again."""
        settings = supported_settings(self.connection.client, dedup_tokens.statement_settings(token))

        def write() -> None:
            with self.connection.translated_errors():
                self.connection.client.raw_insert(
                    table.identifier,
                    table.column_names,
                    block,
                    {**settings, "query_id": f"{QUERY_ID_PREFIX}{time.time_ns()}"},
                    FORMAT,
                    ENCODING,
                )

        self.retry(write)

    def insert(self, table: str, row: dict[str, Any], token: str) -> None:
        """Insert one row; a row with a known `token` is not inserted again."""
        settings = dedup_tokens.statement_settings(token)
        self.retry(
            lambda: self.connection.insert(
                f"{RAW_DATABASE}.{table}", [list(row.values())], list(row), settings
            )
        )

    def wait_for_earlier_inserts(self) -> None:
        """Wait until no insert of an earlier, killed push is still running, so that its rows are counted."""
        deadline_s = self._retrier.clock() + EARLIER_INSERT_TIMEOUT_S
        while self.rows(STATEMENTS["running_inserts"], prefix=QUERY_ID_PREFIX)[0][0]:
            if self._retrier.clock() > deadline_s:
                raise RetriableError(
                    f"An insert of an earlier push is still running at {self.settings.url}; try again later."
                )
            self._retrier.sleep(0.2)

    def retry(self, call: Callable[[], T]) -> T:
        """Return the result of `call`, which has to be idempotent."""
        try:
            return self._retrier.run(call)
        except OutsideError as error:
            raise type(error)(f"{error} What was pushed stays; `tape push` resumes from there.") from error
