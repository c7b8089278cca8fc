"""Every insert exactly once: tokens by which the server knows an insert that it has already got.

A file's token is made of its load package, table and file id, and not of its retry count, so a load job that is
run again, by the same process or the next, bears the token of its first run. The server cuts a large file into
blocks and numbers them: block n of a token is remembered by itself. A file that was inserted in part is completed by
inserting it again, but only if the second run cuts it at the same rows; so everything that decides about the
cuts is fixed here, and rows keep the order of the file.
"""

from __future__ import annotations

from typing import Any

from dlt.common.storages.load_package import ParsedLoadJobFileName

# How many blocks (plain MergeTree) and for how long (replicated and shared engines) a table remembers tokens: more
# than any one package has, and longer than a broken load stays unnoticed.
WINDOW_BLOCKS = 10_000
WINDOW_SECONDS = 7 * 24 * 3600

_BLOCK_ROWS = 1 << 20
_BLOCK_BYTES = 256 << 20

_FIXED_BLOCKS = {
    "max_insert_threads": 1,
    "max_insert_block_size": _BLOCK_ROWS,
    "max_insert_block_size_bytes": 0,
    "min_insert_block_size_rows": _BLOCK_ROWS,
    "min_insert_block_size_bytes": _BLOCK_BYTES,
    "max_block_size": 65_409,
    "input_format_parquet_max_block_size": 1 << 17,
    "input_format_parquet_prefer_block_bytes": 64 << 20,
    "input_format_parquet_preserve_order": 1,
    "input_format_parallel_parsing": 0,
    "input_format_max_block_size_bytes": 0,
    "input_format_max_block_wait_ms": 0,
    "input_format_connection_handling": 0,
}
# A SELECT may bring its rows in another order the next time, so INSERT … SELECT is one block, whole or not at all.
_ONE_BLOCK = {
    "max_insert_threads": 1,
    "min_insert_block_size_rows": 1 << 40,
    "min_insert_block_size_bytes": 0,
}
_READING = {
    "date_time_input_format": "best_effort",
    "input_format_null_as_default": 1,
    "input_format_parquet_allow_missing_columns": 1,
}


def file_token(load_id: str, file_name: str) -> str:
    """`load_id/table/file_id` of a load job's file."""
    parsed = ParsedLoadJobFileName.parse(file_name)
    return f"{load_id}/{parsed.table_name}/{parsed.file_id}"


def file_settings(token: str | None) -> dict[str, Any]:
    """Settings of an insert from a file. A file without a token would be no load job."""
    if not token:
        raise ValueError("a file is inserted by a load job, which has a token")
    return {**_FIXED_BLOCKS, **_READING, **_remembered(token)}


def statement_settings(token: str | None) -> dict[str, Any]:
    """Settings of an INSERT statement.

    Without a token nothing is dropped as known, least of all by its content: the statements of a merge or a replace
    delete first and then insert again, often the very same rows.
    """
    if not token:
        return {
            "async_insert": 0,
            "insert_deduplicate": 0,
            "deduplicate_insert": "disable",
            "deduplicate_insert_select": "disable",
        }
    return {**_ONE_BLOCK, **_remembered(token)}


def _remembered(token: str) -> dict[str, Any]:
    return {
        "async_insert": 0,
        "insert_deduplicate": 1,
        "deduplicate_insert": "enable",
        "deduplicate_insert_select": "enable_when_possible",
        "insert_deduplication_token": token,
    }


def window_setting(engine: str) -> tuple[str, int] | None:
    """The setting by which a table of `engine` remembers tokens long enough; None for engines without any."""
    if not engine.endswith("MergeTree"):
        return None
    if engine.startswith(("Replicated", "Shared")):
        return "replicated_deduplication_window_seconds", WINDOW_SECONDS
    return "non_replicated_deduplication_window", WINDOW_BLOCKS
