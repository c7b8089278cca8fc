"""Fetch instruments that are new or have changed, as rows of `deribit_raw.instruments`."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

import msgspec

from extract.deribit.client import DeribitClient
from extract.deribit.instrument_schema import COLUMNS, TIME_COLUMNS
from extract.deribit.schema import Int64, TimeMs
from extract.deribit.streams import Stream

_TYPES = {"String": str, "Int64": Int64, "Float64": float, "DateTime64": TimeMs, "Bool": bool}
_COLUMN_TYPES = {
    name: next(python for type_, python in _TYPES.items() if type_ in column)
    for name, column in COLUMNS.items()
    if name not in ("currency", "extra")
}


def to_row(record: dict[str, Any], currency: str) -> dict[str, Any]:
    """One row of `deribit_raw.instruments` from an API record with an `instrument_name`.

    Unknown fields, and values that do not fit their column, are stored in `extra`.
    """
    row: dict[str, Any] = dict.fromkeys(COLUMNS)
    extra = {}
    for name, value in record.items():
        try:
            row[name] = None if value is None else msgspec.convert(value, _COLUMN_TYPES[name])
        except (KeyError, msgspec.ValidationError, OverflowError):
            extra[name] = value
    for name in TIME_COLUMNS:
        if row[name] is not None:
            row[name] = datetime.fromtimestamp(row[name] / 1000, UTC)
    row["currency"] = currency
    row["extra"] = msgspec.json.encode(extra).decode() if extra else None
    return row


def changed_instruments(
    client: DeribitClient, streams: Iterable[Stream], known: dict[str, Any], now_ms: int
) -> Iterator[dict[str, Any]]:
    """Yield rows of instruments that are new or have changed since the last time; updates `known`.

    `known` holds, by stream, a checksum of each live instrument and when the expired ones were listed. Expired
    instruments do not change: they are listed the first time, and whenever a live one is no longer listed.
    """
    for currency, kinds in _kinds_of(streams).items():
        live = {r["instrument_name"]: r for r in _fetch(client, currency, expired=False)}
        expired: list[dict[str, Any]] | None = None
        for kind in kinds:
            stream = str(Stream(currency, kind))
            before = known.get(stream, {"live": {}, "asked_ms": 0})
            listed = {name: r for name, r in live.items() if r.get("kind") == kind}
            checksums = {name: _checksum(r) for name, r in listed.items()}
            changed = [r for name, r in listed.items() if before["live"].get(name) != checksums[name]]
            gone = before["live"].keys() - listed
            asked_ms = before["asked_ms"]
            if gone or not asked_ms:
                expired = _fetch(client, currency, expired=True) if expired is None else expired
                # Some are created and expire between two runs.
                changed += [
                    r
                    for r in expired
                    if r.get("kind") == kind and (r["instrument_name"] in gone or _created_ms(r) >= asked_ms)
                ]
                asked_ms = now_ms
            known[stream] = {"live": checksums, "asked_ms": asked_ms}
            yield from (to_row(r, currency) for r in changed)


def merge_known(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Merge `known` of two loaders whose rows are in one database; for an instrument in both, the later list wins."""
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


def _created_ms(record: dict[str, Any]) -> int:
    created_ms = record.get("creation_timestamp")
    return created_ms if isinstance(created_ms, int) else 0


def _checksum(record: dict[str, Any]) -> int:
    return zlib.crc32(msgspec.json.encode(record, order="sorted"))


def _fetch(client: DeribitClient, currency: str, *, expired: bool) -> list[dict[str, Any]]:
    """Records of get_instruments; those without a name are dropped, because no table could tell them apart."""
    params = {"currency": currency, "expired": "true" if expired else "false"}
    host = client.history if expired else client.live
    records = client.result(host, "get_instruments", params, list[Any])
    return [
        each for each in records if isinstance(each, dict) and isinstance(each.get("instrument_name"), str)
    ]
