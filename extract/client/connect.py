"""Connect to the tape: ClickHouse by the environment, or the HTTP API by its address."""

from __future__ import annotations

from extract.client.tape import Tape
from extract.errors import UsageError


def connect(target: str | None = None, *, key: str | None = None, decimals: bool = False) -> Tape:
    """Open a connection to the tape.

    `target`: None for the ClickHouse of CLICKHOUSE_MODE, `local` or `cloud` (their settings are environment variables, see
    docs/configuration.md), or the address of `tape serve`, such as http://127.0.0.1:8124, with its `key` if it needs one.
    `decimals`: columns with exact values (volume, notional, …) are decimals of 12 places instead of floats.

    Raises UsageError for a wrong target or login, RetriableError if the server cannot be reached.
    """
    if target and target.startswith(("http://", "https://")):
        from extract.client.api import ApiBackend

        return Tape(ApiBackend(target, key), decimals=decimals)
    if target not in (None, "local", "cloud"):
        raise UsageError(f"connect({target!r}): give local, cloud or the address of `tape serve`, http://….")
    if key is not None:
        raise UsageError(
            "A key belongs to the address of `tape serve`; ClickHouse logs in by the environment."
        )
    from extract.clickhouse.client import open_database
    from extract.clickhouse.settings import clickhouse_settings
    from extract.client.database import ClickHouseBackend

    return Tape(ClickHouseBackend(open_database(clickhouse_settings(target))), decimals=decimals)
