"""Queries of the API: logged in as the reader, within limits, in a bounded number of threads."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import msgspec
from prometheus_client import Histogram

from extract.clickhouse.client import Database, open_database, supported_settings
from extract.clickhouse.settings import ClickHouseSettings
from extract.clickhouse.statements import load_statements, render
from extract.errors import TapeError, UsageError
from extract.serve.errors import ApiError, to_api_error
from extract.serve.formats import JSON, Format

Row = dict[str, Any]
Result = TypeVar("Result")

STATEMENTS = load_statements(__file__, "serve.sql")

QUERIES_AT_ONCE = 12
WAIT_FOR_TURN_S = 10.0
ANSWER_TIMEOUT_S = 60

OUTPUT: Mapping[str, Any] = {
    "date_time_output_format": "iso",
    # A float keeps its digits as text, whatever reads the JSON.
    "output_format_json_quote_64bit_floats": 1,
    "output_format_json_quote_decimals": 1,
    "output_format_json_quote_64bit_integers": 0,
    "output_format_json_escape_forward_slashes": 0,
    "output_format_arrow_string_as_string": 1,
    "output_format_arrow_low_cardinality_as_dictionary": 0,
    "output_format_parquet_string_as_string": 1,
    # Text is quoted, so that a value that is missing differs from an empty one.
    "format_csv_null_representation": "",
}
LIMITS: Mapping[str, int] = {
    "max_execution_time": 30,
    "max_memory_usage": 2 * 1024**3,
    "max_rows_to_read": 2_000_000_000,
}
"""Limits of one query, less than those of the role."""


class Reader:
    """Runs statements of serve.sql. Every failure is an ApiError.

    At most QUERIES_AT_ONCE run at a time; others wait for their turn, up to WAIT_FOR_TURN_S.
    """

    def __init__(self, database: Database) -> None:
        self.database = database
        self._threads = ThreadPoolExecutor(QUERIES_AT_ONCE, thread_name_prefix="query")
        self._turns = asyncio.Semaphore(QUERIES_AT_ONCE)
        self._settings = {**OUTPUT, **_lower_limits(database)}
        self.seconds: Histogram | None = None

    async def rows(
        self, statement: str, parameters: Mapping[str, Any] | None = None, **parts: str
    ) -> list[Row]:
        """All rows of a statement, each as a dict with values as the API shows them."""
        content = await self.formatted(JSON, statement, parameters, **parts)
        return [msgspec.json.decode(line) for line in content.splitlines()]

    async def formatted(
        self, format: Format, statement: str, parameters: Mapping[str, Any] | None = None, **parts: str
    ) -> bytes:
        """The whole result of a statement. `parts` replace its placeholders."""
        sql = rendered(statement, parts)
        return await self.run(
            lambda: self.database.formatted(sql, format.clickhouse, dict(parameters or {}), self._settings)
        )

    async def stream(
        self, format: Format, statement: str, parameters: Mapping[str, Any], **parts: str
    ) -> AsyncIterator[bytes]:
        """The result of a statement in pieces. The first piece is read before this returns, so most errors are raised."""
        sql = rendered(statement, parts)
        await self._turn()
        loop = asyncio.get_running_loop()
        try:
            chunks, first = await loop.run_in_executor(
                self._threads,
                lambda: _begun(
                    self.database.stream(sql, format.clickhouse, dict(parameters), self._settings)
                ),
            )
        except BaseException as error:
            self._turns.release()
            raise to_api_error(error) if isinstance(error, TapeError) else error from None
        return self._pieces(first, chunks)

    async def _pieces(self, first: bytes, chunks: Iterator[bytes]) -> AsyncIterator[bytes]:
        loop = asyncio.get_running_loop()
        try:
            chunk: bytes | None = first
            while chunk is not None:
                yield chunk
                chunk = await loop.run_in_executor(self._threads, next, chunks, None)
        finally:
            self._turns.release()
            # In a thread, because it may close a connection that is still receiving.
            self._threads.submit(getattr(chunks, "close", lambda: None))

    async def run(self, work: Callable[[], Result]) -> Result:
        """Run a function that queries the database in a thread."""
        await self._turn()
        began = time.perf_counter()
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        except TapeError as error:
            raise to_api_error(error) from error
        finally:
            self._turns.release()
            if self.seconds is not None:
                self.seconds.observe(time.perf_counter() - began)

    async def _turn(self) -> None:
        try:
            await asyncio.wait_for(self._turns.acquire(), WAIT_FOR_TURN_S)
        except TimeoutError:
            raise ApiError("unavailable", "The server is busy with other questions; try again.") from None

    def close(self) -> None:
        """Close the connections; queries that run are left to end by their own limits."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self.database.close()


def open_reader(settings: ClickHouseSettings) -> Reader:
    """Connect. Raises UsageError where the login may not change the settings of a query, and the errors of `Database`."""
    # Compressed rows are decompressed by the connection, for which gzip always works.
    compress = False if settings.is_loopback else "gzip"
    database = open_database(settings, compress=compress, send_receive_timeout=ANSWER_TIMEOUT_S)
    if missing := OUTPUT.keys() - supported_settings(database.client, OUTPUT).keys():
        raise UsageError(
            f"User {settings.user!r} may not change {', '.join(sorted(missing))} at {settings.url}; "
            "use the role reader of `tape grants`, whose profile has readonly = 2."
        )
    return Reader(database)


def rendered(statement: str, parts: Mapping[str, str]) -> str:
    """A statement of serve.sql. `<name>` in it, or in a part, is a part or another statement."""

    def resolve(name: str) -> str:
        return render(parts[name] if name in parts else STATEMENTS[name], resolve)

    return render(STATEMENTS[statement], resolve)


def _begun(chunks: Iterator[bytes]) -> tuple[Iterator[bytes], bytes]:
    return chunks, next(chunks, b"")


def _lower_limits(database: Database) -> dict[str, int]:
    """LIMITS, except where the user's profile has a lower one."""
    known = database.client.server_settings
    current = {name: int(known[name].value) for name in LIMITS if name in known}
    return {name: limit for name, limit in LIMITS.items() if not 0 < current.get(name, 0) <= limit}
