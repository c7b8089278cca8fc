"""Measure one day of trades by currency and kind: counts, bytes over the wire and at rest. Nothing is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

import pyarrow as pa

from extract.clickhouse.settings import clickhouse_settings
from extract.cost.measure.storage_probe import StorageProbe, storage_probe
from extract.deribit.client import DeribitClient
from extract.deribit.config import deribit_config
from extract.deribit.schema import PAGE_SCHEMA
from extract.deribit.streams import Stream
from extract.errors import UsageError
from extract.estimate.store import save_measurement
from extract.listener import Listener
from extract.source.options import RunOptions, resolve_streams
from extract.sweep.fetch_slice import sweep_slice
from extract.sweep.ledger import SeqLedger
from extract.sweep.slices import Slice

DAY_MS = 86_400_000
SETTLED_MS = 15 * 60_000
"""The history host lags some seconds behind the live one; a day counts as over this much after its end."""


@dataclass(frozen=True)
class StreamVolume:
    """Volume of one stream on the day; bytes of JSON over the wire, and at rest in deribit_raw.trades.

    `missing`: trade_seq between two trades of an instrument that were not received.
    """

    stream: Stream
    trades: int
    instruments: int
    missing: int
    requests: int
    wire_bytes: int
    rest_bytes: int


@dataclass(frozen=True)
class Volume:
    day: date
    exchange: str
    streams: list[StreamVolume]

    def total(self, name: str) -> int:
        """Sum of one of StreamVolume's figures."""
        return sum(getattr(each, name) for each in self.streams)


def measure_volume(
    day: date | None,
    currencies: Sequence[str] = (),
    kinds: Sequence[str] = (),
    listener: Listener | None = None,
) -> Volume:
    """Fetch and measure `day` (UTC; None: the last complete one), and save the totals in `.tape/volume.json`.

    `listener` receives hours of trading. Raises UsageError for a day that is not over, OutsideError if the exchange or
    the database fails.
    """
    listener = listener or Listener()
    config = deribit_config()
    with storage_probe(clickhouse_settings()) as probe, DeribitClient(config) as client:
        complete_day = _complete_day(day, client.now_ms())
        streams = resolve_streams(
            client, config, RunOptions(currencies=currencies, kinds=kinds), with_expired=False
        ).streams
        listener.start(len(streams) * 24, "hours of trading")
        volumes = [_measure_stream(client, probe, listener, stream, complete_day) for stream in streams]
        volume = Volume(complete_day, client.exchange, volumes)
    totals = {name: volume.total(name) for name in ("trades", "wire_bytes", "rest_bytes", "requests")}
    save_measurement("volume", {"day": str(volume.day), "exchange": volume.exchange, **totals})
    return volume


def _complete_day(day: date | None, now_ms: int) -> date:
    """`day`, or the last one that is over by the exchange's clock."""
    last = datetime.fromtimestamp((now_ms - SETTLED_MS) / 1000, UTC).date() - timedelta(1)
    day = day or last
    if day > last:
        raise UsageError(f"--day {day} is not over yet; the last complete day is {last}.")
    return day


def _measure_stream(
    client: DeribitClient, probe: StorageProbe, listener: Listener, stream: Stream, day: date
) -> StreamVolume:
    requests, wire_bytes = client.stats.requests, client.stats.bytes
    start_ms = round(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) * 1000
    trades = _fetch_trades(client, listener, stream, start_ms)
    ledger = SeqLedger()
    ledger.add(trades)
    return StreamVolume(
        stream,
        trades.num_rows,
        len(ledger.by_instrument()),
        sum(map(len, ledger.missing({}, {}, from_the_beginning=False))),
        client.stats.requests - requests,
        client.stats.bytes - wire_bytes,
        probe(trades, stream),
    )


def _fetch_trades(client: DeribitClient, listener: Listener, stream: Stream, start_ms: int) -> pa.Table:
    """All trades of the day. A slice that is too dense ends early, and the next one begins there."""
    end_ms = start_ms + DAY_MS - 1
    tables = [PAGE_SCHEMA.empty_table()]
    from_ms, hours = start_ms, 0
    while from_ms <= end_ms:
        part = sweep_slice(client, client.history, stream, Slice(from_ms, end_ms))
        tables.append(part.table)
        from_ms = part.end_ms + 1
        hours_done = (from_ms - start_ms) * 24 // DAY_MS
        listener.advance(hours_done - hours)
        hours = hours_done
    return pa.concat_tables(tables)
