"""What get_instruments says: the explicit schema of its records, and the one thing that is read off a name."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from extract.deribit.client import DeribitClient
from extract.deribit.state import Stream

COLUMNS: dict[str, dict[str, Any]] = {
    "instrument_name": {"data_type": "text", "nullable": False},
    "instrument_id": {"data_type": "bigint"},
    "kind": {"data_type": "text"},
    "base_currency": {"data_type": "text"},
    "quote_currency": {"data_type": "text"},
    "counter_currency": {"data_type": "text"},
    "settlement_currency": {"data_type": "text"},
    "instrument_type": {"data_type": "text"},
    "option_type": {"data_type": "text"},
    "strike": {"data_type": "double"},
    "expiration_timestamp": {"data_type": "timestamp", "precision": 3},
    "creation_timestamp": {"data_type": "timestamp", "precision": 3},
    "is_active": {"data_type": "bool"},
    "contract_size": {"data_type": "double"},
    "tick_size": {"data_type": "double"},
    "settlement_period": {"data_type": "text"},
    "price_index": {"data_type": "text"},
    "currency": {"data_type": "text", "nullable": False},
    "extra": {"data_type": "text"},
}
"""Columns of `deribit_raw.instruments`: the API's own names; `extra` is JSON text of every other field."""

_TIMES = ("expiration_timestamp", "creation_timestamp")
_DOUBLES = tuple(name for name, column in COLUMNS.items() if column["data_type"] == "double")
_DATE = re.compile(
    r"(?<![0-9A-Z])(\d{1,2})(JAN|FEB|MAR|APR|MAY|JUN|JUL|AUG|SEP|OCT|NOV|DEC)(\d{2})(?![0-9A-Z])"
)


def last_trading_day_over(instrument_name: str, at: datetime) -> bool:
    """Whether every date in the name is more than a day before `at`; False for a name without a date."""
    dates = [
        datetime.strptime("".join(parts), "%d%b%y").replace(tzinfo=UTC)
        for parts in _DATE.findall(instrument_name)
    ]
    return bool(dates) and max(dates) + timedelta(days=2) < at


def to_row(record: dict[str, Any], currency: str) -> dict[str, Any]:
    """One row of `deribit_raw.instruments` from an API record."""
    row = {name: record.get(name) for name in COLUMNS}
    for name in _TIMES:
        if row[name] is not None:
            row[name] = datetime.fromtimestamp(row[name] / 1000, UTC)
    for name in _DOUBLES:
        row[name] = None if row[name] is None else float(row[name])
    extra = {name: value for name, value in record.items() if name not in COLUMNS}
    row["currency"] = currency
    row["extra"] = msgspec.json.encode(extra).decode() if extra else None
    return row


def changed_instruments(
    client: DeribitClient, streams: Iterable[Stream], known: dict[str, dict[str, int]]
) -> Iterator[dict[str, Any]]:
    """Rows of instruments that are new or read otherwise than last time; moves `known` along.

    `known` holds, by currency, a checksum for each live instrument. The expired ones, which no longer change, are
    asked for the first time and whenever a live one has gone.
    """
    kinds_of: dict[str, set[str]] = {}
    for stream in streams:
        kinds_of.setdefault(stream.currency, set()).add(stream.kind)
    for currency, kinds in kinds_of.items():
        before = known.get(currency)
        live = {r["instrument_name"]: r for r in _ask(client, currency, expired=False)}
        checksums = {name: zlib.crc32(msgspec.json.encode(r, order="sorted")) for name, r in live.items()}
        changed = [r for name, r in live.items() if (before or {}).get(name) != checksums[name]]
        gone = set(before or {}) - set(live)
        if before is None or gone:
            expired = _ask(client, currency, expired=True)
            changed += [r for r in expired if before is None or r["instrument_name"] in gone]
        known[currency] = checksums
        yield from (to_row(r, currency) for r in changed if r.get("kind") in kinds)


def _ask(client: DeribitClient, currency: str, *, expired: bool) -> list[dict[str, Any]]:
    params = {"currency": currency, "expired": "true" if expired else "false"}
    host = client.history if expired else client.live
    return client.result(host, "get_instruments", params, list[dict[str, Any]])
