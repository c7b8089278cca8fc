"""One of the two databases of a push: asked, read from and written to over its one HTTP(S) port."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from extract.clickhouse.client import open_client, supported_settings
from extract.clickhouse.destination import dedup_tokens
from extract.clickhouse.errors import DRIVER_ERRORS, to_tape_error
from extract.clickhouse.settings import RAW_DATABASE, ClickHouseSettings
from extract.errors import OutsideError, RetriableError, TapeError

FORMAT = "Native"
ENCODING = "zstd"
QUERY_NAME = "tape-push-"
"""How the ids of our inserts begin."""
WAITS_S = (0.5, 3.0)
"""Before the second and the third try of what failed and may succeed."""
EARLIER_S = 120.0

TRADES = "trades"

T = TypeVar("T")


@dataclass(frozen=True)
class RawTable:
    """`columns` by name and type as local has them; `key` names a row, as far as the table knows one."""

    name: str
    columns: tuple[tuple[str, str], ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.columns)

    @property
    def key(self) -> tuple[str, ...]:
        return ("instrument_name", "trade_seq") if self.name == TRADES else self.names

    @property
    def naming(self) -> tuple[str, ...]:
        """What a row is told by: its load package and, of a trade, its key."""
        return ("_dlt_load_id", *(self.key if self.name == TRADES else ()))

    @property
    def key_hash(self) -> str:
        return f"cityHash64(tuple({', '.join(self.key)}))"

    @property
    def content_hash(self) -> str:
        return f"cityHash64(tuple({', '.join(self.names)}))"


class PushDatabase:
    """`local` or `cloud`. What fails is one sentence that says what a push has come to by then."""

    def __init__(self, settings: ClickHouseSettings, sleep: Callable[[float], None] = time.sleep) -> None:
        self.settings = settings
        self._sleep = sleep
        # Load ids by the thousand go in the body; an address has limits.
        self.client = open_client(settings, form_encode_query_params=True, autogenerate_query_id=False)
        # Whichever replica answers knows what was written before.
        self._reading = supported_settings(self.client, {"select_sequential_consistency": 1})

        self.tables: dict[str, RawTable] = {}
        """Of deribit_raw, as they were when last looked at."""
        self.refresh()

    @property
    def name(self) -> str:
        return self.settings.mode

    def refresh(self) -> None:
        """Looks at the tables anew."""
        columns: dict[str, list[tuple[str, str]]] = {}
        sql = f"select table, name, type from system.columns where database = '{RAW_DATABASE}' order by table, position"
        for table, name, kind in self.rows(sql):
            columns.setdefault(table, []).append((name, kind))
        self.tables = {table: RawTable(table, tuple(each)) for table, each in columns.items()}

    def rows(self, sql: str, **parameters: Any) -> list[tuple[Any, ...]]:
        """Rows of a statement. Raises OutsideError or UsageError."""
        return self.with_retries(
            lambda: list(self.client.query(sql, parameters=parameters, settings=self._reading).result_rows)
        )

    def command(self, sql: str, **parameters: Any) -> None:
        """A statement that may be given twice."""
        self.with_retries(lambda: self.client.command(sql, parameters=parameters))

    def read(self, sql: str, **parameters: Any) -> bytes:
        """The result as a compressed block, for `write` of the other side; whole, or an error."""
        return self.with_retries(lambda: self._read(sql, parameters))

    def _read(self, sql: str, parameters: dict[str, Any]) -> bytes:
        stream = self.client.raw_stream(
            sql,
            parameters=parameters,
            fmt=FORMAT,
            # The server holds the answer back until it is whole: half an answer would end in the other database.
            settings={"enable_http_compression": 1, "http_zlib_compression_level": 3, "wait_end_of_query": 1},
            transport_settings={"Accept-Encoding": ENCODING},
        )
        with stream:
            return stream.read(decode_content=False)  # type: ignore[call-arg]

    def write(self, table: str, columns: Sequence[str], block: bytes, token: str) -> None:
        """Inserts a block of one partition, whole or not at all, and once however often it is written."""
        settings = supported_settings(self.client, dedup_tokens.statement_settings(token))
        self.with_retries(
            lambda: self.client.raw_insert(
                f"{RAW_DATABASE}.{table}",
                column_names=columns,
                insert_block=block,
                fmt=FORMAT,
                compression=ENCODING,
                settings={**settings, "query_id": f"{QUERY_NAME}{time.time_ns()}"},
            )
        )

    def insert(self, table: str, row: dict[str, Any], token: str) -> None:
        """One row; once however often it is inserted."""
        settings = supported_settings(self.client, dedup_tokens.statement_settings(token))
        self.with_retries(
            lambda: self.client.insert(
                f"{RAW_DATABASE}.{table}", [list(row.values())], column_names=list(row), settings=settings
            )
        )

    def wait_for_earlier_writes(self) -> None:
        """Until no insert of an earlier push, killed meanwhile, is at work here; their rows count then."""
        deadline = time.monotonic() + EARLIER_S
        sql = f"select count() from system.processes where startsWith(query_id, '{QUERY_NAME}')"
        while self.rows(sql)[0][0]:
            if time.monotonic() > deadline:
                raise RetriableError(
                    f"An insert of an earlier push is still at work at {self.settings.url}; try again later."
                )
            self._sleep(0.2)

    def with_retries(self, work: Callable[[], T]) -> T:
        """What `work` comes to, which may be done twice. Raises OutsideError or UsageError."""
        for wait_s in (*WAITS_S, None):
            try:
                return work()
            except (*DRIVER_ERRORS, TapeError) as error:
                reason = to_tape_error(error, self.settings)
                if isinstance(reason, RetriableError) and wait_s is not None:
                    self._sleep(wait_s)
                    continue
                if isinstance(reason, OutsideError):
                    reason = type(reason)(f"{reason} What was pushed stays; `tape push` goes on from there.")
                raise reason from error
        raise AssertionError("the last try returns or raises")
