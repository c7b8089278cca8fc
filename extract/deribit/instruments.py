"""Fetch instruments that are new or have changed, as rows of `deribit_raw.instruments`."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import chain
from typing import Any

import msgspec

from extract.deribit.client import DeribitClient
from extract.deribit.config import KINDS
from extract.deribit.instrument_schema import COLUMNS, TIME_COLUMNS
from extract.deribit.jsonrpc import DECODE_ERRORS
from extract.deribit.records import Record
from extract.deribit.schema import Int64, RejectedTrade, TimeMs
from extract.deribit.streams import Stream
from extract.errors import OutsideError, RetriableError, TapeError

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


@dataclass
class InstrumentsReport:
    """Result of listing instruments. `rejected` records are those of this listing.

    `set_aside`: the currencies whose instruments could not be listed, with the reason; they are not requested again.
    """

    rejected: list[tuple[Stream, RejectedTrade]] = field(default_factory=list)
    set_aside: dict[str, TapeError] = field(default_factory=dict)
    is_done: bool = False


def changed_instruments(
    client: DeribitClient,
    streams: Iterable[Stream],
    known: dict[str, Any],
    now_ms: int,
    report: InstrumentsReport,
) -> Iterator[dict[str, Any]]:
    """Yield rows of instruments that are new or have changed since the last time; updates `known` and `report`.

    `known` holds, by stream, a checksum of each live instrument and when the expired ones were listed. Expired
    instruments do not change: they are listed the first time, and whenever a live one is no longer listed.

    A currency whose list cannot be read is set aside. Raises OutsideError if the exchange answers no request at all.
    """
    report.rejected, report.is_done = [], False
    for currency, kinds in _kinds_of(streams).items():
        if currency in report.set_aside:
            continue
        states: dict[str, Any] = {}
        try:
            yield from _changed(client, currency, kinds, known, states, now_ms, report)
        except OutsideError as error:
            if client.is_cancelled:
                break
            if isinstance(error, RetriableError):
                for host in (client.live, client.history):
                    client.require_answer(host)
            report.set_aside[currency] = error
        else:
            known.update(states)
    report.is_done = True


def _changed(
    client: DeribitClient,
    currency: str,
    kinds: list[str],
    known: dict[str, Any],
    states: dict[str, Any],
    now_ms: int,
    report: InstrumentsReport,
) -> Iterator[dict[str, Any]]:
    """Rows of one currency; `states` receives what `known` becomes."""
    live = [_Listed.of(record, kinds) for record in client.instruments(currency, expired=False)]
    listed = {kind: {each.name: each for each in live if each.kind == kind} for kind in kinds}
    before = {kind: known.get(str(Stream(currency, kind)), {"live": {}, "asked_ms": 0}) for kind in kinds}
    checksums = {
        kind: {name: each.checksum() for name, each in by_name.items()} for kind, by_name in listed.items()
    }
    gone = {kind: before[kind]["live"].keys() - listed[kind] for kind in kinds}
    changed = [
        each
        for kind in kinds
        for each in listed[kind].values()
        if before[kind]["live"].get(each.name) != checksums[kind][each.name]
    ]
    asks = {kind for kind in kinds if gone[kind] or not before[kind]["asked_ms"]}
    expired: Iterable[Record] = client.instruments(currency, expired=True) if asks else ()
    for each in chain(changed, (_Listed.of(record, kinds) for record in expired)):
        is_expired = each.kind in asks and (
            # Some are created and expire between two runs.
            each.name in gone[each.kind] or each.created_ms >= before[each.kind]["asked_ms"]
        )
        if listed.get(each.kind, {}).get(each.name) is not each and not is_expired:
            continue
        fault, row = each.fault, None
        if not fault:
            try:
                row = to_row(msgspec.json.decode(each.text), currency)
            except DECODE_ERRORS as error:
                fault = str(error)
        if row:
            yield row
        else:
            raw = each.text.decode("utf-8", "replace")
            report.rejected.append((Stream(currency, each.kind), RejectedTrade(str(fault), raw)))
    for kind in kinds:
        states[str(Stream(currency, kind))] = {
            "live": checksums[kind],
            "asked_ms": now_ms if kind in asks else before[kind]["asked_ms"],
        }


class _Identity(msgspec.Struct):
    instrument_name: Any = None
    kind: Any = None
    creation_timestamp: Any = None


_identity_decoder = msgspec.json.Decoder(_Identity)


@dataclass(frozen=True, eq=False)
class _Listed:
    """A record of the list, decoded only as far as it is needed there.

    A record that has a `fault` is named by its checksum, so that it is rejected once.
    """

    name: str
    kind: str
    created_ms: int
    text: bytes
    fault: str | None = None

    @classmethod
    def of(cls, record: Record, kinds: list[str]) -> _Listed:
        """One of no known kind, if it has a fault, counts as one of the first of `kinds`."""
        fault, known = record.fault, _Identity()
        if not fault:
            try:
                record.text.decode()
                known = _identity_decoder.decode(record.text)
            except DECODE_ERRORS as error:
                fault = str(error)
        if not fault and not (isinstance(known.instrument_name, str) and known.instrument_name):
            fault = "an instrument without a name"
        is_known_kind = isinstance(known.kind, str) and (known.kind in KINDS or not fault)
        return cls(
            f"rejected {zlib.crc32(record.sent)}" if fault else known.instrument_name,
            known.kind if is_known_kind else kinds[0],
            known.creation_timestamp if isinstance(known.creation_timestamp, int) else 0,
            record.sent if fault else record.text,
            fault,
        )

    def checksum(self) -> int:
        """Checksum of the content, independent of its spelling in JSON."""
        if not self.fault:
            with suppress(*DECODE_ERRORS):
                return zlib.crc32(msgspec.json.encode(msgspec.json.decode(self.text), order="sorted"))
        return zlib.crc32(self.text)


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
