"""Decode the answers of the series endpoints into typed rows.

An optional field that does not fit its column goes to `extra`; a record that lacks a required one is rejected with its
text. Neither affects another record.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import msgspec
import pyarrow as pa

from extract.deribit.jsonrpc import DECODE_ERRORS, Envelope, NoResultError
from extract.deribit.records import Record, Replaced, decode_envelope, record_of, split_records
from extract.deribit.schema import Int64, TimeMs
from extract.deribit.series.schema import DATE, NUMBER, TIME, Row, Series

MAX_PAGE_RECORDS = 100_000
"""The largest known answer has 10,000 records."""

Check = Callable[[Row], None]
"""Raises ValidationError for a typed row that cannot be right, which is then rejected."""

_CANDLE = ("timestamp", "open", "high", "low", "close")


@dataclass(frozen=True)
class RejectedRecord:
    """A record of a series that cannot be typed: the reason, and its JSON text."""

    reason: str
    raw: str


@dataclass
class SeriesPage:
    """A decoded answer. `records` counts all its records; the others are facts that decide on the next request.

    `at_ms` is the exchange's time of the answer.
    """

    rows: list[Row]
    rejected: list[RejectedRecord] = field(default_factory=list)
    continuation: str | int | None = None
    total: int | None = None
    at_ms: int | None = None

    @property
    def records(self) -> int:
        return len(self.rows) + len(self.rejected)


class _Settlements(msgspec.Struct):
    settlements: msgspec.Raw
    continuation: Any = None


class _Data(msgspec.Struct):
    data: msgspec.Raw
    records_total: Any = None
    continuation: Any = None


_list_decoder = msgspec.json.Decoder(Envelope[msgspec.Raw])
_settlements_decoder = msgspec.json.Decoder(Envelope[_Settlements])
_data_decoder = msgspec.json.Decoder(Envelope[_Data])


def require_time(at_ms: int, first_ms: int, last_ms: int) -> None:
    """Raise ValidationError for a time that no row can have: it would count as the newest or the first of its key."""
    if not first_ms <= at_ms <= last_ms:
        raise msgspec.ValidationError(f"{at_ms} ms is not from {first_ms} to {last_ms} ms")


def _accept(row: Row) -> None:
    pass


def decode_list(series: Series, body: bytes, check: Check = _accept, **requested: Any) -> SeriesPage:
    """An answer that is a list of records. Raises NoResultError or one of DECODE_ERRORS."""
    answer, replaced = decode_envelope(_list_decoder, body)
    records = split_records(answer.unwrap(), replaced, MAX_PAGE_RECORDS)
    rows, rejected = _type_records(series, records, _fields_of_object, requested, check)
    return SeriesPage(rows, rejected, at_ms=answer.at_ms)


def decode_settlements(series: Series, body: bytes, check: Check = _accept, **requested: Any) -> SeriesPage:
    """A page of settlements with its continuation. Raises NoResultError or one of DECODE_ERRORS."""
    answer, replaced = _decode_shape(_settlements_decoder, body)
    page: _Settlements = answer.unwrap()
    records = split_records(page.settlements, replaced, MAX_PAGE_RECORDS)
    requested = {"instrument_name": "", **requested}
    rows, rejected = _type_records(series, records, _fields_of_object, requested, check)
    token = page.continuation if isinstance(page.continuation, str) else None
    return SeriesPage(rows, rejected, continuation=None if token in ("", "none") else token)


def decode_delivery_prices(
    series: Series, body: bytes, check: Check = _accept, **requested: Any
) -> SeriesPage:
    """A page of delivery prices with `records_total`. Raises NoResultError or one of DECODE_ERRORS."""
    answer, replaced = _decode_shape(_data_decoder, body)
    page: _Data = answer.unwrap()
    records = split_records(page.data, replaced, MAX_PAGE_RECORDS)
    rows, rejected = _type_records(series, records, _fields_of_object, requested, check)
    total = page.records_total
    is_count = isinstance(total, (int, float)) and not isinstance(total, bool) and 0 <= total < 1e9
    if not is_count:
        raise NoResultError("records_total is not a number")
    return SeriesPage(rows, rejected, total=int(total))


def decode_candles(series: Series, body: bytes, check: Check = _accept, **requested: Any) -> SeriesPage:
    """Candles of the volatility index with their continuation. Raises NoResultError or one of DECODE_ERRORS."""
    answer, replaced = _decode_shape(_data_decoder, body)
    page: _Data = answer.unwrap()
    elements = _split_arrays(page.data, replaced)
    rows, rejected = _type_records(series, elements, _fields_of_candle, requested, check)
    continuation = page.continuation
    if isinstance(continuation, bool) or not isinstance(continuation, int | None):
        raise NoResultError("continuation is not a time")
    return SeriesPage(rows, rejected, continuation=continuation)


def _decode_shape(decoder: msgspec.json.Decoder[Envelope[Any]], body: bytes) -> tuple[Any, Replaced]:
    try:
        return decode_envelope(decoder, body)
    except msgspec.ValidationError as error:
        raise NoResultError(f"the answer has another shape: {error}") from error


def _split_arrays(data: msgspec.Raw, replaced: Replaced) -> list[Record]:
    """The elements of an array of arrays, whose objects cannot be counted as `split_records` does."""
    text = bytes(data)
    if text.count(b"[") > MAX_PAGE_RECORDS:
        raise NoResultError("the answer has more candles than any request can have")
    try:
        elements = msgspec.json.decode(text, type=list[msgspec.Raw])
    except msgspec.ValidationError as error:
        raise NoResultError(f"the answer is not a list of candles: {error}") from error
    return [record_of(bytes(element), replaced) for element in elements]


def _type_records(
    series: Series,
    records: Iterable[Record],
    fields_of: Callable[[Any], dict[str, Any]],
    requested: Mapping[str, Any],
    check: Check,
) -> tuple[list[Row], list[RejectedRecord]]:
    rows, rejected = [], []
    for record in records:
        fault = record.fault
        if not fault:
            try:
                record.text.decode()
                fields = fields_of(msgspec.json.decode(record.text))
                row = to_row(series, fields, requested)
                check(row)
                rows.append(row)
            except (*DECODE_ERRORS, TypeError) as error:
                fault = str(error)
        if fault:
            rejected.append(RejectedRecord(fault, record.sent.decode("utf-8", "replace")))
    return rows, rejected


def _fields_of_object(record: Any) -> dict[str, Any]:
    if not isinstance(record, dict):
        raise TypeError(f"a record is an object, not {type(record).__name__}")
    return record


def _fields_of_candle(record: Any) -> dict[str, Any]:
    if not isinstance(record, list):
        raise TypeError(f"a candle is an array, not {type(record).__name__}")
    fields = dict(zip(_CANDLE, record, strict=False))
    if further := record[len(_CANDLE) :]:
        fields["further"] = further
    return fields


def to_row(series: Series, fields: Mapping[str, Any], requested: Mapping[str, Any]) -> Row:
    """A row with a value for each column. Raises ValidationError if a required field is missing or does not fit.

    `requested` are columns of the request, for fields that the record lacks.
    """
    row: Row = dict.fromkeys(series.columns)
    extra: dict[str, Any] = {}
    for name, value in {**requested, **fields}.items():
        if value is None and name in requested:
            row[name] = requested[name]
        elif value is None:
            continue
        elif name not in row or name == "extra":
            extra[name] = value
        else:
            try:
                row[name] = _as_typed(series.columns[name], value)
            except (msgspec.ValidationError, ValueError, OverflowError) as error:
                if name in series.required:
                    raise msgspec.ValidationError(f"{name}: {error}") from error
                extra[name] = value
    if missing := [name for name in series.required if row[name] is None]:
        raise msgspec.ValidationError(f"{missing[0]} is missing")
    row["extra"] = msgspec.json.encode(extra).decode() if extra else None
    return row


def _as_typed(type_: pa.DataType, value: Any) -> Any:
    if isinstance(value, bool):
        raise msgspec.ValidationError("true or false does not fit")
    if type_ == TIME:
        return msgspec.convert(value, TimeMs, strict=False)
    if type_ == DATE:
        return date.fromisoformat(msgspec.convert(value, str))
    if type_ == NUMBER:
        number = msgspec.convert(value, float, strict=False)
        if not math.isfinite(number):
            raise msgspec.ValidationError("not a finite number")
        return number
    if type_ == pa.int64():
        return msgspec.convert(value, Int64, strict=False)
    return str(value) if isinstance(value, (int, float)) else msgspec.convert(value, str)
