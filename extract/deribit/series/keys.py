"""Keys by which series are requested: perpetuals and indexes of a currency."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from extract.deribit.jsonrpc import DECODE_ERRORS
from extract.deribit.records import Record, decode_records
from extract.deribit.series.client import SeriesClient
from extract.deribit.streams import EPOCH_MS

MAX_INSTRUMENTS = 250_000


class _Instrument(msgspec.Struct):
    instrument_name: Any = None
    kind: Any = None
    settlement_period: Any = None
    price_index: Any = None
    creation_timestamp: Any = None
    expiration_timestamp: Any = None


_instrument_decoder = msgspec.json.Decoder(_Instrument)


@dataclass
class SeriesKeys:
    """`perpetuals` with the times of their creation and, if they have ended, of their expiry, in ms; names of indexes."""

    perpetuals: dict[str, tuple[int, int | None]] = field(default_factory=dict)
    indexes: list[str] = field(default_factory=list)


def list_keys(client: SeriesClient, currency: str, now_ms: int) -> SeriesKeys:
    """Perpetuals of a currency, live and expired, and the indexes of its live instruments and expired futures.

    Records that cannot be read are left out: the resource `instruments` rejects them. A time of creation or expiry that
    cannot be right is ignored, since it would hide the history or end it. Raises the errors of `client`.
    """
    live = _list(client, client.live, currency=currency, expired="false")
    expired = _list(client, client.history, currency=currency, kind="future", expired="true")
    for each in live:
        each.expiration_timestamp = None
    keys = SeriesKeys()
    for each in (*live, *expired):
        name, index = each.instrument_name, each.price_index
        if isinstance(index, str) and index and index not in keys.indexes and each.kind != "spot":
            keys.indexes.append(index)
        if isinstance(name, str) and (each.settlement_period == "perpetual" or name.endswith("-PERPETUAL")):
            created, expiry = each.creation_timestamp, each.expiration_timestamp
            if type(created) is not int or not EPOCH_MS < created <= now_ms:
                created = EPOCH_MS
            is_over = type(expiry) is int and created < expiry <= now_ms
            keys.perpetuals[name] = created, expiry if is_over else None
    return keys


def _list(client: SeriesClient, host: Any, **params: str) -> list[_Instrument]:
    def decode(body: bytes) -> list[_Instrument]:
        return list(_readable(decode_records(body, MAX_INSTRUMENTS)))

    return client.call(host, "get_instruments", params, decode)


def _readable(records: Iterable[Record]) -> Iterable[_Instrument]:
    for record in records:
        if not record.fault:
            try:
                yield _instrument_decoder.decode(record.text)
            except DECODE_ERRORS:
                continue
