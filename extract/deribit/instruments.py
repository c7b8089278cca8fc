"""What get_instruments says: the explicit schema of its records, and the one thing that is read off a name."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

import msgspec

from extract.deribit.client import DeribitClient
from extract.deribit.instrument_schema import COLUMNS, DOUBLE_COLUMNS, TIME_COLUMNS
from extract.deribit.streams import Stream


def to_row(record: dict[str, Any], currency: str) -> dict[str, Any]:
    """One row of `deribit_raw.instruments` from an API record."""
    row = {name: record.get(name) for name in COLUMNS}
    for name in TIME_COLUMNS:
        if row[name] is not None:
            row[name] = datetime.fromtimestamp(row[name] / 1000, UTC)
    for name in DOUBLE_COLUMNS:
        row[name] = None if row[name] is None else float(row[name])
    extra = {name: value for name, value in record.items() if name not in COLUMNS}
    row["currency"] = currency
    row["extra"] = msgspec.json.encode(extra).decode() if extra else None
    return row


def changed_instruments(
    client: DeribitClient, streams: Iterable[Stream], known: dict[str, Any], now_ms: int
) -> Iterator[dict[str, Any]]:
    """Rows of instruments that are new or read otherwise than last time; moves `known` along.

    `known` holds, by stream, a checksum for each live instrument and when the expired ones were asked for. Those no
    longer change: they are asked for the first time, and whenever a live one has gone.
    """
    for currency, kinds in _kinds_of(streams).items():
        live = {r["instrument_name"]: r for r in _ask(client, currency, expired=False)}
        expired: list[dict[str, Any]] | None = None
        for kind in kinds:
            stream = str(Stream(currency, kind))
            before = known.get(stream, {"live": {}, "asked_ms": 0})
            mine = {name: r for name, r in live.items() if r.get("kind") == kind}
            checksums = {name: _checksum(r) for name, r in mine.items()}
            changed = [r for name, r in mine.items() if before["live"].get(name) != checksums[name]]
            gone = before["live"].keys() - mine
            asked_ms = before["asked_ms"]
            if gone or not asked_ms:
                expired = _ask(client, currency, expired=True) if expired is None else expired
                # Some live and die between two runs.
                changed += [
                    r
                    for r in expired
                    if r.get("kind") == kind
                    and (r["instrument_name"] in gone or r.get("creation_timestamp", 0) >= asked_ms)
                ]
                asked_ms = now_ms
            known[stream] = {"live": checksums, "asked_ms": asked_ms}
            yield from (to_row(r, currency) for r in changed)


def united_known(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """`known` of two loaders together, once one database has the rows of both.

    Of an instrument that they read otherwise, the one that asked later has the word.
    """
    both: dict[str, Any] = {}
    for stream in one.keys() | other.keys():
        sides = [each[stream] for each in (one, other) if stream in each]
        sides.sort(key=lambda side: side["asked_ms"])
        live = {name: checksum for side in sides for name, checksum in side["live"].items()}
        both[stream] = {"live": live, "asked_ms": sides[-1]["asked_ms"]}
    return both


def _kinds_of(streams: Iterable[Stream]) -> dict[str, list[str]]:
    kinds: dict[str, list[str]] = {}
    for stream in streams:
        kinds.setdefault(stream.currency, []).append(stream.kind)
    return kinds


def _checksum(record: dict[str, Any]) -> int:
    return zlib.crc32(msgspec.json.encode(record, order="sorted"))


def _ask(client: DeribitClient, currency: str, *, expired: bool) -> list[dict[str, Any]]:
    params = {"currency": currency, "expired": "true" if expired else "false"}
    host = client.history if expired else client.live
    return client.result(host, "get_instruments", params, list[dict[str, Any]])
