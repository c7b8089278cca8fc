"""Insert deduplication tokens, for exactly-once inserts.

The token of a file consists of its load package, table and file id, without the retry count, so each attempt of a load
job, by the same process or a later one, has the same token. The server splits a large file into numbered blocks and
stores the token of each block. Inserting a partially inserted file again completes it, but only if both attempts split
it at the same rows. Therefore all settings that affect the split are fixed here, and rows stay in the order of the file.
"""

from __future__ import annotations

from typing import Any

from dlt.common.storages.load_package import ParsedLoadJobFileName

# A table stores this many tokens (plain MergeTree), or those of this time (replicated and shared engines): more than
# the blocks of any load package, and longer than a failed load stays unnoticed.
WINDOW_BLOCKS = 10_000
WINDOW_SECONDS = 7 * 24 * 3600

BLOCK_ROWS = 1 << 20
_BLOCK_BYTES = 256 << 20
_FIXED_BLOCKS = {
    "max_insert_threads": 1,
    "max_insert_block_size_bytes": 0,
    "min_insert_block_size_bytes": _BLOCK_BYTES,
    "max_block_size": 65_409,
    "input_format_parquet_prefer_block_bytes": 64 << 20,
    "input_format_parquet_preserve_order": 1,
    "input_format_parallel_parsing": 0,
    "input_format_max_block_size_bytes": 0,
    "input_format_max_block_wait_ms": 0,
    "input_format_connection_handling": 0,
}
# A SELECT may return its rows in another order the next time, so INSERT … SELECT is one block, inserted atomically.
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
    """Return the token of a load job's file, `load_id/table/file_id`."""
    parsed = ParsedLoadJobFileName.parse(file_name)
    return f"{load_id}/{parsed.table_name}/{parsed.file_id}"


def file_settings(token: str | None, block_rows: int = BLOCK_ROWS) -> dict[str, Any]:
    """Return the settings of an insert from a file. Raises ValueError without a token, which each load job has."""
    if not token:
        raise ValueError("a file is inserted by a load job, which has a token")
    blocks = {
        "max_insert_block_size": block_rows,
        "min_insert_block_size_rows": block_rows,
        "input_format_parquet_max_block_size": block_rows // 8,
    }
    return {**_FIXED_BLOCKS, **blocks, **_READING, **_deduplicated(token)}


def statement_settings(token: str | None) -> dict[str, Any]:
    """Return the settings of an INSERT statement.

    Without a token there is no deduplication, in particular none by content: a statement may insert rows again that
    were deleted before.
    """
    if not token:
        return {
            "async_insert": 0,
            "insert_deduplicate": 0,
            "deduplicate_insert": "disable",
            "deduplicate_insert_select": "disable",
        }
    return {**_ONE_BLOCK, **_deduplicated(token)}


def _deduplicated(token: str) -> dict[str, Any]:
    return {
        "async_insert": 0,
        "insert_deduplicate": 1,
        "deduplicate_insert": "enable",
        "deduplicate_insert_select": "enable_when_possible",
        "insert_deduplication_token": token,
    }


def table_settings(engine: str) -> dict[str, int]:
    """Return the settings of a table: the number or age of stored tokens, and inserts that survive a power cut.

    Replicated and shared engines have copies of each insert. Other engines than MergeTree have no such settings.
    """
    if not engine.endswith("MergeTree"):
        return {}
    if engine.startswith(("Replicated", "Shared")):
        return {"replicated_deduplication_window_seconds": WINDOW_SECONDS}
    return {
        "non_replicated_deduplication_window": WINDOW_BLOCKS,
        "fsync_after_insert": 1,
        "fsync_part_directory": 1,
    }
